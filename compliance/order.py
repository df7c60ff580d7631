"""An imaging order as the hospital sent it, sealed, waiting for its study (found by accession number)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Column, LargeBinary
from sqlmodel import Field, Session, SQLModel

from compliance.crosswalk import accession_lookup
from compliance.database import UtcDateTime
from compliance.facts_vocabulary import FACT_TYPES
from crypto.canonical import canonical_json
from crypto.keys import KeyStore
from crypto.sealed_box import open_small, seal_small


class Order(SQLModel, table=True):
    __tablename__ = "imaging_order"
    #: Keyed digest of (hospital, accession number).
    order_lookup: str = Field(primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    priority: str = "MEDIUM"
    expected_instances: int | None = None
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    received_at: datetime = Field(sa_type=UtcDateTime)


def payer_of(order: Mapping[str, Any]) -> str | None:
    """The payer the order names, in the engine's words; None where it names none, or one that has no word there."""
    payer = str(order.get("payer_kind") or "").strip().upper()
    return payer if payer in FACT_TYPES["payer.kind"][0] else None


def file_order(
    session: Session,
    keys: KeyStore,
    hospital_id: str,
    accession_number: str,
    order: Mapping[str, Any],
    *,
    priority: str,
    expected_instances: int | None,
    now: datetime,
) -> Order:
    """The order stands under its accession number; a newer one replaces it."""
    lookup = accession_lookup(keys, hospital_id, accession_number)
    sealed = seal_small(keys.secret(f"crosswalk/{hospital_id}"), canonical_json(dict(order)), f"order/{lookup}".encode())
    row = session.get(Order, lookup)
    if row is None:
        row = Order(order_lookup=lookup, hospital_id=hospital_id, sealed=sealed, received_at=now)
    row.sealed, row.priority, row.expected_instances, row.received_at = sealed, priority, expected_instances, now
    session.add(row)
    return row


def find_order(session: Session, keys: KeyStore, hospital_id: str, accession_number: str) -> tuple[Order, dict[str, Any]] | None:
    """The order of this accession number with its opened text, or None."""
    lookup = accession_lookup(keys, hospital_id, accession_number)
    row = session.get(Order, lookup)
    if row is None:
        return None
    opened: dict[str, Any] = json.loads(open_small(keys.secret(f"crosswalk/{hospital_id}"), row.sealed, f"order/{lookup}".encode()))
    return row, opened

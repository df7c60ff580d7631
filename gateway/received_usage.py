"""How much a hospital has stored: counted up where rows are written, so that asking costs one row, whatever is stored."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import func
from sqlmodel import Session, col, select

from compliance.database import Database
from compliance.hospital import Hospital
from gateway.intake_rows import ReceivedUsage
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy


def add_usage(session: Session, added_bytes: Mapping[str, int]) -> None:
    """These payload bytes, by hospital, are kept now."""
    for hospital_id, count in sorted(added_bytes.items()):
        usage = session.exec(select(ReceivedUsage).where(ReceivedUsage.hospital_id == hospital_id).with_for_update()).first()
        if usage is None:
            usage = ReceivedUsage(hospital_id=hospital_id)
        usage.stored_bytes += count
        session.add(usage)


def stored_bytes(session: Session, hospital_id: str) -> int:
    usage = session.get(ReceivedUsage, hospital_id)
    return usage.stored_bytes if usage is not None else 0


def recount(database: Database) -> None:
    """Usage is what the rows say: what was shredded or rejected no longer counts. Reads every row once; for a duty by the hour."""
    with database.reading() as session:
        hospitals = session.exec(select(Hospital.hospital_id)).all()
    for hospital_id in hospitals:
        with database.transaction() as session:
            kept = session.exec(
                select(func.coalesce(func.sum(ReceivedInstance.payload_bytes), 0))
                .join(ReceivedStudy, col(ReceivedStudy.received_study_pk) == ReceivedInstance.received_study_pk)
                .where(
                    ReceivedStudy.hospital_id == hospital_id,
                    ReceivedStudy.state != ReceivedState.REJECTED,
                    col(ReceivedInstance.is_duplicate).is_(False),
                )
            ).one()
            usage = session.get(ReceivedUsage, hospital_id) or ReceivedUsage(hospital_id=hospital_id)
            usage.stored_bytes = int(kept)
            session.add(usage)

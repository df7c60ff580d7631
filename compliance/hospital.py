"""A hospital: the tenant every ciphertext, pseudonym and decision belongs to, its DICOM senders and where its reports go."""

from __future__ import annotations

import ipaddress
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column
from sqlmodel import Field, Session, SQLModel, col, select

from compliance.database import UtcDateTime
from crypto.errors import NotFound


class Hospital(SQLModel, table=True):
    __tablename__ = "hospital"
    hospital_id: str = Field(primary_key=True, max_length=64)
    name: str
    address: str = ""
    #: ISO 3166-1 or -2, the place of the patient's care ("IE", "US-TX").
    jurisdiction: str
    sector: str = "PUBLIC"
    flags: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    payer_kind: str = "PUBLIC"
    #: Where this hospital's ciphertext is stored (ISO 3166-1).
    storage_country: str
    #: A study is complete when nothing of it arrived for this long.
    quiet_seconds: float = 10.0
    #: Minutes from completeness to the deadline, by priority.
    turnaround_minutes: dict[str, int] = Field(
        default_factory=lambda: {"HIGH": 30, "MEDIUM": 120, "LOW": 1440}, sa_column=Column(JSON, nullable=False)
    )
    deidentify_options: list[str] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    #: Public half of the key under which the hospital's edge signs de-identification manifests, PEM; "" until the first study.
    edge_public_key: str = ""
    quota_bytes: int | None = Field(default=None, sa_type=BigInteger)
    created_at: datetime = Field(sa_type=UtcDateTime)


class DicomPeer(SQLModel, table=True):
    """A sender: its AE title and, for TLS, the one certificate it must show."""

    __tablename__ = "dicom_peer"
    calling_ae_title: str = Field(primary_key=True, max_length=16)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    #: SHA-256 of the DER certificate, hex; None refuses TLS.
    certificate_sha256: str | None = None
    #: Whether this title may come without TLS (and then only from `plaintext_networks` of the configuration).
    is_plaintext_allowed: bool = False


class TargetKind(StrEnum):
    DICOM = "DICOM"
    MLLP = "MLLP"


class ReportTarget(SQLModel, table=True):
    """Where signed reports of a hospital go."""

    __tablename__ = "report_target"
    target_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    kind: str
    host: str
    port: int
    #: For DICOM: the called AE title.
    ae_title: str | None = None
    is_tls: bool = False
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


#: Key of `ReportTarget.settings`: true where the operator answers for a tunnel or a protected network.
PLAINTEXT_ALLOWED = "allow_plaintext_beyond_loopback"


def may_leave_in_plaintext(target: ReportTarget) -> bool:
    """Whether a report, which names the patient, may go to this target without TLS."""
    return is_loopback(target.host) or target.settings.get(PLAINTEXT_ALLOWED) is True


def is_loopback(host: str) -> bool:
    """Of names, "localhost" alone: what another one leads to can change after it was asked."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_hospital(session: Session, hospital_id: str) -> Hospital:
    """Raises: NotFound."""
    hospital = session.get(Hospital, hospital_id)
    if hospital is None:
        raise NotFound(f"no hospital {hospital_id}")
    return hospital


def dicom_peer(session: Session, calling_ae_title: str) -> DicomPeer | None:
    return session.get(DicomPeer, calling_ae_title)


def report_targets(session: Session, hospital_id: str) -> list[ReportTarget]:
    return list(
        session.exec(select(ReportTarget).where(ReportTarget.hospital_id == hospital_id).order_by(col(ReportTarget.target_pk))).all()
    )

"""What intake keeps beside studies and instances: how much a hospital has stored, what it announced, who may upload, what it is owed.

Original UIDs and numbers are in no column: lookups are keyed digests (compliance/crosswalk.py), results are sealed.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, LargeBinary
from sqlmodel import Field, SQLModel

from compliance.database import UtcDateTime


class ReceivedUsage(SQLModel, table=True):
    """Payload bytes kept for a hospital. Counted up with each batch of rows, counted anew by `received_usage.recount`."""

    __tablename__ = "received_usage"
    hospital_id: str = Field(foreign_key="hospital.hospital_id", primary_key=True)
    stored_bytes: int = Field(default=0, sa_type=BigInteger)


class ExpectedInstances(SQLModel, table=True):
    """The hospital said how many instances a study will have; the study is named by its own lookup or by that of its order."""

    __tablename__ = "expected_instances"
    lookup: str = Field(primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    expected: int
    stated_at: datetime = Field(sa_type=UtcDateTime)


class ReceivedOrder(SQLModel, table=True):
    """Which order a received study names, so that an announcement that comes after the instances finds them."""

    __tablename__ = "received_order"
    received_study_pk: int = Field(foreign_key="received_study.received_study_pk", primary_key=True)
    order_lookup: str = Field(index=True)
    #: When the order that the study carries was received; None while it carries none.
    joined_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class PeerAddress(SQLModel, table=True):
    """Where a sender listens itself: needed to bring it a Storage Commitment result on a new association (PS3.4 J.3.3)."""

    __tablename__ = "peer_address"
    calling_ae_title: str = Field(foreign_key="dicom_peer.calling_ae_title", primary_key=True)
    host: str
    port: int
    is_tls: bool = False


class CommitmentReport(SQLModel, table=True):
    """A Storage Commitment result that its sender has not confirmed yet."""

    __tablename__ = "commitment_report"
    report_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    calling_ae_title: str
    state: str = Field(index=True)
    #: Transaction UID and instances are the hospital's own UIDs: sealed under its crosswalk secret.
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    attempts: int = 0
    next_attempt_at: datetime = Field(sa_type=UtcDateTime, index=True)
    created_at: datetime = Field(sa_type=UtcDateTime)


class UploadCredential(SQLModel, table=True):
    """A program of a hospital that may upload by STOW-RS. The token itself is in the hospital's hands alone."""

    __tablename__ = "upload_credential"
    credential_id: str = Field(primary_key=True, max_length=32)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    name: str
    token_digest: str = Field(unique=True, max_length=64)
    created_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)

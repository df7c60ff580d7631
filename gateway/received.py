"""What a hospital sent, as its edge knows it: studies and instances by keyed digests, and where each sealed payload lies.

A payload lies in the spool first (acknowledged means durable there) and in the vault once its study was processed; `location` of a
row changes in one transaction. Original UIDs and names are in no column: they are in the sealed frame headers and the crosswalk.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, LargeBinary, UniqueConstraint
from sqlalchemy.orm import aliased
from sqlmodel import Field, Session, SQLModel, col, exists, or_, select

from compliance.database import UtcDateTime
from crypto.errors import NotFound


class ReceivedState(StrEnum):
    RECEIVING = "RECEIVING"
    COMPLETE = "COMPLETE"
    AVAILABLE = "AVAILABLE"
    QUARANTINED = "QUARANTINED"
    REJECTED = "REJECTED"


class ReceivedStudy(SQLModel, table=True):
    __tablename__ = "received_study"
    __table_args__ = (UniqueConstraint("hospital_id", "study_lookup"),)
    received_study_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    study_lookup: str
    state: str = Field(default=ReceivedState.RECEIVING, index=True)
    #: Raised each time new instances reopen the study; names the job that processes it.
    generation: int = 1
    first_at: datetime = Field(sa_type=UtcDateTime)
    last_at: datetime = Field(sa_type=UtcDateTime, index=True)
    complete_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    #: The sender asked for storage commitment: it has sent everything.
    is_commitment_asked: bool = False
    #: Somebody moves its originals to the vault, and has until then; None while nobody does (archiving.py).
    archiving_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    instance_count: int = 0
    #: Made when the study is processed first; originals and de-identified instances are sealed under it.
    study_key_id: str | None = None
    wrapped_dek: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    #: The pseudonymous UID, once there is one.
    study_instance_uid: str | None = Field(default=None, index=True)
    #: Keyed digest of the identity terms every registered output was made under (grown_identity.py); "" where the outputs have to be made
    #: anew.
    terms_digest: str = Field(default="", max_length=64)


class ReceivedInstance(SQLModel, table=True):
    __tablename__ = "received_instance"
    __table_args__ = (UniqueConstraint("segment_id", "frame_offset"),)
    instance_pk: int | None = Field(default=None, primary_key=True)
    received_study_pk: int = Field(foreign_key="received_study.received_study_pk", index=True)
    hospital_id: str = Field(index=True)
    instance_lookup: str = Field(index=True)
    #: Keyed digest of the payload: tells a repeated instance from a different one under the same UID.
    payload_digest: str
    sop_class_uid: str
    transfer_syntax_uid: str
    payload_bytes: int = Field(sa_type=BigInteger)
    received_at: datetime = Field(sa_type=UtcDateTime)
    segment_id: str = Field(index=True)
    frame_offset: int = Field(sa_type=BigInteger)
    frame_length: int = Field(sa_type=BigInteger)
    #: The same bytes came before: nothing to do with this frame.
    is_duplicate: bool = False
    #: Other bytes came under the same SOP Instance UID: both are kept, a person must decide.
    is_conflicting: bool = False
    #: Where the sealed original lies in the vault, once archived.
    object_id: str | None = None
    pack_name: str | None = Field(default=None, index=True)
    pack_offset: int | None = Field(default=None, sa_type=BigInteger)
    sealed_length: int | None = Field(default=None, sa_type=BigInteger)
    #: The quarantine item that holds this instance back; None where it went on, or waits to be processed.
    held_item_pk: int | None = Field(default=None, index=True)
    #: Why it is held, and what was proposed to be blanked: places in pixels, never text.
    held_detail: str = ""
    held_boxes: list[Any] = Field(default_factory=list, sa_column=Column(JSON, nullable=False))
    #: A person decided that it is never read; its sealed original stays.
    is_left_out: bool = False
    #: The pseudonymous instance it became; None before, and while quarantined.
    sop_instance_uid: str | None = Field(default=None, index=True)


def received_study(session: Session, received_study_pk: int) -> ReceivedStudy:
    """Raises: NotFound."""
    row = session.get(ReceivedStudy, received_study_pk)
    if row is None:
        raise NotFound(f"no received study {received_study_pk}")
    return row


def locked_received_study(session: Session, received_study_pk: int) -> ReceivedStudy:
    """As `received_study`, with the row locked for the rest of the transaction."""
    row = session.exec(select(ReceivedStudy).where(ReceivedStudy.received_study_pk == received_study_pk).with_for_update()).first()
    if row is None:
        raise NotFound(f"no received study {received_study_pk}")
    return row


def distinct_instances(session: Session, received_study_pk: int) -> list[ReceivedInstance]:
    """The instances of a study without repeated ones, in order of arrival."""
    return list(
        session.exec(
            select(ReceivedInstance)
            .where(ReceivedInstance.received_study_pk == received_study_pk, col(ReceivedInstance.is_duplicate).is_(False))
            .order_by(col(ReceivedInstance.instance_pk))
        ).all()
    )


def held_by_item(session: Session, item_pk: int) -> list[ReceivedInstance]:
    """The instances that a quarantine item holds back one by one, in order of arrival."""
    return list(
        session.exec(
            select(ReceivedInstance).where(ReceivedInstance.held_item_pk == item_pk).order_by(col(ReceivedInstance.instance_pk))
        ).all()
    )


def instances_by_lookup(session: Session, hospital_id: str, instance_lookup: str) -> list[ReceivedInstance]:
    return list(
        session.exec(
            select(ReceivedInstance).where(ReceivedInstance.hospital_id == hospital_id, ReceivedInstance.instance_lookup == instance_lookup)
        ).all()
    )


def unarchived_segments(session: Session) -> set[str]:
    """Segments that hold a copy of an instance that is not in the vault: the first, or one that came again and may be the healthy one."""
    first = aliased(ReceivedInstance)
    is_waiting = exists().where(
        col(first.received_study_pk) == col(ReceivedInstance.received_study_pk),
        col(first.instance_lookup) == col(ReceivedInstance.instance_lookup),
        col(first.payload_digest) == col(ReceivedInstance.payload_digest),
        col(first.is_duplicate).is_(False),
        col(first.pack_name).is_(None),
    )
    needed = or_(col(ReceivedInstance.is_duplicate).is_(False), is_waiting)
    return set(session.exec(select(ReceivedInstance.segment_id).where(col(ReceivedInstance.pack_name).is_(None), needed).distinct()).all())

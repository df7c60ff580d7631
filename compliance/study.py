"""A de-identified study as the exchange knows it: study, series, instances, where each is sealed, and the manifest of it all.

Everything here is pseudonymous: UIDs are `2.25.` ones under the hospital's secret, dates are shifted, texts are cleaned. What names the
patient stands in the crosswalk (crosswalk.py) and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, LargeBinary, true
from sqlmodel import Field, Session, SQLModel, col, select

from compliance.database import UtcDateTime
from crypto.canonical import canonical_json, digest
from crypto.errors import IntegrityFailure, NotFound
from crypto.keys import KeyStore, StudyKey
from crypto.sealed_box import open_small, seal_small


class StudyStatus(StrEnum):
    AVAILABLE = "AVAILABLE"
    SHREDDED = "SHREDDED"


class Study(SQLModel, table=True):
    __tablename__ = "study"
    study_pk: int | None = Field(default=None, primary_key=True)
    study_instance_uid: str = Field(unique=True, max_length=64)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    patient_pseudonym: str = Field(index=True)
    accession_pseudonym: str
    status: str = StudyStatus.AVAILABLE
    #: The study's key: its name in the key store and the wrapped DEK.
    study_key_id: str = Field(unique=True)
    wrapped_dek: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    modality: str
    body_part: str | None = None
    description: str = ""
    #: Shifted study date, "YYYYMMDD", and the unshifted time of day, as DICOM writes them.
    study_date: str = ""
    study_time: str = ""
    patient_sex: str = ""
    patient_age: str = ""
    priority: str = "MEDIUM"
    #: Cleaned order text (indication, question), sealed under the study's key.
    order_text_sealed: bytes | None = Field(default=None, sa_column=Column(LargeBinary))
    provenance: str = "HOSPITAL"
    #: Who pays, where the order says; None: as the hospital's payer.
    payer_kind: str | None = None
    #: Where the ciphertext and its keys were when the study was written (ISO 3166-1).
    storage_country: str | None = None
    keys_country: str | None = None
    id_class: str = "PSEUDONYMISED"
    manifest_digest: str
    instance_count: int
    #: Instances that the hospital's edge holds back, or whose reading the hospital declined: the reader is told that they exist.
    held_instances: int = 0
    left_out_instances: int = 0
    #: Raised by one each time instances came after completeness.
    amendment: int = 0
    completed_at: datetime = Field(sa_type=UtcDateTime)
    available_at: datetime = Field(sa_type=UtcDateTime)
    deidentification: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    #: The edge's signed statement about what left (deid_manifest.py); without one that stands, the study counts as identified.
    deid_manifest: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


class Series(SQLModel, table=True):
    __tablename__ = "series"
    series_pk: int | None = Field(default=None, primary_key=True)
    study_pk: int = Field(foreign_key="study.study_pk", index=True)
    series_instance_uid: str = Field(unique=True, max_length=64)
    modality: str
    number: int | None = None
    description: str = ""
    body_part: str | None = None
    series_date: str = ""
    series_time: str = ""
    instance_count: int = 0
    #: Sealed gzip'ed JSON array of the instances' PS3.18 F metadata: {"object_id", "pack_name", "offset", "length"}.
    metadata_object: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))


class Instance(SQLModel, table=True):
    __tablename__ = "instance"
    sop_instance_uid: str = Field(primary_key=True, max_length=64)
    series_pk: int = Field(foreign_key="series.series_pk", index=True)
    study_pk: int = Field(foreign_key="study.study_pk", index=True)
    sop_class_uid: str
    transfer_syntax_uid: str
    number: int | None = None
    object_id: str
    pack_name: str = Field(index=True)
    pack_offset: int = Field(sa_type=BigInteger)
    sealed_length: int = Field(sa_type=BigInteger)
    payload_bytes: int = Field(sa_type=BigInteger)
    #: (offset, length) of each frame in the opened payload.
    frame_table: list[list[int]] = Field(sa_column=Column(JSON, nullable=False))
    payload_digest: str
    pixel_digest: str | None = None


def study_manifest(study_instance_uid: str, instances: Iterable[Instance]) -> dict[str, Any]:
    """What the study consists of, in UID order; its digest is what a reader signs."""
    rows = [
        {"sop_instance_uid": row.sop_instance_uid, "payload": row.payload_digest, "pixels": row.pixel_digest or ""}
        for row in sorted(instances, key=lambda instance: instance.sop_instance_uid)
    ]
    return {"v": 1, "study_instance_uid": study_instance_uid, "instances": rows}


def manifest_of(session: Session, study: Study) -> dict[str, Any]:
    """The manifest of the study as it stands. Raises: IntegrityFailure where rows no longer give the recorded digest."""
    assert study.study_pk is not None
    manifest = study_manifest(study.study_instance_uid, instances_of_study(session, study.study_pk))
    if digest(manifest) != study.manifest_digest:
        raise IntegrityFailure(f"the instances of study {study.study_pk} are not those of its manifest")
    return manifest


def require_study(session: Session, study_instance_uid: str) -> Study:
    """Raises: NotFound."""
    study = session.exec(select(Study).where(Study.study_instance_uid == study_instance_uid)).first()
    if study is None:
        raise NotFound("no such study")
    return study


def study_by_pk(session: Session, study_pk: int) -> Study:
    """Raises: IntegrityFailure; a key that points nowhere is damage."""
    study = session.get(Study, study_pk)
    if study is None:
        raise IntegrityFailure(f"study {study_pk} is referred to and not there")
    return study


def open_study_key(keys: KeyStore, study: Study) -> StudyKey:
    """Raises: NotFound once the study was shredded; IntegrityFailure."""
    if study.status == StudyStatus.SHREDDED:
        raise NotFound("the study was shredded")
    return keys.open_study_key(study.hospital_id, study.study_key_id, study.wrapped_dek)


def seal_order_text(study_key: StudyKey, study: Study, texts: dict[str, str]) -> bytes:
    return seal_small(study_key.purpose_key("order"), canonical_json(texts), study.study_instance_uid.encode())


def open_order_text(study_key: StudyKey, study: Study) -> dict[str, str]:
    """The cleaned order ("indication", "question", "procedure"), empty where there was none. Raises: IntegrityFailure."""
    if study.order_text_sealed is None:
        return {}
    opened: dict[str, str] = json.loads(
        open_small(study_key.purpose_key("order"), study.order_text_sealed, study.study_instance_uid.encode())
    )
    return opened


def series_of(session: Session, study_pk: int) -> list[Series]:
    return list(session.exec(select(Series).where(Series.study_pk == study_pk).order_by(col(Series.number), col(Series.series_pk))).all())


def instances_of_study(session: Session, study_pk: int) -> list[Instance]:
    return list(session.exec(select(Instance).where(Instance.study_pk == study_pk).order_by(col(Instance.sop_instance_uid))).all())


def priors_of(session: Session, study: Study) -> list[Study]:
    """Earlier studies of the same patient at the same hospital (of the same day too), newest first. What of them may be shown is the
    decision's business. A study without a date has every other one as its prior: nobody knows which came first.
    """
    is_earlier = col(Study.study_date) <= study.study_date if study.study_date else true()
    return list(
        session.exec(
            select(Study)
            .where(
                Study.hospital_id == study.hospital_id,
                Study.patient_pseudonym == study.patient_pseudonym,
                Study.study_pk != study.study_pk,
                Study.status == StudyStatus.AVAILABLE,
                is_earlier,
            )
            .order_by(col(Study.study_date).desc(), col(Study.study_pk).desc())
        ).all()
    )

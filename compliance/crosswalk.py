"""Pseudonym to identity and back: the hospital's side of the exchange.

Invariants
- A patient has one random pseudonym and one non-zero date offset per hospital, made once, kept for ever (PS3.15 E.1: consistent over
  priors).
- Rows are found by keyed digests under the hospital's own secret, never by a value; two hospitals' rows cannot be linked.
- Identities are sealed: a patient's under the hospital's crosswalk secret, a study's under the study's own key (so that shredding takes
  it).
- Only intake, delivery and the hospital's own pages open identities, and every opening is an audit event in the same transaction.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Column, LargeBinary, UniqueConstraint
from sqlmodel import Field, Session, SQLModel, col, select

from compliance import audit
from compliance.database import UtcDateTime
from compliance.study import Study, StudyStatus, open_study_key
from crypto.canonical import canonical_json, keyed_digest
from crypto.errors import NotFound
from crypto.keys import KeyStore
from crypto.sealed_box import open_small, seal_small

#: Dates move by up to ten years either way and never by nothing.
_OFFSET_DAYS_MAX = 3650
#: An audit entry lists so many studies at most.
_OPENINGS_PER_ENTRY = 100


class PatientLink(SQLModel, table=True):
    __tablename__ = "patient_link"
    __table_args__ = (UniqueConstraint("hospital_id", "patient_lookup"),)
    link_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    patient_lookup: str
    pseudonym: str = Field(unique=True)
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: datetime = Field(sa_type=UtcDateTime)


class StudyLink(SQLModel, table=True):
    __tablename__ = "study_link"
    __table_args__ = (UniqueConstraint("hospital_id", "study_lookup"),)
    link_pk: int | None = Field(default=None, primary_key=True)
    hospital_id: str = Field(foreign_key="hospital.hospital_id", index=True)
    study_lookup: str
    study_instance_uid: str = Field(unique=True, max_length=64)
    #: The identity document (names, numbers, original UIDs, order), sealed under the study's key.
    sealed: bytes = Field(sa_column=Column(LargeBinary, nullable=False))


def lookup_secret(keys: KeyStore, hospital_id: str) -> bytes:
    return keys.secret(f"lookup/{hospital_id}")


def uid_secret(keys: KeyStore, hospital_id: str) -> bytes:
    return keys.secret(f"uid/{hospital_id}")


def patient_lookup(keys: KeyStore, hospital_id: str, patient_id: str, issuer_of_patient_id: str) -> str:
    return keyed_digest(lookup_secret(keys, hospital_id), "patient", patient_id.strip(), issuer_of_patient_id.strip())


def study_lookup(keys: KeyStore, hospital_id: str, study_instance_uid: str) -> str:
    return keyed_digest(lookup_secret(keys, hospital_id), "study", study_instance_uid)


def accession_lookup(keys: KeyStore, hospital_id: str, accession_number: str) -> str:
    return accession_digest(lookup_secret(keys, hospital_id), accession_number)


def accession_digest(secret: bytes, accession_number: str) -> str:
    """As `accession_lookup`, where the hospital's lookup secret is at hand: padding by spaces or NULs makes no other number."""
    return keyed_digest(secret, "accession", accession_number.strip("\0 \t\r\n"))


def ensure_patient(
    session: Session, keys: KeyStore, hospital_id: str, patient_id: str, issuer_of_patient_id: str, *, now: datetime
) -> tuple[str, int]:
    """(pseudonym, date offset in days) of this patient at this hospital, made at the first call.

    Raises: TemporarilyUnable, out of the transaction, when another process made it at the same time: asked again, it is found there.
    """
    lookup = patient_lookup(keys, hospital_id, patient_id, issuer_of_patient_id)
    crosswalk_key = keys.secret(f"crosswalk/{hospital_id}")
    link = session.exec(select(PatientLink).where(PatientLink.hospital_id == hospital_id, PatientLink.patient_lookup == lookup)).first()
    if link is None:
        # 80 bits: two patients meet only after some 2**40 of them, and a meeting would refuse the second one's study.
        pseudonym = f"RG-{secrets.token_hex(10).upper()}"
        offset = (1 + secrets.randbelow(_OFFSET_DAYS_MAX)) * (1 if secrets.randbelow(2) else -1)
        body = canonical_json({"date_offset_days": offset})
        link = PatientLink(
            hospital_id=hospital_id,
            patient_lookup=lookup,
            pseudonym=pseudonym,
            created_at=now,
            sealed=seal_small(crosswalk_key, body, f"patient/{hospital_id}/{pseudonym}".encode()),
        )
        session.add(link)
        session.flush()
        return pseudonym, offset
    opened = json.loads(open_small(crosswalk_key, link.sealed, f"patient/{hospital_id}/{link.pseudonym}".encode()))
    return link.pseudonym, int(opened["date_offset_days"])


def seal_study_identity(session: Session, keys: KeyStore, study: Study, lookup: str, identity: Mapping[str, Any]) -> None:
    """The identity document of the study is in the crosswalk, replacing an earlier one of the same study."""
    sealed = seal_small(open_study_key(keys, study).purpose_key("identity"), canonical_json(dict(identity)), _study_context(study))
    link = session.exec(select(StudyLink).where(StudyLink.hospital_id == study.hospital_id, StudyLink.study_lookup == lookup)).first()
    if link is None:
        link = StudyLink(hospital_id=study.hospital_id, study_lookup=lookup, study_instance_uid=study.study_instance_uid, sealed=sealed)
    link.sealed = sealed
    session.add(link)


def open_study_identity(session: Session, keys: KeyStore, study: Study, *, actor: str, purpose: str, now: datetime) -> dict[str, Any]:
    """The identity document; the opening is an audit event of this transaction.

    Raises: NotFound (no such link, or shredded), IntegrityFailure.
    """
    link = session.exec(select(StudyLink).where(StudyLink.study_instance_uid == study.study_instance_uid)).first()
    if link is None:
        raise NotFound("the crosswalk does not know the study")
    opened = _open_link(keys, study, link)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.PATIENT_RECORD,
            event_type=audit.EventType.REIDENTIFY,
            action=audit.Action.READ,
            actor=actor,
            hospital_id=study.hospital_id,
            study_instance_uid=study.study_instance_uid,
            detail={"purpose": purpose},
        ),
        at=now,
    )
    return opened


def open_study_identities(
    session: Session, keys: KeyStore, studies: Sequence[Study], *, actor: str, purpose: str, now: datetime
) -> dict[str, dict[str, Any]]:
    """The identity documents of several studies of one hospital by pseudonymous UID; one audit entry per 100 says which were opened.

    A study without a link, or shredded, is left out.

    Raises: IntegrityFailure.
    """
    opened: dict[str, dict[str, Any]] = {}
    for start in range(0, len(studies), _OPENINGS_PER_ENTRY):
        batch = {study.study_instance_uid: study for study in studies[start : start + _OPENINGS_PER_ENTRY]}
        if len({study.hospital_id for study in batch.values()}) > 1:
            raise ValueError("identities are opened hospital by hospital")
        links = session.exec(select(StudyLink).where(col(StudyLink.study_instance_uid).in_(batch))).all()
        found = []
        for link in links:
            study = batch[link.study_instance_uid]
            if study.status != StudyStatus.SHREDDED:
                opened[study.study_instance_uid] = _open_link(keys, study, link)
                found.append(study.study_instance_uid)
        if found:
            audit.append(
                session,
                audit.AuditEvent(
                    event_id=audit.EventId.PATIENT_RECORD,
                    event_type=audit.EventType.REIDENTIFY,
                    action=audit.Action.READ,
                    actor=actor,
                    hospital_id=batch[found[0]].hospital_id,
                    detail={"purpose": purpose, "opened": len(found), "studies": sorted(found)},
                ),
                at=now,
            )
    return opened


def _open_link(keys: KeyStore, study: Study, link: StudyLink) -> dict[str, Any]:
    opened: dict[str, Any] = json.loads(open_small(open_study_key(keys, study).purpose_key("identity"), link.sealed, _study_context(study)))
    return opened


def _study_context(study: Study) -> bytes:
    return f"study/{study.hospital_id}/{study.study_instance_uid}".encode()

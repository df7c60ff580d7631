"""A hospital's own studies under its patients' own names: what is listed, found and shown on /studies.

- Only staff of the hospital get here, and only studies of that hospital are looked at, whatever was asked for.
- An identity is opened only for what a page shows, or for what a search by name has to look through; each opening is in the audit log of
  the same transaction (compliance/crosswalk.py).
- Studies that never passed de-identification have no entry in the crosswalk: their name is read from the first received header.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from sqlmodel import Session, col, or_, select

from compliance import audit
from compliance.crosswalk import PatientLink, open_study_identities, patient_lookup
from compliance.study import Study, StudyStatus
from crypto.errors import RefusedContent
from gateway.application import Application
from gateway.login import Visitor
from gateway.processing import accession_pseudonym, original_of, study_key_of
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, distinct_instances
from gateway.request_context import natural_number
from gateway.study_identity import StudyIdentityReader
from gateway.study_life import StudyLife, gather_lives
from gateway.web.contexts import Choice
from gateway.web.contexts_oversight import HospitalStudy
from reporting.identity import name_as_written
from worklist.procedure_step import State
from worklist.workitem import ProcedureStep

STUDIES_PER_PAGE = 20
#: A search by name looks through so many of the newest studies; older ones are found by their numbers.
SEARCHED_MAX = 500
STATES = (
    Choice("receiving", "Being received"),
    Choice("quarantine", "In quarantine"),
    Choice("waiting", "Waiting for a reader"),
    Choice("reading", "Being read"),
    Choice("reported", "Reported"),
    Choice("rejected", "Rejected"),
)
_RECEIVED_STATES = {
    "receiving": (ReceivedState.RECEIVING, ReceivedState.COMPLETE),
    "quarantine": (ReceivedState.QUARANTINED,),
    "rejected": (ReceivedState.REJECTED,),
}
#: Reading a name from a received header opens the instance; what is larger than this waits until it is de-identified.
_HEADER_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True)
class FoundStudies:
    """One page of the list, newest first, with the number of all that match."""

    studies: tuple[HospitalStudy, ...]
    first: int
    total: int


@dataclass(frozen=True)
class _Identity:
    """What is shown of an identity document; all empty where there is none."""

    name: str = ""
    patient_id: str = ""
    birth_on: date | None = None
    sex: str = ""
    accession_number: str = ""
    study_on: date | None = None
    description: str = ""
    modality: str = ""
    texts: tuple[str, ...] = field(default=())

    @staticmethod
    def of(document: Mapping[str, Any]) -> _Identity:
        patient, study = document["patient"], document["study"]
        return _Identity(
            name=name_as_written(patient.get("name", "")) or "Name missing",
            patient_id=patient.get("patient_id", ""),
            birth_on=_day(patient.get("birth_date", "")),
            sex=patient.get("sex", ""),
            accession_number=study.get("accession_number", ""),
            study_on=_day(study.get("study_date", "")),
            description=study.get("procedure", ""),
            modality=study.get("modality", ""),
            texts=(patient.get("name", ""), name_as_written(patient.get("name", "")), patient.get("patient_id", "")),
        )


def find_studies(app: Application, staff: Visitor, *, q: str, state: str, page: int) -> FoundStudies:
    """The page of studies that match, each as it stands now. Raises: TemporarilyUnable, IntegrityFailure."""
    hospital_id = staff.principal.hospital_id or ""
    with app.database.transaction() as session:
        keys = _listed(session, hospital_id, state)
        opened: dict[str, dict[str, Any]] = {}
        if q.strip():
            keys, opened = _search(session, app, staff, keys, q.strip())
        start = (page - 1) * STUDIES_PER_PAGE
        received = _received(session, keys[start : start + STUDIES_PER_PAGE])
        studies = _studies_of(session, received)
        missing = [study for uid, study in studies.items() if uid not in opened]
        opened |= open_study_identities(session, app.keys, missing, actor=staff.principal_id, purpose="hospital page", now=app.now())
        lives = gather_lives(session, app, received, studies)
    rows = []
    for row in received:
        study = studies.get(row.study_instance_uid or "")
        identity = _Identity.of(opened[study.study_instance_uid]) if study is not None and study.study_instance_uid in opened else None
        rows.append(_row(row, study, identity or _identity_before(app, staff, row, study), lives[row.received_study_pk or 0]))
    return FoundStudies(tuple(rows), start + 1 if rows else 0, len(keys))


def own_received_study(session: Session, staff: Visitor, study_key: str) -> ReceivedStudy | None:
    """The received study of the staff's own hospital under this key of a URL; None for another hospital's as for none."""
    number = natural_number(study_key, digits_max=15)
    row = session.get(ReceivedStudy, number) if number is not None else None
    return row if row is not None and row.hospital_id == staff.principal.hospital_id else None


def _listed(session: Session, hospital_id: str, state: str) -> list[int]:
    query = select(ReceivedStudy.received_study_pk, ReceivedStudy.study_instance_uid).where(ReceivedStudy.hospital_id == hospital_id)
    if state in _RECEIVED_STATES:
        query = query.where(col(ReceivedStudy.state).in_(_RECEIVED_STATES[state]))
    rows = session.exec(query.order_by(col(ReceivedStudy.first_at).desc(), col(ReceivedStudy.received_study_pk).desc())).all()
    if state not in ("waiting", "reading", "reported"):
        return [pk for pk, _ in rows if pk is not None]
    steps = session.exec(
        select(Study.study_instance_uid, ProcedureStep.state)
        .join(ProcedureStep, col(ProcedureStep.study_pk) == Study.study_pk)
        .where(Study.hospital_id == hospital_id, col(ProcedureStep.is_addendum).is_(False), ProcedureStep.state != State.CANCELED)
        .order_by(col(ProcedureStep.scheduled_at))
    ).all()
    newest = dict(steps)
    wanted = {"waiting": State.SCHEDULED, "reading": State.IN_PROGRESS, "reported": State.COMPLETED}[state]
    return [pk for pk, uid in rows if pk is not None and newest.get(uid or "") == wanted]


def _search(session: Session, app: Application, staff: Visitor, keys: list[int], q: str) -> tuple[list[int], dict[str, dict[str, Any]]]:
    """Those of `keys` that match: by number without opening anything, else by name through the newest ones."""
    hospital_id = staff.principal.hospital_id or ""
    if q.startswith("#") and (number := natural_number(q[1:], digits_max=15)) is not None:
        return [pk for pk in keys if pk == number], {}
    patient = select(PatientLink.pseudonym).where(
        PatientLink.hospital_id == hospital_id, PatientLink.patient_lookup == patient_lookup(app.keys, hospital_id, q, "")
    )
    by_number = session.exec(
        select(ReceivedStudy.received_study_pk)
        .join(Study, col(Study.study_instance_uid) == ReceivedStudy.study_instance_uid)
        .where(
            Study.hospital_id == hospital_id,
            or_(
                Study.accession_pseudonym == accession_pseudonym(app, hospital_id, q),
                col(Study.patient_pseudonym).in_(patient),
                Study.patient_pseudonym == q,
            ),
        )
    ).all()
    if by_number:
        return [pk for pk in keys if pk in set(by_number)], {}
    newest = _received(session, keys[:SEARCHED_MAX])
    studies = _studies_of(session, newest)
    opened = open_study_identities(
        session, app.keys, list(studies.values()), actor=staff.principal_id, purpose="hospital search by name", now=app.now()
    )
    text = q.casefold()
    matching = {uid for uid, document in opened.items() if any(text in one.casefold() for one in _Identity.of(document).texts)}
    return [row.received_study_pk or 0 for row in newest if row.study_instance_uid in matching], opened


def _received(session: Session, keys: Sequence[int]) -> list[ReceivedStudy]:
    rows = session.exec(select(ReceivedStudy).where(col(ReceivedStudy.received_study_pk).in_(keys))).all()
    return sorted(rows, key=lambda row: keys.index(row.received_study_pk or 0))


def _studies_of(session: Session, received: Sequence[ReceivedStudy]) -> dict[str, Study]:
    uids = [row.study_instance_uid for row in received if row.study_instance_uid]
    return {study.study_instance_uid: study for study in session.exec(select(Study).where(col(Study.study_instance_uid).in_(uids))).all()}


def _identity_before(app: Application, staff: Visitor, row: ReceivedStudy, study: Study | None) -> _Identity:
    """The identity in the first received header, for a study that has no entry in the crosswalk; the reading is audited first."""
    if (study is not None and study.status == StudyStatus.SHREDDED) or (row.study_key_id is not None and row.wrapped_dek is None):
        return _Identity(name="Deleted")
    if study is not None or row.state not in (ReceivedState.QUARANTINED, ReceivedState.REJECTED) or row.study_key_id is None:
        return _Identity(name="Not identified yet")
    assert row.received_study_pk is not None
    with app.database.transaction() as session:
        instances = distinct_instances(session, row.received_study_pk)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.PATIENT_RECORD,
                event_type=audit.EventType.REIDENTIFY,
                action=audit.Action.READ,
                actor=staff.principal_id,
                hospital_id=row.hospital_id,
                object_id=f"received/{row.received_study_pk}",
                detail={"purpose": "hospital page", "opened": 1},
            ),
            at=app.now(),
        )
    return _identity_of_header(app, row.received_study_pk, instances)


def _identity_of_header(app: Application, received_study_pk: int, instances: Sequence[ReceivedInstance]) -> _Identity:
    smallest = min(instances, key=lambda one: one.payload_bytes, default=None)
    unknown = _Identity(name="Name not readable")
    if smallest is None or smallest.payload_bytes > _HEADER_BYTES_MAX:
        return unknown
    reader = StudyIdentityReader()
    try:
        reader.add(original_of(app, study_key_of(app, received_study_pk), smallest))
        return _Identity.of(reader.identity().document({}, None))
    except RefusedContent:
        return unknown


def _row(row: ReceivedStudy, study: Study | None, identity: _Identity, life: StudyLife) -> HospitalStudy:
    return HospitalStudy(
        study_key=str(row.received_study_pk),
        patient_name=identity.name,
        patient_id=identity.patient_id,
        birth_on=identity.birth_on,
        sex=identity.sex,
        accession_number=identity.accession_number,
        modality=study.modality if study is not None else identity.modality,
        description=identity.description or (study.description if study is not None else ""),
        study_on=identity.study_on,
        received_at=row.first_at,
        instance_count=study.instance_count if study is not None else row.instance_count,
        status=life.status,
        tone=life.tone,
        due_at=life.due_at,
        steps=life.steps,
        unclaimed=life.unclaimed,
        quarantine_href=life.quarantine_href,
        deliveries=life.deliveries,
        report_href=f"/studies/{row.received_study_pk}/report.pdf" if life.copy_label else None,
        report_label=life.copy_label,
        deid_href=f"/studies/{row.received_study_pk}/deidentification" if study is not None else None,
        is_arriving=row.state == ReceivedState.RECEIVING,
        expected_count=life.expected_count,
        shows_face=study is not None and "RECOGNIZABLE_VISUAL_FEATURES" in study.deidentification.get("flags", ()),
    )


def _day(value: str) -> date | None:
    """A DA value (PS3.5 6.2); None for anything else."""
    try:
        return datetime.strptime(value[:8], "%Y%m%d").date()
    except ValueError:
        return None

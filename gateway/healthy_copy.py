"""A hospital that sends an instance again mends what was damaged here: its copy stands in for an original that does not open.

- In the spool: the first copy that opens is archived, whichever arrival it was of.
- In the vault: before a segment with repeated instances is swept, what they repeat is opened, original and output. An original that does
  not open is sealed anew from the copy, and the study is made anew. Nobody sends so often that the look costs much.
"""

from __future__ import annotations

import uuid

import structlog
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from compliance import audit
from compliance.study import Instance
from crypto.errors import IntegrityFailure, NotFound
from crypto.keys import StudyKey
from crypto.spool import FramePosition
from crypto.vault import SealedObject
from gateway.application import Application
from gateway.intake import read_spooled_payload
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, locked_received_study
from gateway.unsettled_packs import seal_unsettled, settle_packs

log = structlog.get_logger()
ACTOR = "readgate/worker"


def spooled_original(app: Application, row: ReceivedInstance) -> bytes:
    """The payload from the frame of `row`, or from that of a repeated arrival of the same bytes. Raises: IntegrityFailure, NotFound."""
    try:
        return read_spooled_payload(app.spool, _position(row))
    except (IntegrityFailure, NotFound):
        with app.database.reading() as session:
            copies = session.exec(_same(row).where(col(ReceivedInstance.is_duplicate))).all()
        for copy in copies:
            try:
                payload = read_spooled_payload(app.spool, _position(copy))
            except (IntegrityFailure, NotFound):
                continue
            log.warning("original_mended", received_study_pk=row.received_study_pk)
            return payload
        raise


def mend_from(app: Application, segment_id: str) -> int:
    """What the repeated instances of this segment repeat opens in the vault, or was replaced by them; how many were.

    Raises: IntegrityFailure where the copy does not open either, TemporarilyUnable.
    """
    mended = 0
    with app.database.reading() as session:
        copies = session.exec(
            select(ReceivedInstance).where(ReceivedInstance.segment_id == segment_id, col(ReceivedInstance.is_duplicate))
        ).all()
        firsts = [(copy, session.exec(_same(copy).where(col(ReceivedInstance.is_duplicate).is_(False))).first()) for copy in copies]
        studies = {copy.received_study_pk: session.get(ReceivedStudy, copy.received_study_pk) for copy in copies}
    for copy, first in firsts:
        study = studies[copy.received_study_pk]
        if first is None or study is None or study.study_key_id is None or study.wrapped_dek is None:
            continue
        try:
            study_key = app.keys.open_study_key(study.hospital_id, study.study_key_id, study.wrapped_dek)
        except NotFound:
            # Shredded: nothing is to be mended, and the segment must not stay for it.
            continue
        mended += _mend(app, study_key, first, copy)
    return mended


def _mend(app: Application, study_key: StudyKey, first: ReceivedInstance, copy: ReceivedInstance) -> bool:
    with app.database.reading() as session:
        output = session.get(Instance, first.sop_instance_uid) if first.sop_instance_uid is not None else None
    is_original_whole = _opens(app, study_key, first)
    if is_original_whole and (output is None or _opens(app, study_key, output)):
        return False
    sealed = (
        [] if is_original_whole else seal_unsettled(app, study_key, [(uuid.uuid4().hex, read_spooled_payload(app.spool, _position(copy)))])
    )
    with app.database.transaction() as session:
        received = locked_received_study(session, first.received_study_pk)
        for place in sealed:
            row = session.get(ReceivedInstance, first.instance_pk)
            assert row is not None
            row.object_id, row.pack_name, row.pack_offset, row.sealed_length = place.object_id, place.pack_name, place.offset, place.length
            session.add(row)
        settle_packs(session, sealed)
        # What was made of it may be damaged too: all outputs are made anew, as soon as the study is processed.
        received.terms_digest = ""
        if received.state == ReceivedState.AVAILABLE:
            received.state, received.generation, received.complete_at = ReceivedState.COMPLETE, received.generation + 1, app.now()
        session.add(received)
        _note(session, app, received, is_original=bool(sealed))
    log.warning("original_mended", received_study_pk=first.received_study_pk)
    return True


def _note(session: Session, app: Application, received: ReceivedStudy, *, is_original: bool) -> None:
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.APPLICATION_ACTIVITY,
            event_type=audit.EventType.RESTRICTED_FUNCTION,
            action=audit.Action.UPDATE,
            actor=ACTOR,
            hospital_id=received.hospital_id,
            object_id=f"received/{received.received_study_pk}",
            detail={"repaired": "original" if is_original else "output", "count": 1},
        ),
        at=app.now(),
    )


def _opens(app: Application, study_key: StudyKey, row: ReceivedInstance | Instance) -> bool:
    """Whether what the row names opens in the vault; True for what is not there yet."""
    if row.object_id is None or row.pack_name is None or row.pack_offset is None or row.sealed_length is None:
        return True
    try:
        app.vault.open(study_key, SealedObject(row.object_id, row.pack_name, row.pack_offset, row.sealed_length))
    except (IntegrityFailure, NotFound):
        return False
    return True


def _same(row: ReceivedInstance) -> SelectOfScalar[ReceivedInstance]:
    return select(ReceivedInstance).where(
        ReceivedInstance.received_study_pk == row.received_study_pk,
        ReceivedInstance.instance_lookup == row.instance_lookup,
        ReceivedInstance.payload_digest == row.payload_digest,
    )


def _position(row: ReceivedInstance) -> FramePosition:
    return FramePosition(row.segment_id, row.frame_offset, row.frame_length)

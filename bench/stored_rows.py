"""A database as it is after years: the rows that `gateway/spool_index.py` would have written for so many instances, and their entries."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import insert

from compliance import audit
from compliance.database import Database
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy
from gateway.received_usage import add_usage

INSTANCES_PER_STUDY = 400
PAYLOAD_BYTES = 526_000
_STUDIES_AT_ONCE = 50


def store_rows(database: Database, instances: int, *, hospital_id: str = "h1") -> None:
    """So many instances of the hospital are on record, archived and available, each study with the entries of two batches."""
    defaults: dict[str, Any] = {
        name: description.get_default(call_default_factory=True)
        for name, description in ReceivedInstance.model_fields.items()
        if not description.is_required() and name != "instance_pk"
    }
    began = datetime.now(UTC) - timedelta(days=700)
    studies = -(-instances // INSTANCES_PER_STUDY)
    for first in range(0, studies, _STUDIES_AT_ONCE):
        with database.transaction() as session:
            made = [_study(hospital_id, began + timedelta(minutes=each)) for each in range(first, min(first + _STUDIES_AT_ONCE, studies))]
            session.add_all(made)
            session.flush()
            for study in made:
                left = min(INSTANCES_PER_STUDY, instances - INSTANCES_PER_STUDY * (first + made.index(study)))
                session.execute(insert(ReceivedInstance), [defaults | row for row in _instances(study, left)])
                for _ in range(2):
                    audit.append(session, _entry(study, left // 2), at=study.last_at)
                add_usage(session, {hospital_id: left * PAYLOAD_BYTES})


def _study(hospital_id: str, at: datetime) -> ReceivedStudy:
    return ReceivedStudy(
        hospital_id=hospital_id,
        study_lookup=os.urandom(32).hex(),
        state=ReceivedState.AVAILABLE,
        first_at=at,
        last_at=at,
        complete_at=at,
        instance_count=INSTANCES_PER_STUDY,
        study_instance_uid=f"2.25.{int.from_bytes(os.urandom(16), 'big')}",
    )


def _instances(study: ReceivedStudy, count: int) -> list[dict[str, Any]]:
    segment_id, pack_name = os.urandom(16).hex(), os.urandom(16).hex()
    return [
        {
            "received_study_pk": study.received_study_pk,
            "hospital_id": study.hospital_id,
            "instance_lookup": os.urandom(32).hex(),
            "payload_digest": os.urandom(20).hex(),
            "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
            "transfer_syntax_uid": "1.2.840.10008.1.2.1",
            "payload_bytes": PAYLOAD_BYTES,
            "received_at": study.last_at,
            "segment_id": segment_id,
            "frame_offset": 4096 + number * (PAYLOAD_BYTES + 4096),
            "frame_length": PAYLOAD_BYTES,
            "object_id": os.urandom(16).hex(),
            "pack_name": pack_name,
            "pack_offset": number * PAYLOAD_BYTES,
            "sealed_length": PAYLOAD_BYTES,
        }
        for number in range(count)
    ]


def _entry(study: ReceivedStudy, instances: int) -> audit.AuditEvent:
    return audit.AuditEvent(
        event_id=audit.EventId.INSTANCES_TRANSFERRED,
        event_type=audit.EventType.RECEIVE,
        action=audit.Action.CREATE,
        actor="readgate/receive",
        hospital_id=study.hospital_id,
        object_id=f"received/{study.received_study_pk}",
        detail={"instances": instances},
    )

"""Files taken in by the way of DICOM associations: one session of the intake, the same checks, the same spool, the same rows.

Read are Part 10 files and bare datasets, whatever their names. A DICOMDIR is not followed: its file ids are a stranger's words
(CVE-2026-32711), and every file of the medium is looked at anyway. Nothing of a file's or folder's name is kept or shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compliance import audit
from compliance.hospital import require_hospital
from compliance.part10 import instance_of_file
from crypto.errors import BadInput, RefusedContent
from gateway.application import Application
from gateway.console import progress
from gateway.intake import GatewayIntake, IntakeSession, receive_instance
from gateway.intake_port import InstanceHead
from gateway.spool_index import SpoolIndex

SENDER = "readgate/import"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
TOO_LARGE = "INSTANCE_TOO_LARGE"


@dataclass
class Import:
    """What was taken and what was not, by count and reason alone."""

    received: int = 0
    not_dicom: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    def document(self) -> dict[str, Any]:
        return {"received": self.received, "not_dicom": self.not_dicom, "refused": dict(sorted(self.refused.items()))}


def import_files(app: Application, source: Path, hospital_id: str, *, actor: str) -> Import:
    """Every instance under `source` is sealed in the spool and has its row; studies become complete as if they had been sent.

    Raises: BadInput (no such place, nothing in it), NotFound (no such hospital), TemporarilyUnable (no room): what was received before
    that stays received, and importing again repeats nothing.
    """
    with app.database.reading() as session:
        require_hospital(session, hospital_id)
    paths = list(_files(source))
    if not paths:
        raise BadInput(f"{source} holds no file")
    result = Import()
    index = SpoolIndex(app.database, app.spool)
    index.start()
    intake = GatewayIntake(
        app.database,
        app.keys,
        app.spool,
        index,
        spool_path=app.data / "spool",
        ae_title=app.settings.dicom.ae_title,
        free_bytes_floor=app.settings.dicom.free_bytes_floor,
        now=app.now,
    )
    association = intake.session(hospital_id, SENDER, {"address": "", "is_tls": 0})
    try:
        with progress() as bar:
            for number, path in enumerate(bar.track(paths, description="receiving")):
                _take(intake, association, path, number + 1, app.settings.dicom.instance_bytes_max, result)
    finally:
        intake.close(association)
        index.flush()
        index.stop()
    _note(app, hospital_id, actor, result)
    return result


def _take(intake: GatewayIntake, association: IntakeSession, path: Path, number: int, bytes_max: int, result: Import) -> None:
    if path.stat().st_size > bytes_max:
        result.refused[TOO_LARGE] += 1
        return
    try:
        instance = instance_of_file(path.read_bytes())
    except RefusedContent as refused:
        # A file that is named like one and is none, or anything else that lies on a medium: a reader of the medium would skip it too.
        if refused.reason_code in ("MALFORMED_DATASET", "MISSING_UID"):
            result.not_dicom += 1
        else:
            result.refused[refused.reason_code] += 1
        return
    if instance.sop_class_uid == MEDIA_STORAGE_DIRECTORY:
        return
    head = InstanceHead(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid, number % 65536)
    try:
        receive_instance(intake, association, head, [memoryview(instance.payload)])
        result.received += 1
    except RefusedContent as refused:
        result.refused[refused.reason_code] += 1


def _files(source: Path) -> Iterator[Path]:
    """Regular files under `source`, links not followed: a medium must not reach out of itself."""
    if source.is_file():
        yield source
    elif source.is_dir():
        yield from sorted(path for path in source.rglob("*") if path.is_file() and not path.is_symlink())
    else:
        raise BadInput(f"{source} is neither a file nor a folder")


def _note(app: Application, hospital_id: str, actor: str, result: Import) -> None:
    with app.database.transaction() as session:
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.IMPORT,
                event_type=audit.EventType.RECEIVE,
                action=audit.Action.CREATE,
                actor=actor,
                hospital_id=hospital_id,
                outcome=audit.Outcome.MINOR_FAILURE if result.refused else audit.Outcome.SUCCESS,
                detail={"received": result.received, "not_dicom": result.not_dicom, "refused": sum(result.refused.values())},
            ),
            at=app.now(),
        )

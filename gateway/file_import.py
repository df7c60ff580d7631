"""Files taken in by the way of DICOM associations: one session of the intake, the same checks, the same spool, the same rows.

Read are Part 10 files and bare datasets, whatever their names. A DICOMDIR is not followed: its file ids are a stranger's words
(CVE-2026-32711), and every file of the medium is looked at anyway. Archives are not opened, links not followed. Nothing of a file's or
folder's name is kept or shown.

A file is read to its end before it is taken in, one over the window in pieces: then its header is read, as it is of what an association
brings, and the rest when it is de-identified. So no file takes more memory than some windows.

A file that cannot be opened or read is the medium's fault, and one file less; whatever else a disk does not do is our own, and ends the
import.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from compliance import audit
from compliance.hospital import require_hospital
from compliance.identified import IdentifiedDataset
from compliance.part10 import instance_of_file, instance_of_head
from crypto.errors import BadInput, RefusedContent, TemporarilyUnable
from gateway.application import Application
from gateway.console import progress
from gateway.file_sources import regular_files
from gateway.intake import GatewayIntake, IntakeSession, receive_instance
from gateway.intake_port import InstanceHead
from gateway.spool_index import SpoolIndex

SENDER = "readgate/import"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
TOO_LARGE, UNREADABLE = "INSTANCE_TOO_LARGE", "FILE_UNREADABLE"
WINDOW_BYTES = 16 << 20


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

    Raises: BadInput (no such place, nothing in it), NotFound (no such hospital), TemporarilyUnable (no room, a disk of ours that fails):
    what was received before that stays received, and importing again repeats nothing.
    """
    # A link that the operator names is meant; below it none is followed.
    source = source.resolve() if source.is_file() else source
    with app.database.reading() as session:
        require_hospital(session, hospital_id)
    count = sum(1 for _ in regular_files(source))
    if not count:
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
            for number, path in enumerate(bar.track(regular_files(source), total=count, description="receiving")):
                _take(intake, association, path, number + 1, app.settings.dicom.instance_bytes_max, result)
    finally:
        intake.close(association)
        index.flush()
        index.stop()
    _note(app, hospital_id, actor, result)
    return result


def _take(intake: GatewayIntake, association: IntakeSession, path: Path, number: int, bytes_max: int, result: Import) -> None:
    try:
        with _opened(path) as file:
            if os.fstat(file.fileno()).st_size > bytes_max:
                raise RefusedContent(TOO_LARGE)
            data = _read(file)
            if len(data) < WINDOW_BYTES:
                _take_whole(intake, association, data, number, result)
            else:
                _take_in_pieces(intake, association, data, file, number, bytes_max, result)
    except RefusedContent as refused:
        result.refused[refused.reason_code] += 1
    except _Unreadable:
        # A scratch on the disc: what else is on it is taken in.
        result.refused[UNREADABLE] += 1
    except OSError:
        # The next file would meet the same: of a medium of good files none would be taken in, and each be called unreadable.
        raise TemporarilyUnable("a disk of this site failed; what was received stays, import again later") from None


class _Unreadable(Exception):
    """The medium does not give this file."""


@contextmanager
def _of_the_medium() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise _Unreadable from None


def _opened(path: Path) -> BinaryIO:
    """The regular file at `path`. It was one as its folder was read; what is a link or a pipe by now is not followed and not waited for."""
    with _of_the_medium():
        file = open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK))  # noqa: SIM115
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise _Unreadable
        return file


def _read(file: BinaryIO) -> bytes:
    """See `_window`."""
    with _of_the_medium():
        return _window(file)


def _take_whole(intake: GatewayIntake, association: IntakeSession, data: bytes, number: int, result: Import) -> None:
    instance = _instance(instance_of_file, data, result)
    if instance is not None:
        receive_instance(intake, association, _head(instance, number), [memoryview(instance.payload)])
        result.received += 1


def _take_in_pieces(
    intake: GatewayIntake, association: IntakeSession, data: bytes, file: BinaryIO, number: int, bytes_max: int, result: Import
) -> None:
    instance = _instance(instance_of_head, data, result)
    if instance is None:
        return
    large, total = intake.begin_large_instance(association, _head(instance, number)), len(data)
    large.append([memoryview(instance.payload)])
    while piece := _read(file):
        total += len(piece)
        if total > bytes_max:
            # It grew while it was read; pieces that nothing names are nobody's.
            raise RefusedContent(TOO_LARGE)
        large.append([memoryview(piece)])
    large.finish()
    result.received += 1


def _instance(read: Callable[[bytes], IdentifiedDataset], data: bytes, result: Import) -> IdentifiedDataset | None:
    """None where it is no instance to take in, and counted as what it is."""
    try:
        instance = read(data)
    except RefusedContent as refused:
        # A file that is named like one and is none, or anything else that lies on a medium: a reader of the medium would skip it too.
        if refused.reason_code not in ("MALFORMED_DATASET", "MISSING_UID"):
            raise
        result.not_dicom += 1
        return None
    return None if instance.sop_class_uid == MEDIA_STORAGE_DIRECTORY else instance


def _head(instance: IdentifiedDataset, number: int) -> InstanceHead:
    return InstanceHead(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid, number % 65536)


def _window(file: BinaryIO) -> bytes:
    """The next bytes of the file, a window of them where there are so many."""
    pieces: list[bytes] = []
    left = WINDOW_BYTES
    while left and (piece := file.read(left)):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


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

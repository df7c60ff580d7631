"""Rotating a hospital's KEK: a new version wraps from now on, every study's wrapped DEK is wrapped anew, the old version may be destroyed.

1. A new KEK version. If we crash after it, new studies use it and old ones still open; running this again goes on.
2. Every wrapped DEK of the hospital, in `study` and `received_study`, is wrapped under the newest version, a batch per transaction: what
   was read cannot have changed when it is written. Payloads are not touched.
3. `retire_old_keks`: when no row and no spool segment names an older version, it is destroyed. A process that had read the old version
   just before 1 writes its row or segment moments later, so this waits first and looks again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from compliance import audit
from compliance.hospital import Hospital, require_hospital
from compliance.study import Study, StudyStatus
from crypto.errors import Conflict, IntegrityFailure, NotFound
from crypto.keys import FileKeyStore, wrapped_kek_version
from crypto.spool_format import SEGMENT_HEADER_BYTES_MAX, SEGMENT_PREFIX, unpack_segment_header
from gateway.application import Application
from gateway.received import ReceivedStudy

KEK_IN_USE = "KEK_IN_USE"
_BATCH = 200
_KINDS: tuple[type[Study | ReceivedStudy], ...] = (Study, ReceivedStudy)
#: Longer than any process takes between reading a KEK and publishing what it wrapped with it.
SETTLE_SECONDS = 5.0


@dataclass(frozen=True)
class Rotation:
    """What a rotation did."""

    hospital_id: str
    version: int
    rewrapped: int


@dataclass(frozen=True)
class KeyStatus:
    """Which KEK versions of a hospital are held, and how many wrapped keys need each."""

    hospital_id: str
    current: int | None
    held: list[int]
    studies: dict[int, int] = field(default_factory=dict)
    segments: dict[int, int] = field(default_factory=dict)
    shredded: int = 0


def rotate_hospital_kek(app: Application, hospital_id: str, *, actor: str) -> Rotation:
    """The hospital's studies stand under a new KEK version. Raises: NotFound, Conflict (somebody rotates too), IntegrityFailure."""
    with app.database.reading() as session:
        require_hospital(session, hospital_id)
    version = app.keys.rotate_kek(hospital_id)
    _note(app, hospital_id, actor, {"kek_version": version})
    return Rotation(hospital_id, version, rewrap_hospital(app, hospital_id, actor=actor))


def rewrap_hospital(app: Application, hospital_id: str, *, actor: str) -> int:
    """Every wrapped key of the hospital stands under the newest KEK version; how many were wrapped anew now.

    Raises: IntegrityFailure where one of them does not open: then nothing of its batch is changed.
    """
    version = app.keys.kek_version(hospital_id)
    rewrapped = 0
    for kind in _KINDS:
        with app.database.reading() as session:
            keys = [pk for pk, wrapped in _wrapped(session, kind, hospital_id) if wrapped_kek_version(wrapped) != version]
        for start in range(0, len(keys), _BATCH):
            with app.database.transaction() as session:
                rewrapped += sum(_rewrap(app, session, kind, pk) for pk in keys[start : start + _BATCH])
    if rewrapped:
        _note(app, hospital_id, actor, {"kek_version": version, "rewrapped": rewrapped})
    return rewrapped


def retire_old_keks(
    app: Application,
    hospital_id: str,
    *,
    actor: str,
    settle_seconds: float = SETTLE_SECONDS,
    wait: Callable[[float], None] = time.sleep,
) -> list[int]:
    """Versions that nothing needs any more are destroyed; which. The current one stays.

    Raises: Conflict(KEK_IN_USE) when a row or a spool segment still needs an older version; nothing was destroyed then.
    """
    wait(settle_seconds)
    rewrap_hospital(app, hospital_id, actor=actor)
    status = key_status(app, hospital_id)
    if status.current is None:
        raise NotFound("the hospital has no key-encryption key")
    needed = {version for version in (*status.studies, *status.segments) if version != status.current}
    old = [version for version in status.held if version != status.current]
    if needed:
        raise Conflict(KEK_IN_USE, f"version {', '.join(map(str, sorted(needed)))} of hospital {hospital_id}")
    for version in old:
        # The entry first: a destroyed key that the log does not know would look like damage.
        _note(app, hospital_id, actor, {"kek_retired": version})
        app.keys.retire_kek(hospital_id, version)
    return old


def key_status(app: Application, hospital_id: str) -> KeyStatus:
    """The state of one hospital's keys. Raises: NotFound."""
    with app.database.reading() as session:
        require_hospital(session, hospital_id)
        versions: Counter[int] = Counter()
        for kind in _KINDS:
            versions.update(wrapped_kek_version(wrapped) for _, wrapped in _wrapped(session, kind, hospital_id))
        shredded = session.exec(select(Study.study_pk).where(Study.hospital_id == hospital_id, Study.status == StudyStatus.SHREDDED)).all()
    try:
        current: int | None = app.keys.kek_version(hospital_id)
    except NotFound:
        current = None
    return KeyStatus(
        hospital_id=hospital_id,
        current=current,
        held=_held(app, hospital_id, current),
        studies=dict(sorted(versions.items())),
        segments=dict(sorted(Counter(version for one, version in segment_kek_versions(app) if one == hospital_id).items())),
        shredded=len(shredded),
    )


def hospital_ids(session: Session) -> list[str]:
    return list(session.exec(select(Hospital.hospital_id).order_by(Hospital.hospital_id)).all())


def segment_kek_versions(app: Application) -> Iterable[tuple[str, int]]:
    """(hospital, KEK version) of every spool segment, by their headers alone. A damaged header is fsck's business."""
    for segment_id in app.spool.segments():
        try:
            with (app.data / "spool" / f"{segment_id}.segment").open("rb") as file:
                hospital_id, wrapped, _, _ = unpack_segment_header(file.read(SEGMENT_PREFIX.size + SEGMENT_HEADER_BYTES_MAX))
            yield hospital_id, wrapped_kek_version(wrapped)
        except (FileNotFoundError, IntegrityFailure):
            continue


def _held(app: Application, hospital_id: str, current: int | None) -> list[int]:
    """Versions in the key store. One that cannot list them (an HSM) names the current one alone."""
    if isinstance(app.keys, FileKeyStore):
        return app.keys.kek_versions(hospital_id)
    return [] if current is None else [current]


def _wrapped(session: Session, kind: type[Study | ReceivedStudy], hospital_id: str) -> list[tuple[int, bytes]]:
    """Row key and wrapped DEK of every row that still has a key to open it with."""
    if kind is Study:
        rows: Any = session.exec(
            select(Study.study_pk, Study.wrapped_dek).where(Study.hospital_id == hospital_id, Study.status != StudyStatus.SHREDDED)
        ).all()
    else:
        rows = session.exec(
            select(ReceivedStudy.received_study_pk, ReceivedStudy.wrapped_dek).where(
                ReceivedStudy.hospital_id == hospital_id,
                col(ReceivedStudy.wrapped_dek).is_not(None),
            )
        ).all()
    return [(pk, wrapped) for pk, wrapped in rows]


def _rewrap(app: Application, session: Session, kind: type[Study | ReceivedStudy], pk: int) -> int:
    row = session.get(kind, pk, with_for_update=True)
    assert isinstance(row, Study | ReceivedStudy | None)
    if row is None or row.study_key_id is None or row.wrapped_dek is None:
        return 0
    try:
        row.wrapped_dek = app.keys.rewrap_study_key(row.hospital_id, row.study_key_id, row.wrapped_dek)
    except NotFound:
        # Shredded between the look and the lock, or long ago: there is nothing left to open, and fsck names what is wrong.
        return 0
    session.add(row)
    return 1


def _note(app: Application, hospital_id: str, actor: str, detail: dict[str, str | int | float | bool | list[str] | None]) -> None:
    with app.database.transaction() as session:
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.SECURITY_ALERT,
                event_type=audit.EventType.KEY_ROTATED,
                action=audit.Action.UPDATE,
                actor=actor,
                hospital_id=hospital_id,
                detail=detail,
            ),
            at=app.now(),
        )

"""The fault table: in the life of a study every effect on disk, database and vault fails once, each way, and the power goes before each.

The effects are those of a normal life, in order (`python -m tests.fault_scene` prints them). After each fault another process takes over
what is there, finishes, and all is held against the invariants: what was acknowledged is there bit for bit (I1), no identity is in plain
text on the disk (I2), and fsck, which opens everything, finds nothing: log and effects agree and the log verifies (I3, I4), no step has two
holders (I5), no report without its decision (I6), keys and studies agree (I7), copies and deliveries agree with their reports (I8).
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from sqlmodel import col, select

from compliance.quarantine import QuarantineItem
from crypto.errors import BadInput, TemporarilyUnable
from gateway.application import Application, open_application
from gateway.fsck import Fsck
from gateway.processing import original_of, study_key_of
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy
from tests.builders import payload_of
from tests.fault_scene import STUDY, Faults, PowerLost, finish, live, scene
from tests.gateway_site import Clock, GatewaySite, _settings
from worklist.workitem import ProcedureStep

SENT = {payload_of(dataset) for dataset in STUDY}
#: What fsck names after a crash and what may stay: a key that nothing was sealed under.
_LEFT_BY_A_CRASH = {"shred_key_without_study"}
_CANARIES = [str(STUDY[0].PatientName).encode(), str(STUDY[0].PatientID).encode(), STUDY[0].StudyInstanceUID.encode()]
#: (part, of so many parts): a third of the table each way with the other tests, so that each effect fails one way; under torture all of it.
_LAST_THIRD = pytest.param((2, 3), marks=pytest.mark.slow, id="third-3")
_WHOLE = pytest.param((0, 1), marks=pytest.mark.torture, id="whole")
_EVERY_WAY = [(False, errno.ENOSPC), (True, errno.EIO), (False, errno.EIO), (True, errno.ENOSPC)]
FAULTS = [
    pytest.param(False, errno.ENOSPC, (0, 3), marks=pytest.mark.slow, id="not-persisted-ENOSPC-third-1"),
    pytest.param(True, errno.EIO, (1, 3), marks=pytest.mark.slow, id="persisted-EIO-third-2"),
    *(
        pytest.param(
            persisted, code, (0, 1), marks=pytest.mark.torture, id=f"{'' if persisted else 'not-'}persisted-{errno.errorcode[code]}"
        )
        for persisted, code in _EVERY_WAY
    ),
]


@cache
def effects() -> list[str]:
    """The table: what happens in a life in which nothing fails."""
    import tempfile

    faults = Faults()
    with tempfile.TemporaryDirectory() as folder:
        told: list[bytes] = []
        with scene(Path(folder) / "site", faults) as (site, _):
            live(site, told)
            with site.app.database.reading() as session:
                assert [step.state for step in session.exec(select(ProcedureStep)).all()] == ["COMPLETED"]
        assert len(told) == 4
        check(Path(folder) / "site", told, is_first=True)
    return faults.effects


def check(folder: Path, told: list[bytes], *, is_first: bool = False) -> None:
    """Another process takes over in `folder`, finishes, and finds everything as the invariants say."""
    app = open_application(folder, settings=_settings())
    try:
        clock = Clock()
        # The process that takes over comes later: what is to be reclaimed after an hour is.
        clock.forward(hours=6)
        app.now = clock
        site = GatewaySite(app, clock, {})
        for _ in range(2):
            finish(site)
        kept = _originals(app)
        assert set(told) <= kept <= SENT
        with app.database.reading() as session:
            states = session.exec(select(ReceivedStudy.state)).all()
            reasons = session.exec(select(QuarantineItem.reason_code)).all()
        assert states == ([ReceivedState.AVAILABLE] if kept else []) and reasons == []
        findings = [one for one in Fsck(app, is_alone=True).run(deep=True).findings if one.kind not in _LEFT_BY_A_CRASH]
        assert findings == []
        assert not is_first or len(kept) == len(SENT)
    finally:
        app.close()
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "certificates":
            content = path.read_bytes()
            assert not any(canary in content for canary in _CANARIES), path.relative_to(folder)


def _originals(app: Application) -> set[bytes]:
    with app.database.reading() as session:
        rows = session.exec(select(ReceivedInstance).where(col(ReceivedInstance.is_duplicate).is_(False))).all()
    payloads = [original_of(app, study_key_of(app, row.received_study_pk), row).payload for row in rows]
    assert len(payloads) == len(set(payloads))
    return set(payloads)


def _try(folder: Path, faults: Faults, *, has_lost_power: bool = False) -> str:
    """What went wrong after the fault, or "" where nothing did."""
    told: list[bytes] = []
    try:
        try:
            with scene(folder, faults) as (site, disk):
                try:
                    live(site, told)
                except PowerLost:
                    pass
                except TemporarilyUnable:
                    # Five times in a row: the job would be tried later.
                    pass
                site.app.database.engine.dispose()
                if has_lost_power:
                    disk.come_back()
        except (BadInput, PowerLost):
            # It did not start, and said so.
            assert not told
        check(folder, told)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def _numbers(part: tuple[int, int]) -> list[int]:
    """READGATE_FAULTS=k/n takes the k-th (from 0) of n parts of the table instead.

    A login that was kept and not answered has used up its code: the reader waits for the next one, and the study does not notice.
    """
    if "READGATE_FAULTS" in os.environ:
        first, _, parts = os.environ["READGATE_FAULTS"].partition("/")
        part = int(first), int(parts)
    return [number for number in range(part[0], len(effects()), part[1]) if not effects()[number].endswith("gateway.login log_in")]


def _hold(tmp_path: Path, part: tuple[int, int], faults_of: Callable[[int], Faults], *, has_lost_power: bool = False) -> None:
    wrong = {}
    for number in _numbers(part):
        faults = faults_of(number)
        found = _try(tmp_path / str(number), faults, has_lost_power=has_lost_power)
        assert len(faults.effects) > number, "the life came as far as the fault"
        if found:
            wrong[f"{number}: {faults.effects[number]}"] = found
    assert wrong == {}


def test_table_has_every_kind_of_effect() -> None:
    kinds = {effect.partition(" ")[0] for effect in effects()}
    assert kinds >= {"write", "fdatasync", "fsync_directory", "rename", "link", "unlink", "truncate", "commit", "put"}
    assert len(effects()) > 90


@pytest.mark.timeout(20_000)
@pytest.mark.parametrize(("persisted", "code", "part"), FAULTS)
def test_every_effect_fails_once(tmp_path: Path, persisted: bool, code: int, part: tuple[int, int]) -> None:
    def faults_of(number: int) -> Faults:
        is_commit = effects()[number].startswith("commit")
        error: Callable[[], BaseException] = (lambda: TemporarilyUnable("injected")) if is_commit else (lambda: OSError(code, "injected"))
        return Faults(number, persisted, error)

    _hold(tmp_path, part, faults_of)


@pytest.mark.timeout(20_000)
@pytest.mark.parametrize("part", [_LAST_THIRD, _WHOLE])
def test_power_is_lost_before_every_effect(tmp_path: Path, part: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the files only what was synced is there afterwards; of the database what was committed."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    _hold(tmp_path, part, lambda number: Faults(number, False, PowerLost), has_lost_power=True)

"""The life of a study with every effect on disk, database and object store in one list, so that each can fail, and the power with it.

An effect is a write, sync, rename, link, unlink or truncation of our own (crypto/disk.py), a commit, a put or a deletion in the vault.
As a program, `python -m tests.fault_scene`: prints the table of the effects of one life, in order.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import obstore
from sqlmodel import Session, select

from crypto.disk import Disk
from crypto.errors import ReadgateError, TemporarilyUnable
from crypto.keys import FileKeyStore
from crypto.spool import Spool
from crypto.vault import local_vault
from gateway.intake import GatewayIntake, receive_instance
from gateway.intake_port import InstanceHead
from gateway.order_joining import join_late_orders
from gateway.order_listener import answer_order
from gateway.received import ReceivedState, ReceivedStudy
from gateway.spool_index import SpoolIndex
from gateway.study_attempts import StudyAttempts
from gateway.unsettled_packs import reclaim_packs
from gateway.worker import Work, Worker
from tests.builders import make_ct_study, payload_of
from tests.faulty_disk import FaultyDisk
from tests.gateway_site import EXPLICIT, GatewaySite, PlainScreener, gateway_site
from tests.signing_desk import Desk

STUDY = make_ct_study(instances=3, rows=24, columns=24)
_OURS = ("gateway", "compliance", "worklist", "reporting", "crypto")
_TRIES = 5


class PowerLost(BaseException):
    """Nothing happens any more."""


@dataclass
class Faults:
    """Which effect fails and how; every effect of the product comes by here."""

    #: Number of the effect (from 0) -> (whether it happens, what is raised); None: all is well.
    number: int | None = None
    persisted: bool = False
    error: Callable[[], BaseException] = lambda: OSError(5, "injected")
    effects: list[str] = field(default_factory=list)
    _is_dark: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def effect(self, name: str, act: Callable[[], Any], partly: Callable[[], Any] = lambda: None) -> Any:
        with self._lock:
            number = len(self.effects)
            self.effects.append(f"{name} {_place()}")
            if self._is_dark:
                raise PowerLost
            if number != self.number:
                result = act()
            else:
                error = self.error()
                self._is_dark = isinstance(error, PowerLost)
                act() if self.persisted else partly()
                raise error
        return result


def _place() -> str:
    """Which function of ours asked for the effect: the first one that is not the seam itself."""
    frame = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] in _OURS and module not in ("crypto.disk", "compliance.database"):
            return f"{module} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "-"


class ScenicDisk(FaultyDisk):
    """Disk effects by way of `Faults`, and what of the files would be there after the power came back."""

    def __init__(self, faults: Faults, root: Path) -> None:
        super().__init__()
        self._faults, self._root = faults, root
        self._names: dict[Path, int] = {}
        self._contents: dict[int, bytes] = {}
        # Held open, so that no number of a file is given to another one.
        self._held: list[int] = []
        for path in self._files():
            self._names[path] = self._keep(path)

    def _effect(self, name: str, act: Callable[[], None]) -> None:
        self._faults.effect(name, act)

    def write(self, descriptor: int, pieces: Any) -> None:
        joined = b"".join(bytes(piece) for piece in pieces)
        self._faults.effect(
            "write", lambda: Disk.write(self, descriptor, [joined]), lambda: Disk.write(self, descriptor, [joined[: len(joined) // 2]])
        )

    def write_at(self, descriptor: int, piece: memoryview, offset: int) -> None:
        half = len(piece) // 4096 // 2 * 4096
        self._faults.effect(
            "write", lambda: Disk.write_at(self, descriptor, piece, offset), lambda: Disk.write_at(self, descriptor, piece[:half], offset)
        )

    def fdatasync(self, descriptor: int) -> None:
        def act() -> None:
            Disk.fdatasync(self, descriptor)
            self._contents[os.fstat(descriptor).st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

        self._faults.effect("fdatasync", act)

    def fsync_directory(self, path: Path) -> None:
        def act() -> None:
            Disk.fsync_directory(self, path)
            self._names = {one: number for one, number in self._names.items() if one.parent != path}
            # The data folder itself holds the database, which is synced by itself.
            for one in path.iterdir() if path != self._root else ():
                if one.is_file():
                    self._names[one] = self._hold(one)

        self._faults.effect("fsync_directory", act)

    def come_back(self) -> None:
        """The files are those whose names and bytes had been synced when the power went."""
        for path in self._files():
            path.unlink()
        for path, number in self._names.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._contents.get(number, b""))
        self.close()

    def close(self) -> None:
        for descriptor in self._held:
            os.close(descriptor)
        self._held.clear()

    def _files(self) -> list[Path]:
        return [path for part in ("spool", "vault", "keys") for path in (self._root / part).rglob("*") if path.is_file()]

    def _hold(self, path: Path) -> int:
        descriptor = os.open(path, os.O_RDONLY)
        self._held.append(descriptor)
        return os.fstat(descriptor).st_ino

    def _keep(self, path: Path) -> int:
        number = self._hold(path)
        self._contents[number] = path.read_bytes()
        return number


@contextmanager
def scene(folder: Path, faults: Faults) -> Iterator[tuple[GatewaySite, ScenicDisk]]:
    """A site whose every effect is counted, until the end of the block."""
    real_commit, real_put, real_delete = Session.commit, obstore.put, obstore.delete

    def commit(self: Session) -> None:
        faults.effect("commit", lambda: real_commit(self))

    def put(*args: Any, **kwargs: Any) -> Any:
        return faults.effect("put", lambda: real_put(*args, **kwargs))

    def delete(*args: Any, **kwargs: Any) -> Any:
        return faults.effect("delete", lambda: real_delete(*args, **kwargs))

    with gateway_site(folder, has_study=False) as site:
        app = site.app
        disk = ScenicDisk(faults, app.data)
        app.keys = FileKeyStore(app.data / "keys", disk=disk)
        app.spool = Spool(app.data / "spool", app.keys, disk=disk)
        app.vault = local_vault(app.data / "vault", disk=disk)
        faults.effects.clear()
        with patch.object(Session, "commit", commit), patch("obstore.put", put), patch("obstore.delete", delete):
            yield site, disk
        disk.close()


def live(site: GatewaySite, told: list[bytes]) -> None:
    """From the first instance to the delivered report, again where it was temporarily unable; what was acknowledged goes to `told`."""
    app = site.app
    index = SpoolIndex(app.database, app.spool)
    index.start()
    try:
        _receive(site, index, told)
    finally:
        index.stop()
    finish(site)
    with contextlib.suppress(ReadgateError):
        answer_order(app, "h1", ORDER.encode())
    finish(site)
    for act in (lambda: Desk(site).report(), lambda: site.deliver()):
        with contextlib.suppress(ReadgateError):
            act()


ORDER = (
    "MSH|^~\\&|RIS|H|RG|RG|20260101||ORM^O01|1|P|2.5.1\r"
    f"PID|||{STUDY[0].PatientID}^^^A^MR||{STUDY[0].PatientName}||19700101|F\rORC|NW|P1\r"
    f"OBR|1|P1|F1|CT^CT head||||||||||||||{STUDY[0].AccessionNumber}|||||||||||||Fell from a ladder.\r"
)


def _receive(site: GatewaySite, index: SpoolIndex, told: list[bytes]) -> None:
    app = site.app
    intake = GatewayIntake(
        app.database, app.keys, app.spool, index, spool_path=app.data / "spool", ae_title="READGATE", free_bytes_floor=0, now=app.now
    )
    session = intake.session("h1", "H1_PACS", {})
    for number, dataset in enumerate((STUDY[0], STUDY[1], STUDY[0], STUDY[2])):
        head = InstanceHead(dataset.SOPClassUID, dataset.SOPInstanceUID, EXPLICIT, number + 1)
        payload = payload_of(dataset)
        with contextlib.suppress(TemporarilyUnable):
            if receive_instance(intake, session, head, [memoryview(payload)]) == 0:
                told.append(payload)
        index.flush(2.0)
    intake.close(session)


def finish(site: GatewaySite) -> None:
    """What a worker does until nothing is left: rows from the spool, complete, archive, de-identify, route, join, sweep."""
    app = site.app
    index = SpoolIndex(app.database, app.spool)
    again(lambda: index.recover(now=app.now()))
    worker = Worker.__new__(Worker)
    worker._app, worker._index = app, index
    work = Work(app, PlainScreener(), StudyAttempts(app.database))
    again(lambda: _complete(site))
    for pk in _unfinished(site):
        again(lambda pk=pk: work.archive(pk))  # type: ignore[misc]
        study_instance_uid = again(lambda pk=pk: work.deidentify(pk))  # type: ignore[misc]
        if study_instance_uid:
            again(lambda uid=study_instance_uid: work.route(uid))  # type: ignore[misc]
    again(lambda: join_late_orders(app))
    for pk in _unfinished(site):
        again(lambda pk=pk: work.archive(pk))  # type: ignore[misc]
        study_instance_uid = again(lambda pk=pk: work.deidentify(pk))  # type: ignore[misc]
        if study_instance_uid:
            again(lambda uid=study_instance_uid: work.route(uid))  # type: ignore[misc]
    again(worker.sweep_spool)
    site.clock.forward(hours=2)
    again(lambda: reclaim_packs(app.database, app.vault, now=app.now()))


def again(act: Callable[[], Any]) -> Any:
    """As the jobs and duties do: what was temporarily unable is tried again."""
    for _ in range(_TRIES - 1):
        try:
            return act()
        except TemporarilyUnable:
            continue
    return act()


def _complete(site: GatewaySite) -> None:
    with site.app.database.transaction() as session:
        for row in session.exec(select(ReceivedStudy).where(ReceivedStudy.state == ReceivedState.RECEIVING)).all():
            row.state, row.complete_at = ReceivedState.COMPLETE, site.app.now()
            session.add(row)


def _unfinished(site: GatewaySite) -> list[int]:
    with site.app.database.reading() as session:
        found = session.exec(select(ReceivedStudy.received_study_pk).where(ReceivedStudy.state == ReceivedState.COMPLETE)).all()
    return [pk for pk in found if pk is not None]


def main() -> None:
    import tempfile

    faults = Faults()
    with tempfile.TemporaryDirectory() as folder, scene(Path(folder) / "site", faults) as (site, _):
        live(site, [])
    for number, effect in enumerate(faults.effects):
        sys.stdout.write(f"{number:4} {effect}\n")


if __name__ == "__main__":
    main()

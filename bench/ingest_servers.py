"""The receivers that `bench/ingest.py` starts, one process each.

    python bench/ingest_servers.py readgate|pynetdicom PORT DIRECTORY

`readgate` is the listener with header check, encryption and the real spool: success only after fdatasync. `pynetdicom` is the plain SCP
of its documentation: it writes a file and never syncs.
"""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crypto.errors import RefusedContent
from crypto.keys import FileKeyStore
from crypto.spool import SegmentWriter, Spool
from gateway.header_scan import scan_header
from gateway.intake_port import (
    AcceptedContext,
    Admission,
    CommitmentResult,
    InstanceHead,
    InstanceReference,
    LargeInstance,
    Peer,
    Refusal,
    SessionEnd,
)
from gateway.receiver import Endpoint, Receiver


class SpoolPort:
    """Keeps instances in a spool segment per association, as the gateway does, and indexes nothing."""

    def __init__(self, directory: Path) -> None:
        keys = FileKeyStore(directory / "keys")
        keys.create_kek("h1")
        self._spool = Spool(directory / "spool", keys)

    def admit(self, peer: Peer) -> Admission | Refusal:
        return Admission("h1")

    def open_session(self, peer: Peer, admission: Admission, contexts: Sequence[AcceptedContext]) -> object:
        return self._spool.open_segment("h1", {"sender": peer.calling_ae_title})

    def receive_instance(self, session: object, head: InstanceHead, parts: Sequence[memoryview]) -> int:
        assert isinstance(session, SegmentWriter)
        session.append(_checked(head, parts), parts)
        return 0

    def begin_large_instance(self, session: object, head: InstanceHead) -> LargeInstance:
        assert isinstance(session, SegmentWriter)
        return _Pieces(session, head)

    def commit_storage(self, session: object, transaction_uid: str, instances: Sequence[InstanceReference]) -> CommitmentResult:
        return CommitmentResult(instances, [])

    def commitment_undelivered(self, session: object, transaction_uid: str, result: CommitmentResult) -> None:
        pass

    def released(self, session: object, how: SessionEnd) -> None:
        assert isinstance(session, SegmentWriter)
        session.close()


class _Pieces:
    def __init__(self, segment: SegmentWriter, head: InstanceHead) -> None:
        self._segment, self._head, self._count = segment, head, 0

    def append(self, parts: Sequence[memoryview]) -> None:
        header = {"piece": self._count} if self._count else {"piece": 0, **_checked(self._head, parts)}
        self._segment.append(header, parts)
        self._count += 1

    def finish(self) -> int:
        self._segment.append({"pieces": self._count}, [])
        return 0

    def discard(self) -> None:
        pass


def _checked(head: InstanceHead, parts: Sequence[memoryview]) -> dict[str, str]:
    facts = scan_header(parts, head.transfer_syntax_uid)
    if (facts.sop_class_uid, facts.sop_instance_uid) != (head.sop_class_uid, head.sop_instance_uid):
        raise RefusedContent("uid_mismatch")
    return {"study": facts.study_instance_uid, "instance": facts.sop_instance_uid}


def serve_readgate(port: int, directory: Path) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    receiver = Receiver(SpoolPort(directory), [Endpoint("127.0.0.1", port)], reuse_port=True)
    receiver.start()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    stopped.wait()
    receiver.stop(5)


def serve_pynetdicom(port: int, directory: Path) -> None:
    from pynetdicom import AE, AllStoragePresentationContexts, evt

    def handle(event: evt.Event) -> int:
        (directory / uuid.uuid4().hex).write_bytes(event.encoded_dataset())
        return 0

    entity = AE("READGATE")
    entity.maximum_pdu_size = 131072
    entity.maximum_associations = 64
    entity.supported_contexts = AllStoragePresentationContexts
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, handle)])


if __name__ == "__main__":
    {"readgate": serve_readgate, "pynetdicom": serve_pynetdicom}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))

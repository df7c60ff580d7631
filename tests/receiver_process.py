"""A receiver in a process of its own, whose memory and descriptors can be looked at from outside.

`python -m tests.receiver_process [descriptors]` listens on port 0 of loopback, prints the port, throws away what it receives and ends with
its standard input.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.intake_port import InstanceHead, LargeInstance
from gateway.receiver import Endpoint, Receiver, ReceiverLimits
from tests.dicom_peers import RecordingPort


class ForgetfulPort(RecordingPort):
    """Keeps nothing, so that all memory is the listener's."""

    def receive_instance(self, session: object, head: InstanceHead, parts: Sequence[memoryview]) -> int:
        return 0

    def begin_large_instance(self, session: object, head: InstanceHead) -> LargeInstance:
        return _Nothing()

    def released(self, session: object, how: object) -> None:
        self.peers.clear()
        self.contexts.clear()


class _Nothing:
    def append(self, parts: Sequence[memoryview]) -> None:
        pass

    def finish(self) -> int:
        return 0

    def discard(self) -> None:
        pass


@dataclass
class ReceiverProcess:
    """The process as its tests see it."""

    process: subprocess.Popen[str]
    address: tuple[str, int]

    def resident_bytes(self, field: str = "VmRSS") -> int:
        """VmRSS now, or VmHWM: the most there ever was."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(field)

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


@contextlib.contextmanager
def receiver_process(descriptors: int = 0) -> Iterator[ReceiverProcess]:
    """Started and, at the end, stopped; a process that died on the way fails the test."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.receiver_process", str(descriptors)],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the receiver did not start"
        yield ReceiverProcess(process, ("127.0.0.1", int(line)))
        assert process.poll() is None, "the receiver died"
    finally:
        process.stdin.close()
        process.stdout.close()
        code = process.wait(30)
    assert code == 0


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    if int(sys.argv[1]):
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
    # Every attacker of a test shares an address with nobody, but has all of its connections from there.
    receiver = Receiver(ForgetfulPort(), [Endpoint("127.0.0.1", 0)], limits=ReceiverLimits(connections_per_address_max=1000))
    receiver.start()
    print(receiver.addresses[0][1], flush=True)
    sys.stdin.read()
    receiver.stop(0.5)


if __name__ == "__main__":
    main()

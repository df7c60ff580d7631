"""De-identification in confined processes that may die without losing anything (deid_serve.py is their half).

Invariants
- A child is given an instance's bytes, the names it leaves under, and what the study says of persons. It gets no key: the pseudonym of a
  UID is told one by one.
- What a child gives back is data: checked for its form, and scanned once more for the study's identity here, before it becomes a
  DeidentifiedDataset. A child taken over by a codec's bug can spoil one instance; it cannot make an identity pass in the clear.
- A child that dies or is late leaves its instance refused (WORKER_DIED, WORKER_LATE), the next instance gets a new child, and the parent is
  unharmed. A death is tried once more alone, because another process may have used the memory up.
"""

from __future__ import annotations

import os
import queue
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compliance import child_wire
from compliance.deid_serve import identity_json
from compliance.device_masks import Box, DeviceMask
from compliance.identified import _MADE_BY_DEIDENTIFY, DeidentifiedDataset, IdentifiedDataset, InstanceAttributes, Pseudonymity
from compliance.residual_scan import ResidualScan
from crypto.canonical import keyed_uid
from crypto.errors import RefusedContent

Proposed = tuple[tuple[int, int, int, int, str], ...]
_ANSWER_BYTES_MAX = 3 << 30
_ASKED_UIDS_MAX = 200_000
_END_SECONDS = 10.0
_DEATHS = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error)


@dataclass(frozen=True)
class ChildLimits:
    """What one child may use. `instances_max`: after so many it is replaced, so that slow leaks of codecs stay small."""

    address_space_bytes: int = 8 << 30
    seconds_per_instance: float = 300.0
    seconds_to_start: float = 60.0
    instances_max: int = 5_000


class RefusedPixels(RefusedContent):
    """A refusal with the boxes that a person may accept."""

    def __init__(self, reason_code: str, detail: str, *, tag: str | None, proposed: Proposed) -> None:
        super().__init__(reason_code, detail, tag=tag)
        self.proposed = proposed


class DeidChild:
    """One child; callers take turns."""

    def __init__(self, limits: ChildLimits | None = None) -> None:
        self._limits = limits or ChildLimits()
        self._process: subprocess.Popen[bytes] | None = None
        #: The names this child works under, with what was told it and what the scan of its answers has learnt.
        self._under: Pseudonymity | None = None
        self._served = 0
        self._is_over = False
        self.has_no_network = False

    def deidentify(
        self,
        source: IdentifiedDataset,
        under: Pseudonymity,
        *,
        masks: Sequence[DeviceMask],
        reviewed: Sequence[Box] | None,
        compress: bool = True,
    ) -> DeidentifiedDataset:
        """As `compliance.deidentify.deidentify`, with the pixel step of the child. Raises: RefusedContent, RefusedPixels."""
        for is_last in (False, True):
            try:
                return self._asked(source, under, masks, reviewed, compress)
            except TimeoutError:
                self.close()
                raise RefusedContent("WORKER_LATE", "the process that read it took too long") from None
            except _DEATHS:
                # A broken pipe, half an answer, or an answer that is none: whatever it was, that child is not asked again.
                self.close()
                if is_last:
                    raise RefusedContent("WORKER_DIED", "the process that read it died of it") from None
        raise AssertionError

    def close(self) -> None:
        """The child is gone."""
        process, self._process, self._under, self._served = self._process, None, None, 0
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def end(self) -> None:
        """No child is started any more and the one that runs dies; whoever waits for its answer closes it and gets a refusal."""
        self._is_over = True
        process = self._process
        if process is not None:
            process.kill()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def __enter__(self) -> DeidChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(
        self, source: IdentifiedDataset, under: Pseudonymity, masks: Sequence[DeviceMask], reviewed: Sequence[Box] | None, compress: bool
    ) -> DeidentifiedDataset:
        process = self._started()
        deadline = time.monotonic() + self._limits.seconds_per_instance
        assert process.stdin is not None and process.stdout is not None
        to, answers = process.stdin.fileno(), process.stdout.fileno()
        if self._under is None or not _is_same(self._under, under):
            child_wire.send(to, {"study": _study_json(under), "masks": [mask.to_json() for mask in masks]}, deadline=deadline)
            self._under = replace(under)
        own = self._under
        told: dict[str, str] = own.memo.setdefault("uids", {})
        question = {
            "transfer_syntax_uid": source.transfer_syntax_uid,
            "sop_class_uid": source.sop_class_uid,
            "sop_instance_uid": source.sop_instance_uid,
            "reviewed": None if reviewed is None else [list(box) for box in reviewed],
            "compress": compress,
        }
        child_wire.send(to, question, source.payload, deadline)
        for _ in range(_ASKED_UIDS_MAX):
            answer, payload = child_wire.receive(answers, _ANSWER_BYTES_MAX, deadline)
            if "ask" not in answer:
                break
            original = _short(answer["ask"])
            told[original] = keyed_uid(under.uid_secret, original)
            child_wire.send(to, {"uid": told[original]}, deadline=deadline)
        else:
            raise ValueError("the child asks without end")
        self._served += 1
        if self._served >= self._limits.instances_max:
            self.close()
        if "refused" in answer:
            reason, detail, tag = answer["refused"]
            proposed = tuple((int(x0), int(y0), int(x1), int(y1), str(why)) for x0, y0, x1, y1, why in answer["proposed"])
            raise RefusedPixels(_short(reason), _short(detail), tag=None if tag is None else _short(tag), proposed=proposed)
        return _made(answer["made"], payload, source, own)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        if self._is_over:
            raise EOFError
        root = str(Path(__file__).resolve().parent.parent)
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": root,
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        # Standard error is dropped: a codec's warning may quote what it read.
        arguments = [str(self._limits.address_space_bytes), str(self._limits.seconds_per_instance)]
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "compliance.deid_serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            close_fds=True,
        )
        assert process.stdin is not None and process.stdout is not None
        os.set_blocking(process.stdin.fileno(), False)
        for pipe in (process.stdin, process.stdout):
            child_wire.widen(pipe.fileno())
        ready, _ = child_wire.receive(process.stdout.fileno(), 0, time.monotonic() + self._limits.seconds_to_start)
        self.has_no_network = bool(ready["has_no_network"])
        return process


class DeidChildren:
    """Several children, one for each instance that is worked on at a time; made when first needed."""

    def __init__(self, count: int, limits: ChildLimits | None = None) -> None:
        self._idle: queue.LifoQueue[DeidChild] = queue.LifoQueue()
        self._all = [DeidChild(limits) for _ in range(count)]
        for child in self._all:
            self._idle.put(child)

    def deidentify(
        self, source: IdentifiedDataset, under: Pseudonymity, *, masks: Sequence[DeviceMask], reviewed: Sequence[Box] | None
    ) -> DeidentifiedDataset:
        """See `DeidChild.deidentify`; waits for a child that is free."""
        with self._free() as child:
            return child.deidentify(source, under, masks=masks, reviewed=reviewed)

    @contextmanager
    def _free(self) -> Iterator[DeidChild]:
        child = self._idle.get()
        try:
            yield child
        finally:
            self._idle.put(child)

    def close(self) -> None:
        """All children are gone; whoever waits for an answer gets a refusal first."""
        for child in self._all:
            child.end()
        for _ in self._all:
            # Pipes are closed by whom they belong to: a descriptor closed under a reader could be somebody else's next.
            with suppress(queue.Empty):
                self._idle.get(timeout=_END_SECONDS).close()


def _is_same(one: Pseudonymity, other: Pseudonymity) -> bool:
    return one.identity is other.identity and replace(one, identity=other.identity) == other


def _study_json(under: Pseudonymity) -> dict[str, Any]:
    return {
        "hospital_id": under.hospital_id,
        "pseudonym": under.pseudonym,
        "date_offset_days": under.date_offset_days,
        "accession_pseudonym": under.accession_pseudonym,
        "profile": {"name": under.profile.name, "options": sorted(one.value for one in under.profile.options)},
        "identity": identity_json(under.identity),
    }


def _made(facts: dict[str, Any], payload: bytes, source: IdentifiedDataset, under: Pseudonymity) -> DeidentifiedDataset:
    """Raises: RefusedContent where the child's work holds identity; ValueError and the like where it is no answer."""
    frames = tuple((int(offset), int(length)) for offset, length in facts["frame_table"])
    if any(offset < 0 or length < 0 or offset + length > len(payload) for offset, length in frames):
        raise ValueError("frames outside the payload")
    scan: ResidualScan = under.memo.get("scan") or ResidualScan(under)
    under.memo["scan"] = scan
    scan.check(payload)
    own = keyed_uid(under.uid_secret, source.sop_instance_uid)
    if facts["sop_instance_uid"] not in (own, source.sop_instance_uid):
        raise ValueError("another instance")
    return DeidentifiedDataset(
        payload=payload,
        transfer_syntax_uid=_short(facts["transfer_syntax_uid"]),
        sop_class_uid=source.sop_class_uid,
        sop_instance_uid=_short(facts["sop_instance_uid"]),
        study_instance_uid=_short(facts["study_instance_uid"]),
        series_instance_uid=_short(facts["series_instance_uid"]),
        frame_table=frames,
        dicom_json=facts["dicom_json"],
        attributes=InstanceAttributes(**facts["attributes"]),
        action_counts={str(action): int(count) for action, count in facts["action_counts"].items()},
        flags=tuple(_short(flag) for flag in facts["flags"]),
        made_by=_MADE_BY_DEIDENTIFY,
    )


def _short(text: Any) -> str:
    if not isinstance(text, str) or len(text) > 512:
        raise ValueError("not a text of an answer")
    return text

"""De-identification in confined processes that may die without losing anything (deid_serve.py is their half).

Invariants
- A child is given an instance's bytes, the names it leaves under, and what the study says of persons. It gets no key: the pseudonym of a
  UID is told one by one.
- What a child gives back is bytes: parsed, named and scanned once more for the study's identity here, before they become a
  DeidentifiedDataset (child_answer.py). Of what it says beside them only words of closed lists and counts are taken over. A child taken
  over by a codec's bug can spoil one instance; it cannot make an identity pass in the clear.
- A child that dies or is late leaves its instance refused (WORKER_DIED, WORKER_LATE), the next instance gets a new child, and the parent is
  unharmed. A death is tried once more alone, because another process may have used the memory up.
"""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from compliance.child_answer import Proposed, contents_of, counts_of, flags_of, proposed_of, refusal_of
from compliance.confined_process import ConfinedProcess
from compliance.confinement import Confinement
from compliance.deid_serve import identity_json
from compliance.device_masks import Box, DeviceMask
from compliance.identified import _MADE_BY_DEIDENTIFY, DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.residual_scan import ResidualScan
from crypto.canonical import keyed_uid
from crypto.errors import RefusedContent

_ASKED_UIDS_MAX = 200_000
_END_SECONDS = 10.0
_UID = re.compile(r"[0-9.]{1,64}")


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
        self._process: ConfinedProcess | None = None
        #: The names this child works under, with what was told it and what the scan of its answers has learnt.
        self._under: Pseudonymity | None = None
        self._masks: tuple[DeviceMask, ...] = ()
        self._served = 0
        self._is_over = False
        #: What holds of the child that was started last, as it said before it saw a stranger's byte.
        self.confinement = Confinement()

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
            except RefusedPixels:
                raise
            except RefusedContent:
                # Its own scan let pass what ours does not: it is out of step with us, or not ours any more.
                self.close()
                raise
            except Exception:
                # A broken pipe, half an answer, an answer that is none, or one that was made to hurt (depth, size): whatever it was, that
                # child is not asked again.
                self.close()
                if is_last:
                    raise RefusedContent("WORKER_DIED", "the process that read it died of it") from None
        raise AssertionError

    def close(self) -> None:
        """The child is gone."""
        process, self._process, self._under, self._served = self._process, None, None, 0
        if process is not None:
            process.close()

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
        if self._under is None or not _is_same(self._under, under) or self._masks != tuple(masks):
            process.send({"study": _study_json(under), "masks": [mask.to_json() for mask in masks]}, b"", deadline)
            self._under, self._masks = replace(under), tuple(masks)
        own = self._under
        told: dict[str, str] = own.memo.setdefault("uids", {})
        question = {
            "transfer_syntax_uid": source.transfer_syntax_uid,
            "sop_class_uid": source.sop_class_uid,
            "sop_instance_uid": source.sop_instance_uid,
            "reviewed": None if reviewed is None else [list(box) for box in reviewed],
            "compress": compress,
        }
        process.send(question, source.payload, deadline)
        for _ in range(_ASKED_UIDS_MAX):
            answer, payload = process.receive(len(source.payload), deadline)
            if "ask" not in answer:
                break
            original = _short(answer["ask"])
            if payload or not _UID.fullmatch(original):
                raise ValueError("no UID is asked for")
            told[original] = keyed_uid(under.uid_secret, original)
            process.send({"uid": told[original]}, b"", deadline)
        else:
            raise ValueError("the child asks without end")
        self._served += 1
        if self._served >= self._limits.instances_max:
            self.close()
        if "refused" in answer:
            reason, detail, tag = refusal_of(answer["refused"])
            raise RefusedPixels(reason, detail, tag=tag, proposed=proposed_of(answer["proposed"]))
        return _made(answer["made"], payload, source, own)

    def _started(self) -> ConfinedProcess:
        if self._process is not None and self._process.is_alive:
            return self._process
        self.close()
        if self._is_over:
            raise EOFError
        arguments = [str(self._limits.address_space_bytes), str(self._limits.seconds_per_instance)]
        process = self._process = ConfinedProcess(
            "compliance.deid_serve", arguments, kind="deidentification", seconds_to_start=self._limits.seconds_to_start
        )
        self.confinement = process.confinement
        if self._is_over:
            # It ended while this one started.
            raise EOFError
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
    # First by the parser that bounds depth and number: the scan then meets nothing deeper.
    contents = contents_of(payload, _short(facts["transfer_syntax_uid"]), source, under)
    scan: ResidualScan = under.memo.get("scan") or ResidualScan(under)
    under.memo["scan"] = scan
    scan.check(payload)
    return DeidentifiedDataset(
        payload=payload,
        transfer_syntax_uid=contents.transfer_syntax_uid,
        sop_class_uid=source.sop_class_uid,
        sop_instance_uid=contents.sop_instance_uid,
        study_instance_uid=contents.study_instance_uid,
        series_instance_uid=contents.series_instance_uid,
        frame_table=contents.frame_table,
        dicom_json=contents.dicom_json,
        attributes=contents.attributes,
        action_counts=counts_of(facts["action_counts"]),
        flags=flags_of(facts["flags"], contents),
        made_by=_MADE_BY_DEIDENTIFY,
    )


def _short(text: Any) -> str:
    if not isinstance(text, str) or len(text) > 64:
        raise ValueError("not a text of an answer")
    return text

"""Store by the web (STOW-RS, PS3.18 10.5): the same guarantees as C-STORE, because it is the same intake.

1. The body is multipart/related of application/dicom parts, read as it comes; memory is one window, whatever is sent.
2. Each part is a Part 10 file. Its preamble and file meta end here; the data set is received by `intake.receive_instance`, in pieces when
   it is larger than the window.
3. An instance that is refused fails alone, with its Failure Reason; the others are kept.
4. The answer names what is durable, and is given only when every one of them has its row.
Everything here blocks, and runs in a thread of its own (stow_routes.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import structlog

from crypto.errors import ReadgateError, RefusedContent
from gateway import dimse_responses as dimse
from gateway.dicom_uids import DEFLATED_TRANSFER_SYNTAXES
from gateway.header_scan import scan_header
from gateway.intake import GatewayIntake, IntakeSession, LargeIntake, receive_instance
from gateway.intake_port import InstanceHead
from gateway.multipart_stream import MALFORMED, Event, MultipartReader, PartBegins, PartBytes, media_type_of
from gateway.part10_stream import NOT_PART_10, Part10Head, read_part10_head

log = structlog.get_logger()
WINDOW_BYTES = 8 * 1024 * 1024
#: PS3.18 Table I.2-2 and PS3.7 Annex C: the failures that have a number of their own.
TRANSFER_SYNTAX_NOT_SUPPORTED = 0xC122
ANOTHER_STUDY = 0xC409
MEDIA_TYPE_NOT_SUPPORTED = 0xC415
_STUDY_MISMATCH = "STUDY_MISMATCH"
_MESSAGE_ID = 1


@dataclass(frozen=True, slots=True)
class StowPolicy:
    """What one deployment takes."""

    sop_classes: frozenset[str]
    instance_bytes_max: int
    window_bytes: int = WINDOW_BYTES


@dataclass(frozen=True, slots=True)
class Failed:
    """An instance, or a part that names none, that was not kept."""

    failure_reason: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""


@dataclass
class StowOutcome:
    """What became of each part, in order."""

    stored: list[tuple[str, str]] = field(default_factory=list)
    failed: list[Failed] = field(default_factory=list)

    @property
    def http_status(self) -> int:
        """PS3.18 10.5.3.1: 200 all kept, 202 some, 409 none; 503 where resources were all that was missing."""
        if not self.failed:
            return 200 if self.stored else 400
        if self.stored:
            return 202
        return 503 if all(one.failure_reason == dimse.OUT_OF_RESOURCES for one in self.failed) else 409

    def dataset(self) -> dict[str, Any]:
        """The Store Instances Response (PS3.18 Table 10.5.3-1), in DICOM JSON."""
        document: dict[str, Any] = {}
        if self.stored:
            items = [_reference(sop_class, sop_instance) for sop_class, sop_instance in self.stored]
            document["00081199"] = {"vr": "SQ", "Value": items}
        named = [one for one in self.failed if one.sop_instance_uid]
        others = [one for one in self.failed if not one.sop_instance_uid]
        if named:
            items = [_reference(one.sop_class_uid, one.sop_instance_uid) | _reason(one) for one in named]
            document["00081198"] = {"vr": "SQ", "Value": items}
        if others:
            document["0008119A"] = {"vr": "SQ", "Value": [_reason(one) for one in others]}
        return dict(sorted(document.items()))


class StowUpload:
    """One request of one hospital's program. `close` is called whatever happened; without `finish` nothing that was not whole is kept."""

    def __init__(
        self, intake: GatewayIntake, session: IntakeSession, policy: StowPolicy, boundary: str, *, study_instance_uid: str | None = None
    ) -> None:
        """`study_instance_uid`: of the address, if it names one. Raises: RefusedContent for an impossible boundary."""
        self.outcome = StowOutcome()
        self._intake, self._session, self._policy, self._study = intake, session, policy, study_instance_uid
        self._reader = MultipartReader(boundary)
        self._part: _Part | None = None

    def feed(self, data: bytes) -> None:
        """More of the body. Raises: RefusedContent where it is no multipart body; what was whole before that is kept."""
        for event in self._reader.feed(data):
            self._take(event)

    def finish(self) -> StowOutcome:
        """The body is over. Raises: RefusedContent where its end is missing."""
        if not self._reader.is_complete:
            raise RefusedContent(MALFORMED, "the closing delimiter is missing (RFC 2046 5.1.1)")
        self._intake.index.flush()
        return self.outcome

    def close(self) -> None:
        if self._part is not None:
            self._part.discard()
            self._part = None
        self._intake.close(self._session)

    def _take(self, event: Event) -> None:
        if isinstance(event, PartBegins):
            self._part = _Part(self._intake, self._session, self._policy, self._study)
            media_type, _ = media_type_of(event.headers.get("content-type", "application/dicom"))
            if media_type != "application/dicom" or event.headers.get("content-encoding", "identity").lower() != "identity":
                self._part.fail(MEDIA_TYPE_NOT_SUPPORTED)
            return
        assert self._part is not None
        if isinstance(event, PartBytes):
            self._part.add(event.data)
            return
        part, self._part = self._part, None
        part.end()
        if part.failed is None and part.head is not None:
            self.outcome.stored.append((part.head.sop_class_uid, part.head.sop_instance_uid))
        elif part.failed is not None:
            self.outcome.failed.append(part.failed)


class _Part:
    """One Part 10 file on its way: its head is gathered, then the window is filled and handed on."""

    def __init__(self, intake: GatewayIntake, session: IntakeSession, policy: StowPolicy, study_instance_uid: str | None) -> None:
        self.head: InstanceHead | None = None
        self.failed: Failed | None = None
        self._intake, self._session, self._policy, self._study = intake, session, policy, study_instance_uid
        self._window = bytearray()
        self._large: LargeIntake | None = None
        self._total = 0
        self._is_checked = False

    def add(self, data: bytes) -> None:
        if self.failed is not None:
            return
        self._total += len(data)
        if self._total > self._policy.instance_bytes_max:
            self.fail(dimse.OUT_OF_RESOURCES)
            return
        self._window += data
        try:
            if self.head is None:
                self._read_head()
            if self.head is not None and len(self._window) >= self._policy.window_bytes:
                self._hand_on(self.head)
        except ReadgateError as error:
            self._refuse(error)

    def end(self) -> None:
        """The part is whole: it is durable, or it has failed."""
        if self.failed is not None:
            return
        try:
            if self.head is None:
                raise RefusedContent(NOT_PART_10, "PS3.10 7.1")
            if self._large is None:
                self._check(self.head)
                with memoryview(self._window) as view:
                    receive_instance(self._intake, self._session, self.head, [view])
            else:
                if self._window:
                    self._hand_on(self.head)
                self._large.finish()
        except ReadgateError as error:
            self._refuse(error)
        self._window = bytearray()

    def fail(self, failure_reason: int) -> None:
        head = self.head
        self.failed = Failed(failure_reason) if head is None else Failed(failure_reason, head.sop_class_uid, head.sop_instance_uid)
        self._window = bytearray()
        self.discard()

    def discard(self) -> None:
        if self._large is not None:
            self._large.discard()
            self._large = None

    def _read_head(self) -> None:
        found = read_part10_head(self._window)
        if found is None:
            return
        self.head = InstanceHead(found.sop_class_uid, found.sop_instance_uid, found.transfer_syntax_uid, _MESSAGE_ID)
        del self._window[: found.dataset_start]
        self._require_offered(found)

    def _require_offered(self, found: Part10Head) -> None:
        if found.sop_class_uid not in self._policy.sop_classes:
            self.fail(dimse.SOP_CLASS_NOT_SUPPORTED)
        elif found.transfer_syntax_uid in DEFLATED_TRANSFER_SYNTAXES:
            self.fail(TRANSFER_SYNTAX_NOT_SUPPORTED)

    def _check(self, head: InstanceHead) -> None:
        """The study is that of the address, if it names one; the rest is compared by the intake."""
        if self._study is not None and not self._is_checked:
            with memoryview(self._window) as view:
                facts = scan_header([view], head.transfer_syntax_uid)
            if facts.study_instance_uid != self._study:
                raise RefusedContent(_STUDY_MISMATCH, "PS3.18 10.5.2", tag="(0020,000D)")
        self._is_checked = True

    def _hand_on(self, head: InstanceHead) -> None:
        self._check(head)
        if self._large is None:
            self._large = self._intake.begin_large_instance(self._session, head)
        with memoryview(self._window) as view:
            self._large.append([view])
        self._window = bytearray()

    def _refuse(self, error: ReadgateError) -> None:
        reason_code = getattr(error, "reason_code", None)
        reason = ANOTHER_STUDY if reason_code == _STUDY_MISMATCH else dimse.status_of_error(error)
        log.warning("upload_part_refused", error_class=type(error).__name__, reason=reason_code, status=f"0x{reason:04X}")
        self.fail(reason)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> dict[str, Any]:
    return {"00081150": {"vr": "UI", "Value": [sop_class_uid]}, "00081155": {"vr": "UI", "Value": [sop_instance_uid]}}


def _reason(one: Failed) -> dict[str, Any]:
    return {"00081197": {"vr": "US", "Value": [one.failure_reason]}}

"""Is this file the report that the reader signed? Every link of the chain by name, offline.

0. seal              the hospital's seal covers the whole file and leads to a trusted root (`reporting/seal.py`)
1. attachments       the signed original and the identity binding are inside, complete and in their canonical form
2. reader_signature  the reader's signature covers the report, each earlier report likewise, and each names the one before it
3. reader_known      the signing keys are the readers' registered ones; the caller gives those, else not checked
4. binding           the identities in the file are bound to the pseudonyms of this report, not of another
5. page              the page, made again from the attachments, is the page in the file, byte for byte, and the seal's revision added
                     only itself (not checked where the file was made by another release; step 6 stands alone then)
6. printed_text      the text drawn on the pages is the signed text, section by section, with nothing between, and the patient's identity
7. study_manifest    the list of instances in the file has the digest that the reader signed, and each has its original UID in the binding
8. images            the hospital's own instances have the pixels that the reader read; the caller gives their digests, else not checked

A file is valid if no step failed and 0, 1, 2, 4 and 6 passed. Whose certificate and whose key it is, is the caller's to say.
"""

from __future__ import annotations

import io
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pyhanko.pdf_utils.reader import PdfFileReader

from crypto.errors import IntegrityFailure, TemporarilyUnable
from reporting.document import (
    BINDING_NAME,
    SIGNED_REPORT_NAME,
    ReportSource,
    compose_from_attachments,
    page_data,
    renderer,
    renderer_of,
    source_from_attachments,
)
from reporting.printed_text import printed_text, without_blanks
from reporting.seal import DOCUMENT_BYTES_MAX, Seal, verify_seal

ATTACHMENT_COUNT_MAX = 64


class CheckResult(StrEnum):
    """How a step ended."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    NOT_CHECKED = "NOT_CHECKED"


@dataclass(frozen=True, slots=True)
class Check:
    """One step of the chain; `detail` is for people and names digests and pseudonymous identifiers only."""

    name: str
    result: CheckResult
    detail: str


#: Without these a file proves nothing.
REQUIRED = ("seal", "attachments", "reader_signature", "binding", "printed_text")


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """All steps, in order; `source` and `seal` are there as far as they could be read and must not be used unless `is_valid`."""

    checks: tuple[Check, ...]
    seal: Seal | None
    source: ReportSource | None

    @property
    def is_valid(self) -> bool:
        """Whether the whole chain holds."""
        passed = {check.name for check in self.checks if check.result is CheckResult.PASSED}
        return all(check.result is not CheckResult.FAILED for check in self.checks) and passed.issuperset(REQUIRED)

    def document(self) -> dict[str, Any]:
        """The same as a JSON object."""
        content = self.source.signed.content if self.source else None
        return {
            "valid": self.is_valid,
            "checks": [{"name": check.name, "result": check.result.value, "detail": check.detail} for check in self.checks],
            "report_uid": content and content.report_uid,
            "report_digest": content and content.digest(),
            "study_manifest_digest": content and content.study_manifest_digest,
            "key_fingerprint": self.source and self.source.signed.key_fingerprint(),
            "sealed_by": self.seal and self.seal.sealed_by,
            "sealed_at": self.seal and self.seal.sealed_at.isoformat(),
        }


def verify_report_pdf(
    document: bytes,
    trust_roots_pem: Sequence[bytes],
    *,
    reader_key_fingerprints: Collection[str] | None = None,
    pixel_digests: Mapping[str, str] | None = None,
    at: datetime | None = None,
) -> VerificationReport:
    """Every step of the module's list for `document`.

    `pixel_digests` maps an original SOP Instance UID to the digest of its pixels, formed as the study manifest forms it;
    `at` is the instant as of which the sealing certificate must be valid (default: the time in the seal).

    Raises:
        BadInput: `trust_roots_pem` are no certificates. A bad document is never an exception.
    """
    steps = _Steps(document)
    steps.run("seal", lambda: steps.check_seal(trust_roots_pem, at))
    steps.run("attachments", steps.read_attachments)
    steps.run("reader_signature", steps.check_signatures, needs="attachments")
    if reader_key_fingerprints is None:
        steps.skip("reader_known", "no registered keys were given")
    else:
        steps.run("reader_known", lambda: steps.check_keys(reader_key_fingerprints), needs="reader_signature")
    steps.run("binding", steps.check_binding, needs="reader_signature")
    steps.run("page", steps.check_page, needs="binding")
    steps.run("printed_text", steps.check_text, needs="binding")
    steps.run("study_manifest", steps.check_manifest, needs="binding")
    if pixel_digests is None:
        steps.skip("images", "no instances were given")
    else:
        steps.run("images", lambda: steps.check_images(pixel_digests), needs="study_manifest")
    return VerificationReport(tuple(steps.checks), steps.seal, steps.source)


def attachments_of(document: bytes) -> dict[str, bytes]:
    """The files attached to a PDF, by name.

    Raises:
        IntegrityFailure: it cannot be read, or has names twice.
    """
    try:
        names = PdfFileReader(io.BytesIO(document), strict=True).root["/Names"]["/EmbeddedFiles"]["/Names"]
        pairs = [
            (str(names[index]), names[index + 1]["/EF"]["/F"].data) for index in range(0, min(len(names), 2 * ATTACHMENT_COUNT_MAX), 2)
        ]
    except Exception as failure:  # A parser's way to say no to damaged input is any exception at all.
        raise IntegrityFailure(f"the attachments cannot be read ({type(failure).__name__})") from None
    if len(dict(pairs)) != len(pairs):
        raise IntegrityFailure("two attachments have one name")
    return dict(pairs)


class _Steps:
    """The state of one verification; each check returns its detail, raises IntegrityFailure, or raises _Skipped."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.checks: list[Check] = []
        self.seal: Seal | None = None
        self.source: ReportSource | None = None
        self.composed_at: datetime | None = None
        self.attachments: dict[str, bytes] = {}

    def run(self, name: str, check: Callable[[], str], *, needs: str | None = None) -> None:
        if needs is not None and not any(done.name == needs and done.result is CheckResult.PASSED for done in self.checks):
            self.skip(name, f"needs {needs}")
            return
        try:
            self.checks.append(Check(name, CheckResult.PASSED, check()))
        except _Skipped as reason:
            self.skip(name, str(reason))
        except IntegrityFailure as failure:
            self.checks.append(Check(name, CheckResult.FAILED, str(failure)))

    def skip(self, name: str, reason: str) -> None:
        self.checks.append(Check(name, CheckResult.NOT_CHECKED, reason))

    def check_seal(self, trust_roots_pem: Sequence[bytes], at: datetime | None) -> str:
        self.seal = verify_seal(self.document, trust_roots_pem, at=at)
        return f"sealed at {self.seal.sealed_at.isoformat()}, certificate {self.seal.certificate_sha256}"

    def read_attachments(self) -> str:
        if len(self.document) > DOCUMENT_BYTES_MAX:
            raise IntegrityFailure(f"the file has {len(self.document)} bytes, at most {DOCUMENT_BYTES_MAX} are read")
        self.attachments = attachments_of(self.document)
        if missing := {SIGNED_REPORT_NAME, BINDING_NAME} - self.attachments.keys():
            raise IntegrityFailure("the file lacks " + " and ".join(sorted(missing)))
        return f"{len(self.attachments)} files"

    def check_signatures(self) -> str:
        self.source, self.composed_at = source_from_attachments(self.attachments)
        return f"report {self.source.signed.content.digest()}, {len(self.source.predecessors)} earlier"

    def check_keys(self, known: Collection[str]) -> str:
        for signed in (self._source.signed, *self._source.predecessors):
            if signed.key_fingerprint() not in known:
                raise IntegrityFailure(f"key {signed.key_fingerprint()} is no registered reader's")
        return f"key {self._source.signed.key_fingerprint()}"

    def check_binding(self) -> str:
        content = self._source.signed.content
        # `source_from_attachments` compared the binding's pseudonyms with the report's; what is left is that it binds the instances.
        pseudonyms = [instance.pseudonymous_sop_instance_uid for instance in self._source.study.instances]
        if len(set(pseudonyms)) != len(pseudonyms):
            raise IntegrityFailure("the binding gives one instance two identities")
        return f"study {content.study_instance_uid}, {len(pseudonyms)} instances"

    def check_page(self) -> str:
        if renderer_of(self.attachments) != renderer():
            raise _Skipped("the file was made by another release")
        try:
            composed, has_local_fonts = compose_from_attachments(self.attachments)
        except TemporarilyUnable:
            raise _Skipped("a font that the page needs is not installed here") from None
        if self.document[: len(composed)] != composed:
            if has_local_fonts:
                raise _Skipped("the page was drawn with fonts of another machine")
            raise IntegrityFailure("the page is not the one that the signed report gives")
        _require_only_a_seal_was_added(self.document)
        return f"{len(composed)} bytes made again"

    def check_text(self) -> str:
        assert self.composed_at is not None
        page = page_data(self._source, self.composed_at)
        drawn = without_blanks(printed_text(self.document))
        position = 0
        for block in _expected(page):
            expected = without_blanks(block)
            if any(unicodedata.bidirectional(character) in ("R", "AL", "AN") for character in expected):
                # Right-to-left text is drawn in visual order; the characters are compared without theirs.
                if Counter(expected) - Counter(drawn):
                    raise IntegrityFailure("the printed text is not the signed text")
                continue
            found = drawn.find(expected, position)
            if found < 0:
                raise IntegrityFailure("the printed text is not the signed text")
            position = found + len(expected)
        return f"{len(drawn)} characters read back"

    def check_manifest(self) -> str:
        manifest = self._source.manifest
        if manifest is None:
            raise _Skipped(f"the file holds no list of instances; its digest is {self._source.signed.content.study_manifest_digest}")
        # `ReportSource` compared its digest with the signed one.
        known = {instance.pseudonymous_sop_instance_uid for instance in self._source.study.instances}
        listed = _listed(manifest)
        if known and (unknown := listed.keys() - known):
            raise IntegrityFailure(f"{len(unknown)} instances that were read have no original UID in the binding")
        return f"{len(listed)} instances, {self._source.signed.content.study_manifest_digest}"

    def check_images(self, pixel_digests: Mapping[str, str]) -> str:
        listed = _listed(self._source.manifest or {})
        originals = {one.sop_instance_uid: one.pseudonymous_sop_instance_uid for one in self._source.study.instances}
        for sop_instance_uid, pixel_digest in pixel_digests.items():
            read = listed.get(originals.get(sop_instance_uid, ""))
            if read is None:
                raise IntegrityFailure("an instance was given that the reader did not read")
            if read != pixel_digest:
                raise IntegrityFailure("an instance has other pixels than the reader read")
        if missing := len(listed) - len(pixel_digests):
            raise IntegrityFailure(f"{missing} instances that the reader read were not given")
        return f"{len(pixel_digests)} instances have the pixels that were read"

    @property
    def _source(self) -> ReportSource:
        if self.source is None:
            raise IntegrityFailure("the attachments were not read")
        return self.source


class _Skipped(Exception):
    """The step cannot be taken here; no failure."""


def _listed(manifest: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {str(row["sop_instance_uid"]): str(row["pixels"]) for row in manifest["instances"]}
    except (KeyError, TypeError):
        raise IntegrityFailure("the list of instances is not a study manifest") from None


def _expected(page: Mapping[str, Any]) -> list[str]:
    """What must stand on the pages, in order: identity and status, then each report without anything between its sections."""
    blocks = [str(page["status"]).upper(), page["patient_name"]]
    blocks += ["".join(fact) for fact in page["patient_facts"]]
    blocks += [page["examination"], *("".join(fact) for fact in page["study_facts"]), page["notice"]]
    for report in (page["report"], *page["earlier"]):
        critical = report["critical"]
        text = critical["title"].upper() + critical["statement"] + critical["told"] if critical else ""
        text += "".join(section["title"].upper() + section["text"] for section in report["sections"])
        text += page["words"]["signed_by"] + report["signer"] + report["qualification"]
        blocks += [text, *("".join(fact[:2]) for fact in report["signature_facts"])]
    return blocks


def _require_only_a_seal_was_added(document: bytes) -> None:
    """The second revision replaces the catalog and one page, and both differ from the first only by the seal's form field.

    The seal vouches for the second revision as a whole; this says that the page people see is still the page of the first.
    """
    try:
        reader = PdfFileReader(io.BytesIO(document), strict=True)
        before, first = reader.get_historical_resolver(0), reader.xrefs.explicit_refs_in_revision(0)
        if reader.xrefs.total_revisions != 2:
            raise IntegrityFailure("the file has other revisions than the page and its seal")
        for reference in reader.xrefs.explicit_refs_in_revision(1):
            if reference not in first:
                continue  # a new object; nothing of the page refers to it but through what is compared below
            earlier = before.get_object(reference)
            allowed = {"/AcroForm"} if reference == reader.root_ref else {"/Annots"}
            now = reader.get_object(reference)  # type: ignore[no-untyped-call]
            if not isinstance(now, dict) or now.get("/Type") not in ("/Catalog", "/Page"):
                raise IntegrityFailure("the seal's revision changes more than the seal")
            if _encoded(now, allowed) != _encoded(earlier, allowed) or allowed & set(earlier):
                raise IntegrityFailure("the seal's revision changes the page")
    except IntegrityFailure:
        raise
    except Exception as failure:  # A parser's way to say no to damaged input is any exception at all.
        raise IntegrityFailure(f"the revisions cannot be read ({type(failure).__name__})") from None


def _encoded(dictionary: Any, without: set[str]) -> dict[str, bytes]:
    encoded = {}
    for key in dictionary:
        if str(key) not in without:
            stream = io.BytesIO()
            dictionary.raw_get(key).write_to_stream(stream)
            encoded[str(key)] = stream.getvalue()
    return encoded

"""The hospital's copy of a report: a tagged PDF/A-3a (ISO 19005-3, with PDF/UA-1) that carries the signed original inside.

- The page is made from the attachments and nothing else: the signed envelope, its predecessors and the identity binding. So whoever
  holds the file can make the page again and compare (`reporting/verification.py`).
- Equal sources and equal `now` give equal bytes. Fonts come with typst; an installed font is used only for a character they lack.
- Values reach the template as JSON data. The template evaluates none of them, so a text cannot become markup.
- What leaves here is not sealed; `reporting/seal.py` does that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import typst

from crypto.canonical import canonical_json, digest
from crypto.errors import IntegrityFailure, RefusedContent, TemporarilyUnable
from reporting.content import ReportContent, ReportKind, instant_text, parse_instant, parse_json
from reporting.identity import (
    HospitalLetterhead,
    PatientIdentity,
    StudyIdentity,
    identity_document,
    identity_from_document,
    name_as_written,
)
from reporting.signed_report import SignedReport, open_signed_report
from reporting.wording import words_for

BINDING_FORMAT = "readgate-identity-binding/1"
SIGNED_REPORT_NAME = "signed-report.json"
BINDING_NAME = "identity-binding.json"
MANIFEST_NAME = "study-manifest.json"
PREDECESSOR_NAME = "predecessor-{}.json"
PREDECESSORS_MAX = 50

CHAIN_BROKEN = "predecessor-chain-broken"
MANIFEST_DIFFERS = "study-manifest-differs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSource:
    """Everything a report document is made from.

    `predecessors` runs from the report directly before this one to the first; `manifest` is the study manifest whose digest the
    reader signed: a JSON object, with "instances" a list of objects that have "sop_instance_uid" (pseudonymous) and "pixels" (a digest).
    """

    signed: SignedReport
    patient: PatientIdentity
    study: StudyIdentity
    letterhead: HospitalLetterhead
    predecessors: Sequence[SignedReport] = ()
    manifest: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        expected = self.signed.content.predecessor_digest
        for predecessor in self.predecessors:
            if predecessor.content.digest() != expected:
                raise RefusedContent(CHAIN_BROKEN)
            expected = predecessor.content.predecessor_digest
        if expected is not None or len(self.predecessors) > PREDECESSORS_MAX:
            raise RefusedContent(CHAIN_BROKEN)
        if self.manifest is not None and digest(dict(self.manifest)) != self.signed.content.study_manifest_digest:
            raise RefusedContent(MANIFEST_DIFFERS)


def compose_document(source: ReportSource, *, now: datetime) -> bytes:
    """The PDF of `source`, composed at the aware instant `now`, with every attachment; unsealed.

    Raises:
        TemporarilyUnable: a character of the text is in no font here; an operator has to install one.
    """
    return _compile(_attachments(source, now), source, now)[0]


def compose_from_attachments(attachments: Mapping[str, bytes]) -> tuple[bytes, bool]:
    """The PDF that these attachments give: the inverse of taking the attachments out of a document.

    The second value says whether fonts of this machine were needed: elsewhere the same source may then give other bytes.

    Raises:
        IntegrityFailure: an envelope does not verify, or the attachments do not belong together.
        TemporarilyUnable: see `compose_document`.
    """
    source, now = source_from_attachments(attachments)
    rebuilt = _attachments(source, now)
    if {name: payload for name, payload in attachments.items() if name != BINDING_NAME} != {
        name: payload for name, payload in rebuilt.items() if name != BINDING_NAME
    }:
        raise IntegrityFailure("the attachments are not those that this report has")
    # The binding also records who composed it; a later release may not, but it reproduces the bytes of what it finds.
    return _compile({**rebuilt, BINDING_NAME: attachments[BINDING_NAME]}, source, now)


def source_from_attachments(attachments: Mapping[str, bytes]) -> tuple[ReportSource, datetime]:
    """What a document was made from, and when, with every reader's signature verified.

    Raises:
        IntegrityFailure: an attachment is missing, an envelope does not verify, or they do not belong together.
    """
    try:
        signed = open_signed_report(attachments[SIGNED_REPORT_NAME])
        binding = parse_json(attachments[BINDING_NAME])
        if not isinstance(binding, dict) or binding["format"] != BINDING_FORMAT or canonical_json(binding) != attachments[BINDING_NAME]:
            raise IntegrityFailure("the identity binding is not of the format " + BINDING_FORMAT)
        patient, study, letterhead = identity_from_document(binding)
        source = ReportSource(
            signed=signed,
            patient=patient,
            study=study,
            letterhead=letterhead,
            predecessors=[open_signed_report(attachments[name]) for name in _predecessor_names(attachments)],
            manifest=parse_json(attachments[MANIFEST_NAME]) if MANIFEST_NAME in attachments else None,
        )
        now = parse_instant("composed_at", binding["composed_at"])
    except (KeyError, TypeError, ValueError, RefusedContent):
        raise IntegrityFailure("the attachments are not those of a report document") from None
    if binding["pseudonymous"] != _pseudonymous(signed.content):
        raise IntegrityFailure("the identity binding belongs to another report")
    return source, now


def renderer_of(attachments: Mapping[str, bytes]) -> dict[str, str]:
    """What the document says it was rendered with; compare with `renderer`.

    Raises:
        IntegrityFailure: there is no identity binding that says so.
    """
    try:
        recorded = parse_json(attachments[BINDING_NAME])["renderer"]
    except (KeyError, TypeError, RefusedContent):
        raise IntegrityFailure("the attachments are not those of a report document") from None
    return {str(name): str(value) for name, value in recorded.items()} if isinstance(recorded, dict) else {}


@cache
def renderer() -> dict[str, str]:
    """What decides the bytes of a page beside its source: the version of typst and the digest of everything that feeds the template."""
    package = files("reporting")
    made_by = ("document.py", "wording.py", "identity.py", "templates/report.typ")
    template = hashlib.sha256(b"\x00".join(package.joinpath(*name.split("/")).read_bytes() for name in made_by)).hexdigest()
    return {"typst": version("typst"), "template": template}


@cache
def _template() -> bytes:
    return files("reporting").joinpath("templates", "report.typ").read_bytes()


def _predecessor_names(attachments: Mapping[str, bytes]) -> list[str]:
    names = [PREDECESSOR_NAME.format(number) for number in range(1, PREDECESSORS_MAX + 1)]
    return [name for name in names if name in attachments]


def _pseudonymous(content: ReportContent) -> dict[str, str]:
    return {
        "report_digest": content.digest(),
        "report_uid": content.report_uid,
        "study_instance_uid": content.study_instance_uid,
        "patient_pseudonym": content.patient_pseudonym,
        "accession_pseudonym": content.accession_pseudonym,
        "study_manifest_digest": content.study_manifest_digest,
    }


def _attachments(source: ReportSource, now: datetime) -> dict[str, bytes]:
    binding = {
        "format": BINDING_FORMAT,
        "pseudonymous": _pseudonymous(source.signed.content),
        **identity_document(source.patient, source.study, source.letterhead),
        "composed_at": instant_text(now),
        "renderer": dict(renderer()),
    }
    attachments = {SIGNED_REPORT_NAME: source.signed.envelope(), BINDING_NAME: canonical_json(binding)}
    if source.manifest is not None:
        attachments[MANIFEST_NAME] = canonical_json(dict(source.manifest))
    for number, predecessor in enumerate(source.predecessors, 1):
        attachments[PREDECESSOR_NAME.format(number)] = predecessor.envelope()
    return attachments


def _compile(attachments: Mapping[str, bytes], source: ReportSource, now: datetime) -> tuple[bytes, bool]:
    page = page_data(source, now)
    page["attachments"] = [
        {
            "name": name,
            "input": f"attachment{number}",
            "relationship": "data" if name == BINDING_NAME else "source",
            "description": _DESCRIPTIONS.get(name, "Signed original of an earlier report"),
        }
        for number, name in enumerate(sorted(attachments))
    ]
    inputs = {f"attachment{number}": attachments[name].decode("utf-8") for number, name in enumerate(sorted(attachments))}
    inputs["report"] = json.dumps(page, ensure_ascii=False)
    try:
        return _typeset(inputs, now, ignore_system_fonts=True), False
    except typst.TypstError:
        pass
    try:
        return _typeset(inputs, now, ignore_system_fonts=False), True
    except typst.TypstError:
        raise TemporarilyUnable("the report holds a character that no installed font can draw; install a font for its script") from None


def _typeset(inputs: dict[str, str], now: datetime, *, ignore_system_fonts: bool) -> bytes:
    return typst.compile(
        _template(),
        format="pdf",
        ignore_system_fonts=ignore_system_fonts,
        sys_inputs=inputs,
        pdf_standards=["a-3a", "ua-1"],
        timestamp=int(now.timestamp()),
    )


_DESCRIPTIONS = {
    SIGNED_REPORT_NAME: "Signed original of this report",
    BINDING_NAME: "Pseudonyms of the signed original and the identities they stand for",
    MANIFEST_NAME: "Instances that the reader read, with their digests",
}


def page_data(source: ReportSource, now: datetime) -> dict[str, Any]:
    """Everything the template prints, in the order of printing; text only, ready to be shown."""
    content, patient, study, letterhead = source.signed.content, source.patient, source.study, source.letterhead
    word = words_for(content.language)
    name, examination = name_as_written(patient.name) or "?", study.procedure or study.modality or word["examination"]
    if source.predecessors:
        notice = word[{"ADDENDUM": "addendum_notice", "CORRECTION": "correction_notice"}.get(content.kind.value, "final_notice")]
    else:
        notice = ""
    if content.kind is ReportKind.PRELIMINARY:
        notice = word["preliminary_notice"]
    status, replaced = word[content.kind.value], "" if content.kind is ReportKind.ADDENDUM else f" ({word['superseded']})"
    issuer = f" ({patient.issuer_of_patient_id})" if patient.issuer_of_patient_id else ""
    moment = now.astimezone(UTC)
    return {
        "kind": content.kind.value,
        "lang": content.language.split("-")[0],
        "words": word,
        "accent": letterhead.accent,
        "title": f"{word['title']}: {examination}",
        "author": source.signed.content.reader.display_name,
        "description": status,
        "composed": {part: getattr(moment, part) for part in ("year", "month", "day", "hour", "minute", "second")},
        "hospital": letterhead.name,
        "department": letterhead.department,
        "address": list(letterhead.address),
        "contact": list(letterhead.contact),
        "heading": word["title"],
        "status": status,
        "notice": notice,
        "watermark": word["watermark"] if content.kind is ReportKind.PRELIMINARY else "",
        "running": f"{name} · {patient.patient_id}{issuer} · {examination}",
        "footer": f"{word['report_id']} {content.report_uid}",
        "page": word["page"],
        "patient_name": name,
        "patient_facts": _present(
            (word["born"], _date(patient.birth_date)),
            (word["sex"], word.get(f"sex_{patient.sex}", "")),
            (word["patient_id"], patient.patient_id + issuer),
        ),
        "examination": examination,
        "study_facts": _present(
            (word["performed"], " ".join(part for part in (_date(study.study_date), _time(study.study_time)) if part)),
            (word["modality"], study.modality),
            (word["accession"], study.accession_number),
            (word["referrer"], name_as_written(study.referring_physician)),
            (word["study_uid"], study.study_instance_uid),
        ),
        "report": _printed(source.signed, word),
        "earlier": [
            {**_printed(earlier, word), "heading": f"{word['earlier_title']}: {word[earlier.content.kind.value]}{replaced}"}
            for earlier in source.predecessors
        ],
    }


def _printed(signed: SignedReport, word: Mapping[str, str]) -> dict[str, Any]:
    content, critical = signed.content, signed.content.critical_result
    told = word["critical_untold"]
    if critical and critical.communicated_at:
        told = word["critical_told"].format(who=critical.communicated_to, when=_instant(critical.communicated_at))
    return {
        "sections": [{"title": word[name], "text": text, "weighty": name == "impression"} for name, text in content.sections()],
        "critical": critical and {"title": word["critical"], "statement": critical.statement, "told": told},
        "signer": content.reader.display_name,
        "qualification": content.reader.qualification,
        "signature_facts": [
            [word["signed_at"], _instant(content.signed_at), False],
            [word["meaning"], word[content.meaning.value], False],
            [word["key"], _grouped(signed.key_fingerprint()), True],
            [word["report_digest"], _grouped(content.digest().removeprefix("sha256:")), True],
            [word["images_digest"], _grouped(content.study_manifest_digest.removeprefix("sha256:")), True],
        ],
    }


def _present(*rows: tuple[str, str]) -> list[tuple[str, str]]:
    return [row for row in rows if row[1]]


def _date(value: str) -> str:
    return f"{value[:4]}-{value[4:6]}-{value[6:8]}" if value else ""


def _time(value: str) -> str:
    return f"{value[:2]}:{value[2:4]}" if len(value) >= 4 else ""


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _grouped(hexadecimal: str) -> str:
    return " ".join(hexadecimal[start : start + 8] for start in range(0, len(hexadecimal), 8))

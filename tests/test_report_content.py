"""The canonical report: what it may say, and that it has one spelling."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import RefusedContent
from reporting.content import SECTION_CHARACTERS_MAX, CriticalResult, ReportKind, SigningReader, content_from_bytes
from reporting.text_rules import tidy_text
from tests.report_samples import make_content


def test_bytes_and_content_are_each_others_inverse() -> None:
    content = make_content()
    assert content_from_bytes(content.to_bytes()) == content
    assert content.digest() == make_content().digest()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_any_tidied_text_is_refused_or_survives_exactly(findings: str, impression: str) -> None:
    try:
        content = make_content(findings=tidy_text(findings), impression=tidy_text(impression))
    except RefusedContent:
        return
    again = content_from_bytes(content.to_bytes())
    assert (again.findings, again.impression) == (content.findings, content.impression)


REFUSED = "\x00\x07\x0b\x1b\x1c\r\t\x7f\x85\u00ad\u200b\u200e\u2028\u202e\u2066\ufeff\ue000"


@pytest.mark.parametrize("character", REFUSED, ids=lambda character: f"U+{ord(character):04X}")
def test_a_character_that_hides_or_reorders_is_refused_by_number(character: str) -> None:
    with pytest.raises(RefusedContent, match=f"U\\+{ord(character):04X}") as refused:
        make_content(findings=f"secret{character}text")
    assert "secret" not in str(refused.value)


def test_decomposed_letters_are_refused_and_tidied() -> None:
    with pytest.raises(RefusedContent, match="not-normal-form-c"):
        make_content(findings="Oedeme\u0301")
    assert make_content(findings=tidy_text(" Oedeme\u0301  \r\nnext\t")).findings == "Oedemé\nnext"


@pytest.mark.parametrize(
    "changes",
    [
        {"findings": ""},
        {"impression": ""},
        {"findings": "x" * (SECTION_CHARACTERS_MAX + 1)},
        {"kind": ReportKind.ADDENDUM},
        {"kind": ReportKind.CORRECTION},
        {"kind": ReportKind.PRELIMINARY, "findings": "", "impression": ""},
        {"kind": "FINAL"},
        {"predecessor_digest": "sha256:abc"},
        {"predecessor_digest": "SHA256:" + "a" * 64},
        {"study_manifest_digest": ""},
        {"decision_digest": "md5:" + "a" * 64},
        {"report_uid": "2.25.007"},
        {"report_uid": "1." + "2" * 63},
        {"study_instance_uid": "one.two"},
        {"patient_pseudonym": ""},
        {"patient_pseudonym": "line\nbreak"},
        {"language": "English"},
        {"signed_at": datetime(2026, 1, 1)},
        {"findings": " leading blank"},
        {"findings": 7},
    ],
    ids=str,
)
def test_unacceptable_report_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RefusedContent):
        make_content(**changes)


def test_parts_of_a_report_are_checked_too() -> None:
    with pytest.raises(RefusedContent):
        SigningReader(id="", display_name="Dr. A")
    with pytest.raises(RefusedContent):
        CriticalResult(statement="Bleeding", communicated_to="Dr. B")
    with pytest.raises(RefusedContent):
        CriticalResult(statement="Bleeding", communicated_at=datetime(2026, 1, 1, tzinfo=UTC))


def test_preliminary_report_needs_one_of_findings_and_impression() -> None:
    assert make_content(kind=ReportKind.PRELIMINARY, findings="").sections()[-1][0] == "impression"


@pytest.mark.parametrize("damage", [b" ", b"\n"])
def test_other_spelling_of_the_same_json_is_refused(damage: bytes) -> None:
    with pytest.raises(RefusedContent):
        content_from_bytes(make_content().to_bytes() + damage)


def test_unknown_missing_and_repeated_fields_are_refused() -> None:
    document = make_content().document()
    for damaged in (
        document | {"extra": 1},
        {key: value for key, value in document.items() if key != "meaning"},
        document | {"reader": None},
    ):
        with pytest.raises(RefusedContent):
            content_from_bytes(json.dumps(damaged).encode())
    with pytest.raises(RefusedContent):
        content_from_bytes(b'{"format":"readgate-report/1","format":"readgate-report/1"}')
    for nonsense in (b"", b"[]", b"\xff", b"[" * 100_000, b"null", b'{"format":"readgate-report/2"}'):
        with pytest.raises(RefusedContent):
            content_from_bytes(nonsense)


def test_instants_are_written_in_utc() -> None:
    local = datetime(2026, 11, 22, 10, 34, 12, tzinfo=timezone(timedelta(hours=1)))
    assert make_content(signed_at=local).document()["signed_at"] == "2026-11-22T09:34:12.000000Z"

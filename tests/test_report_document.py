"""The hospital's PDF: says what was signed, is archivable and tagged, and cannot be made to say more."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest
from pyhanko.pdf_utils.reader import PdfFileReader

from crypto.errors import IntegrityFailure, RefusedContent, TemporarilyUnable
from reporting.content import ReportKind
from reporting.document import compose_document, compose_from_attachments, source_from_attachments
from reporting.printed_text import printed_text, without_blanks
from reporting.verification import attachments_of
from reporting.wording import WORDS
from tests.peers import require_peer
from tests.report_samples import (
    NOW,
    make_addendum,
    make_content,
    make_letterhead,
    make_manifest,
    make_patient,
    make_source,
    make_study,
    sign,
)

#: Everything that means something to typst, to PDF, or to a careless template.
HOSTILE = (
    '#danger $x$ *bold* _it_ `code` = Heading\n#import "x.typ"\n#read("/etc/passwd") \\ ) ( << >> %PDF {{7*7}}\n'
    '"quote" \'s -- --- <label> @ref // c'
)


def _read(document: bytes) -> str:
    return without_blanks(printed_text(document))


def test_equal_sources_and_times_give_equal_bytes() -> None:
    assert compose_document(make_source(), now=NOW) == compose_document(make_source(), now=NOW)


def test_every_signed_section_and_the_real_identity_stand_on_the_page() -> None:
    source = make_source()
    text = _read(compose_document(source, now=NOW))
    content = source.signed.content
    for expected in (
        content.findings, content.impression, content.indication, "Acute intracranial haemorrhage.", "Dr. M. Okafor, Emergency Department",
        "Vandermeer, Mrs Katharina", "MRN-0048213 (HOSP1)", "1968-04-12", "ACC-2026-11873", source.study.study_instance_uid,
        "Dr. Ingrid Solheim", "2026-11-22 09:34:12 UTC", "Author of this report", source.signed.key_fingerprint(), "FINAL REPORT",
        "Saint Brigid University Hospital",
    ):  # fmt: skip
        assert without_blanks(expected) in text


def test_text_is_never_markup() -> None:
    source = make_source(
        sign(make_content(findings=HOSTILE)), patient=make_patient(name=HOSTILE.split("\n")[0]), study=make_study(procedure="#panic() $y$")
    )
    text = _read(compose_document(source, now=NOW))
    assert without_blanks(HOSTILE) in text
    assert "#panic()$y$" in text


def test_a_word_wider_than_the_page_stays_on_it() -> None:
    document = compose_document(make_source(sign(make_content(findings="W" * 3000))), now=NOW)
    assert "W" * 3000 in _read(document)


@pytest.mark.interop
def test_no_word_is_drawn_outside_the_page(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(compose_document(make_source(sign(make_content(findings="W" * 3000, impression="m" * 700))), now=NOW))
    command = [require_peer("pdftotext"), "-bbox", str(path), "-"]
    boxes = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    right = [float(line.split('xMax="')[1].split('"')[0]) for line in boxes.splitlines() if "<word" in line]
    assert right and max(right) <= 595.28 - 60


def test_long_reports_go_on_over_pages_without_losing_a_line() -> None:
    findings = "\n".join(f"Line {number} of the findings." for number in range(400))
    document = compose_document(make_source(sign(make_content(findings=findings))), now=NOW)
    assert len(PdfFileReader(io.BytesIO(document)).root["/Pages"]["/Kids"]) > 5
    assert without_blanks(findings) in _read(document)


def test_file_declares_pdf_a_3a_and_ua_1_and_is_tagged() -> None:
    root = PdfFileReader(io.BytesIO(compose_document(make_source(), now=NOW))).root
    metadata = root["/Metadata"].data.decode()
    assert "<pdfaid:part>3</pdfaid:part>" in metadata
    assert "<pdfaid:conformance>A</pdfaid:conformance>" in metadata
    assert "<pdfuaid:part>1</pdfuaid:part>" in metadata
    assert root["/MarkInfo"]["/Marked"]
    assert root["/Lang"] == "en"


def test_signed_original_is_an_associated_file() -> None:
    source = make_source()
    document = compose_document(source, now=NOW)
    files = PdfFileReader(io.BytesIO(document)).root["/AF"]
    relations = {files[index]["/UF"]: files[index]["/AFRelationship"] for index in range(len(files))}
    assert relations == {"signed-report.json": "/Source", "study-manifest.json": "/Source", "identity-binding.json": "/Data"}
    attachments = attachments_of(document)
    assert attachments["signed-report.json"] == source.signed.envelope()
    assert compose_from_attachments(attachments) == (document, False)
    again, at = source_from_attachments(attachments)
    assert (again.patient, again.study, again.letterhead, at) == (source.patient, source.study, source.letterhead, NOW)


@pytest.mark.interop
def test_poppler_gives_the_attachment_back_and_draws_the_page(tmp_path: Path) -> None:
    source, path = make_source(), tmp_path / "report.pdf"
    path.write_bytes(compose_document(source, now=NOW))
    subprocess.run([require_peer("pdfdetach"), "-saveall", "-o", str(tmp_path), str(path)], capture_output=True, timeout=60, check=True)
    assert (tmp_path / "signed-report.json").read_bytes() == source.signed.envelope()
    subprocess.run(
        [require_peer("pdftoppm"), "-r", "40", "-png", str(path), str(tmp_path / "p")], capture_output=True, timeout=60, check=True
    )
    assert (tmp_path / "p-1.png").stat().st_size > 5000


def test_preliminary_report_says_so_in_title_notice_and_watermark() -> None:
    source = make_source(sign(make_content(kind=ReportKind.PRELIMINARY)))
    document = compose_document(source, now=NOW)
    assert "PRELIMINARYREPORT" in _read(document)
    assert without_blanks(WORDS["en"]["preliminary_notice"]) in _read(document)
    # The watermark is an artifact: it is drawn, but is no part of the text.
    final = compose_document(make_source(sign(make_content(kind=ReportKind.FINAL))), now=NOW)
    assert "PRELIMINARY" not in _read(final)


def test_addendum_shows_and_carries_what_it_adds_to() -> None:
    source = make_addendum()
    document = compose_document(source, now=NOW)
    text = _read(document)
    assert (
        text.index("ADDENDUM")
        < text.index("CTangiographyofthesameday")
        < text.index("EARLIERREPORT:FINALREPORT")
        < text.index("Ventriclesand")
    )
    assert attachments_of(document)["predecessor-1.json"] == source.predecessors[0].envelope()


def test_correction_and_final_report_mark_what_they_replace() -> None:
    first = sign(make_content(kind=ReportKind.PRELIMINARY))
    for kind in (ReportKind.FINAL, ReportKind.CORRECTION):
        later = make_content(kind=kind, predecessor_digest=first.content.digest(), findings="Corrected.")
        text = _read(compose_document(make_source(sign(later), predecessors=[first]), now=NOW))
        assert "EARLIERREPORT:PRELIMINARYREPORT(REPLACED)" in text


@pytest.mark.parametrize("language", ["de", "fr", "es", "nl"])
def test_headings_follow_the_language_of_the_report(language: str) -> None:
    text = _read(compose_document(make_source(sign(make_content(language=language))), now=NOW))
    assert without_blanks(WORDS.get(language, WORDS["en"])["impression"].upper()) in text


def test_every_language_has_every_word() -> None:
    assert {frozenset(words) for words in WORDS.values()} == {frozenset(WORDS["en"])}


def test_script_without_a_font_here_waits_for_one_instead_of_printing_boxes() -> None:
    source = make_source(sign(make_content(findings="No fracture. 骨折なし。")))
    try:
        text = _read(compose_document(source, now=NOW))
    except TemporarilyUnable:
        return
    assert "骨折なし。" in text


def test_chain_and_manifest_must_be_the_signed_ones() -> None:
    addendum, first = make_addendum().signed, sign(make_content())
    with pytest.raises(RefusedContent, match="predecessor-chain-broken"):
        make_source(addendum)
    with pytest.raises(RefusedContent, match="predecessor-chain-broken"):
        make_source(addendum, predecessors=[addendum])
    with pytest.raises(RefusedContent, match="predecessor-chain-broken"):
        make_source(first, predecessors=[first])
    with pytest.raises(RefusedContent, match="study-manifest-differs"):
        make_source(first, manifest=make_manifest() | {"v": 2})


def test_attachments_of_two_reports_do_not_mix() -> None:
    one = attachments_of(compose_document(make_source(), now=NOW))
    other = attachments_of(compose_document(make_source(sign(make_content(findings="Normal."))), now=NOW))
    with pytest.raises(IntegrityFailure, match="another report"):
        source_from_attachments(one | {"signed-report.json": other["signed-report.json"]})
    with pytest.raises(IntegrityFailure):
        compose_from_attachments(one | {"note.json": b"{}"})
    with pytest.raises(IntegrityFailure):
        source_from_attachments({"identity-binding.json": one["identity-binding.json"]})


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_patient(name="A\x00B"),
        lambda: make_patient(birth_date="1968-04-12"),
        lambda: make_patient(sex="X"),
        lambda: make_study(study_date="yesterday"),
        lambda: make_study(study_instance_uid="1..2"),
        lambda: make_study(accession_number="x" * 2000),
        lambda: type(make_letterhead())(name="H", accent="red"),
        lambda: type(make_letterhead())(name=""),
    ],
)
def test_identity_that_cannot_be_printed_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(RefusedContent):
        make()

"""The chain from the file to the reader: each link breaks alone, and the report says which."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pyhanko.pdf_utils.generic import StreamObject
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter

from crypto.certificates import create_ca
from reporting import document as document_module
from reporting.content import ReportKind
from reporting.document import ReportSource, compose_document, page_data
from reporting.verification import CheckResult, VerificationReport, verify_report_pdf
from tests.report_samples import (
    NOW,
    authority,
    make_addendum,
    make_content,
    make_manifest,
    make_source,
    make_study,
    seal,
    sealed_sample,
    sign,
)

PIXELS = {f"1.2.826.0.1.3680043.8.498.1.{number}": f"sha256:{number + 16:064x}" for number in (1, 2, 3)}


def _verify(document: bytes, **options: Any) -> VerificationReport:
    return verify_report_pdf(document, [authority().certificate_pem], **options)


def _results(report: VerificationReport) -> dict[str, CheckResult]:
    return {check.name: check.result for check in report.checks}


def _failed(report: VerificationReport) -> set[str]:
    assert not report.is_valid
    return {name for name, result in _results(report).items() if result is CheckResult.FAILED}


def test_delivered_report_passes_every_check() -> None:
    known = [make_source().signed.key_fingerprint()]
    report = _verify(sealed_sample(), reader_key_fingerprints=known, pixel_digests=PIXELS)
    assert report.is_valid
    assert set(_results(report).values()) == {CheckResult.PASSED}
    assert report.document()["valid"] is True
    assert report.document()["report_digest"] == make_content().digest()


@pytest.mark.parametrize(
    "make",
    [
        make_addendum,
        lambda: make_source(manifest=None),
        lambda: make_source(sign(make_content(kind=ReportKind.PRELIMINARY))),
        lambda: make_source(sign(make_content(language="de", findings="Größe 3 cm (unverändert) \\ 'so' -- ≥ 5 µm"))),
        lambda: make_source(sign(make_content(findings="\u05e9\u05dc\u05d5\u05dd, no fracture."))),
        lambda: make_source(sign(make_content(findings="W" * 2000 + "\n" + "line\n" * 300 + "end"))),
        lambda: make_source(study=make_study(instances=())),
    ],
    ids=["addendum", "no-manifest", "preliminary", "german", "hebrew", "long", "no-instances"],
)
def test_every_kind_of_report_verifies(make: Callable[[], ReportSource]) -> None:
    report = _verify(seal(compose_document(make(), now=NOW)))
    assert report.is_valid, [check for check in report.checks if check.result is CheckResult.FAILED]


def test_one_changed_bit_makes_the_file_invalid() -> None:
    sealed, chance = sealed_sample(), random.Random(7)
    for _ in range(40):
        damaged = bytearray(sealed)
        damaged[chance.randrange(len(sealed))] ^= 1 << chance.randrange(8)
        assert "seal" in _failed(_verify(bytes(damaged)))


@pytest.mark.parametrize("document", [b"", b"%PDF-1.7\n", b"\x00" * 1000, b"<html>"], ids=["empty", "header", "zeros", "html"])
def test_what_is_no_report_is_invalid_and_no_error(document: bytes) -> None:
    assert {"seal", "attachments"} <= _failed(_verify(document))


def test_unsealed_and_foreign_sealed_files_are_invalid_though_the_reader_signed() -> None:
    report = _verify(compose_document(make_source(), now=NOW))
    assert _failed(report) >= {"seal"}
    assert _results(report)["reader_signature"] is CheckResult.PASSED
    other = create_ca("Somebody")
    assert _failed(verify_report_pdf(sealed_sample(), [other.certificate_pem])) == {"seal"}


def test_hospital_that_prints_another_text_over_the_signed_original_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def altered(source: ReportSource, now: datetime) -> dict[str, Any]:
        page = page_data(source, now)
        for section in page["report"]["sections"]:
            section["text"] = section["text"].replace("No hydrocephalus", "Hydrocephalus")
        return page

    with monkeypatch.context() as patch:
        patch.setattr(document_module, "page_data", altered)
        forged = compose_document(make_source(), now=NOW)
    assert _failed(_verify(seal(forged))) == {"page", "printed_text"}


def test_missing_or_added_section_is_noticed_even_where_another_release_made_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def shortened(source: ReportSource, now: datetime) -> dict[str, Any]:
        page = page_data(source, now)
        del page["report"]["sections"][2]
        return page

    def lengthened(source: ReportSource, now: datetime) -> dict[str, Any]:
        page = page_data(source, now)
        page["report"]["sections"].insert(4, {"title": "Findings", "text": "Also a fracture.", "weighty": False})
        return page

    for forgery in (shortened, lengthened):
        with monkeypatch.context() as patch:
            patch.setattr(document_module, "renderer", lambda: {"typst": "0.0.0", "template": "0" * 64})
            patch.setattr(document_module, "page_data", forgery)
            forged = compose_document(make_source(), now=NOW)
        report = _verify(seal(forged))
        assert _failed(report) == {"printed_text"}
        assert _results(report)["page"] is CheckResult.NOT_CHECKED


def test_file_of_another_release_stands_on_its_printed_text(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(document_module, "renderer", lambda: {"typst": "0.0.0", "template": "0" * 64})
        document = compose_document(make_source(), now=NOW)
    report = _verify(seal(document))
    assert report.is_valid
    assert _results(report)["page"] is CheckResult.NOT_CHECKED


def test_page_replaced_between_composing_and_sealing_is_noticed() -> None:
    writer = IncrementalPdfFileWriter(io.BytesIO(compose_document(make_source(), now=NOW)))
    page = writer.root["/Pages"]["/Kids"][0]
    page["/Contents"] = writer.add_object(StreamObject(stream_data=b"BT ET"))
    writer.update_container(page)
    output = io.BytesIO()
    writer.write(output)
    assert _failed(_verify(seal(output.getvalue()))) == {"page", "printed_text"}


def test_unregistered_reader_and_other_pixels_are_noticed() -> None:
    assert _failed(_verify(sealed_sample(), reader_key_fingerprints=["0" * 64])) == {"reader_known"}
    first = next(iter(PIXELS))
    for digests in (
        PIXELS | {first: "sha256:" + "0" * 64},
        {first: PIXELS[first]},
        PIXELS | {"1.2.3": "sha256:" + "0" * 64},
        {},
    ):
        assert _failed(_verify(sealed_sample(), pixel_digests=digests)) == {"images"}


def test_instances_without_an_original_are_noticed() -> None:
    source = make_source(study=make_study(instances=make_study().instances[:2]))
    assert _failed(_verify(seal(compose_document(source, now=NOW)))) == {"study_manifest"}
    twice = make_source(study=make_study(instances=make_study().instances[:1] * 2), manifest=None)
    assert _failed(_verify(seal(compose_document(twice, now=NOW)))) == {"binding"}
    assert len(make_manifest()["instances"]) == 3

"""An encapsulated PDF leaves written anew from its words, or not at all; what was not read as text never passes."""

from __future__ import annotations

import io
import re
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject, StreamObject, TextStringObject

from compliance.pdf_layout import Line, PageText
from compliance.pdf_writing import read_back, written_pdf
from crypto.errors import RefusedContent
from tests.pdf_files import (
    BASE,
    CDA,
    CLEAN,
    PDF,
    STL,
    dot_at,
    everything,
    font_of,
    refused,
    released,
    typeset,
    written,
)
from tests.peers import require_peer


def test_a_clean_document_keeps_its_words_and_loses_what_stands_beside_them() -> None:
    source = typeset(CLEAN + "\n\n#table(columns: 2, [L1], [0.9], [L2], [1.1])", title="Anna Kowalska")
    assert b"Kowalska" in everything(source)
    made = released(source)
    text = " ".join(PdfReader(io.BytesIO(made)).pages[0].extract_text().split())
    assert CLEAN in text and "L1" in text
    assert b"kowalska" not in everything(made).lower() and PdfReader(io.BytesIO(made)).metadata is None
    assert released(source) == made, "the same document comes out the same"


@pytest.mark.parametrize(
    "text",
    [
        "Report for Anna Kowalska",
        "KOWALSKA, A.",
        "ID 4821337",
        "Dr. Schmidtlein saw her",
        "Tel. 030 1234567",
        "K o w a l s k a",
        "anna.k(at)x.pl kowalska",
    ],
)
def test_a_document_that_names_somebody_is_refused(text: str) -> None:
    assert refused(typeset(text)) == "ENCAPSULATED_IDENTITY"


def test_letters_set_one_by_one_are_read_as_words() -> None:
    letters = b"".join(
        b"BT /F 12 Tf 1 0 0 1 %d 100 Tm (%c) Tj ET\n" % (20 + 30 * index, letter) for index, letter in enumerate(b"Kowalska")
    )
    assert refused(written(letters)) == "ENCAPSULATED_IDENTITY"


def test_what_an_earlier_revision_said_is_gone() -> None:
    first = written(b"BT /F 12 Tf 20 100 Td (Anna Kowalska) Tj ET")
    writer = PdfWriter(io.BytesIO(first), incremental=True)
    stream = StreamObject()
    stream.set_data(b"BT /F 12 Tf 20 100 Td (Nobody) Tj ET")
    writer.pages[0][NameObject("/Contents")] = writer._add_object(stream)
    out = io.BytesIO()
    writer.write(out)
    assert out.getvalue().startswith(first)
    assert b"Kowalska" not in everything(released(out.getvalue()))


def _named_descriptor(writer: PdfWriter) -> None:
    said = {"/FontFamily": "Anna Kowalska 4821337", "/PieceInfo": "Kowalska 4821337"}
    descriptor = DictionaryObject({NameObject(key): TextStringObject(value) for key, value in said.items()})
    font_of(writer)[NameObject("/FontDescriptor")] = writer._add_object(descriptor)


WIDE = "FEFF" + "Anna Kowalska 4821337".encode("utf-16-be").hex().upper()
BESIDE: dict[str, Callable[[], bytes]] = {
    "comment": lambda: written(b"% Patient: Anna Kowalska 4821337\n" + BASE),
    "replacement text": lambda: written(b"/Span <</ActualText (Anna Kowalska 4821337)>> BDC " + BASE + b" EMC"),
    "wide replacement text": lambda: written(b"/Span <</ActualText <" + WIDE.encode() + b">>> BDC " + BASE + b" EMC"),
    "alternate text": lambda: written(b"/X <</Alt (Anna Kowalska 4821337)>> DP " + BASE),
    "strings of a font": lambda: written(BASE, _named_descriptor),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_stands_beside_the_text_stays_behind(kind: str) -> None:
    source = BESIDE[kind]()
    hidden = re.compile(b"kowalska|" + WIDE.encode(), re.I)
    assert hidden.search(everything(source))
    made = released(source)
    assert not hidden.search(everything(made)) and b"(Normal findings) Tj" in made


@pytest.mark.parametrize(
    "content",
    [
        b"BT 3 Tr /F 12 Tf 20 60 Td (Anna Kowalska) Tj ET",
        b"1 1 1 rg BT /F 12 Tf 20 60 Td (Anna Kowalska) Tj ET",
        b"BT /F 12 Tf 20 900 Td (Anna Kowalska) Tj ET",
        b"q 0 0 0 0 re W n BT /F 12 Tf 20 60 Td (Anna Kowalska) Tj ET Q",
        b"BT /F 1 Tf 20 60 Td (Anna Kowalska) Tj ET",
        b"BT /F 12 Tf 20 60 Td (Anna Kowalska) Tj ET BT /F 12 Tf 20.3 60 Td (Anna Kowalska) Tj ET",
        b"BT /F 12 Tf 14 TL 150 90 Td (K) Tj (o) ' (w) ' (a) ' (l) ' (s) ' (k) ' (a) ' ET",
        b"".join(b"BT /F 12 Tf %d 60 Td (%c) Tj ET " % (20 + 9 * at, b"Kowalska"[at]) for at in (3, 0, 5, 1, 7, 2, 6, 4)),
        b"BT /F 12 Tf 6 Tc 20 60 Td (Schmid) Tj ET",
    ],
    ids=["mode 3", "white", "off the page", "clipped", "tiny", "twice", "downward", "scrambled", "spaced"],
)
def test_invisible_and_oddly_set_text_is_text(content: bytes) -> None:
    assert refused(written(BASE + b" " + content)) == "ENCAPSULATED_IDENTITY"


def test_invisible_text_without_identity_is_shown() -> None:
    made = released(written(BASE + b" BT 3 Tr /F 12 Tf 20 60 Td (normal spine) Tj ET"))
    assert b"(normal spine) Tj" in made


def test_the_new_file_holds_its_words_and_nothing_else() -> None:
    made = released(written(b"BT /F 12 Tf 20 100 Td (Hip \\(left\\) \\265g/ml \\\\ 5 \\2612 mm) Tj ET"))
    assert "(Hip \\(left\\) µg/ml \\\\ 5 ±2 mm) Tj".encode("cp1252") in made, "whoever scans the bytes reads the words"
    reader = PdfReader(io.BytesIO(made), strict=True)
    assert set(reader.trailer) == {"/Size", "/Root"} and b"/Filter" not in made and b"/Info" not in made
    assert set(reader.root_object) == {"/Type", "/Pages"}
    assert set(reader.pages[0]) == {"/Type", "/Parent", "/MediaBox", "/Resources", "/Contents"}


def test_columns_pages_and_sizes_stay() -> None:
    rows = "".join(f"[vertebra {row}], [{0.5 + row / 10:.1f}], [normal], " for row in range(1, 5))
    made = released(
        typeset(f"#table(columns: (120pt, 80pt, 80pt), fill: (_, y) => if y == 0 {{ silver }}, {rows})\n#pagebreak()\nThe second page")
    )
    reader = PdfReader(io.BytesIO(made))
    assert len(reader.pages) == 2 and "The second page" in reader.pages[1].extract_text()
    assert [float(side) for side in reader.pages[0].mediabox] == pytest.approx([0, 0, 595.28, 200])
    lines = re.findall(rb"\((.*vertebra.*)\) Tj", made)
    assert len(lines) == 4 and len({line.index(b"normal") for line in lines}) == 1
    assert len({re.search(rb"\d\.\d", line).start() for line in lines}) == 1  # type: ignore[union-attr]


def test_bullets_of_a_list_hold_nothing_up() -> None:
    made = released(written(BASE + b"".join(dot_at(20, 20 + 15 * at) for at in range(4))))
    assert b"(Normal findings) Tj" in made


def test_a_narrow_gap_between_cells_keeps_the_column() -> None:
    cells = ((20, 100, b"Hip"), (80, 100, b"0.9"), (20, 80, b"Femoral left"), (80, 80, b"1.1"))
    lines = re.findall(rb"\((.*)\) Tj", released(written(b" ".join(b"BT /F 10 Tf %d %d Td (%s) Tj ET" % cell for cell in cells))))
    assert len(lines) == 2 and abs(lines[0].index(b"0.9") - lines[1].index(b"1.1")) <= 1


def test_a_page_that_lies_on_its_side_is_written_upright() -> None:
    def turn(writer: PdfWriter) -> None:
        writer.pages[0][NameObject("/Rotate")] = NumberObject(90)
        writer.pages[0][NameObject("/MediaBox")] = ArrayObject([NumberObject(side) for side in (0, 0, 200, 300)])

    made = released(written(b"BT /F 12 Tf 0 1 -1 0 50 20 Tm (above) Tj ET BT /F 12 Tf 0 1 -1 0 90 20 Tm (below) Tj ET", turn))
    page = PdfReader(io.BytesIO(made)).pages[0]
    assert page.rotation == 0 and (page.mediabox.width, page.mediabox.height) == (300, 200)
    assert page.extract_text().split() == ["above", "below"]


def test_text_of_a_form_is_read_where_it_stands() -> None:
    def form(writer: PdfWriter) -> None:
        drawn = StreamObject()
        drawn.set_data(b"BT /F 12 Tf 0 0 Td (% hidden) Tj (within) ' ET % Kowalska")
        drawn[NameObject("/Subtype")] = NameObject("/Form")
        drawn[NameObject("/Matrix")] = ArrayObject([NumberObject(value) for value in (1, 0, 0, 1, 20, 40)])
        resources = writer.pages[0]["/Resources"]
        resources[NameObject("/XObject")] = DictionaryObject({NameObject("/X"): writer._add_object(drawn)})  # type: ignore[index]

    made = released(written(BASE + b" 12 TL /X Do", form))
    assert b"within" in made and b"Kowalska" not in everything(made)


@pytest.mark.parametrize("change", [(b"Normal", b"Kowals"), (b"/MediaBox [0 0", b"/PieceInf [0 0"), (b"/F 12 Tf", b"/F 12 Tz")])
def test_a_file_that_is_not_what_was_meant_is_not_given_out(change: tuple[bytes, bytes]) -> None:
    page = PageText(200, 200, 20, 12, (Line(100, "Normal findings"),), "Normalfindings")
    made = written_pdf([page])
    assert read_back(made, [page]) == ["Normal findings"]
    assert change[0] in made
    with pytest.raises(RefusedContent):
        read_back(made.replace(*change), [page])


@given(st.lists(st.text(st.characters(codec="cp1252", exclude_categories=["C", "Z"]), min_size=1, max_size=60), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_every_writable_letter_is_read_back(texts: list[str]) -> None:
    page = PageText(595, 842, 30, 10, tuple(Line(800 - 14 * index, text) for index, text in enumerate(texts)), "")
    read_back(written_pdf([page]), [page])


def test_other_readers_read_the_new_file(tmp_path: Path) -> None:
    pdftotext = require_peer("pdftotext")
    path = tmp_path / "made.pdf"
    path.write_bytes(released(typeset(CLEAN)))
    done = subprocess.run([pdftotext, "-layout", str(path), "-"], capture_output=True, check=True)
    assert CLEAN in done.stdout.decode() and not done.stderr


def test_a_stream_that_swells_is_refused() -> None:
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(400)), packer.flush()])

    def swell(writer: PdfWriter) -> None:
        stream = writer.pages[0]["/Contents"].get_object()
        stream._data = packed  # type: ignore[attr-defined]
        stream[NameObject("/Filter")] = NameObject("/FlateDecode")  # type: ignore[index]

    assert refused(written(change=swell)) == "ENCAPSULATED_DOCUMENT"


LAUGHS = '<!DOCTYPE l [<!ENTITY a "ha">' + "".join(f'<!ENTITY {chr(98 + n)} "&{chr(97 + n)};&{chr(97 + n)};">' for n in range(20)) + "]>"


@pytest.mark.parametrize(
    ("sop_class", "mime", "data"),
    [
        (CDA, "text/XML", b"<ClinicalDocument xmlns='urn:hl7-org:v3'><recordTarget/></ClinicalDocument>"),
        (CDA, "text/XML", (LAUGHS + "<ClinicalDocument>&u;</ClinicalDocument>").encode()),
        (CDA, "text/XML", b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><ClinicalDocument>&e;</ClinicalDocument>'),
        (CDA, "application/pdf", b"%PDF-1.4"),
        (STL, "model/stl", b"solid"),
        (PDF, "text/XML", b"%PDF-1.4"),
    ],
)
def test_other_documents_are_refused_unparsed(sop_class: str, mime: str, data: bytes) -> None:
    assert refused(data, sop_class=sop_class, mime=mime) == "ENCAPSULATED_DOCUMENT"

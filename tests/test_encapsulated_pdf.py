"""An encapsulated PDF leaves written anew from its words, or not at all; what was not read as text never passes."""

from __future__ import annotations

import io
import re
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import typst
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pypdf import PdfReader, PdfWriter
from pypdf.errors import PyPdfError
from pypdf.generic import ArrayObject, DictionaryObject, FloatObject, NameObject, NumberObject, StreamObject, TextStringObject

from compliance.identity_terms import IdentityTerms
from compliance.pdf_layout import Line, PageText
from compliance.pdf_writing import read_back, written_pdf
from crypto.errors import RefusedContent
from tests.deid_samples import bare_instance, output_of
from tests.peers import require_peer

PDF, CDA, STL = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.104.2", "1.2.840.10008.5.1.4.1.1.104.3"
NAME = "KOWALSKA^ANNA"
CLEAN = "Bone density: T-score 1.2 below the mean at L1 to L4. Parkinson disease is known. Right hip 0.871 g/cm2."


def typeset(text: str, title: str = "") -> bytes:
    """A PDF as programs of today make it: subset fonts, object streams, tags, XMP."""
    head = f'#set document(title: "{title}", author: "{title}")\n' if title else ""
    return bytes(typst.compile((head + "#set page(height: 200pt)\n" + text).encode()))


def written(content: bytes = b"BT /F 12 Tf 20 100 Td (Normal findings) Tj ET", change: Callable[[PdfWriter], None] | None = None) -> bytes:
    """A PDF of one page drawn by `content`, changed by hand."""
    writer = PdfWriter()
    page = writer.add_blank_page(200, 200)
    stream = StreamObject()
    stream.set_data(content)
    page[NameObject("/Contents")] = writer._add_object(stream)
    font = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica", "/Encoding": "/WinAnsiEncoding"}
    named = DictionaryObject({NameObject(key): NameObject(value) for key, value in font.items()})
    page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): DictionaryObject({NameObject("/F"): named})})
    if change is not None:
        change(writer)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def document(data: bytes, sop_class: str = PDF, mime: str = "application/pdf") -> Dataset:
    dataset = bare_instance()
    dataset.SOPClassUID, dataset.Modality, dataset.PatientName = sop_class, "DOC", NAME
    dataset.PatientID, dataset.DocumentTitle = "4821337", "Report of Anna Kowalska"
    dataset.EncapsulatedDocument = data + b"\0" * (len(data) % 2)
    dataset.EncapsulatedDocumentLength = len(data)
    dataset.MIMETypeOfEncapsulatedDocument = mime
    return dataset


def identity() -> IdentityTerms:
    return IdentityTerms(patient_names=frozenset({NAME}), patient_ids=frozenset({"4821337"}))


def released(data: bytes) -> bytes:
    made = output_of(document(data), identity=identity())
    assert "EncapsulatedDocumentLength" not in made and "Kowalska" not in made.DocumentTitle
    return bytes(made.EncapsulatedDocument)


def refused(data: bytes, **kinds: str) -> str:
    with pytest.raises(RefusedContent) as error:
        output_of(document(data, **kinds), identity=identity())
    assert error.value.tag == "(0042,0011)" and "KOWALSKA" not in f"{error.value}".upper()
    return error.value.reason_code


def everything(data: bytes) -> bytes:
    """The file, and each of its streams decoded."""
    reader = PdfReader(io.BytesIO(data))
    found = [data]
    for number in range(1, int(reader.trailer["/Size"])):
        try:
            one = reader.get_object(number)
        except PyPdfError:
            continue
        found.append(one.get_data() if isinstance(one, StreamObject) else repr(one).encode())
    return b"\n".join(found)


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


def _image(writer: PdfWriter) -> None:
    image = StreamObject()
    image.set_data(bytes(4))
    for key, value in (("/Subtype", NameObject("/Image")), ("/Width", NumberObject(2)), ("/Height", NumberObject(2))):
        image[NameObject(key)] = value
    resources = writer.pages[0]["/Resources"]
    resources[NameObject("/XObject")] = DictionaryObject({NameObject("/I"): writer._add_object(image)})  # type: ignore[index]


def _annotation(writer: PdfWriter) -> None:
    note = DictionaryObject({NameObject("/Subtype"): NameObject("/Text"), NameObject("/Contents"): TextStringObject("Anna")})
    writer.pages[0][NameObject("/Annots")] = ArrayObject([writer._add_object(note)])


def _form(writer: PdfWriter) -> None:
    writer.root_object[NameObject("/AcroForm")] = DictionaryObject({NameObject("/Fields"): ArrayObject()})


def _type3(writer: PdfWriter) -> None:
    fonts = writer.pages[0]["/Resources"]["/Font"]  # type: ignore[index]
    fonts["/F"][NameObject("/Subtype")] = NameObject("/Type3")


def _unreadable_font(writer: PdfWriter) -> None:
    fonts = writer.pages[0]["/Resources"]["/Font"]  # type: ignore[index]
    fonts["/F"][NameObject("/Encoding")] = DictionaryObject({NameObject("/Differences"): ArrayObject([NumberObject(1), NameObject("/g1")])})


def _script(writer: PdfWriter) -> None:
    act = DictionaryObject({NameObject("/S"): NameObject("/JavaScript"), NameObject("/JS"): TextStringObject("app.alert(1)")})
    writer.root_object[NameObject("/OpenAction")] = act


def _layers(writer: PdfWriter) -> None:
    writer.root_object[NameObject("/OCProperties")] = DictionaryObject({NameObject("/Z"): FloatObject(1)})


BASE = b"BT /F 12 Tf 20 100 Td (Normal findings) Tj ET"
#: A name in the glyph numbers that subsets of TrueType fonts give: letter less 29.
GLYPHS = b"BT /F 12 Tf 20 100 Td <%s> Tj ET" % "".join(f"{ord(letter) - 29:04X}" for letter in "Anna Kowalska").encode()
ROWS = {
    "K": "9ACA9", "O": "69996", "W": "99FF9", "A": "69F99", "L": "8888F", "S": "7861E",
}  # fmt: skip


def _block_letters(word: str) -> bytes:
    boxes = [
        b" %d %d 4 4 re f" % (10 + 22 * place + 4 * column, 60 - 4 * row)
        for place, letter in enumerate(word)
        for row, bits in enumerate(ROWS[letter])
        for column in range(4)
        if int(bits, 16) & 8 >> column
    ]
    return b"".join(boxes)


def _dot(x: int, y: int) -> bytes:
    return b" %d %d m %d %d %d %d %d %d c %d %d %d %d %d %d c f" % (x, y, x, y + 3, x + 4, y + 3, x + 4, y, x + 4, y - 3, x, y - 3, x, y)


def _font(writer: PdfWriter) -> DictionaryObject:
    found: DictionaryObject = writer.pages[0]["/Resources"]["/Font"]["/F"]  # type: ignore[index]
    return found


def _numbered_glyphs(writer: PdfWriter) -> None:
    names = [NameObject(f"/g{number:02d}") for number in range(1, 9)]
    encoding = {"/BaseEncoding": NameObject("/WinAnsiEncoding"), "/Differences": ArrayObject([NumberObject(1), *names])}
    _font(writer)[NameObject("/Encoding")] = DictionaryObject({NameObject(key): value for key, value in encoding.items()})


def _composite(mapping: bytes) -> Callable[[PdfWriter], None]:
    """A font of two-byte glyph numbers whose map to letters says `mapping`."""

    def change(writer: PdfWriter) -> None:
        stream = StreamObject()
        stream.set_data(b"begincmap 1 begincodespacerange <0000> <FFFF> endcodespacerange " + mapping + b" endcmap")
        below = {"/Type": "/Font", "/Subtype": "/CIDFontType2", "/BaseFont": "/ABC+X"}
        font = _font(writer)
        font.clear()
        for key, value in {"/Type": "/Font", "/Subtype": "/Type0", "/BaseFont": "/ABC+X", "/Encoding": "/Identity-H"}.items():
            font[NameObject(key)] = NameObject(value)
        font[NameObject("/ToUnicode")] = writer._add_object(stream)
        child = DictionaryObject({NameObject(key): NameObject(value) for key, value in below.items()})
        child[NameObject("/DW")] = NumberObject(600)
        font[NameObject("/DescendantFonts")] = ArrayObject([child])

    return change


def _without_maps(data: bytes) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(data))
    for font in writer.pages[0]["/Resources"]["/Font"].values():  # type: ignore[index]
        stream = StreamObject()
        map_ = font.get_object()["/ToUnicode"].get_object().get_data()
        stream.set_data(re.sub(rb"\d+ beginbf(char|range).*?endbf\1", b"", map_, flags=re.S))
        font.get_object()[NameObject("/ToUnicode")] = writer._add_object(stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "image": (lambda: written(change=_image), "ENCAPSULATED_IMAGES"),
    "inline image": (lambda: written(b"BI /W 1 /H 1 /BPC 8 /CS /G ID \x00 EI"), "ENCAPSULATED_IMAGES"),
    "annotation": (lambda: written(change=_annotation), "ENCAPSULATED_DOCUMENT"),
    "script": (lambda: written(change=_script), "ENCAPSULATED_DOCUMENT"),
    "attachment": (lambda: written(change=lambda writer: writer.add_attachment("a.txt", b"Anna") and None), "ENCAPSULATED_DOCUMENT"),
    "form": (lambda: written(change=_form), "ENCAPSULATED_DOCUMENT"),
    "layers": (lambda: written(change=_layers), "ENCAPSULATED_DOCUMENT"),
    "drawn letters": (lambda: written(b"\n".join(b"%d 10 m %d 60 l S" % (10 + x, 20 + x) for x in range(40))), "ENCAPSULATED_IMAGES"),
    "font of drawings": (lambda: written(change=_type3), "ENCAPSULATED_DOCUMENT"),
    "font without letters": (lambda: written(b"BT /F 12 Tf 20 100 Td <01> Tj ET", _unreadable_font), "ENCAPSULATED_DOCUMENT"),
    "unknown operator": (lambda: written(b"BX (Anna Kowalska 4821337) foo EX " + BASE), "ENCAPSULATED_DOCUMENT"),
    "bar code": (
        lambda: written(BASE + b"".join(b" %d 20 %d 30 re f" % (20 + 3 * i, 1 + i * 7 % 2) for i in range(50))),
        "ENCAPSULATED_IMAGES",
    ),
    "letters of boxes": (lambda: written(BASE + _block_letters("KOWALSKA")), "ENCAPSULATED_IMAGES"),
    "bars of a chart": (lambda: written(BASE + b" 0 0 1 rg 20 20 10 50 re f 40 20 10 30 re f"), "ENCAPSULATED_IMAGES"),
    "a cross in a box": (lambda: written(BASE + b" 20 20 10 10 re S 20 20 m 30 30 l S"), "ENCAPSULATED_IMAGES"),
    "curve": (lambda: written(BASE + b" 20 20 m 30 40 40 10 50 20 c S"), "ENCAPSULATED_IMAGES"),
    "dots in a row": (lambda: written(BASE + b"".join(_dot(20 + 7 * at, 40) for at in range(6))), "ENCAPSULATED_IMAGES"),
    "glyph names of no standard": (
        lambda: written(b"BT /F 12 Tf 20 100 Td <0102030405060708> Tj ET", _numbered_glyphs),
        "ENCAPSULATED_DOCUMENT",
    ),
    "empty map": (lambda: written(GLYPHS, _composite(b"")), "ENCAPSULATED_DOCUMENT"),
    "map of a blank": (lambda: written(GLYPHS, _composite(b"1 beginbfchar <0003> <0020> endbfchar")), "ENCAPSULATED_DOCUMENT"),
    "map to control characters": (
        lambda: written(GLYPHS, _composite(b"1 beginbfrange <0003> <0060> <0000> endbfrange")),
        "ENCAPSULATED_DOCUMENT",
    ),
    "map to private letters": (
        lambda: written(GLYPHS, _composite(b"1 beginbfrange <0003> <0060> <E000> endbfrange")),
        "ENCAPSULATED_DOCUMENT",
    ),
    "map to letters nobody can write": (
        lambda: written(GLYPHS, _composite(b"1 beginbfrange <0003> <0060> <0410> endbfrange")),
        "ENCAPSULATED_DOCUMENT",
    ),
    "map of a real font, emptied": (lambda: _without_maps(typeset("Anna Kowalska 4821337 has a normal spine")), "ENCAPSULATED_DOCUMENT"),
    "turned letters": (lambda: written(BASE + b" BT /F 12 Tf 0 1 -1 0 50 20 Tm (turned) Tj ET"), "ENCAPSULATED_DOCUMENT"),
    "mirrored letters": (lambda: written(b"BT /F 12 Tf -1 0 0 1 150 20 Tm (mirrored) Tj ET"), "ENCAPSULATED_DOCUMENT"),
    "letters on letters": (
        lambda: written(b"BT /F 12 Tf 20 100 Td (KOWALSKA) Tj ET BT /F 12 Tf 22 100 Td (xxxxxxxx) Tj ET"),
        "ENCAPSULATED_DOCUMENT",
    ),
    "no font": (lambda: written(b"BT 20 100 Td (Anna) Tj ET"), "ENCAPSULATED_DOCUMENT"),
    "encrypted": (lambda: written(change=lambda writer: writer.encrypt("x", algorithm="RC4-40")), "ENCAPSULATED_DOCUMENT"),
    "cut": (lambda: typeset(CLEAN)[:900], "ENCAPSULATED_DOCUMENT"),
    "polyglot": (lambda: b"MZ" + typeset(CLEAN), "ENCAPSULATED_DOCUMENT"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused(kind: str) -> None:
    make, reason = REFUSED[kind]
    assert refused(make()) == reason


def _named_descriptor(writer: PdfWriter) -> None:
    said = {"/FontFamily": "Anna Kowalska 4821337", "/PieceInfo": "Kowalska 4821337"}
    descriptor = DictionaryObject({NameObject(key): TextStringObject(value) for key, value in said.items()})
    _font(writer)[NameObject("/FontDescriptor")] = writer._add_object(descriptor)


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
    made = released(written(BASE + b"".join(_dot(20, 20 + 15 * at) for at in range(4))))
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

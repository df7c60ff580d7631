"""PDF files whose words cannot be read to the end: each is refused with its reason."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, FloatObject, NameObject, NumberObject, StreamObject, TextStringObject

from tests.pdf_files import BASE, CLEAN, dot_at, font_of, refused, typeset, written


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


def _numbered_glyphs(writer: PdfWriter) -> None:
    names = [NameObject(f"/g{number:02d}") for number in range(1, 9)]
    encoding = {"/BaseEncoding": NameObject("/WinAnsiEncoding"), "/Differences": ArrayObject([NumberObject(1), *names])}
    font_of(writer)[NameObject("/Encoding")] = DictionaryObject({NameObject(key): value for key, value in encoding.items()})


def _composite(mapping: bytes) -> Callable[[PdfWriter], None]:
    """A font of two-byte glyph numbers whose map to letters says `mapping`."""

    def change(writer: PdfWriter) -> None:
        stream = StreamObject()
        stream.set_data(b"begincmap 1 begincodespacerange <0000> <FFFF> endcodespacerange " + mapping + b" endcmap")
        below = {"/Type": "/Font", "/Subtype": "/CIDFontType2", "/BaseFont": "/ABC+X"}
        font = font_of(writer)
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
    "dots in a row": (lambda: written(BASE + b"".join(dot_at(20 + 7 * at, 40) for at in range(6))), "ENCAPSULATED_IMAGES"),
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

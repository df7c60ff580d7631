"""An encapsulated PDF leaves as a new file of the same words, or not at all; what no one can read never passes."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import pytest
import typst
from pydicom import Dataset
from pypdf import PdfReader, PdfWriter
from pypdf.errors import PyPdfError
from pypdf.generic import ArrayObject, DictionaryObject, FloatObject, NameObject, NumberObject, StreamObject, TextStringObject

from compliance.identity_terms import IdentityTerms
from crypto.errors import RefusedContent
from tests.deid_samples import bare_instance, output_of

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


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "image": (lambda: written(change=_image), "ENCAPSULATED_IMAGES"),
    "inline image": (lambda: written(b"BI /W 1 /H 1 /BPC 8 /CS /G ID \x00 EI"), "ENCAPSULATED_IMAGES"),
    "annotation": (lambda: written(change=_annotation), "ENCAPSULATED_DOCUMENT"),
    "script": (lambda: written(change=_script), "ENCAPSULATED_DOCUMENT"),
    "attachment": (lambda: written(change=lambda writer: writer.add_attachment("a.txt", b"Anna") and None), "ENCAPSULATED_DOCUMENT"),
    "form": (lambda: written(change=_form), "ENCAPSULATED_DOCUMENT"),
    "layers": (lambda: written(change=_layers), "ENCAPSULATED_DOCUMENT"),
    "drawn letters": (lambda: written(b"\n".join(b"%d 10 m %d 60 l S" % (10 + x, 20 + x) for x in range(40))), "ENCAPSULATED_DOCUMENT"),
    "font of drawings": (lambda: written(change=_type3), "ENCAPSULATED_DOCUMENT"),
    "font without letters": (lambda: written(change=_unreadable_font), "ENCAPSULATED_DOCUMENT"),
    "encrypted": (lambda: written(change=lambda writer: writer.encrypt("x", algorithm="RC4-40")), "ENCAPSULATED_DOCUMENT"),
    "cut": (lambda: typeset(CLEAN)[:900], "ENCAPSULATED_DOCUMENT"),
    "polyglot": (lambda: b"MZ" + typeset(CLEAN), "ENCAPSULATED_DOCUMENT"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused(kind: str) -> None:
    make, reason = REFUSED[kind]
    assert refused(make()) == reason


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

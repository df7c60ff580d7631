"""PDF files as documents of an instance, and what becomes of them."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import typst
from pydicom import Dataset
from pypdf import PdfReader, PdfWriter
from pypdf.errors import PyPdfError
from pypdf.generic import DictionaryObject, NameObject, StreamObject

from compliance.identity_terms import IdentityTerms
from crypto.errors import RefusedContent
from tests.deid_samples import bare_instance, output_of

PDF, CDA, STL = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.104.2", "1.2.840.10008.5.1.4.1.1.104.3"
BASE = b"BT /F 12 Tf 20 100 Td (Normal findings) Tj ET"
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


def dot_at(x: int, y: int) -> bytes:
    return b" %d %d m %d %d %d %d %d %d c %d %d %d %d %d %d c f" % (x, y, x, y + 3, x + 4, y + 3, x + 4, y, x + 4, y - 3, x, y - 3, x, y)


def font_of(writer: PdfWriter) -> DictionaryObject:
    found: DictionaryObject = writer.pages[0]["/Resources"]["/Font"]["/F"]  # type: ignore[index]
    return found

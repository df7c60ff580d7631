"""The sealed PDF as an Encapsulated PDF Storage instance (PS3.3 A.45.1), for the archive of the hospital's images."""

from __future__ import annotations

from datetime import UTC, tzinfo

from pydicom.sequence import Sequence
from pydicom.uid import EncapsulatedPDFStorage

from crypto.errors import RefusedContent
from reporting.document import ReportSource
from reporting.hospital_instance import DOCUMENT_TITLE, coded, instance_uid_of, new_instance, part10, verification_flag
from reporting.text_rules import MALFORMED
from reporting.wording import words_for

PURPOSE = "encapsulated-pdf"
SERIES_NUMBER = 9001


def encapsulate(source: ReportSource, sealed_pdf: bytes, *, zone: tzinfo = UTC) -> bytes:
    """A DICOM file (Explicit VR Little Endian) that holds exactly `sealed_pdf`, with the hospital's identities.

    The same report has the same SOP Instance UID each time. `zone` is the hospital's time zone.

    Raises:
        RefusedContent: `sealed_pdf` is no PDF, or a value of the identity does not fit its element.
    """
    if not sealed_pdf.startswith(b"%PDF-"):
        raise RefusedContent(MALFORMED, "what is to be encapsulated is not a PDF", tag="(0042,0011)")
    content = source.signed.content
    word = words_for(content.language)
    dataset = new_instance(source, purpose=PURPOSE, sop_class_uid=EncapsulatedPDFStorage, modality="DOC", zone=zone)
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.SeriesDescription = word["title"]
    dataset.ConversionType = "WSD"
    dataset.AcquisitionDateTime = ""
    dataset.BurnedInAnnotation = "YES"
    dataset.DocumentTitle = f"{word['title']}: {word[content.kind.value]}"
    dataset.ConceptNameCodeSequence = Sequence([coded(DOCUMENT_TITLE)])
    dataset.VerificationFlag = verification_flag(content)
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    # OB has even length (PS3.5 section 7.1.1); the next element says how much of it is the document.
    dataset.EncapsulatedDocument = sealed_pdf + b"\x00" * (len(sealed_pdf) % 2)
    dataset.EncapsulatedDocumentLength = len(sealed_pdf)
    return part10(dataset)


def encapsulated_instance_uid(source: ReportSource) -> str:
    """The SOP Instance UID that `encapsulate` gives this report."""
    return instance_uid_of(PURPOSE, source.signed.content.digest(), source.study.study_instance_uid)

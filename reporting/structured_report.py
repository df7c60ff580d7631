"""The report as a DICOM SR document: TID 2000 Basic Diagnostic Imaging Report in a Basic Text SR (PS3.16 TID 2000, PS3.3 A.35.1).

The content tree is apart from the SOP class: `content_tree` gives the root's items, `structured_report` the instance around them.
A successor names the instances of the reports before it in the Predecessor Documents Sequence (PS3.3 C.17.2.3).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, tzinfo

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import BasicTextSRStorage

from reporting.content import ReportContent, ReportKind
from reporting.document import ReportSource
from reporting.hospital_instance import (
    DOCUMENT_TITLE,
    coded,
    date_time,
    instance_uid_of,
    new_instance,
    part10,
    person_name,
    series_uid_of,
    verification_flag,
)
from reporting.identity import CodedConcept
from reporting.wording import words_for

PURPOSE = "structured-report"
SERIES_NUMBER = 9002

#: Section headings (CID 7001) and the concept of the text under each (CID 7002), by field of the report.
SECTION_CONCEPTS = {
    "indication": (CodedConcept(value="18785-6", scheme="LN", meaning="Indications for Procedure"),
                   CodedConcept(value="11329-0", scheme="LN", meaning="History")),
    "technique": (CodedConcept(value="55111-9", scheme="LN", meaning="Current Procedure Descriptions"),
                  CodedConcept(value="121065", scheme="DCM", meaning="Procedure Description")),
    "comparison": (CodedConcept(value="55114-3", scheme="LN", meaning="Prior Procedure Descriptions"),
                   CodedConcept(value="121065", scheme="DCM", meaning="Procedure Description")),
    "findings": (CodedConcept(value="59776-5", scheme="LN", meaning="Findings"),
                 CodedConcept(value="121071", scheme="DCM", meaning="Finding")),
    "impression": (CodedConcept(value="19005-8", scheme="LN", meaning="Impressions"),
                   CodedConcept(value="121073", scheme="DCM", meaning="Impression")),
}  # fmt: skip
CRITICAL_CONCEPTS = (
    CodedConcept(value="73568-8", scheme="LN", meaning="Communication of Critical Results"),
    CodedConcept(value="121071", scheme="DCM", meaning="Finding"),
)
_LANGUAGE = CodedConcept(value="121049", scheme="DCM", meaning="Language of Content Item and Descendants")
_OBSERVER_TYPE = CodedConcept(value="121005", scheme="DCM", meaning="Observer Type")
_PERSON = CodedConcept(value="121006", scheme="DCM", meaning="Person")
_OBSERVER_NAME = CodedConcept(value="121008", scheme="DCM", meaning="Person Observer Name")


def structured_report(source: ReportSource, *, zone: tzinfo = UTC) -> bytes:
    """A DICOM file (Explicit VR Little Endian) with the report as coded sections under the hospital's identities.

    The same report has the same SOP Instance UID each time. `zone` is the hospital's time zone.

    Raises:
        RefusedContent: a value of the identity does not fit its element.
    """
    content, study = source.signed.content, source.study
    dataset = new_instance(source, purpose=PURPOSE, sop_class_uid=BasicTextSRStorage, modality="SR", zone=zone)
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.SeriesDescription = words_for(content.language)["title"]
    dataset.ReferencedPerformedProcedureStepSequence = Sequence([])
    dataset.PerformedProcedureCodeSequence = Sequence([coded(study.procedure_code)] if study.procedure_code else [])
    dataset.CompletionFlag = "PARTIAL" if content.kind is ReportKind.PRELIMINARY else "COMPLETE"
    dataset.PreliminaryFlag = "PRELIMINARY" if content.kind is ReportKind.PRELIMINARY else "FINAL"
    dataset.VerificationFlag = verification_flag(content)
    if dataset.VerificationFlag == "VERIFIED":
        dataset.VerifyingObserverSequence = Sequence([_verifying_observer(source)])
    if source.predecessors:
        predecessors = [instance_uid_of(PURPOSE, one.content.digest(), study.study_instance_uid) for one in source.predecessors]
        series = [(series_uid_of(PURPOSE, study.study_instance_uid), [(str(BasicTextSRStorage), uid) for uid in predecessors])]
        dataset.PredecessorDocumentsSequence = Sequence([_references(study.study_instance_uid, series)])
    if study.instances:
        dataset.CurrentRequestedProcedureEvidenceSequence = Sequence([_references(study.study_instance_uid, _by_series(source))])
    dataset.ReferencedRequestSequence = Sequence([_request(source)])
    dataset.ValueType = "CONTAINER"
    dataset.ConceptNameCodeSequence = Sequence([coded(DOCUMENT_TITLE)])
    dataset.ContinuityOfContent = "SEPARATE"
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2000"
    dataset.ContentTemplateSequence = Sequence([template])
    dataset.ContentSequence = Sequence(content_tree(content))
    return part10(dataset)


def content_tree(content: ReportContent) -> list[Dataset]:
    """The items below the root of TID 2000: language (TID 1204), observer (TID 1002), one container per section."""
    language = _item("HAS CONCEPT MOD", "CODE", _LANGUAGE)
    language.ConceptCodeSequence = Sequence([coded(_language_concept(content.language))])
    observer_type = _item("HAS OBS CONTEXT", "CODE", _OBSERVER_TYPE)
    observer_type.ConceptCodeSequence = Sequence([coded(_PERSON)])
    observer_name = _item("HAS OBS CONTEXT", "PNAME", _OBSERVER_NAME)
    observer_name.PersonName = person_name(content.reader.display_name)
    items = [language, observer_type, observer_name]
    if (critical := content.critical_result) is not None:
        told = ""
        if critical.communicated_at is not None:
            when = f"{critical.communicated_at.astimezone(UTC):%Y-%m-%d %H:%M UTC}"
            told = "\r\n" + words_for(content.language)["critical_told"].format(who=critical.communicated_to, when=when)
        items.append(_section(CRITICAL_CONCEPTS, critical.statement + told))
    items += [_section(SECTION_CONCEPTS[name], text) for name, text in content.sections()]
    return items


def _language_concept(language: str) -> CodedConcept:
    """CID 5000, whose meanings are the names of RFC 5646; a tag that is not among ours means itself."""
    meaning = {"en": "English", "de": "German", "fr": "French", "es": "Spanish"}.get(language, language)
    return CodedConcept(value=language, scheme="RFC5646", meaning=meaning)


def _section(concepts: tuple[CodedConcept, CodedConcept], text: str) -> Dataset:
    heading, concept = concepts
    container = _item("CONTAINS", "CONTAINER", heading)
    container.ContinuityOfContent = "SEPARATE"
    paragraph = _item("CONTAINS", "TEXT", concept)
    # UT has CR LF between lines (PS3.5 section 6.1.3).
    paragraph.TextValue = text.replace("\r\n", "\n").replace("\n", "\r\n")
    container.ContentSequence = Sequence([paragraph])
    return container


def _item(relationship: str, value_type: str, concept: CodedConcept) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    item.ConceptNameCodeSequence = Sequence([coded(concept)])
    return item


def _verifying_observer(source: ReportSource) -> Dataset:
    content, observer = source.signed.content, Dataset()
    observer.VerifyingObserverName = person_name(content.reader.display_name)
    observer.VerifyingObserverIdentificationCodeSequence = Sequence([])
    observer.VerifyingOrganization = source.letterhead.name.replace("\\", "/")[:64]
    observer.VerificationDateTime = date_time(content.signed_at)
    return observer


def _request(source: ReportSource) -> Dataset:
    """The order that the report answers (PS3.3 C.17.2); what the gateway does not know of it stays empty."""
    study, request = source.study, Dataset()
    request.StudyInstanceUID = study.study_instance_uid
    request.ReferencedStudySequence = Sequence([])
    request.AccessionNumber = study.accession_number
    request.PlacerOrderNumberImagingServiceRequest = study.placer_order_number[:64]
    request.FillerOrderNumberImagingServiceRequest = ""
    request.RequestedProcedureID = ""
    request.RequestedProcedureDescription = study.procedure.replace("\\", "/")[:64]
    request.RequestedProcedureCodeSequence = Sequence([coded(study.procedure_code)] if study.procedure_code else [])
    return request


def _by_series(source: ReportSource) -> list[tuple[str, list[tuple[str, str]]]]:
    series: dict[str, list[tuple[str, str]]] = {}
    for one in source.study.instances:
        series.setdefault(one.series_instance_uid, []).append((one.sop_class_uid, one.sop_instance_uid))
    return list(series.items())


def _references(study_instance_uid: str, series: Iterable[tuple[str, list[tuple[str, str]]]]) -> Dataset:
    """The Hierarchical SOP Instance Reference Macro (PS3.3 Table C.17-3)."""
    reference, rows = Dataset(), []
    reference.StudyInstanceUID = study_instance_uid
    for series_instance_uid, instances in series:
        row, items = Dataset(), []
        for sop_class_uid, sop_instance_uid in instances:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
            items.append(item)
        row.SeriesInstanceUID, row.ReferencedSOPSequence = series_instance_uid, Sequence(items)
        rows.append(row)
    reference.ReferencedSeriesSequence = Sequence(rows)
    return reference

# ruff: noqa: E501 - tables of attributes
"""Generated instances that hold no image: reports, key objects, presentation states, radiotherapy, segmentations, PDF, CDA, waveforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence

from bench.deid_score.study import STORAGE, Study, code, pixels, plane, set_values, uid


def text_item(concept: tuple[str, str, str], value_type: str, relationship: str = "CONTAINS", **values: Any) -> Dataset:
    """A content item (PS3.3 C.17.3)."""
    item = Dataset()
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = relationship, value_type, Sequence([code(*concept)])
    set_values(item, **values)
    return item


def content_of(study: Study) -> Sequence:
    """A content tree with a person, dates, a reference and a finding."""
    person = study.person
    reference = Dataset()
    reference.RelationshipType, reference.ValueType = "CONTAINS", "IMAGE"
    reference.ReferencedSOPSequence = Sequence([study.source_reference()])
    finding = text_item(("121071", "DCM", "Finding"), "TEXT", TextValue=f"left knee, Parkinson disease; {person.given} {person.family}")
    size = text_item(("410668003", "SCT", "Length"), "NUM")
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "32.5", Sequence([code("mm", "UCUM", "mm")])
    size.MeasuredValueSequence = Sequence([measured])
    finding.ContentSequence = Sequence([size])
    return Sequence([
        text_item(("121008", "DCM", "Person Observer Name"), "PNAME", "HAS OBS CONTEXT", PersonName=person.staff[4]),
        text_item(("121029", "DCM", "Subject Name"), "PNAME", "HAS OBS CONTEXT", PersonName=person.name),
        text_item(("121018", "DCM", "Procedure Study Instance UID"), "UIDREF", "HAS OBS CONTEXT", UID=study.study_uid),
        text_item(("111060", "DCM", "Study Date"), "DATE", "HAS ACQ CONTEXT", Date=f"{study.on:%Y%m%d}"),
        finding, reference,
    ])  # fmt: skip


def document(kind: str, sop_class: str, modality: str) -> Callable[[Study, int], Dataset]:
    def make(study: Study, size: int) -> Dataset:
        dataset = study.instance(kind, STORAGE + sop_class, modality)
        set_values(dataset, ValueType="CONTAINER", ContinuityOfContent="SEPARATE", ConceptNameCodeSequence=Sequence([code("113000" if kind == "KO" else "126000", "DCM", "Of Interest" if kind == "KO" else "Imaging Measurement Report")]),
             ReferencedPerformedProcedureStepSequence=Sequence([]), CurrentRequestedProcedureEvidenceSequence=study.evidence())  # fmt: skip
        dataset.ContentSequence = content_of(study)
        if kind == "KO":
            dataset.ContentSequence = Sequence(
                [
                    text_item(("113012", "DCM", "Key Object Description"), "TEXT", TextValue=f"Baker cyst of {study.person.family}"),
                    dataset.ContentSequence[-1],
                ]
            )
        else:
            verifier = Dataset()
            set_values(
                verifier,
                VerifyingObserverName=study.person.staff[5],
                VerifyingOrganization=study.person.hospital,
                VerificationDateTime=f"{study.on:%Y%m%d}120000",
                VerifyingObserverIdentificationCodeSequence=Sequence([]),
            )
            set_values(
                dataset,
                CompletionFlag="COMPLETE",
                VerificationFlag="VERIFIED",
                VerifyingObserverSequence=Sequence([verifier]),
                PerformedProcedureCodeSequence=Sequence([]),
            )
        return dataset

    return make


def pr(study: Study, size: int) -> Dataset:
    dataset = study.instance("PR", STORAGE + "11.1", "PR")
    series, layer, note, text, shown = (Dataset() for _ in range(5))
    series.SeriesInstanceUID, series.ReferencedImageSequence = uid(study.study_uid, "CT"), Sequence([study.source_reference()])
    set_values(layer, GraphicLayer="LAYER1", GraphicLayerOrder=1, GraphicLayerDescription=f"marks of {study.person.staff[0].split('^')[0]}")
    set_values(text, BoundingBoxAnnotationUnits="PIXEL", UnformattedTextValue=f"{study.person.family} 3.2 cm nodule", BoundingBoxTopLeftHandCorner=[1.0, 1.0],
         BoundingBoxBottomRightHandCorner=[20.0, 20.0], BoundingBoxTextHorizontalJustification="LEFT")  # fmt: skip
    set_values(note, GraphicLayer="LAYER1", TextObjectSequence=Sequence([text]))
    set_values(
        shown,
        DisplayedAreaTopLeftHandCorner=[1, 1],
        DisplayedAreaBottomRightHandCorner=[size, size],
        PresentationSizeMode="SCALE TO FIT",
        PresentationPixelAspectRatio=["1", "1"],
    )
    set_values(dataset, ContentLabel="MARKS", ContentDescription=f"for {study.person.family}", PresentationCreationDate=f"{study.on:%Y%m%d}", PresentationCreationTime="101530", ContentCreatorName=study.person.staff[0],
         ReferencedSeriesSequence=Sequence([series]), GraphicLayerSequence=Sequence([layer]), GraphicAnnotationSequence=Sequence([note]), DisplayedAreaSelectionSequence=Sequence([shown]), PresentationLUTShape="IDENTITY")  # fmt: skip
    return dataset


def rtstruct(study: Study, size: int) -> Dataset:
    dataset = study.instance("RTSTRUCT", STORAGE + "481.3", "RTSTRUCT")
    person = study.person
    roi, contour, drawn, observation, frame = (Dataset() for _ in range(5))
    set_values(
        roi,
        ROINumber=1,
        ReferencedFrameOfReferenceUID=study.frame_uid,
        ROIName=f"PTV {person.family}",
        ROIGenerationAlgorithm="MANUAL",
        ROIDescription=f"left knee of {person.given} {person.family}",
    )
    image = study.source_reference()
    set_values(
        drawn, ContourGeometricType="POINT", NumberOfContourPoints=1, ContourData=["1", "2", "3"], ContourImageSequence=Sequence([image])
    )
    set_values(contour, ROIDisplayColor=["255", "0", "0"], ReferencedROINumber=1, ContourSequence=Sequence([drawn]))
    set_values(observation, ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="PTV", ROIInterpreter=person.staff[0])
    frame.FrameOfReferenceUID = study.frame_uid
    set_values(dataset, StructureSetLabel=f"SS {person.family}", StructureSetName=person.given, StructureSetDate=f"{study.on:%Y%m%d}", StructureSetTime="101530", StructureSetROISequence=Sequence([roi]),
         ROIContourSequence=Sequence([contour]), RTROIObservationsSequence=Sequence([observation]), ReferencedFrameOfReferenceSequence=Sequence([frame]), ApprovalStatus="APPROVED", ReviewDate=f"{study.on:%Y%m%d}", ReviewTime="11", ReviewerName=person.staff[1])  # fmt: skip
    return dataset


def rtplan(study: Study, size: int) -> Dataset:
    dataset = study.instance("RTPLAN", STORAGE + "481.5", "RTPLAN")
    set_values(dataset, RTPlanLabel=f"P {study.person.family}", RTPlanName=study.person.given, RTPlanDescription=f"Hodgkin lymphoma, {study.person.family}", RTPlanDate=f"{study.on:%Y%m%d}", RTPlanTime="101530",
         RTPlanGeometry="TREATMENT_DEVICE", FrameOfReferenceUID=study.frame_uid, PositionReferenceIndicator="", ApprovalStatus="UNAPPROVED")  # fmt: skip
    return dataset


def rtdose(study: Study, size: int) -> Dataset:
    dataset = study.instance("RTDOSE", STORAGE + "481.2", "RTDOSE")
    plane(dataset, study)
    set_values(
        dataset,
        DoseUnits="GY",
        DoseType="PHYSICAL",
        DoseSummationType="PLAN",
        DoseGridScaling="0.0001",
        DoseComment=f"for {study.person.family}",
        GridFrameOffsetVector=["0"],
        FrameIncrementPointer=0x3004000C,
    )
    plan = Dataset()
    plan.ReferencedSOPClassUID, plan.ReferencedSOPInstanceUID = STORAGE + "481.5", uid(study.study_uid, "plan elsewhere")
    dataset.ReferencedRTPlanSequence = Sequence([plan])
    pixels(dataset, size, size, stored=16, frames=1)
    return dataset


def seg(study: Study, size: int) -> Dataset:
    dataset = study.instance("SEG", STORAGE + "66.4", "SEG")
    segment, frame, content, identification, plane, shared, series = (Dataset() for _ in range(7))
    set_values(
        segment,
        SegmentNumber=1,
        SegmentLabel=f"knee {study.person.family}",
        SegmentAlgorithmType="MANUAL",
        SegmentedPropertyCategoryCodeSequence=Sequence([code("T-D0050", "SRT", "Tissue")]),
        SegmentedPropertyTypeCodeSequence=Sequence([code("T-D0050", "SRT", "Tissue")]),
    )
    content.DimensionIndexValues = [1]
    identification.ReferencedSegmentNumber, plane.ImagePositionPatient = 1, ["0", "0", "0"]
    frame.FrameContentSequence, frame.SegmentIdentificationSequence, frame.PlanePositionSequence = (
        Sequence([content]),
        Sequence([identification]),
        Sequence([plane]),
    )
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = uid(study.study_uid, "CT"), Sequence([study.source_reference()])
    set_values(dataset, ImageType=["DERIVED", "PRIMARY"], ContentLabel="SEG", ContentDescription=f"knee of {study.person.family}", ContentCreatorName=study.person.staff[2], SegmentationType="BINARY", SegmentSequence=Sequence([segment]),
         FrameOfReferenceUID=study.frame_uid, ReferencedSeriesSequence=Sequence([series]), SharedFunctionalGroupsSequence=Sequence([shared]), PerFrameFunctionalGroupsSequence=Sequence([frame]), LossyImageCompression="00")  # fmt: skip
    set_values(
        dataset,
        Rows=size,
        Columns=size,
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        PixelRepresentation=0,
        NumberOfFrames=1,
    )
    dataset.PixelData = bytes(size * size // 8 + size * size // 8 % 2)
    dataset["PixelData"].VR = "OB"
    return dataset


def pdf(study: Study, size: int) -> Dataset:
    dataset = study.instance("PDF", STORAGE + "104.1", "DOC")
    text = f"BT /F1 12 Tf 50 700 Td (Patient {study.person.mrn} {study.person.mail}) Tj ET".encode("ascii", "replace")
    body = (
        b"%%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj 3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 800]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>endobj 4 0 obj<</Length %d>>stream\n%s\nendstream endobj 5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj trailer<</Root 1 0 R>>\n%%%%EOF\n"
        % (len(text), text)
    )
    set_values(
        dataset,
        BurnedInAnnotation="YES",
        DocumentTitle=f"Letter on {study.person.family}",
        ConceptNameCodeSequence=Sequence([]),
        MIMETypeOfEncapsulatedDocument="application/pdf",
        EncapsulatedDocument=body + b"\0" * (len(body) % 2),
    )
    return dataset


def cda(study: Study, size: int) -> Dataset:
    dataset = study.instance("CDA", STORAGE + "104.2", "DOC")
    body = f'<?xml version="1.0"?><ClinicalDocument xmlns="urn:hl7-org:v3"><recordTarget><patientRole><id extension="{study.person.mrn}"/><patient><name>{study.person.middle}</name></patient></patientRole></recordTarget></ClinicalDocument>'.encode()
    set_values(
        dataset,
        BurnedInAnnotation="YES",
        DocumentTitle=f"Letter on {study.person.family}",
        ConceptNameCodeSequence=Sequence([]),
        MIMETypeOfEncapsulatedDocument="text/XML",
        EncapsulatedDocument=body + b" " * (len(body) % 2),
    )
    return dataset


def ecg(study: Study, size: int) -> Dataset:
    dataset = study.instance("ECG", STORAGE + "9.1.1", "ECG")
    group, channel = Dataset(), Dataset()
    set_values(
        channel,
        ChannelSensitivity="1",
        ChannelSensitivityUnitsSequence=Sequence([code("uV", "UCUM", "microvolt")]),
        ChannelSensitivityCorrectionFactor="1",
        ChannelBaseline="0",
        ChannelSampleSkew="0",
        WaveformBitsStored=16,
        ChannelSourceSequence=Sequence([code("2:1", "MDC", "Lead I")]),
    )
    set_values(
        group,
        WaveformOriginality="ORIGINAL",
        NumberOfWaveformChannels=1,
        NumberOfWaveformSamples=8,
        SamplingFrequency="500",
        ChannelDefinitionSequence=Sequence([channel]),
        WaveformBitsAllocated=16,
        WaveformSampleInterpretation="SS",
        WaveformData=bytes(range(16)),
    )
    note = Dataset()
    set_values(note, UnformattedTextValue=f"EF 55 %, {study.person.family}", AnnotationGroupNumber=0)
    set_values(
        dataset,
        AcquisitionDateTime=f"{study.on:%Y%m%d}101530",
        WaveformSequence=Sequence([group]),
        WaveformAnnotationSequence=Sequence([note]),
        AcquisitionContextSequence=Sequence([]),
    )
    group["WaveformData"].VR = "OW"
    return dataset

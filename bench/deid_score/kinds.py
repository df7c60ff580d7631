# ruff: noqa: E501 - tables of attributes
"""Generated instances of every kind a hospital sends, with the modules their class asks for.

Modules are filled as far as dciodvfy wants them; only errors that de-identification adds count.
"""

from __future__ import annotations

from collections.abc import Callable

from pydicom import Dataset
from pydicom.sequence import Sequence

from bench.deid_score import documents
from bench.deid_score.study import STORAGE, Study, code, pixels, plane, set_values


def _ct(study: Study, size: int) -> Dataset:
    dataset = study.instance("CT", STORAGE + "2", "CT")
    plane(dataset, study)
    set_values(dataset, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"], AcquisitionNumber=1, KVP="120", RescaleIntercept="-1024", RescaleSlope="1", RescaleType="HU",
         WindowCenter="40", WindowWidth="80", BodyPartExamined="ABDOMEN", ConvolutionKernel="B30f", ExposureTime="500", XRayTubeCurrent="250")  # fmt: skip
    pixels(dataset, size, size)
    return dataset


def _mr(study: Study, size: int) -> Dataset:
    dataset = study.instance("MR", STORAGE + "4", "MR")
    plane(dataset, study)
    set_values(dataset, ImageType=["ORIGINAL", "PRIMARY", "M", "ND"], ScanningSequence="SE", SequenceVariant="NONE", ScanOptions="", MRAcquisitionType="2D", RepetitionTime="500",
         EchoTime="14", EchoTrainLength="1", MagneticFieldStrength="1.5", SequenceName="*tse2d1_9", FlipAngle="90", BodyPartExamined="KNEE")  # fmt: skip
    pixels(dataset, size, size)
    return dataset


def _us(study: Study, size: int) -> Dataset:
    dataset = study.instance("US", STORAGE + "6.1", "US")
    set_values(dataset, ImageType=["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"], PatientOrientation="", LossyImageCompression="00")
    region = Dataset()
    set_values(region, RegionSpatialFormat=1, RegionDataType=1, RegionFlags=0, RegionLocationMinX0=0, RegionLocationMinY0=0, RegionLocationMaxX1=size - 1,
         RegionLocationMaxY1=size - 1, PhysicalUnitsXDirection=3, PhysicalUnitsYDirection=3, PhysicalDeltaX=0.05, PhysicalDeltaY=0.05)  # fmt: skip
    dataset.SequenceOfUltrasoundRegions = Sequence([region])
    pixels(dataset, size, size, colour=True, bits=8, stored=8)
    return dataset


def _projection(modality: str, sop_class: str) -> Callable[[Study, int], Dataset]:
    def make(study: Study, size: int) -> Dataset:
        dataset = study.instance(modality, STORAGE + sop_class, modality)
        set_values(
            dataset,
            ImageType=["ORIGINAL", "PRIMARY", ""],
            PatientOrientation=["L", "F"],
            BodyPartExamined="CHEST",
            ViewPosition="AP",
            KVP="80",
        )
        if modality == "MG":
            set_values(
                dataset,
                BodyPartExamined="BREAST",
                ImageLaterality="L",
                PatientOrientation=["A", "F"],
                OrganExposed="BREAST",
                PresentationIntentType="FOR PRESENTATION",
            )
            dataset.ViewCodeSequence = Sequence([code("R-10242", "SRT", "cranio-caudal")])
        if modality == "DX":
            set_values(
                dataset,
                PresentationIntentType="FOR PRESENTATION",
                ImageLaterality="U",
                PresentationLUTShape="IDENTITY",
                LossyImageCompression="00",
                BurnedInAnnotation="NO",
            )
            dataset.ViewCodeSequence = Sequence([code("R-10206", "SRT", "antero-posterior")])
        if modality == "XA":
            set_values(
                dataset,
                ImageType=["ORIGINAL", "PRIMARY", "SINGLE PLANE"],
                PixelIntensityRelationship="LIN",
                RadiationSetting="GR",
                PositionerPrimaryAngle="30",
                PositionerSecondaryAngle="20",
            )
        pixels(dataset, size, size)
        return dataset

    return make


def _pt(study: Study, size: int) -> Dataset:
    dataset = study.instance("PT", STORAGE + "128", "PT")
    plane(dataset, study)
    isotope = Dataset()
    set_values(
        isotope,
        RadiopharmaceuticalStartTime="090000",
        RadionuclideTotalDose="350000000",
        RadionuclideHalfLife="6586.2",
        RadionuclidePositronFraction="0.97",
    )
    isotope.RadionuclideCodeSequence = Sequence([code("C-111A1", "SRT", "^18^Fluorine")])
    set_values(dataset, ImageType=["ORIGINAL", "PRIMARY"], Units="BQML", CountsSource="EMISSION", SeriesType=["STATIC", "IMAGE"], NumberOfSlices=1, CorrectedImage=["DECY", "ATTN"],
         DecayCorrection="START", FrameReferenceTime="1000", ImageIndex=1, RescaleIntercept="0", RescaleSlope="1.5", RadiopharmaceuticalInformationSequence=Sequence([isotope]))  # fmt: skip
    pixels(dataset, size, size)
    return dataset


def _nm(study: Study, size: int) -> Dataset:
    dataset = study.instance("NM", STORAGE + "20", "NM")
    set_values(
        dataset,
        ImageType=["ORIGINAL", "PRIMARY", "STATIC", "EMISSION"],
        FrameIncrementPointer=[0x00540010, 0x00540020],
        EnergyWindowVector=1,
        NumberOfEnergyWindows=1,
        DetectorVector=1,
        NumberOfDetectors=1,
    )
    pixels(dataset, size, size, frames=1)
    return dataset


def _sc(study: Study, size: int) -> Dataset:
    dataset = study.instance("SC", STORAGE + "7", "OT")
    set_values(dataset, ConversionType="WSD", PatientOrientation="", ImageType=["DERIVED", "SECONDARY"])
    pixels(dataset, size, size, colour=True, bits=8, stored=8)
    return dataset


def _enhanced(modality: str, sop_class: str) -> Callable[[Study, int], Dataset]:
    def make(study: Study, size: int) -> Dataset:
        dataset = study.instance("enhanced " + modality, STORAGE + sop_class, modality)
        set_values(
            dataset,
            ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            FrameOfReferenceUID=study.frame_uid,
            AcquisitionDateTime=f"{study.on:%Y%m%d}101530",
            InstanceNumber=1,
            ContentQualification="RESEARCH",
        )
        frames = []
        for number in range(2):
            frame, content, position = Dataset(), Dataset(), Dataset()
            set_values(
                content,
                FrameAcquisitionDateTime=f"{study.on:%Y%m%d}10153{number}",
                FrameReferenceDateTime=f"{study.on:%Y%m%d}10153{number}",
                FrameComments=f"frame {number + 1} of {study.person.family}",
            )
            position.ImagePositionPatient = ["0", "0", str(number * 5)]
            frame.FrameContentSequence, frame.PlanePositionSequence = Sequence([content]), Sequence([position])
            frame.DerivationImageSequence = Sequence([])
            frames.append(frame)
        shared, orientation, measures = Dataset(), Dataset(), Dataset()
        orientation.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        set_values(measures, PixelSpacing=["0.5", "0.5"], SliceThickness="5")
        shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
        set_values(dataset, SharedFunctionalGroupsSequence=Sequence([shared]), PerFrameFunctionalGroupsSequence=Sequence(frames))
        pixels(dataset, size, size, frames=2)
        return dataset

    return make


#: Short name -> maker. The first must be CT: the others refer to it.
KINDS: dict[str, Callable[[Study, int], Dataset]] = {
    "CT": _ct, "MR": _mr, "US": _us, "CR": _projection("CR", "1"), "DX": _projection("DX", "1.1"), "MG": _projection("MG", "1.2"), "XA": _projection("XA", "12.1"),
    "PT": _pt, "NM": _nm, "SC": _sc, "enhanced CT": _enhanced("CT", "2.1"), "enhanced MR": _enhanced("MR", "4.1"), "SR basic": documents.document("SR basic", "88.11", "SR"),
    "SR comprehensive": documents.document("SR comprehensive", "88.33", "SR"), "KO": documents.document("KO", "88.59", "KO"), "PR": documents.pr, "RTSTRUCT": documents.rtstruct, "RTPLAN": documents.rtplan, "RTDOSE": documents.rtdose,
    "SEG": documents.seg, "PDF": documents.pdf, "CDA": documents.cda, "ECG": documents.ecg,
}  # fmt: skip
#: Kinds whose content the product refuses unless it can prove it clean.
DOCUMENTS = frozenset({"PDF", "CDA"})

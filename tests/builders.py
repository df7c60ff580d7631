"""Builders of DICOM data for tests: they return data, own nothing, and give the same bytes for the same arguments."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from copy import deepcopy
from datetime import date, datetime, time, timedelta
from io import BytesIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from gateway.samples.headers import StudyFacts, as_instance, derived_uid, identified_header
from gateway.samples.people import KAETHE_GRUENWALD, Person

#: The person of every builder that is not told otherwise.
PERSON = KAETHE_GRUENWALD
STUDY_ON = date(2026, 3, 14)


def make_ct_study(
    instances: int = 3,
    rows: int = 64,
    columns: int = 64,
    *,
    person: Person = PERSON,
    hospital_id: str = "h1",
    number: int = 1,
    study_on: date = STUDY_ON,
    series: int = 1,
    seed: int = 1,
) -> list[Dataset]:
    """`series` series of `instances` CT instances each, full identity in the headers, int16 with HU = stored - 1024."""
    facts = _facts(hospital_id, "CT", "CT Schädel nativ", "HEAD", number, study_on)
    rng = np.random.default_rng(seed)
    made = []
    for series_number in range(1, series + 1):
        frame_of_reference = derived_uid("frame of reference", facts.study_instance_uid, series_number)
        for index in range(instances):
            dataset = identified_header(
                person, facts, sop_class_uid=CTImageStorage, series_number=series_number, series_description="nativ 2.5"
            )
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            dataset.AcquisitionNumber = 1
            dataset.KVP = "120"
            dataset.SliceThickness = "2.5"
            dataset.RescaleIntercept = "-1024"
            dataset.RescaleSlope = "1"
            dataset.RescaleType = "HU"
            dataset.WindowCenter = "40"
            dataset.WindowWidth = "80"
            _plane(dataset, frame_of_reference, index, 0.45, 2.5)
            _pixels(dataset, _disc(rows, columns, 1064, rng.normal(0, 8, (rows, columns))).astype(np.int16), signed=True)
            _complete(dataset, facts, series_number, index)
            made.append(dataset)
    return made


def make_mr_study(
    instances: int = 3,
    rows: int = 64,
    columns: int = 64,
    *,
    person: Person = PERSON,
    hospital_id: str = "h1",
    number: int = 2,
    study_on: date = STUDY_ON,
    seed: int = 2,
) -> list[Dataset]:
    """One series of `instances` MR instances, uint16 in 12 bits."""
    facts = _facts(hospital_id, "MR", "MRT Schädel", "HEAD", number, study_on)
    rng = np.random.default_rng(seed)
    made = []
    for index in range(instances):
        dataset = identified_header(person, facts, sop_class_uid=MRImageStorage, series_number=1, series_description="t1 tra")
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        dataset.ScanningSequence = "SE"
        dataset.SequenceVariant = "NONE"
        dataset.ScanOptions = ""
        dataset.MRAcquisitionType = "2D"
        dataset.RepetitionTime = "500"
        dataset.EchoTime = "14"
        dataset.EchoTrainLength = "1"
        dataset.MagneticFieldStrength = "1.5"
        dataset.SliceThickness = "4"
        _plane(dataset, derived_uid("frame of reference", facts.study_instance_uid), index, 0.9, 4.0)
        _pixels(dataset, _disc(rows, columns, 900, rng.normal(0, 20, (rows, columns))).clip(0, 4095).astype(np.uint16), bits_stored=12)
        _complete(dataset, facts, 1, index)
        made.append(dataset)
    return made


def make_ultrasound(frames: int = 2, rows: int = 48, columns: int = 64, *, person: Person = PERSON, hospital_id: str = "h1") -> Dataset:
    """A small RGB multi-frame ultrasound instance without any text in its pixels."""
    facts = _facts(hospital_id, "US", "Sono Abdomen", "ABDOMEN", 3, STUDY_ON)
    dataset = identified_header(person, facts, sop_class_uid=UltrasoundMultiFrameImageStorage, series_number=1, series_description="Clip")
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]
    dataset.PatientOrientation = ""
    dataset.NumberOfFrames = frames
    dataset.FrameTime = "40"
    dataset.FrameIncrementPointer = 0x00181063
    dataset.LossyImageCompression = "00"
    speckle = np.random.default_rng(3).rayleigh(30, (frames, rows, columns)).clip(0, 255).astype(np.uint8)
    _pixels(dataset, np.repeat(speckle[..., None], 3, axis=-1), bits_stored=8)
    _complete(dataset, facts, 1, 0)
    return dataset


def make_secondary_capture(pixels: NDArray[np.uint8], *, person: Person = PERSON, hospital_id: str = "h1") -> Dataset:
    """A secondary capture of `pixels`, (rows, columns) or (rows, columns, 3) of uint8: the place for burned-in text of a test's own."""
    facts = _facts(hospital_id, "OT", "Screenshot", "HEAD", 4, STUDY_ON)
    dataset = identified_header(person, facts, sop_class_uid=SecondaryCaptureImageStorage, series_number=1, series_description="Screen")
    dataset.ConversionType = "WSD"
    dataset.PatientOrientation = ""
    _pixels(dataset, pixels, bits_stored=8)
    _complete(dataset, facts, 1, 0)
    return dataset


def payload_of(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """The dataset as it travels in a C-STORE: no preamble, no group 0002, pixels in `transfer_syntax_uid`.

    Any of `TRANSFER_SYNTAXES`, all lossless; JPEG lossless SV1 for one sample per pixel only. `dataset` is not changed.
    """
    syntax = UID(transfer_syntax_uid)
    copy = deepcopy(dataset)
    for element in [element for element in copy if element.tag.group in (0x0000, 0x0002)]:
        del copy[element.tag]
    if syntax.is_encapsulated:
        _compress(copy, syntax)
    if syntax == ExplicitVRBigEndian and copy.get("BitsAllocated", 8) == 16:
        copy.PixelData = np.frombuffer(copy.PixelData, "<u2").astype(">u2").tobytes()
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax.is_implicit_VR
    buffer.is_little_endian = syntax.is_little_endian
    write_dataset(buffer, copy)
    if syntax == DeflatedExplicitVRLittleEndian:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        packed = deflate.compress(buffer.getvalue()) + deflate.flush()
        return packed + b"\0" * (len(packed) % 2)
    return buffer.getvalue()


def part10_of(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> bytes:
    """The same as a DICOM file (PS3.10): preamble, file meta information, dataset."""
    meta = deepcopy(dataset.file_meta)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    buffer = BytesIO()
    write_file_meta_info(buffer, meta)
    return b"\0" * 128 + b"DICM" + buffer.getvalue() + payload_of(dataset, transfer_syntax_uid)


#: What `payload_of` can write.
TRANSFER_SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEG2000Lossless,
    HTJ2KLossless,
)


def _facts(hospital_id: str, modality: str, description: str, body_part: str, number: int, study_on: date) -> StudyFacts:
    started_at = datetime.combine(study_on, time(9, 30)) + timedelta(minutes=7 * number)
    return StudyFacts(hospital_id, modality, description, f"{modality}01", body_part, "Kopfschmerz seit drei Tagen", started_at, number)


def _complete(dataset: Dataset, facts: StudyFacts, series_number: int, index: int) -> None:
    acquired_at = facts.started_at + timedelta(minutes=3, milliseconds=700 * index)
    as_instance(dataset, facts, series_number=series_number, instance_number=index + 1, acquired_at=acquired_at)


def _plane(dataset: Dataset, frame_of_reference: str, index: int, pixel_millimetres: float, slice_millimetres: float) -> None:
    dataset.FrameOfReferenceUID = frame_of_reference
    dataset.PositionReferenceIndicator = ""
    dataset.PatientPosition = "HFS"
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.ImagePositionPatient = ["-14", "-14", f"{index * slice_millimetres:.1f}"]
    dataset.SliceLocation = f"{index * slice_millimetres:.1f}"
    dataset.PixelSpacing = [f"{pixel_millimetres:.2f}"] * 2


def _disc(rows: int, columns: int, level: float, noise: NDArray[np.float64]) -> NDArray[np.float64]:
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return np.where(x * x + y * y < 0.7, level + noise, 24.0)


def _pixels(dataset: Dataset, array: NDArray[np.generic], *, signed: bool = False, bits_stored: int | None = None) -> None:
    colour = array.shape[-1] == 3 and array.ndim > 2
    rows, columns = (array.shape[-3:-1]) if colour else array.shape[-2:]
    bits = array.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = rows, columns
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = bits
    dataset.BitsStored = bits_stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(signed)
    data = array.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"


def _frames(dataset: Dataset) -> Iterator[NDArray[np.generic]]:
    dtype = np.dtype(f"<{'i' if dataset.PixelRepresentation else 'u'}{dataset.BitsAllocated // 8}")
    count = int(dataset.get("NumberOfFrames", 1))
    shape = (count, dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)
    yield from np.frombuffer(dataset.PixelData, dtype, int(np.prod(shape))).reshape(shape).squeeze(-1 if shape[-1] == 1 else ())


def _compress(dataset: Dataset, syntax: UID) -> None:
    """Replace the pixels by their encapsulated form. JPEG knows no sign: the decoder applies Pixel Representation to the same bits."""
    encode = {
        JPEGLSLossless: imagecodecs.jpegls_encode,
        JPEGLosslessSV1: imagecodecs.ljpeg_encode,
        JPEG2000Lossless: lambda frame: imagecodecs.jpeg2k_encode(frame, codecformat="j2k", reversible=True, mct=False),
        HTJ2KLossless: lambda frame: imagecodecs.htj2k_encode(frame, reversible=True),
    }.get(syntax)
    if encode is None:
        dataset.file_meta = deepcopy(dataset.file_meta)
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        encoded = [bytes(encode(np.ascontiguousarray(frame.view(f"u{frame.dtype.itemsize}")))) for frame in _frames(dataset)]
        dataset.PixelData = encapsulate(encoded)
        if syntax == HTJ2KLossless and dataset.SamplesPerPixel == 3:
            dataset.PhotometricInterpretation = "YBR_RCT"
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True

"""A head CT of an invented patient: the phantom with the blur and grain of a reconstruction, as CT Image instances (PS3.3 A.3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from gateway.samples.head_phantom import FRESH_BLEED, PIXEL_MILLIMETRES, SIZE, HeadPhantom, Lesion
from gateway.samples.headers import StudyFacts, as_instance, coded, derived_uid, identified_header
from gateway.samples.noise import Array
from gateway.samples.people import Person

_Z_FIRST, _COVERAGE_MILLIMETRES = -62.0, 160.0
_NOISE_HU, _BLUR_MILLIMETRES = 4.3, 0.55
_RESCALE_INTERCEPT = -1024
_SERIES_NUMBER = 2


def make_head_ct(
    person: Person,
    *,
    slices: int = 64,
    seed: int = 1,
    study_on: date = date(2026, 11, 18),
    hospital_id: str = "h1",
    indication: str | None = None,
    lesions: Sequence[Lesion] = (FRESH_BLEED,),
    number: int = 101,
) -> list[Dataset]:
    """One axial series over the whole head, 512 x 512, int16, `slices` instances from the skull base upwards.

    `seed` moves the head and seeds the noise; the anatomy belongs to the person, so that every study of the person shows the same head.
    """
    facts = StudyFacts(
        hospital_id=hospital_id,
        modality="CT",
        description="CT head without contrast",
        procedure_code="CTHEAD",
        body_part="HEAD",
        indication=indication or f"{person.given_name} {person.family_name}: sudden headache since this morning, vomited twice. Bleed?",
        started_at=datetime.combine(study_on, time(8, 12)) + timedelta(minutes=number % 240),
        number=number,
    )
    thickness = _COVERAGE_MILLIMETRES / slices
    made = []
    for index, hu in enumerate(scan(person, slices, seed, lesions)):
        dataset = identified_header(
            person, facts, sop_class_uid=CTImageStorage, series_number=_SERIES_NUMBER, series_description=f"Head {thickness:.1f} mm"
        )
        acquired_at = facts.started_at + timedelta(minutes=3, seconds=0.35 * index)
        as_instance(dataset, facts, series_number=_SERIES_NUMBER, instance_number=index + 1, acquired_at=acquired_at)
        _ct_image(dataset, index, thickness)
        _image_plane(dataset, facts, _Z_FIRST + index * thickness, thickness)
        _pixels(dataset, hu)
        made.append(dataset)
    return made


def scan(person: Person, slices: int, seed: int, lesions: Sequence[Lesion]) -> Iterator[Array]:
    """The slices in Hounsfield units, (512, 512) float32, blurred by the point spread and with the noise of a soft kernel."""
    rng = np.random.default_rng(seed)
    anatomy_seed = int(derived_uid("anatomy", person.patient_id).removeprefix("2.25.")) % 2**32
    phantom = HeadPhantom(anatomy_seed, lesions, offset=(float(rng.uniform(-5, 5)), float(rng.uniform(-4, 2))))
    frequency = np.hypot(np.fft.fftfreq(SIZE, PIXEL_MILLIMETRES)[:, None], np.fft.rfftfreq(SIZE, PIXEL_MILLIMETRES)[None, :])
    transfer = np.exp(-2 * (np.pi * _BLUR_MILLIMETRES * frequency) ** 2).astype(np.float32)
    noise_power = np.exp(-0.5 * ((frequency * 2.6 - 1) / 0.55) ** 2)
    noise_power *= SIZE / np.sqrt(2 * np.mean(noise_power**2))
    thickness = _COVERAGE_MILLIMETRES / slices
    column, row = np.meshgrid(np.linspace(-1, 1, SIZE, dtype=np.float32), np.linspace(-1, 1, SIZE, dtype=np.float32))
    field_of_view = column**2 + row**2 <= 1
    for index in range(slices):
        hu = phantom.slice_hu(_Z_FIRST + index * thickness)
        noise_hu = _NOISE_HU * (0.55 + 0.9 * float(np.clip(hu.mean() / 1000 + 1, 0.1, 1.0)))
        real, imaginary = rng.standard_normal((2, *frequency.shape), np.float32)
        spectrum = np.fft.rfft2(hu) * transfer + (noise_hu * noise_power).astype(np.float32) * (real + 1j * imaginary)
        hu = np.fft.irfft2(spectrum, hu.shape).astype(np.float32)
        yield np.where(field_of_view, hu, _RESCALE_INTERCEPT)


def _ct_image(dataset: Dataset, index: int, thickness: float) -> None:
    """CT Image module, PS3.3 C.8.2.1."""
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.AcquisitionNumber = 1
    dataset.KVP = "120"
    dataset.ScanOptions = "AXIAL"
    dataset.DataCollectionDiameter = "250"
    dataset.ReconstructionDiameter = "250"
    dataset.GantryDetectorTilt = "0"
    dataset.TableHeight = "152"
    dataset.RotationDirection = "CW"
    dataset.ExposureTime = "1000"
    dataset.XRayTubeCurrent = str(240 + index % 5)
    dataset.Exposure = "240"
    dataset.FilterType = "BODY FILTER"
    dataset.ConvolutionKernel = "SOFT"
    dataset.SliceThickness = f"{thickness:.3f}"
    dataset.AnatomicRegionSequence = [coded("69536005", "SCT", "Head")]


def _image_plane(dataset: Dataset, facts: StudyFacts, z: float, thickness: float) -> None:
    """Frame of Reference and Image Plane modules, PS3.3 C.7.4.1 and C.7.6.2."""
    corner = -(SIZE - 1) / 2 * PIXEL_MILLIMETRES
    dataset.FrameOfReferenceUID = derived_uid("frame of reference", facts.study_instance_uid)
    dataset.PositionReferenceIndicator = "OM"
    dataset.PatientPosition = "HFS"
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.ImagePositionPatient = [f"{corner:.5f}", f"{corner:.5f}", f"{z:.3f}"]
    dataset.SliceLocation = f"{z:.3f}"
    dataset.SpacingBetweenSlices = f"{thickness:.3f}"
    dataset.PixelSpacing = [f"{PIXEL_MILLIMETRES:.8f}"] * 2


def _pixels(dataset: Dataset, hu: Array) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = hu.shape
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept = str(_RESCALE_INTERCEPT)
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "HU"
    dataset.WindowCenter = ["40", "600"]
    dataset.WindowWidth = ["80", "2800"]
    dataset.WindowCenterWidthExplanation = ["BRAIN", "BONE"]
    dataset.PixelData = np.clip(np.rint(hu) - _RESCALE_INTERCEPT, 0, 4095).astype("<i2").tobytes()
    dataset["PixelData"].VR = "OW"

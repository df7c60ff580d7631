"""An ultrasound clip of a liver and a gallbladder in a sector, with what consoles burn into the pixels: the patient's name and number.

Echoes are a field of random scatterers convolved with the pulse in beam coordinates (Rayleigh speckle), log-compressed and scan-converted.
Text is drawn over it as a console would, so that de-identification of the header alone leaks.
"""

from __future__ import annotations

import unicodedata
from datetime import date, datetime, time, timedelta

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UltrasoundMultiFrameImageStorage

from gateway.samples.headers import StudyFacts, as_instance, coded, derived_uid, identified_header
from gateway.samples.noise import Array, Mask, band_noise
from gateway.samples.people import Person

Picture = NDArray[np.uint8]
Indices = NDArray[np.intp]

ROWS, COLUMNS, FRAME_MILLISECONDS = 480, 640, 50.0
_BEAMS, _SAMPLES = 192, 640
_HALF_ANGLE, _NEAR_MM, _FAR_MM = np.deg2rad(34), 42.0, 205.0
_PIXEL_MM = 0.44
_APEX_ROW, _APEX_COLUMN = -54.0, 320.0


def make_ultrasound_clip(
    person: Person,
    *,
    frames: int = 16,
    seed: int = 1,
    study_on: date = date(2026, 11, 19),
    hospital_id: str = "h1",
    indication: str | None = None,
    burned_in_annotation: str | None = "YES",
    number: int = 301,
) -> list[Dataset]:
    """One RGB multi-frame instance (PS3.3 A.7), 480 x 640, with name, number and date of birth in the pixels of every frame.

    `burned_in_annotation` is the value of (0028,0301); None leaves the element out, as many consoles do.
    """
    facts = StudyFacts(
        hospital_id=hospital_id,
        modality="US",
        description="Ultrasound abdomen",
        procedure_code="USABD",
        body_part="ABDOMEN",
        indication=indication or f"Right upper quadrant pain after meals; {person.given_name} {person.family_name} had stones in 2019.",
        started_at=datetime.combine(study_on, time(13, 20)) + timedelta(minutes=number % 180),
        number=number,
    )
    dataset = identified_header(
        person, facts, sop_class_uid=UltrasoundMultiFrameImageStorage, series_number=1, series_description="Liver and gallbladder"
    )
    as_instance(dataset, facts, series_number=1, instance_number=1, acquired_at=facts.started_at + timedelta(minutes=6))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"]
    dataset.PatientOrientation = ""
    dataset.NumberOfFrames = frames
    dataset.FrameTime = f"{FRAME_MILLISECONDS:.0f}"
    dataset.FrameIncrementPointer = 0x00181063
    dataset.CineRate = f"{1000 / FRAME_MILLISECONDS:.0f}"
    dataset.LossyImageCompression = "00"
    dataset.TransducerData = "C5-1"
    dataset.AnatomicRegionSequence = [coded("818981001", "SCT", "Abdomen")]
    if burned_in_annotation is not None:
        dataset.BurnedInAnnotation = burned_in_annotation
    dataset.SequenceOfUltrasoundRegions = Sequence([_region()])
    _pixels(dataset, clip(person, facts, frames, seed))
    return [dataset]


def clip(person: Person, facts: StudyFacts, frames: int, seed: int) -> Picture:
    """(frames, 480, 640, 3) of uint8."""
    anatomy = np.random.default_rng(int(derived_uid("abdomen", person.patient_id).removeprefix("2.25.")) % 2**32 ^ seed)
    rng = np.random.default_rng(seed)
    texture = band_noise(anatomy, (_SAMPLES, _BEAMS), (0.25, 0.5), 9.0, 0.6)
    scatterers = (anatomy.standard_normal((_SAMPLES, _BEAMS)) + 1j * anatomy.standard_normal((_SAMPLES, _BEAMS))).astype(np.complex64)
    row, column, inside = _sector()
    overlay, mask = _overlay(person, facts)
    made = np.empty((frames, ROWS, COLUMNS, 3), np.uint8)
    for index in range(frames):
        breath = 5.0 * float(np.sin(2 * np.pi * index / max(frames, 12)))
        moved = np.roll(scatterers, round(breath * _SAMPLES / (_FAR_MM - _NEAR_MM)), axis=0)
        echo = _pulse(moved * _echogenicity(texture, breath))
        decibels = 20 * np.log10(echo + np.abs(rng.standard_normal(echo.shape, np.float32)) * np.float32(0.004) + 1e-4)
        grey = np.clip((decibels + 42) / 54, 0, 1) ** 1.15
        picture = np.where(inside, grey[row, column], 0) * 235
        made[index] = np.where(mask[..., None], overlay, picture[..., None].astype(np.uint8))
    return made


def _echogenicity(texture: Array, breath: float) -> Array:
    """Strength of scattering in beam coordinates (samples, beams); x to the right of the picture, depth downwards, in millimetres."""
    angle = np.linspace(-_HALF_ANGLE, _HALF_ANGLE, _BEAMS, dtype=np.float32)[None, :]
    radius = np.linspace(_NEAR_MM, _FAR_MM, _SAMPLES, dtype=np.float32)[:, None]
    x, depth = radius * np.sin(angle), radius * np.cos(angle) - _NEAR_MM
    strength = 0.30 * (1 + 0.16 * texture)
    organ = depth - breath

    def ellipse(cx: float, cy: float, rx: float, ry: float, tilt: float = 0.0) -> Array:
        dx, dy = x - cx, organ - cy
        across, along = dx * np.cos(tilt) + dy * np.sin(tilt), -dx * np.sin(tilt) + dy * np.cos(tilt)
        return np.asarray(np.sqrt((across / rx) ** 2 + (along / ry) ** 2), np.float32)

    gallbladder = ellipse(-12, 62, 33, 14, 0.5)
    strength = np.where(np.abs(gallbladder - 1) < 0.09, 0.75, strength)
    strength = np.where(gallbladder < 0.93, 0.004, strength)
    shadowed = (gallbladder >= 0.93) & (organ > 70) & (organ < 132) & (np.abs(x + 13 - 0.5 * (organ - 70)) < 30)
    strength = np.where(shadowed, strength * 1.5, strength)
    for cx, cy, rx, ry, tilt in ((42, 48, 26, 4.5, -0.35), (38, 92, 34, 5.5, 0.15), (-62, 100, 18, 3.6, 0.7)):
        vessel = ellipse(cx, cy, rx, ry, tilt)
        strength = np.where(vessel < 1, 0.01, np.where(vessel < 1.22, 0.6, strength))
    stone = ellipse(-27, 71, 5.5, 3.8)
    strength = np.where(stone < 1, 3.2, strength)
    behind_stone = (np.abs(angle - np.arctan2(-27.0, 71.0 + _NEAR_MM)) < 0.034) & (organ > 74)
    strength = np.where(behind_stone, strength * 0.05, strength)
    diaphragm = organ - (128 - 0.0036 * (x + 10) ** 2)
    strength = np.where(np.abs(diaphragm) < 1.6, 2.6, np.where(diaphragm > 0, strength * 0.5, strength))
    wall = (0.9 + 0.5 * np.sin(depth * 1.9 + texture)) * (depth < 17)
    strength = np.where(depth < 17, wall, strength)
    return np.asarray(strength * np.exp(-depth / 105) * (0.6 + 0.4 * np.clip(depth / 35, 0, 1)), np.float32)


def _pulse(field: NDArray[np.complex64]) -> Array:
    """Envelope after the point spread: short along the beam, wider across."""
    along = np.exp(-2 * (np.pi * np.fft.fftfreq(_SAMPLES) * 1.7) ** 2)[:, None]
    across = np.exp(-2 * (np.pi * np.fft.fftfreq(_BEAMS) * 1.15) ** 2)[None, :]
    return np.asarray(np.abs(np.fft.ifft2(np.fft.fft2(field) * (along * across).astype(np.float32))) * 2.2, np.float32)


def _sector() -> tuple[Indices, Indices, Mask]:
    """For each pixel: sample index, beam index, and whether the pixel lies in the sector."""
    down = (np.arange(ROWS)[:, None] - _APEX_ROW) * _PIXEL_MM
    right = (np.arange(COLUMNS)[None, :] - _APEX_COLUMN) * _PIXEL_MM
    radius, angle = np.hypot(down, right), np.arctan2(right, down)
    inside = (radius > _NEAR_MM) & (radius < _FAR_MM) & (np.abs(angle) < _HALF_ANGLE)
    sample = np.clip((radius - _NEAR_MM) / (_FAR_MM - _NEAR_MM) * _SAMPLES, 0, _SAMPLES - 1).astype(np.intp)
    beam = np.clip((angle + _HALF_ANGLE) / (2 * _HALF_ANGLE) * _BEAMS, 0, _BEAMS - 1).astype(np.intp)
    return sample, beam, inside


def _overlay(person: Person, facts: StudyFacts) -> tuple[Picture, Mask]:
    """The console's text, colour bar and depth scale: picture (480, 640, 3) and the mask of what it covers."""
    canvas = Image.new("RGB", (COLUMNS, ROWS))
    draw = ImageDraw.Draw(canvas)
    large, small = ImageFont.load_default(15), ImageFont.load_default(12)
    name = _in_console_font(f"{person.family_name.upper()}, {person.given_name}")
    draw.text((8, 6), name, font=large, fill=(235, 235, 235))
    draw.text((8, 25), f"ID {person.patient_id}   * {person.born_on:%d.%m.%Y}", font=small, fill=(200, 200, 200))
    draw.text((632, 6), facts.institution.name, font=small, fill=(200, 200, 200), anchor="ra")
    draw.text((632, 22), f"{facts.started_at:%d.%m.%Y %H:%M}", font=small, fill=(200, 200, 200), anchor="ra")
    draw.text((632, 38), "C5-1  20 Hz  MI 1.1  TIS 0.4", font=small, fill=(120, 190, 120), anchor="ra")
    for centimetre in range(0, 17, 2):
        row = int((_NEAR_MM + 10 * centimetre) / _PIXEL_MM + _APEX_ROW)
        if row < ROWS - 8:
            draw.line((604, row, 610 if centimetre % 10 else 614, row), fill=(160, 160, 160))
    for level in range(120):
        draw.line((14, 320 - level, 24, 320 - level), fill=(2 * level, 2 * level, 2 * level))
    picture: Picture = np.asarray(canvas, np.uint8)
    covered: Mask = np.any(picture, axis=-1)
    return picture, covered


def _in_console_font(text: str) -> str:
    """Consoles often know no letter beyond ASCII and write the base letter."""
    decomposed = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("ł", "l").replace("Ł", "L"))
    return decomposed.encode("ascii", "ignore").decode("ascii")


def _region() -> Dataset:
    """US Region Calibration, PS3.3 C.8.5.5."""
    region = Dataset()
    region.RegionSpatialFormat = 1
    region.RegionDataType = 1
    region.RegionFlags = 0
    region.RegionLocationMinX0 = 60
    region.RegionLocationMinY0 = 40
    region.RegionLocationMaxX1 = 590
    region.RegionLocationMaxY1 = 475
    region.PhysicalUnitsXDirection = 3
    region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = _PIXEL_MM / 10
    region.PhysicalDeltaY = _PIXEL_MM / 10
    return region


def _pixels(dataset: Dataset, frames: Picture) -> None:
    dataset.SamplesPerPixel = 3
    dataset.PhotometricInterpretation = "RGB"
    dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = frames.tobytes()
    dataset["PixelData"].VR = "OB"

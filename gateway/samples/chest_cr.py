"""A chest radiograph: the line integral through a thorax of simple solids, then what a CR reader makes of it.

Coordinates are millimetres on the detector: x to the patient's left (image right), z downwards; y, to the back, is integrated out. Lengths
through soft tissue, air and bone are summed along parallel rays; bone is laid down as spheres along the curve of each rib and vessel.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage

from gateway.samples.headers import StudyFacts, as_instance, coded, derived_uid, identified_header
from gateway.samples.noise import Array, band_noise
from gateway.samples.people import Person

ROWS, COLUMNS, PIXEL_MILLIMETRES = 1600, 1400, 0.25
_SOFT, _BONE, _AIR = 0.019, 0.046, -0.0165  # attenuation per millimetre; air as what is missing from soft tissue


def make_chest_cr(
    person: Person,
    *,
    seed: int = 1,
    study_on: date = date(2026, 11, 19),
    hospital_id: str = "h1",
    indication: str | None = None,
    nodule: bool = True,
    number: int = 201,
) -> list[Dataset]:
    """One posterior-anterior projection, 1600 x 1400 in 12 bits, with a small nodule in the right upper field if `nodule`."""
    facts = StudyFacts(
        hospital_id=hospital_id,
        modality="CR",
        description="Chest PA",
        procedure_code="CRCHEST",
        body_part="CHEST",
        indication=indication or f"{person.given_name} {person.family_name}, cough for six weeks, smoker. Mass?",
        started_at=datetime.combine(study_on, time(10, 5)) + timedelta(minutes=number % 240),
        number=number,
    )
    dataset = identified_header(
        person, facts, sop_class_uid=ComputedRadiographyImageStorage, series_number=1, series_description="Chest PA"
    )
    as_instance(dataset, facts, series_number=1, instance_number=1, acquired_at=facts.started_at + timedelta(minutes=4))
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = ["L", "F"]
    dataset.ViewPosition = "PA"
    dataset.KVP = "125"
    dataset.ExposureTime = "8"
    dataset.XRayTubeCurrent = "320"
    dataset.DistanceSourceToDetector = "1800"
    dataset.PlateType = "needle"
    dataset.ImagerPixelSpacing = [f"{PIXEL_MILLIMETRES}"] * 2
    dataset.AnatomicRegionSequence = [coded("51185008", "SCT", "Chest")]
    _pixels(dataset, radiograph(int(derived_uid("thorax", person.patient_id).removeprefix("2.25.")) % 2**32 ^ seed, nodule))
    return [dataset]


def radiograph(seed: int, nodule: bool) -> Array:
    """The processed projection, (1600, 1400) float32 in 0..1, bone bright."""
    rng = np.random.default_rng(seed)
    x = ((np.arange(COLUMNS, dtype=np.float32) - (COLUMNS - 1) / 2) * PIXEL_MILLIMETRES)[None, :]
    z = ((np.arange(ROWS, dtype=np.float32) - ROWS * 0.5) * PIXEL_MILLIMETRES)[:, None]
    grain = band_noise(rng, (ROWS // 4, COLUMNS // 4), (1.0, 1.0), 14.0, 0.5).repeat(4, 0).repeat(4, 1)
    path = _SOFT * _soft_tissue(x, z, grain)
    lungs = np.clip(_lungs(x, z) - _mediastinum(x, z), 0, None)
    vessels = np.zeros((ROWS, COLUMNS), np.float32)
    _vessels(vessels, rng)
    solid = 5.0 * vessels + 0.7 * grain
    if nodule:
        solid += _ball(x, z, -82.0 + float(rng.uniform(-5, 5)), -82.0, 8.5, 8.0, 26.0)
    path += _AIR * _blurred(lungs - solid * np.clip(lungs / 60, 0, 1), 0.9)
    path += 0.6 * _AIR * _stomach_gas(x, z)
    bones = np.zeros((ROWS, COLUMNS), np.float32)
    _skeleton(bones)
    path += _BONE * bones
    return _processed(path, rng)


def _soft_tissue(x: Array, z: Array, grain: Array) -> Array:
    """Thickness of the body along the ray: trunk, neck, shoulders, a little fat and muscle texture."""
    half_width = 152 + 16 * np.tanh((z + 20) / 120)
    trunk = 205 * np.sqrt(np.clip(1 - (x / half_width) ** 4, 0, 1)) * (0.88 + 0.12 * np.tanh((z + 60) / 80))
    trunk = trunk / (1 + np.exp(-(z + 172 - 0.0019 * x * x) / 7))
    half_neck = 54 + 80 / (1 + np.exp(-(z + 146) / 8))
    neck = 118 * np.sqrt(np.clip(1 - (x / half_neck) ** 2, 0, 1)) / (1 + np.exp((z + 120) / 10))
    shoulders = _ball(np.abs(x), z, 152, -84, 46, 62, 125)
    breasts = 0.3 * _ball(np.abs(x), z, 74, 62, 56, 42, 62)
    body = (trunk**6 + neck**6 + shoulders**6) ** (1 / 6)
    return np.asarray(_blurred(body + breasts, 1.5) + 1.2 * grain, np.float32)


def _lungs(x: Array, z: Array) -> Array:
    """Length of air along the ray: two lungs over their diaphragms, and the trachea."""
    air = np.zeros((ROWS, COLUMNS), np.float32)
    for side, dome in ((-1.0, 78.0), (1.0, 88.0)):
        across = side * x
        apex = 26 + 60 * np.sqrt(np.clip((z + 160) / 24, 0, None))
        width = (apex**-8 + (124 + 9 * np.tanh((z + 20) / 60)) ** -8.0) ** (-1 / 8)
        inner = 7 + 4 * np.cos((z + 60) / 50)
        centre = 0.5 * (width + inner)
        lung = 162 * np.sqrt(np.clip(1 - np.abs((across - centre) / (width - centre)) ** 2.4, 0, 1))
        lung = lung * np.clip((z + 160) / 80, 0, 1) ** 0.6
        diaphragm = dome - 24 * np.cos((across - 56) / 58) + 34 * np.clip((across - 96) / 34, 0, 1) ** 2.5
        behind = 0.32 * np.clip(1 - (z - diaphragm) / 48, 0, 1) ** 1.6
        share = 1 / (1 + np.exp(np.clip((z - diaphragm) / 0.7, -40, 40)))
        air += lung * (share + (1 - share) * behind)
    trachea = (x + 1 + 3 * np.tanh((z + 80) / 25)) / 9
    return np.asarray(air + 17 * np.sqrt(np.clip(1 - trachea**2, 0, 1)) / (1 + np.exp((z + 58) / 4)), np.float32)


def _stomach_gas(x: Array, z: Array) -> Array:
    return np.asarray(_blurred(_ball(x, z, 70, 104, 32, 20, 50) / (1 + np.exp((z - 108) / 1.5)), 1.5), np.float32)


def _mediastinum(x: Array, z: Array) -> Array:
    """Depth of heart, great vessels and hila along the ray: what takes the place of air."""
    heart = _ball(x - 0.38 * (z - 46), z, 16, 46, 60, 68, 200)
    arch = _ball(x, z, 16, -66, 25, 20, 110)
    upper = 150 * np.exp(-((np.abs(x + 3) / (25 + 6 * np.tanh(-(z + 40) / 40))) ** 5)) / (1 + np.exp((z - 40) / 12))
    descending = 80 * np.sqrt(np.clip(1 - ((x - 26 + 0.05 * z) / 12) ** 2, 0, 1)) / (1 + np.exp(-(z + 64) / 6))
    spine = 115 * np.exp(-((x / 20) ** 4)) / (1 + np.exp((-130 - z) / 8))
    hila = sum(
        0.5 * depth * np.exp(-(((np.abs(x) - 36) / 13) ** 2) - ((z - cz) / 19) ** 2) * (x * side > 0)
        for side, cz, depth in ((-1, -20, 46), (1, -30, 42))
    )
    together = (heart**4 + arch**4 + upper**4 + descending**4 + spine**4) ** 0.25
    return _blurred(np.asarray(together + hila, np.float32), 1.6)


def _ball(x: Array, z: Array, cx: float, cz: float, rx: float, rz: float, depth: float) -> Array:
    """Chord length along y through an ellipsoid whose full extent along y is `depth`."""
    return np.asarray(depth * np.sqrt(np.clip(1 - ((x - cx) / rx) ** 2 - ((z - cz) / rz) ** 2, 0, None)), np.float32)


def _lay(canvas: Array, points: Sequence[tuple[float, float, float]], radii: Sequence[float], core: float) -> None:
    """Add a tube along (x, y, z) points as a row of spheres, so that foreshortened parts come out denser; `core` is how hollow it is."""
    curve = np.asarray(points, np.float64)
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    count = max(2, int(along[-1] / 1.0))
    at = np.linspace(0, along[-1], count)
    spacing = along[-1] / (count - 1)
    sampled = [np.interp(at, along, curve[:, axis]) for axis in (0, 2)]
    for px, pz, radius in zip(*sampled, np.interp(at, along, radii), strict=True):
        column, row = px / PIXEL_MILLIMETRES + COLUMNS / 2, pz / PIXEL_MILLIMETRES + ROWS / 2
        reach = int(radius / PIXEL_MILLIMETRES) + 2
        top, left = int(row) - reach, int(column) - reach
        bottom, right = top + 2 * reach + 1, left + 2 * reach + 1
        if top < 0 or left < 0 or bottom > ROWS or right > COLUMNS:
            continue
        dz = (np.arange(top, bottom, dtype=np.float32) - np.float32(row))[:, None] * PIXEL_MILLIMETRES
        dx = (np.arange(left, right, dtype=np.float32) - np.float32(column))[None, :] * PIXEL_MILLIMETRES
        away = dx * dx + dz * dz
        chord = np.sqrt(np.clip(radius**2 - away, 0, None))
        if core:
            chord = chord - core * np.sqrt(np.clip((0.72 * radius) ** 2 - away, 0, None))
        canvas[top:bottom, left:right] += chord * np.float32(spacing * 2.4 / (np.pi * radius))


def _vessels(canvas: Array, rng: np.random.Generator) -> None:
    """Pulmonary vessels branch from the hila and thin out towards the pleura."""

    def grow(x: float, y: float, z: float, direction: float, lift: float, radius: float, left: int) -> None:
        length = 13 + 9 * radius
        points, radii = [(x, y, z)], [radius]
        for _ in range(5):
            direction += float(rng.normal(0, 0.10))
            x, y, z = x + length / 5 * np.cos(direction), y + lift * length / 5, z + length / 5 * np.sin(direction)
            radius *= 0.965
            points.append((x, y, z))
            radii.append(radius)
        _lay(canvas, points, radii, 0.0)
        if left and radius > 0.45:
            for turn in (rng.uniform(0.25, 0.6), -rng.uniform(0.25, 0.6)):
                grow(x, y, z, direction + float(turn), float(rng.uniform(-0.7, 0.7)), radius * float(rng.uniform(0.68, 0.84)), left - 1)

    for side in (-1.0, 1.0):
        for angle in (-1.25, -0.75, -0.2, 0.3, 0.75, 1.15):
            start = np.arctan2(np.sin(angle), side * np.cos(angle))
            grow(side * 32, 0.0, -30 + 12 * angle, float(start), 0.0, 3.6 if abs(angle) > 0.5 else 3.0, 5)


def _skeleton(canvas: Array) -> None:
    """Twelve pairs of ribs, clavicles, shoulder blades, and the column of vertebrae."""
    turns = np.linspace(0, 1, 40)
    for rib in range(12):
        top = -152 + rib * 23.0
        reach = min(133.0, 58 + 36 * np.sqrt(rib + 0.2)) if rib < 10 else 118 - 22 * (rib - 9)
        length = 1.0 if rib < 9 else 0.62 - 0.12 * (rib - 9)
        angle = turns * np.pi * 0.93 * length + 0.12
        drop = 20 + 5.2 * rib
        for side in (-1.0, 1.0):
            across = 12 + (reach - 12) * np.sin(angle)
            points = [
                (side * float(a), float(82 * np.cos(t)), float(top + drop * (1 - np.cos(t)) * 0.75 - 7 * np.sin(t)))
                for a, t in zip(across, angle, strict=True)
            ]
            _lay(canvas, points, [4.4 + 0.5 * np.sin(3 * t) for t in turns], 0.98)
    for side in (-1.0, 1.0):
        clavicle = [(side * a, -60.0, b) for a, b in ((12, -112), (40, -118), (80, -128), (112, -131), (140, -124))]
        _lay(canvas, clavicle, [6.5, 5, 4.5, 5, 6], 0.9)
        _lay(canvas, [(side * a, 70.0, b) for a, b in ((130, -112), (136, -80), (126, -34), (112, 0))], [3.6, 3.2, 3.0, 2.4], 0.7)
        _lay(canvas, [(side * a, 70.0, b) for a, b in ((96, -104), (90, -66), (103, -16), (112, 0))], [2.6, 2.0, 2.2, 2.4], 0.7)
        _lay(canvas, [(side * a, 0.0, b) for a, b in ((148, -112), (150, -98), (158, -74), (163, -10))], [19, 16, 11, 10], 0.92)
    x = ((np.arange(COLUMNS, dtype=np.float32) - COLUMNS / 2) * PIXEL_MILLIMETRES)[None, :]
    z = ((np.arange(ROWS, dtype=np.float32) - ROWS / 2) * PIXEL_MILLIMETRES)[:, None]
    height = 21 + (z + 200) * 0.014
    phase = np.mod(z + 200, height) / height
    body = np.clip(1 - (np.abs(phase - 0.5) / 0.44) ** 10, 0, 1)
    width = 13 + (z + 200) * 0.017
    column = 10 * np.sqrt(np.clip(1 - (x / width) ** 4, 0, 1)) * (0.5 + 0.5 * body)
    pedicles = sum(_ball(x, np.asarray((phase - 0.36) * height, np.float32), side * 0.66 * 15, 0.0, 3.4, 4.6, 3.5) for side in (-1, 1))
    spinous = 4 * np.exp(-((x / 2.6) ** 2)) * np.exp(-(((phase - 0.75) / 0.2) ** 2))
    canvas += (column + pedicles + spinous).astype(np.float32)


def _blurred(image: Array, sigma: float) -> Array:
    """Gaussian blur of `sigma` millimetres; the border is continued outwards, since the transform would join opposite borders."""
    margin = 200 if sigma > 5 else 100  # 1800 x 1600 and 2000 x 1800 transform fast
    wide = np.pad(image, margin, mode="edge")
    rows, columns = wide.shape
    frequency = np.fft.fftfreq(rows, PIXEL_MILLIMETRES)[:, None] ** 2 + np.fft.rfftfreq(columns, PIXEL_MILLIMETRES)[None, :] ** 2
    spread = np.fft.irfft2(np.fft.rfft2(wide) * np.exp(-2 * (np.pi * sigma) ** 2 * frequency).astype(np.float32), wide.shape)
    return np.asarray(spread[margin:-margin, margin:-margin], np.float32)


def _processed(path: Array, rng: np.random.Generator) -> Array:
    """Scatter, quantum noise, then the reader's latitude compression and edge enhancement, and an S-curve."""
    exposure = np.exp(-path)
    exposure = 0.72 * _blurred(exposure, 0.16) + 0.28 * _blurred(exposure, 45.0)
    exposure *= 1 + rng.standard_normal(path.shape, np.float32) * 0.013 / np.sqrt(np.clip(exposure / 0.03, 0.05, None))
    density = -np.log(np.clip(exposure, 1e-4, None))
    density = density - 0.45 * _blurred(density, 28.0) + 0.9 * (density - _blurred(density, 1.6))
    low, high = np.percentile(density[::8, ::8], (2.5, 99.6))
    level = np.clip((density - low) / (high - low), 0, 1.2)
    return np.asarray(1 / (1 + np.exp(-5.2 * (level - 0.52))), np.float32)


def _pixels(dataset: Dataset, image: Array) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = image.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0
    dataset.RescaleIntercept = "0"
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "US"
    dataset.WindowCenter = "2048"
    dataset.WindowWidth = "4096"
    dataset.PixelData = np.clip(image * 4095, 0, 4095).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"

"""A head in Hounsfield units, computed slice by slice from implicit shapes: no voxel of a living person is in it.

Coordinates are millimetres in the patient's frame (PS3.3 C.7.6.2.1.1): x to the patient's left, y to the back, z to the top; the origin
lies between the thalami. `z` runs from about -65 (orbits, posterior fossa) to 90 (vertex). Same anatomy seed, same head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gateway.samples.noise import Array, Mask, band_noise, upsampling

SIZE = 512
PIXEL_MILLIMETRES = 250.0 / SIZE
AIR, FAT, CSF, WHITE, GREY, MUSCLE, BLOOD, DIPLOE, BONE = -1000.0, -95.0, 8.0, 27.0, 37.0, 56.0, 62.0, 650.0, 1350.0
_Z_LOW, _Z_STEP, _PLANES = -70.0, 2.5, 68
_COARSE = 4

#: Lateral ventricle of one side as tubes: (|x|, y, z, radius) along frontal horn, body, atrium; then occipital and temporal horn.
_VENTRICLE: Sequence[Sequence[tuple[float, float, float, float]]] = (
    ((7, -33, 6, 3.0), (9, -24, 12, 5.5), (11, -8, 21, 6.0), (14, 10, 23, 6.0), (21, 27, 14, 7.5)),
    ((21, 27, 14, 7.5), (20, 42, 9, 5.0), (19, 52, 7, 2.0)),
    ((21, 27, 14, 7.0), (30, 22, 0, 3.5), (33, 4, -13, 2.8), (30, -8, -16, 2.0)),
)
_SYLVIAN_FISSURE = ((25, -20, -10, 2.5), (38, -14, -3, 2.6), (43, -2, 4, 2.2), (50, 10, 12, 2.2), (57, 20, 18, 2.5))


@dataclass(frozen=True)
class Lesion:
    """A bleed: a core of `core_hu` with an irregular rim of oedema, at `centre` (x, y, z)."""

    centre: tuple[float, float, float]
    core_radius: float
    core_hu: float
    oedema_radius: float = 0.0
    oedema_hu: float = 18.0


#: A small fresh bleed in the left parietal white matter, and what is left of it months later.
FRESH_BLEED = Lesion((29.0, 26.0, 36.0), 5.5, BLOOD, 10.5)
OLD_BLEED = Lesion((29.0, 26.0, 36.0), 5.0, 11.0, 6.5, 20.0)


class HeadPhantom:
    """The anatomy of one invented head; `slice_hu` cuts it."""

    def __init__(self, anatomy_seed: int, lesions: Sequence[Lesion] = (), offset: tuple[float, float] = (0.0, 0.0)) -> None:
        rng = np.random.default_rng(anatomy_seed)
        coarse = SIZE // _COARSE
        step = PIXEL_MILLIMETRES * _COARSE
        shape, spacing = (_PLANES, coarse, coarse), (_Z_STEP, step, step)
        self._folds = band_noise(rng, shape, spacing, 19.0, 0.28)
        self._grain = band_noise(rng, shape, spacing, 7.0, 0.4)
        self._enlarge = upsampling(coarse, _COARSE)
        self._lesions = tuple(lesions)
        self._size = 1.0 + rng.uniform(-0.03, 0.03)
        self._lean = rng.uniform(-0.02, 0.02)
        centred = (np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2) * PIXEL_MILLIMETRES
        self._x = ((centred + offset[0]) / self._size)[None, :]
        self._y = ((centred + offset[1]) / self._size)[:, None]

    def slice_hu(self, z: float) -> Array:
        """The slice at `z`, (512, 512), without blur and noise."""
        x, y = self._x, self._y
        folds, grain = self._texture(self._folds, z), self._texture(self._grain, z)
        hu = np.full((SIZE, SIZE), AIR, np.float32)
        _headrest(hu, x, y)
        depth, lateral, back = _outline(x, y, z)
        if z < -38:
            _set(hu, _ellipsoid(x, y, z, (0, -93, -60), (14, 18, 19)), 45.0)
            _set(hu, _ellipsoid(np.abs(x), y, z, (77, 14, -42), (6, 17, 20)), 40.0)
        soft = 5.5 + folds * 0.15
        soft = soft + 13 * np.exp(-(((back + 0.42) / 0.28) ** 2)) * lateral * np.clip((16 - z) / 45, 0, 1)
        soft = soft + 30 * np.clip(back, 0, 1) ** 2 * np.clip((-24 - z) / 40, 0, 1)
        thickness = 5.6 + 0.25 * folds + 0.15 * grain + 2.2 * back**2 + 1.4 * np.exp(-((x / 5) ** 2))
        _set(hu, depth > 0, 45.0)
        _set(hu, (depth > 1.8) & (depth < 4.8), FAT + 8 * grain)
        _set(hu, depth >= 4.8, np.where(np.abs(grain) > 1.7, FAT / 2, MUSCLE))
        inner = depth - soft
        share = np.clip(inner / thickness, 0, 1)
        spongy = np.clip(1 - ((share - 0.5) / 0.22) ** 4, 0, 1) * np.clip(thickness / 6 - 0.3, 0, 1)
        _set(hu, inner > 0, BONE - (BONE - DIPLOE) * spongy + 60 * grain)
        cavity = inner - thickness
        _set(hu, cavity > 0, CSF)
        self._brain(hu, cavity, z, folds, grain)
        if z < -26:
            _skull_base(hu, x, y, z, grain)
        return hu

    def _texture(self, field: Array, z: float) -> Array:
        place = float(np.clip((z - _Z_LOW) / _Z_STEP, 0, _PLANES - 1.001))
        below = int(place)
        plane = field[below] * (1 - (place - below)) + field[below + 1] * (place - below)
        return np.asarray(self._enlarge @ plane @ self._enlarge.T, np.float32)

    def _brain(self, hu: Array, cavity: Array, z: float, folds: Array, grain: Array) -> None:
        """Cortex, white matter and everything inside them, where `cavity`, the depth below the inner table, allows."""
        x, y = self._x, self._y
        surface = cavity - 1.6
        near = np.exp(-np.maximum(surface, 0) / 11)
        grey = np.clip(1.6 - np.abs(folds) * 1.7, 0, 1) * np.clip((24 - surface) / 6, 0, 1)
        grey = np.maximum(grey, np.clip((4.2 - surface) / 1.5, 0, 1))
        brain = WHITE + (GREY - WHITE) * grey + 0.8 * grain
        sulcus = np.clip(1.15 - np.abs(folds) / (0.30 * near + 0.02), 0, 1) * np.clip((18 - surface) / 5, 0, 1)
        brain = brain - (brain - CSF) * 0.95 * sulcus
        tentorium = -13.0 - 0.22 * np.abs(x) - 0.10 * (y - 20)
        below = (z < tentorium) & (y > 0.72 * np.abs(x) - 9) & (y > 6)
        folia = GREY - 4 + 1.6 * np.sin(cavity * 1.7 + folds) + 0.8 * grain
        brain = np.where(below, folia, brain)
        inside = surface > 0
        _set(hu, inside, brain)
        _set(hu, inside & (np.abs(z - tentorium) < 0.5) & (y > 16) & (np.abs(x) > 8), 45.0)
        midline = np.abs(x + self._lean * y)
        cleft = (z > -8) & ((y < -26) | (y > 34) | (z > 34)) & (cavity > 0)
        _set(hu, cleft & (midline < 1.9 + 0.5 * folds), CSF + 3)
        _set(hu, cleft & (midline < 0.8), 47.0)
        if z > -12:
            _set(hu, (cavity > 0) & (cavity < 6) & (midline < (6.5 - cavity) * 0.6) & (y > 0), 57.0)
        self._deep(hu, z, grain)
        for lesion in self._lesions:
            ragged = (1 + 0.16 * folds + 0.08 * grain) * self._size
            cx, cy, cz = lesion.centre
            far = np.sqrt((x - cx) ** 2 + ((y - cy) / 1.25) ** 2 + ((z - cz) / 1.1) ** 2) / ragged
            _set(hu, (far < lesion.oedema_radius) & inside & (hu > CSF + 6), lesion.oedema_hu)
            _set(hu, far < lesion.core_radius, lesion.core_hu + 2 * grain)

    def _deep(self, hu: Array, z: float, grain: Array) -> None:
        """Basal ganglia, brain stem, cisterns, ventricles and the usual calcifications, on the middle part of the slice only."""
        if not -64 < z < 42:
            return
        part = slice(SIZE // 2 - 170, SIZE // 2 + 170)
        window, y = hu[part, part], self._y[part]
        x = np.abs(self._x[:, part] + self._lean * y) + 0.25 * grain[part, part]
        for centre, radii in (((10, 12, 6), (8, 13, 10)), ((24, -4, 4), (7, 16, 12)), ((12.5, -22, 12), (5, 10, 9))):
            _set(window, _ellipsoid(x, y, z, centre, radii), GREY + 1)
        if z < -4:
            _set(window, _ellipsoid(x, y, z, (0, 8, -6), (21, 17, 16)) & (y > -12), CSF + 2)
            _set(window, _ellipsoid(x, y, z, (0, -8, -18), (15, 11, 8)), CSF)
            _set(window, _ellipsoid(x, y, z, (0, 6, -42), (19, 17, 26)) & (y < 4), CSF + 2)
            _set(window, _ellipsoid(x, y, z, (0, 11, -38), (15, 13, 40)) & (z < -4), GREY - 5)
            _set(window, _ellipsoid(x, y, z, (0, 26, -36), (7, 5, 11)), CSF)
            _set(window, _ellipsoid(x, y, z, (0, -5.5, -36), (1.9, 1.9, 16)), 52.0)
        _set(window, _tube(x, y, z, _SYLVIAN_FISSURE), CSF + 3)
        for horn in _VENTRICLE:
            _set(window, _tube(x, y, z, horn), CSF)
        _set(window, (x < 2.0) & (np.abs(y - 4) < 15) & (-9 < z < 9), CSF)
        _set(window, _ellipsoid(x, y, z, (0, 25, 4), (2.4, 2.8, 3)), 160.0)
        _set(window, _ellipsoid(x, y, z, (20, 31, 12), (2.6, 4.5, 3.5)) & (grain[part, part] > -0.6), 120.0)


def _outline(x: Array, y: Array, z: float) -> tuple[Array, Array, Array]:
    """Depth below the skin in millimetres (negative outside), and the direction: lateral share 0..1 and back -1..1."""
    taper = 1.0 - 0.0016 * max(0.0, -z - 25)
    u, v = x / (77.0 * taper), y / (97.0 * taper)
    w = max(0.0, z) / 89.0
    flat = np.sqrt(u * u + v * v) + 1e-6
    lateral, back = np.abs(u) / flat, v / flat
    reach = np.sqrt(flat * flat + w * w)
    squareness = 1 + 0.16 * (lateral * back) ** 2 * (flat / reach) ** 2 + 0.025 * back * (flat / reach)
    span = np.sqrt(x * x + y * y + max(0.0, z) ** 2)
    return ((squareness - reach) * span / reach).astype(np.float32), lateral, back


def _headrest(hu: Array, x: Array, y: Array) -> None:
    ring = np.sqrt(x * x + (y - 2) ** 2)
    _set(hu, (ring < 113) & (y > 18), -965.0)
    _set(hu, (np.abs(ring - 114.5) < 1.3) & (y > 14), -180.0)


def _skull_base(hu: Array, x: Array, y: Array, z: float, grain: Array) -> None:
    """Petrous bones with mastoid cells, sphenoid, orbits with globes, ethmoid and sphenoid sinus, below z = -26."""
    side = np.abs(x)
    _set(hu, _tube(side, y, z, ((12, -4, -44, 4.5), (32, 10, -43, 7.5), (56, 26, -43, 10.0), (63, 34, -46, 9.0))), BONE + 150 + 90 * grain)
    cells = _tube(side, y, z, ((46, 20, -46, 5.0), (59, 28, -48, 7.0)))
    _set(hu, cells & (grain > -0.2), -720.0)
    _set(hu, _tube(side, y, z, ((10, -24, -40, 4.0), (34, -38, -36, 3.2), (58, -42, -40, 3.0))), 900.0)
    if z > -34:
        return
    face = (y < -30) & (side < 62) & (y > -84 - 0.1 * side)
    _set(hu, face & (side < 15) & (y > -78), np.where(grain > 0.55, 320.0, -880.0))
    for grown, value in ((2.2, 820.0), (0.0, FAT + 12)):
        _set(hu, _ellipsoid(side, y, z, (32, -62, -48), (18 + grown, 27 + grown, 17 + grown)), value)
    for start, end in (((21, -76), (13, -36)), ((44, -74), (16, -38)), ((32, -60), (14, -36))):
        radius = 2.4 if start[1] == -60 else 1.9
        _set(hu, _tube(side, y, z, ((*start, -47, radius), (*end, -45, radius))), 42.0)
    _set(hu, _ellipsoid(side, y, z, (32, -75, -48), (12.5, 12.5, 12.5)), 48.0)
    _set(hu, _ellipsoid(side, y, z, (32, -75, -48), (11.4, 11.4, 11.4)), 12.0)
    _set(hu, _ellipsoid(side, y, z, (32, -84, -48), (4.4, 1.9, 4.4)), 85.0)
    _set(hu, _ellipsoid(x, y, z, (0, -24, -52), (17, 14, 14)), 700.0)
    _set(hu, _ellipsoid(x, y, z, (2, -24, -53), (13, 11, 11)) & (np.abs(x - 1) > 0.9), -900.0)
    _set(hu, (_ellipsoid(x, y, z, (0, -4, -56), (13, 7, 15))), 780.0)
    if z > -48:
        beam_hardening = 11 * np.exp(-(((y - 9) / 6) ** 2)) * np.exp(-((x / 26) ** 2)) * np.clip((z + 48) / 6, 0, 1)
        hu -= np.where((hu > 0) & (hu < 100), beam_hardening, 0)


def _ellipsoid(x: Array, y: Array, z: float, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> Mask:
    rest = 1 - ((z - centre[2]) / radii[2]) ** 2
    if rest <= 0:
        return np.zeros((), np.bool_)
    inside: Mask = ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 < rest
    return inside


def _tube(x: Array, y: Array, z: float, path: Sequence[tuple[float, float, float, float]]) -> Mask:
    """Inside the union of cones between successive (x, y, z, radius)."""
    inside: Mask = np.zeros((), np.bool_)
    for (ax, ay, az, ar), (bx, by, bz, br) in pairwise(path):
        reach = max(ar, br)
        if not min(az, bz) - reach < z < max(az, bz) + reach:
            continue
        length = (bx - ax) ** 2 + (by - ay) ** 2 + (bz - az) ** 2
        along = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay) + (z - az) * (bz - az)) / length, 0, 1)
        away = (x - ax - along * (bx - ax)) ** 2 + (y - ay - along * (by - ay)) ** 2 + (z - az - along * (bz - az)) ** 2
        inside = inside | (away < (ar + along * (br - ar)) ** 2)
    return inside


def _set(hu: Array, where: Mask, value: Array | float) -> None:
    if where.ndim:
        np.copyto(hu, value, where=where, casting="same_kind")

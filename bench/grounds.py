"""What frames show where nobody printed on them: black, ultrasound fans, phantoms like anatomy, pages. None of it is text; some tempts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Grey = NDArray[np.float32]
ANATOMY = ("ribs", "lung", "breast", "vessels", "bone", "grid")


def ground_of(rng: np.random.Generator, ground: str, rows: int, columns: int) -> tuple[Grey, str]:
    """Values from 0 to 255, and the kind of ground."""
    if ground == "black":
        return np.zeros((rows, columns), np.float32), "black"
    if ground == "page":
        return np.full((rows, columns), 245, np.float32), "page"
    if ground == "speckle":
        kind = str(rng.choice(["fan", "bright fan", "linear"]))
        return _speckle(rng, rows, columns, kind), kind
    kind = str(rng.choice(ANATOMY))
    picture = {"ribs": _ribs, "lung": _lung, "breast": _breast, "vessels": _vessels, "bone": _bone, "grid": _grid}[kind](rng, rows, columns)
    return np.asarray(np.clip(picture, 0, 255), np.float32), kind


def _resized(values: NDArray[Any], rows: int, columns: int) -> Grey:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((columns, rows), Image.Resampling.BICUBIC), np.float32)


def _speckle(rng: np.random.Generator, rows: int, columns: int, kind: str) -> Grey:
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    grain = int(rng.integers(2, 4))
    fine = _resized(rng.rayleigh(1.0, (rows // grain + 1, columns // grain + 1)), rows, columns)
    coarse = _resized(rng.random((8, 8)), rows, columns)
    radius = np.hypot(x - columns / 2, y + rows * 0.1)
    fan = (np.abs(np.arctan2(x - columns / 2, y + rows * 0.1)) < 0.75) & (radius > rows * 0.2) & (radius < rows * 1.02)
    if kind == "linear":
        fan = (np.abs(x - columns / 2) < columns * 0.38) & (y > rows * 0.1) & (y < rows * 0.95)
    if kind == "bright fan":
        # Envelopes of 60 dB on 255 levels, as a console shows them.
        echo = 60 + 120 * coarse + 255 / 60 * 20 * np.log10(np.maximum(fine, 0.01))
        return np.asarray(np.clip(echo, 0, 255) * fan, np.float32)
    return np.asarray(np.clip(55 * fine * (0.3 + coarse), 0, 255) * fan, np.float32)


def _ribs(rng: np.random.Generator, rows: int, columns: int) -> Grey:
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    ribs = 18 * np.sin(y / rows * 40 + 4 * np.sin(x / columns * 3))
    body = 70 + 110 * np.exp(-(((x / columns - 0.5) / 0.35) ** 2)) + ribs
    return np.asarray(body + rng.normal(0, 3, (rows, columns)), np.float32)


def _curves(rng: np.random.Generator, rows: int, columns: int, count: int, widths: tuple[float, float], level: int) -> Grey:
    """Smooth curves that branch off at random, as vessels and trabeculae do."""
    canvas = Image.new("L", (columns, rows))
    draw = ImageDraw.Draw(canvas)
    for _ in range(count):
        x, y, heading = rng.uniform(0, columns), rng.uniform(0, rows), rng.uniform(0, 2 * np.pi)
        width = float(rng.uniform(*widths))
        points = []
        for _ in range(int(rng.integers(20, 60))):
            points.append((float(x), float(y)))
            heading += rng.normal(0, 0.25)
            x, y = x + np.cos(heading) * columns / 90, y + np.sin(heading) * columns / 90
        draw.line(points, fill=level, width=max(1, round(width)), joint="curve")
    return np.asarray(canvas.filter(ImageFilter.GaussianBlur(1.2)), np.float32)


def _lung(rng: np.random.Generator, rows: int, columns: int) -> Grey:
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    lungs = sum(np.exp(-((((x / columns - centre) / 0.16) ** 2 + ((y / rows - 0.5) / 0.34) ** 2) ** 2)) for centre in (0.27, 0.73))
    scale = columns / 512
    vessels = _curves(rng, rows, columns, 60, (1.5 * scale, 6 * scale), 60)
    ribs = _curves(rng, rows, columns, 14, (9 * scale, 13 * scale), 35)
    spine = 60 * np.exp(-(((x / columns - 0.5) / 0.07) ** 2)) * (1 + 0.15 * np.sign(np.sin(y / rows * 75)))
    return np.asarray(165 - 115 * lungs + vessels * lungs + ribs + spine + rng.normal(0, 3.5, (rows, columns)), np.float32)


def _breast(rng: np.random.Generator, rows: int, columns: int) -> Grey:
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    noise = np.fft.rfft2(rng.normal(0, 1, (rows, columns)))
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
    tissue = np.fft.irfft2(noise / np.maximum(frequency, 2 / columns) ** 1.5, (rows, columns))
    inside = np.hypot(x / columns / 0.75, (y / rows - 0.5) / 0.46) < 1
    specks = _curves(rng, rows, columns, 25, (1, 2), 70)
    return np.asarray((110 + 38 * tissue / tissue.std() + specks + rng.normal(0, 4, (rows, columns))) * inside, np.float32)


def _vessels(rng: np.random.Generator, rows: int, columns: int) -> Grey:
    scale = columns / 512
    soft = 120 + 50 * _resized(rng.random((5, 6)), rows, columns)
    return np.asarray(soft - _curves(rng, rows, columns, 45, (2 * scale, 9 * scale), 90) + rng.normal(0, 5, (rows, columns)), np.float32)


def _bone(rng: np.random.Generator, rows: int, columns: int) -> Grey:
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    shaft = np.abs(x / columns - 0.5 - 0.05 * np.sin(y / rows * 3))
    cortex = 150 * (shaft < 0.16) - 55 * (shaft < 0.12)
    trabeculae = _curves(rng, rows, columns, 260, (1, 2.2), 45) * (shaft < 0.13)
    return np.asarray(45 + cortex + trabeculae + rng.normal(0, 4, (rows, columns)), np.float32)


def _grid(rng: np.random.Generator, rows: int, columns: int) -> Grey:
    """A quality phantom: a grid with a step wedge, discs and line pairs."""
    canvas = Image.new("L", (columns, rows), 90)
    draw = ImageDraw.Draw(canvas)
    step = int(rng.integers(24, 70))
    for at in range(step, columns, step):
        draw.line([(at, 0), (at, rows)], fill=130)
    for at in range(step, rows, step):
        draw.line([(0, at), (columns, at)], fill=130)
    for index in range(8):
        left = columns // 4 + index * columns // 16
        draw.rectangle((left, rows // 8, left + columns // 16, rows // 6), fill=20 + 30 * index)
    for _ in range(6):
        x, y, radius = int(rng.integers(0, columns)), int(rng.integers(0, rows)), int(rng.integers(4, 30))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=int(rng.integers(40, 230)))
    x, y = columns // 3, rows * 2 // 3
    for period in (2, 3, 4, 6, 8):
        for _ in range(5):
            draw.rectangle((x, y, x + period // 2, y + 40), fill=220)
            x += period
        x += 14
    return np.asarray(np.asarray(canvas, np.float32) + rng.normal(0, 2.5, (rows, columns)), np.float32)

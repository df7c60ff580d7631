"""Band-limited noise for cortex and tissue. Shapes are (planes, rows, columns) or (rows, columns)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


def band_noise(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, ...], wavelength: float, spread: float = 0.3
) -> Array:
    """Noise of mean 0 and deviation 1 whose wavelengths lie around `wavelength`, in the units of `spacing`; `spread` is relative."""
    square = np.zeros(tuple(n if axis < len(shape) - 1 else n // 2 + 1 for axis, n in enumerate(shape)))
    for axis, (n, step) in enumerate(zip(shape, spacing, strict=True)):
        frequencies = (np.fft.rfftfreq if axis == len(shape) - 1 else np.fft.fftfreq)(n, step)
        square = square + np.expand_dims(frequencies**2, tuple(other for other in range(len(shape)) if other != axis))
    pass_band = np.exp(-0.5 * ((np.sqrt(square) * wavelength - 1) / spread) ** 2)
    pass_band.flat[0] = 0
    noise = np.fft.irfftn(np.fft.rfftn(rng.standard_normal(shape)) * pass_band, shape, axes=tuple(range(len(shape))))
    return np.asarray(noise / noise.std(), np.float32)


def upsampling(coarse: int, factor: int) -> Array:
    """The matrix (coarse * factor, coarse) that interpolates by Catmull-Rom cubics; `m @ image @ m.T` enlarges an image."""
    position = (np.arange(coarse * factor) + 0.5) / factor - 0.5
    base = np.floor(position).astype(int)
    t = position - base
    weights = (
        -0.5 * t**3 + t**2 - 0.5 * t,
        1.5 * t**3 - 2.5 * t**2 + 1,
        -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        0.5 * t**3 - 0.5 * t**2,
    )
    matrix = np.zeros((coarse * factor, coarse), np.float32)
    for offset, weight in enumerate(weights):
        np.add.at(matrix, (np.arange(coarse * factor), np.clip(base + offset - 1, 0, coarse - 1)), weight)
    return matrix

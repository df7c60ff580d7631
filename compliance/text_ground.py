"""What ground a piece of text stands on: the edge of the picture, one even ground, or noise. Its place says what text could be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compliance.device_masks import Box

Grey = NDArray[np.float32]

EDGE_SHARE = 0.12
"""Consoles print into this share of the height or width along each edge; text of unknown meaning is blanked there."""
_MARGIN_PIXELS = 8
_NOISE_SHARE, _GRAIN_SHARE = 0.02, 0.004
"""Of a picture's span: by so much a quarter, and a half, of the neighbouring pixels in speckle or grain differ; on a page they do not."""


def at_edge(box: Box, grey: Grey) -> bool:
    """Whether the middle of the box lies in the strip along an edge."""
    rows, columns = grey.shape
    x, y = (box[0] + box[2]) / 2 / columns, (box[1] + box[3]) / 2 / rows
    return bool(min(x, y, 1 - x, 1 - y) < EDGE_SHARE)


def on_even_ground(box: Box, grey: Grey) -> bool:
    """Whether the surroundings of the box are one even ground: a page, a margin, the black beside the fan."""
    x0, y0, x1, y1 = box
    margin = max(4, (y1 - y0) // 2)
    around = grey[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]
    ring = np.ones(around.shape, bool)
    ring[min(margin, y0) : min(margin, y0) + y1 - y0, min(margin, x0) : min(margin, x0) + x1 - x0] = False
    values = around[ring]
    if values.size == 0:
        return False
    span = max(float(grey.max() - grey.min()), 1e-6)
    return bool(float((np.abs(values - np.median(values)) <= 0.04 * span).mean()) >= 0.9)


def in_noise(box: Box, grey: Grey) -> bool:
    """Whether neighbouring pixels in and around the box differ as those of speckle do."""
    x0, y0, x1, y1 = box
    around = grey[max(0, y0 - _MARGIN_PIXELS) : y1 + _MARGIN_PIXELS, max(0, x0 - _MARGIN_PIXELS) : x1 + _MARGIN_PIXELS]
    steps = np.abs(np.diff(around, axis=1))
    if steps.size == 0:
        return False
    span = float(grey.max() - grey.min())
    half, quarter = (float(value) for value in np.percentile(steps, (50, 75)))
    return half > _GRAIN_SHARE * span and quarter > _NOISE_SHARE * span

"""No letter is outside of the windows, whatever its size, tone and ground; smooth anatomy and noise are outside of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from compliance.text_windows import TILE_OVERLAP_PIXELS, TILE_PIXELS, glyph_windows, tiles

Grey = NDArray[np.float32]


def covered(grey: Grey, windows: list[Any]) -> NDArray[np.bool_]:
    inside = np.zeros(grey.shape, bool)
    for x0, y0, x1, y1 in windows:
        inside[y0:y1, x0:x1] = True
    return inside


def written(text: str, size: int, *, ink: float, ground: Grey, at: tuple[int, int]) -> tuple[Grey, NDArray[np.bool_]]:
    mask = Image.new("L", (ground.shape[1], ground.shape[0]))
    ImageDraw.Draw(mask).text(at, text, fill=255, font=ImageFont.load_default(size))
    share = np.asarray(mask).astype(np.float32) / 255
    return np.asarray(ground * (1 - share) + ink * share, np.float32), share > 0.25


def noise(level: float, sigma: float, shape: tuple[int, int] = (480, 640)) -> Grey:
    return np.asarray(np.random.default_rng(7).normal(level, sigma, shape), np.float32)


@pytest.mark.parametrize("size", [8, 10, 14, 20, 40, 70])
@pytest.mark.parametrize(("ink", "level", "sigma"), [(255, 0, 0), (40, 0, 0), (3, 0, 0), (0, 245, 0), (220, 100, 8), (10, 140, 8)])
@pytest.mark.parametrize("at", [(3, 2), (301, 237)])
def test_every_letter_lies_in_a_window(size: int, ink: float, level: float, sigma: float, at: tuple[int, int]) -> None:
    grey, letters = written("DOE^JANE 1961", size, ink=ink, ground=noise(level, sigma), at=at)
    assert letters.any() and not (letters & ~covered(grey, glyph_windows(grey))).any()


def test_a_page_full_of_small_letters_is_not_its_own_noise() -> None:
    grey, letters = np.full((480, 640), 245, np.float32), np.zeros((480, 640), bool)
    for y in range(4, 470, 10):
        grey, line = written("EXAMINATION OF DOE JANE WITH CONTRAST AND MORE THAT FILLS THE LINE " * 2, 9, ink=0, ground=grey, at=(2, y))
        letters |= line
    assert not (letters & ~covered(grey, glyph_windows(grey))).any()


@pytest.mark.parametrize("sigma", [2.0, 20.0])
def test_noise_and_slopes_hold_no_letters(sigma: float) -> None:
    y, x = np.mgrid[0:480, 0:640].astype(np.float32)
    smooth = 100 + 80 * np.exp(-(((x - 320) / 200) ** 2)) + 15 * np.sin(y / 20)
    assert covered(smooth, glyph_windows(np.asarray(smooth + noise(0, sigma), np.float32))).mean() < 0.02


def test_what_was_read_before_is_not_read_again_and_what_changed_is() -> None:
    grey, _ = written("DOE^JANE", 14, ink=255, ground=noise(0, 0), at=(30, 20))
    assert glyph_windows(grey) and not glyph_windows(grey, [grey])
    other, letters = written("ANOTHER", 14, ink=255, ground=grey, at=(400, 300))
    windows = glyph_windows(other, [grey])
    assert windows and not (letters & ~covered(other, windows)).any()
    assert not covered(other, windows)[:100].any()


@pytest.mark.parametrize("shape", [(1, 1), (2, 900), (15, 15), (31, 700), (353, 1100)])
def test_odd_sizes_are_looked_at_to_their_edges(shape: tuple[int, int]) -> None:
    grey = np.zeros(shape, np.float32)
    grey[-1, -1] = grey[shape[0] // 2, shape[1] // 2] = 200
    for x0, y0, x1, y1 in glyph_windows(grey):
        assert 0 <= x0 < x1 <= shape[1] and 0 <= y0 < y1 <= shape[0] and max(x1 - x0, y1 - y0) <= TILE_PIXELS


@pytest.mark.parametrize("length", [1, 352, 353, 399, 401, 480, 640, 1400, 2048])
def test_tiles_cover_the_length_with_overlap_and_no_more_than_needed(length: int) -> None:
    cut = tiles(length)
    assert cut[0][0] == 0 and cut[-1][1] == length
    assert all(end - start <= TILE_PIXELS for start, end in cut)
    assert all(before[1] - after[0] >= TILE_OVERLAP_PIXELS - 1 for before, after in pairwise(cut))
    assert sum(end - start for start, end in cut) <= length + (len(cut) - 1) * (TILE_OVERLAP_PIXELS + 1)


#: "Doe, Maria" in a font of 8 pixels with smooth edges, as it came from a device that draws so; of each row the values, 0 a dot.
_SMOOTH = """
26 120 118 104 56 . . . . . . . . . . . . . . . . . 26 119 17 . 27 119 15 . . . . . . . . 30 56 . . . . .
26 70 1 17 88 42 . . . . . . . . . . . . . . . . 26 88 60 . 69 89 15 . . . . . . . . . . . . . . .
26 70 . . 26 73 10 92 115 86 4 8 87 116 99 18 . . . . . . 26 66 81 2 78 77 15 24 120 117 82 1 32 77 105 57 56 24 120 117 82 1
26 70 . . 27 73 57 53 4 65 44 56 120 120 120 58 . . . . . . 26 66 57 59 45 77 15 18 100 119 120 18 32 83 5 30 56 18 100 119 120 18
26 70 1 17 88 43 57 53 4 64 44 56 58 3 . . . . . . . . 26 66 15 113 7 77 15 57 53 12 88 21 32 55 . 30 56 57 53 12 88 21
26 120 118 104 58 . 10 92 115 86 4 7 85 116 120 40 8 89 . . . . 26 66 . . . 77 15 23 108 102 84 21 32 55 . 30 56 23 108 102 84 21
. . . . . . . . . . . . . . . . 31 45 . . . . . . . . . . . . . . . . . . . . . . . . . .
"""


@pytest.mark.parametrize("left", range(800, 816, 5))
def test_small_letters_that_touch_by_their_smooth_edges_are_found_on_black(left: int) -> None:
    rows = [[0 if value == "." else int(value) for value in row.split()] for row in _SMOOTH.split("\n") if row]
    letters = np.asarray(rows, np.float32)
    picture = np.zeros((256, 1024), np.float32)
    picture[131 : 131 + letters.shape[0], left : left + letters.shape[1]] = letters
    assert covered(picture, glyph_windows(picture))[picture > 0].all()

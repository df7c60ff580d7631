"""Lines of small letters in noise are proposed without a network, and what is no line is not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("cv2")

from bench.grounds import ground_of
from bench.lettering import lettered
from compliance.text_lines import stroke_lines

ROWS, COLUMNS = 240, 320
WHOLE = [(0, 0, COLUMNS, ROWS)]
AT = (90, 110)


def _speckle(kind: str) -> NDArray[np.float32]:
    rng = np.random.default_rng(3)
    fine = rng.rayleigh(1.0, (ROWS // 2, COLUMNS // 2)).repeat(2, 0).repeat(2, 1)
    values = 130 + 36 * np.log(np.maximum(fine, 0.01)) if kind == "bright" else 45 * fine
    return np.asarray(np.clip(values, 0, 255), np.float32)


def _with_name(grey: NDArray[np.float32], value: float, size: int, turn: int = 0) -> tuple[NDArray[np.float32], tuple[int, int, int, int]]:
    plate = np.rot90(lettered("Nakamura, Zoe", "outline", size), turn // 90)
    y, x = AT if turn == 0 else (60, 150)
    here = (slice(y, y + plate.shape[0]), slice(x, x + plate.shape[1]))
    grey = grey.copy()
    grey[here] = grey[here] * (1 - plate) + value * plate
    rows, columns = np.nonzero(plate > 0.25)
    return grey, (x + int(columns.min()), y + int(rows.min()), x + int(columns.max()) + 1, y + int(rows.max()) + 1)


def _covers(box: tuple[int, int, int, int], other: tuple[int, int, int, int], slack: int = 2) -> bool:
    return box[0] <= other[0] + slack and box[1] <= other[1] + slack and box[2] >= other[2] - slack and box[3] >= other[3] - slack


@pytest.mark.parametrize("turn", [0, 90])
@pytest.mark.parametrize("size", [8, 10, 14, 20])
@pytest.mark.parametrize(("kind", "value"), [("bright", 0.0), ("dark", 255.0)])
def test_name_in_speckle_is_among_the_strongest_lines(kind: str, value: float, size: int, turn: int) -> None:
    grey, letters = _with_name(_speckle(kind), value, size, turn)
    lines = [line for line in stroke_lines(grey, WHOLE)[:4] if line.is_vertical == (turn != 0)]
    assert any(_covers(box, letters, slack=3) for line in lines for box in line.boxes)


def test_speckle_alone_has_no_strong_line() -> None:
    with_name = stroke_lines(_with_name(_speckle("dark"), 255.0, 10)[0], WHOLE)[0].strength
    assert all(line.strength < 0.75 * with_name for line in stroke_lines(_speckle("dark"), WHOLE))


def test_flat_ground_and_the_edge_of_a_fan_are_no_lines() -> None:
    edge = np.zeros((ROWS, COLUMNS), np.float32)
    edge[120:] = 180
    assert stroke_lines(np.full((ROWS, COLUMNS), 7, np.float32), WHOLE) == []
    assert stroke_lines(edge, WHOLE) == []


def test_only_the_windows_are_looked_at_and_what_is_settled_is_not_proposed() -> None:
    grey, letters = _with_name(_speckle("bright"), 0.0, 10)
    x0, y0, x1, y1 = letters
    assert not any(_covers(box, letters) for line in stroke_lines(grey, [(0, 0, COLUMNS, 60)]) for box in line.boxes)
    settled = [(x0 - 60, y0 - 12, x1 + 60, y1 + 12)]
    assert not any(_covers(box, letters) for line in stroke_lines(grey, WHOLE, settled) for box in line.boxes)
    assert any(_covers(box, letters, slack=3) for line in stroke_lines(grey, [(40, 80, COLUMNS, ROWS)]) for box in line.boxes)


def test_the_same_picture_has_the_same_lines() -> None:
    grey, _ = ground_of(np.random.default_rng(5), "speckle", ROWS, COLUMNS)
    assert stroke_lines(grey, WHOLE) == stroke_lines(grey.copy(), WHOLE)

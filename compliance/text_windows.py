"""Where in a picture letters could stand at all: strokes thinner than letters are wide, out of their surroundings' noise.

A detector network costs a second for every million pixels; this costs some hundredths, and spares it lungs and black. It is generous:
what is left out is smooth or is noise of one strength, what remains is read. Measured in docs/BURNED_IN_TEXT.md.

- White strokes on dark and dark ones on white, narrower than 9 pixels, and at a third of the size than 27.
- Noise is measured where letters do not disturb it, so that a page full of text does not count as its own noise.
- Letters stand in lines: along a line strokes begin again and again, along a vessel or the edge of a bone they do not. Where no line of
  four strokes is near, a cell is left out. So a lone mark of one letter may be left out, and stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compliance.device_masks import Box

Grey = NDArray[np.float32]
Cells = NDArray[np.bool_]

TILE_PIXELS = 352
"""Small on purpose: a whole ultrasound fan in one tile looks like one great letter and hides the small ones in and beside it."""
TILE_OVERLAP_PIXELS = 96
CELL = 16
_NOISE_CELL = 32
_STROKE_PIXELS = 9
#: Scale, and the share of the picture's span a stroke must reach there: broad strokes are those of large letters, which nobody prints dim,
#: and at their size ribs and vessels look like strokes.
_SCALES = ((1, 1 / 500), (3, 0.15))
#: A pixel counts at so many standard deviations of the noise around it. Noise alone reaches five to six once in a cell.
_OVER_NOISE = 7.0
#: The 20th percentile of a pixel's distance from the mean of its four neighbours, of noise of one standard deviation.
_PERCENTILE_OF_NOISE = 0.283
_PIXELS_PER_CELL = 4
#: Strokes are told apart where they reach this share of the greatest in their cell, too.
_CORE = 0.3
#: A cell lies in a line where, along so many of its rows or columns, so many strokes begin in it and its two neighbours.
_STROKES_OF_A_LINE = 4
_ROWS_OF_A_LINE = 3


def glyph_windows(grey: Grey, read_before: Sequence[Grey] = (), *, tolerance: float = 0.0) -> list[Box]:
    """Boxes (x0, y0, x1, y1) that hold all letters of the picture; none where it has none. Boxes may overlap.

    Cells in which one of the pictures `read_before` shows the same, give or take `tolerance`, are left out: they were read there.
    """
    cells = glyph_cells(grey)
    for other in read_before:
        if cells.any():
            cells &= _cells_with(np.abs(grey - other) > tolerance)
    return [window for group in _groups(_dilated(cells)) for window in _windows(group, grey.shape)]


def _windows(group: list[tuple[int, int]], shape: tuple[int, ...]) -> list[Box]:
    """The group's box, or where it is larger than a tile, one box per tile around what the group has in it."""
    whole = _box(group, shape)
    if whole[2] - whole[0] <= TILE_PIXELS and whole[3] - whole[1] <= TILE_PIXELS:
        return [whole]
    windows = []
    for top, bottom in tiles(whole[3] - whole[1]):
        for left, right in tiles(whole[2] - whole[0]):
            x0, x1, y0, y1 = (edge / CELL for edge in (whole[0] + left, whole[0] + right, whole[1] + top, whole[1] + bottom))
            inside = [one for one in group if y0 < one[0] + 1 and one[0] < y1 and x0 < one[1] + 1 and one[1] < x1]
            if inside:
                box = _box(inside, shape)
                windows.append(
                    (
                        max(box[0], whole[0] + left),
                        max(box[1], whole[1] + top),
                        min(box[2], whole[0] + right),
                        min(box[3], whole[1] + bottom),
                    )
                )
    return windows


def _cells_with(pixels: NDArray[np.bool_]) -> Cells:
    """The cells that hold any of `pixels`."""
    rows, columns = -(-pixels.shape[0] // CELL), -(-pixels.shape[1] // CELL)
    whole = np.zeros((rows * CELL, columns * CELL), bool)
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    return np.asarray(whole.reshape(rows, CELL, columns, CELL).any(axis=(1, 3)))


def glyph_cells(grey: Grey) -> Cells:
    """For each cell of 16 x 16 pixels, whether part of a letter could stand in it."""
    rows, columns = -(-grey.shape[0] // CELL), -(-grey.shape[1] // CELL)
    found = np.zeros((rows, columns), bool)
    span = float(grey.max() - grey.min())
    for scale, share in _SCALES:
        cells = _cells_of(_reduced(grey, scale), max(span * share, 0.5))
        large = np.kron(cells, np.ones((scale, scale), bool))[:rows, :columns]
        found[: large.shape[0], : large.shape[1]] |= large
    return found


def _cells_of(picture: Grey, floor: float) -> Cells:
    rows, columns = -(-picture.shape[0] // _NOISE_CELL) * _NOISE_CELL, -(-picture.shape[1] // _NOISE_CELL) * _NOISE_CELL
    padded = np.pad(picture, ((0, rows - picture.shape[0]), (0, columns - picture.shape[1])), mode="symmetric")
    found = np.zeros((rows // CELL, columns // CELL), bool)
    least = np.repeat(np.repeat(np.maximum(_OVER_NOISE * _noise(padded), floor), _NOISE_CELL, 0), _NOISE_CELL, 1)
    for response in (padded - _opened(padded), -_opened(-padded) - padded):
        hits = response > least
        cells = hits.reshape(rows // CELL, CELL, columns // CELL, CELL).sum(axis=(1, 3)) >= _PIXELS_PER_CELL
        if cells.any():
            lines = _in_lines(hits) | _in_lines(hits.T).T
            # Out of no noise even the faintest edge of a letter counts, and joins it to the next one.
            greatest = response.reshape(rows // CELL, CELL, columns // CELL, CELL).max(axis=(1, 3))
            cores = hits & (response > np.repeat(np.repeat(greatest * _CORE, CELL, 0), CELL, 1))
            lines |= _in_lines(cores) | _in_lines(cores.T).T
            for _ in range(2):
                lines = _grown(_grown(lines, 0), 1)
            found |= cells & lines
    return found


def _in_lines(hits: NDArray[np.bool_]) -> Cells:
    """The cells in which strokes begin again and again along the rows."""
    begins = hits.copy()
    begins[:, 1:] &= ~hits[:, :-1]
    rows, columns = hits.shape[0] // CELL, hits.shape[1] // CELL
    counts = np.pad(begins.reshape(rows * CELL, columns, CELL).sum(axis=2, dtype=np.uint8), ((0, 0), (1, 1)))
    dense = counts[:, :-2] + counts[:, 1:-1] + counts[:, 2:] >= _STROKES_OF_A_LINE
    return np.asarray(dense.reshape(rows, CELL, columns).sum(axis=1) >= _ROWS_OF_A_LINE)


def _noise(picture: Grey) -> Grey:
    """Per noise cell the standard deviation of what is no structure.

    A low percentile: a cell full of small letters still has so many quiet pixels between them, and slopes count for nothing.
    """
    framed = np.pad(picture, 1, mode="edge")
    around = (framed[:-2, 1:-1] + framed[2:, 1:-1] + framed[1:-1, :-2] + framed[1:-1, 2:]) / 4
    apart = np.abs(picture - around)
    rows, columns = picture.shape[0] // _NOISE_CELL, picture.shape[1] // _NOISE_CELL
    # A quarter of the pixels says the same and costs a quarter.
    sample = apart.reshape(rows, _NOISE_CELL, columns, _NOISE_CELL).transpose(0, 2, 1, 3).reshape(rows, columns, -1)[..., ::4]
    rank = sample.shape[-1] // 5
    return np.asarray(np.partition(np.ascontiguousarray(sample), rank, axis=-1)[..., rank] / _PERCENTILE_OF_NOISE, np.float32)


def _opened(picture: Grey) -> Grey:
    return -_least(-_least(picture, _STROKE_PIXELS), _STROKE_PIXELS)


def _least(picture: Grey, size: int) -> Grey:
    """The least value in a square of odd `size` around each pixel, by rows and columns."""
    for axis in (0, 1):
        reach = size // 2
        pad = [(0, 0), (0, 0)]
        pad[axis] = (reach, reach)
        run, length = np.pad(picture, pad, mode="edge"), 1
        # Windows of doubled length, then two that overlap: as many steps as the size has bits.
        while length * 2 <= size:
            run = np.minimum(_from(run, 0, length, axis), _from(run, length, 0, axis))
            length *= 2
        rest = size - length
        picture = np.minimum(_from(run, 0, rest, axis), _from(run, rest, 0, axis)) if rest else run
    return picture


def _from(picture: Grey, skip: int, drop: int, axis: int) -> Grey:
    part = slice(skip, picture.shape[axis] - drop)
    return picture[part] if axis == 0 else picture[:, part]


def _reduced(grey: Grey, scale: int) -> Grey:
    if scale == 1:
        return grey
    rows, columns = max(1, grey.shape[0] // scale), max(1, grey.shape[1] // scale)
    if grey.shape[0] < scale or grey.shape[1] < scale:
        return grey
    cut = grey[: rows * scale, : columns * scale]
    return np.asarray(cut.reshape(rows, scale, columns, scale).mean(axis=(1, 3)), np.float32)


def _dilated(cells: Cells) -> Cells:
    """The cells with their neighbours, and with gaps of two cells in a row filled: words of a line are further apart than lines."""
    wide = _grown(_grown(cells, 1), 1)
    closed = ~_grown(~wide, 1) | cells
    return _grown(closed, 0) | wide & _grown(cells, 1)


def _grown(cells: Cells, axis: int) -> Cells:
    grown = cells.copy()
    if axis == 1:
        grown[:, 1:] |= cells[:, :-1]
        grown[:, :-1] |= cells[:, 1:]
    else:
        grown[1:] |= cells[:-1]
        grown[:-1] |= cells[1:]
    return grown


def _groups(cells: Cells) -> list[list[tuple[int, int]]]:
    """Cells that touch, by group, each as (row, column)."""
    waiting = {(int(row), int(column)) for row, column in np.argwhere(cells)}
    groups = []
    while waiting:
        edge = [waiting.pop()]
        group = list(edge)
        while edge:
            row, column = edge.pop()
            for one in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if one in waiting:
                    waiting.remove(one)
                    edge.append(one)
                    group.append(one)
        groups.append(group)
    return groups


def _box(group: list[tuple[int, int]], shape: tuple[int, ...]) -> Box:
    rows, columns = [row for row, _ in group], [column for _, column in group]
    return (
        min(columns) * CELL,
        min(rows) * CELL,
        min((max(columns) + 1) * CELL, shape[1]),
        min((max(rows) + 1) * CELL, shape[0]),
    )


def tiles(length: int, longest: int = TILE_PIXELS, overlap: int = TILE_OVERLAP_PIXELS) -> list[tuple[int, int]]:
    """Begin and end of the fewest tiles that cover `length` with at least the overlap, all about as long as each other."""
    if length <= longest:
        return [(0, length)]
    count = -(-(length - overlap) // (longest - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    starts = [round(i * (length - size) / (count - 1)) for i in range(count)]
    return [(start, start + size) for start in starts]

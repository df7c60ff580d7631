"""How an instance is looked at: which frames, and each of them as pictures in which hidden text stands out.

- A gamma of 0.5 lifts dim text; local contrast lifts text that differs by a grey level or two from its surroundings.
- The darkest and brightest value of every pixel over all frames is text's own picture: what stands still stays, what moves smears,
  so an overlay that any frame carries outside of the moving part is seen although only a sample of frames is read one by one.
- Frames whose sharp edges stand where no sampled frame has them are read as well, each of their pictures; where there are more of them
  than are looked at, nothing says that the rest hold no text, and the instance is held.
- Text of a colour that is as bright as its ground stands in the second grey picture alone: projections and edges are of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from compliance.device_masks import Box
from compliance.pixel_frames import PixelShape, frames_of, grey_pictures
from crypto.errors import RefusedContent

Grey = NDArray[np.float32]
Picture = NDArray[np.uint8]

SAMPLED_FRAMES = 3
FRAMES_READ_ONE_BY_ONE = 4
"""Up to so many frames are all read; of more, a sample and the two projections."""
FRAMES_WITH_NEW_EDGES_MAX = 256
"""Of so many frames with edges of their own it is seen whether letters could stand in them; with more the instance is held."""
_CELL = 16
_EDGE_LEVELS = 40
_NEW_EDGES_PER_CELL = 20
_STRIP_SHARE = 0.12


@dataclass(frozen=True)
class Look:
    """One grey picture of full precision, and the frame it is of (None for a projection over all frames)."""

    grey: Grey
    frame: int | None
    is_one_of_many: bool = False
    """A further frame of a cine, whose projections are read every way: it is read as it is, for what stands in it alone."""
    is_extra: bool = False
    """Not of the sample: its edges stand where no frame before it has any. Readers count those they read."""


def looks_of(dataset: Dataset, shape: PixelShape, covered: Sequence[Box] = ()) -> Iterator[Look]:
    """The pictures that must be read so that all frames count as looked at; edges within `covered` call for none.

    Raises: RefusedContent, as frames_of; TEXT_IN_MANY_FRAMES, at the end, where too many frames have edges of their own.
    """
    if shape.frames <= FRAMES_READ_ONE_BY_ONE:
        seen: list[Grey] = []
        for index, frame in enumerate(frames_of(dataset, shape)):
            for grey in grey_pictures(frame, dataset, shape):
                if not any(np.array_equal(grey, other) for other in seen):
                    seen.append(grey)
                    yield Look(grey, index)
        return
    yield from _looks_of_many(dataset, shape, covered)


def looks_again(dataset: Dataset, shape: PixelShape, frames: Iterable[int | None]) -> Iterator[Look]:
    """The looks of `looks_of` at these frames (None: the projections), of an instance whose pixels have changed since."""
    wanted = set(frames)
    if None in wanted:
        yield from (look for look in looks_of(dataset, shape) if look.frame in wanted)
        return
    indices = sorted(index for index in wanted if index is not None)
    for index, frame in zip(indices, frames_of(dataset, shape, indices), strict=True):
        for grey in grey_pictures(frame, dataset, shape):
            yield Look(grey, index, is_one_of_many=index > 0 and shape.frames > FRAMES_READ_ONE_BY_ONE)


def _looks_of_many(dataset: Dataset, shape: PixelShape, covered: Sequence[Box]) -> Iterator[Look]:
    sampled = sorted({round(i * (shape.frames - 1) / (SAMPLED_FRAMES - 1)) for i in range(SAMPLED_FRAMES)})
    darkest: list[Grey] = []
    brightest: list[Grey] = []
    edges: list[NDArray[np.uint16]] = []
    has_colour = False
    for index, frame in enumerate(frames_of(dataset, shape)):
        greys = grey_pictures(frame, dataset, shape)
        has_colour = has_colour or len(greys) > 1
        every = grey_pictures(frame, dataset, shape, both=True)
        darkest = [np.minimum(*pair) for pair in zip(darkest, every, strict=True)] if darkest else every
        brightest = [np.maximum(*pair) for pair in zip(brightest, every, strict=True)] if brightest else every
        # Text of a colour has its edges in the second picture alone. A frame without colour has none there.
        edges.append(np.stack([_edges_of(grey, covered) if at < len(greys) else _no_edges(grey) for at, grey in enumerate(every)]))
        if index in sampled:
            for grey in greys:
                yield Look(grey, index, is_one_of_many=index > 0)
    pairs = [pair for pair in zip(darkest, brightest, strict=True) if not np.array_equal(*pair)]
    if not pairs:
        return  # all frames are one
    for pair in pairs if has_colour else pairs[:1]:
        yield from (Look(grey, None) for grey in pair)
    extra, is_all = frames_with_new_edges(edges, sampled)
    for index, frame in zip(extra, frames_of(dataset, shape, extra), strict=True) if extra else ():
        for grey in grey_pictures(frame, dataset, shape):
            yield Look(grey, index, is_one_of_many=True, is_extra=True)
    if not is_all:
        raise RefusedContent("TEXT_IN_MANY_FRAMES", "more frames with edges of their own than are read", tag="(7FE0,0010)")


def frames_with_new_edges(edges: Sequence[NDArray[np.uint16]], sampled: Sequence[int]) -> tuple[list[int], bool]:
    """(frames that hold sharp edges in cells where none of the sampled nor of these frames does, whether those are all).

    At most FRAMES_WITH_NEW_EDGES_MAX, those with most such cells first taken.
    """
    cells = np.stack(edges).astype(np.int32)
    known = cells[list(sampled)].max(axis=0)
    chosen: list[int] = []
    while True:
        fresh = (cells > known + _NEW_EDGES_PER_CELL).reshape(len(edges), -1).sum(axis=1)
        best = int(np.argmax(fresh))
        if fresh[best] == 0 or len(chosen) == FRAMES_WITH_NEW_EDGES_MAX:
            return sorted(chosen), bool(fresh[best] == 0)
        chosen.append(best)
        known = np.maximum(known, cells[best])


def pictures_of(look: Look, grey: Grey) -> list[Picture]:
    """The grey picture as 8-bit pictures for the detector: as it is, by local contrast, and the strips at its top and bottom by gamma.

    Over whole frames gamma identified fewer small names than the other two (docs/BURNED_IN_TEXT.md); it is kept where consoles print.
    A projection is read by local contrast alone: its ground is uneven, and what is in every frame was read in the first.
    """
    if look.is_one_of_many:
        return [stretched(grey)]
    strips = gamma_lifted(grey)
    height = max(1, round(grey.shape[0] * _STRIP_SHARE))
    strips[height:-height] = int(np.median(strips))
    return [locally_contrasted(grey), strips] if look.frame is None else [stretched(grey), locally_contrasted(grey), strips]


def gamma_lifted(grey: Grey) -> Picture:
    level = stretched(grey).astype(np.float32) / 255
    return np.asarray(np.rint(255 * np.sqrt(level)), dtype=np.uint8)


def stretched(grey: Grey) -> Picture:
    low, high = float(grey.min()), float(grey.max())
    return np.asarray(np.rint((grey - low) * (255 / max(high - low, 1e-6))), dtype=np.uint8)


def locally_contrasted(grey: Grey, *, radius: int = 24) -> Picture:
    """Every pixel by its distance from the mean of its surroundings in standard deviations, four of them to the end of the scale."""
    mean = _box_mean(grey, radius)
    deviation = np.sqrt(np.maximum(_box_mean(grey * grey, radius) - mean * mean, 0))
    span = float(grey.max() - grey.min())
    # Below a thousandth of the scale only noise of the arithmetic is left; one stored level still counts.
    floor = max(span / 1000, 0.5)
    return np.asarray(np.clip(np.rint(96 + 40 * (grey - mean) / np.maximum(deviation, floor)), 0, 255), dtype=np.uint8)


def _box_mean(grey: NDArray[np.float32], radius: int) -> NDArray[np.float32]:
    size = 2 * radius + 1
    padded = np.pad(grey.astype(np.float64), radius, mode="edge")
    sums = np.pad(padded.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    total = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return np.asarray(total / (size * size), dtype=np.float32)


def _edges_of(grey: Grey, covered: Sequence[Box]) -> NDArray[np.uint16]:
    """Sharp edges in each cell of the picture, those within `covered` left out."""
    picture = stretched(grey)
    sharp = np.abs(np.diff(picture.astype(np.int16), axis=1, prepend=picture[:, :1])) > _EDGE_LEVELS
    for x0, y0, x1, y1 in covered:
        sharp[y0:y1, x0 : x1 + 1] = False
    rows, columns = -(-sharp.shape[0] // _CELL), -(-sharp.shape[1] // _CELL)
    whole = np.zeros((rows * _CELL, columns * _CELL), bool)
    whole[: sharp.shape[0], : sharp.shape[1]] = sharp
    counts = whole.reshape(rows, _CELL, columns, _CELL).sum(axis=(1, 3))
    return np.asarray(counts, dtype=np.uint16)


def _no_edges(grey: Grey) -> NDArray[np.uint16]:
    return np.zeros((-(-grey.shape[0] // _CELL), -(-grey.shape[1] // _CELL)), np.uint16)

"""Images with identity burned into their pixels, and images with marks that must stay."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.tag import Tag

from bench.deid_score.answer_key import Box, Carrier
from bench.deid_score.kinds import KINDS
from bench.deid_score.persona import Persona
from bench.deid_score.study import Study

#: Kind, and whether the header says that identity is burned in ("" for no word on it).
PLANTED = (("US", ""), ("SC", "YES"), ("CR", "NO"), ("DX", "NO"), ("MG", ""), ("XA", ""), ("US", "NO"), ("SC", ""))
#: Where identity stands: share of the height, share of the width.
_PLACES = ((0.02, 0.02), (0.9, 0.03), (0.02, 0.5), (0.5, 0.3))
_LETTER = 0.5


def burned_carriers(person: Persona, rng: random.Random, count: int, size: int = 320) -> list[Carrier]:
    """`count` images with a name, number or date in the pixels: light or dark, 12 to 20 pixels high, corners and middle."""
    study = Study(person, 0)
    found = []
    # What a font of Latin letters can draw.
    family = person.family if person.family.isascii() else person.mother
    forms = (
        f"{family}, {person.given}" if person.given.isascii() else family,
        f"{family} {person.mrn}",
        f"{person.mrn}  {person.born_on:%d.%m.%Y}",
    )
    for index in range(count):
        kind, annotated = PLANTED[index % len(PLANTED)]
        dataset = KINDS[kind](study, size)
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.9.{index}"
        if annotated:
            dataset.BurnedInAnnotation = annotated
        elif "BurnedInAnnotation" in dataset:
            del dataset.BurnedInAnnotation
        box = draw(
            dataset,
            forms[index % len(forms)],
            _PLACES[rng.randrange(len(_PLACES))],
            rng.choice([12, 14, 16, 20]),
            is_light=rng.random() < 0.7,
        )
        found.append(Carrier(f"burned in: {kind}", kind, person, dataset, boxes=[box], may_be_held=True))
    return found


def marked_carriers(person: Persona, size: int = 320) -> list[Carrier]:
    """Images with clinical marks: they must pass, marks and all."""
    study = Study(person, 0)
    found = []
    for index, (kind, mark) in enumerate((("CR", "L"), ("DX", "R"), ("MG", "LCC"), ("US", "10 cm"))):
        dataset = KINDS[kind](study, size)
        dataset.SOPInstanceUID = f"{dataset.SOPInstanceUID}.8.{index}"
        draw(dataset, mark, (0.04, 0.8), 20, is_light=True)
        found.append(Carrier("clinical marks", kind, person, dataset))
    return found


def draw(dataset: Dataset, text: str, place: tuple[float, float], height: int, *, is_light: bool) -> Box:
    """Draw into every frame; the box of the letters."""
    array = dataset.pixel_array.copy()
    rows, columns = dataset.Rows, dataset.Columns
    font = ImageFont.load_default(height)
    width = int(font.getlength(text)) + 2
    y, x = int(place[0] * rows), min(int(place[1] * columns), max(0, columns - width))
    y = min(y, rows - height - 4)
    canvas = Image.new("L", (columns, rows))
    ImageDraw.Draw(canvas).text((x, y), text, fill=255, font=font)
    letters = np.asarray(canvas) > 255 * _LETTER
    value = (1 << dataset.BitsStored) - 1 if is_light else 0
    if dataset.SamplesPerPixel == 3:
        array[..., letters, :] = value
    else:
        array[..., letters] = value
    data = array.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset[Tag(0x7FE00010)].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    where = np.argwhere(letters)
    (top, left), (bottom, right) = where.min(0), where.max(0)
    return int(left), int(top), int(right) + 1, int(bottom) + 1


def letters_left(before: NDArray[np.generic], after: NDArray[np.generic], box: Box) -> float:
    """The share of the letters' pixels in `box` that came through and can still be told from what is around them."""
    x0, y0, x1, y1 = box
    one, two = before[..., y0:y1, x0:x1], after[..., y0:y1, x0:x1]
    if before.shape[-1] == 3 and before.ndim >= 3:
        one, two = before[..., y0:y1, x0:x1, :].mean(-1), after[..., y0:y1, x0:x1, :].mean(-1)
    common = np.median(one)
    spread = float(np.abs(one - common).max()) or 1.0
    letters = np.abs(one - common) > spread / 2
    if not letters.any():
        return 0.0
    # Black letters in a box blanked black are as they were and nobody reads them: what counts is what stands out of its surroundings.
    ground = np.median(two[~letters]) if (~letters).any() else np.median(two)
    stays = np.abs(two[letters] - one[letters]) <= spread / 10
    stands_out = np.abs(two[letters] - ground) > spread / 10
    return float(np.mean(stays & stands_out))

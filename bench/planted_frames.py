"""Frames with planted names, and clean ones: grounds, what is printed on them, and how they are encoded."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, ExplicitVRLittleEndian, HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from bench.grounds import ground_of
from bench.lettering import fonts, lettered, size_of
from compliance.pixel_frames import frames_of, pixel_shape

Grey = NDArray[np.float32]

_PEOPLE = (
    "MULLER KOWALSKA DUBOIS OKONKWO FERRARI NAKAMURA LINDQVIST HERNANDEZ SCHWARTZ IVANOVA OCONNOR WHITFIELD BAUMANN TREMBLAY JANSSEN DOE "
    "LEE FISCHER ROSSI YILMAZ HAUGEN PAPADAKIS CHATTERJEE NGUYEN SILVA",
    "HANS ANNA PIERRE NGOZI LUCA YUKI ASTRID MARIA JOSEF OLGA SEAN EMILY KLAUS MARIE PIETER JOHN JANE UWE IDA TOM ELENI RAVI LINH JOAO ZOE",
)
FAMILY, GIVEN = (names.split() for names in _PEOPLE)
MARKS = (
    "L",
    "R",
    "R LAT",
    "AP",
    "PA",
    "120 kV",
    "MI 1.1",
    "TIs 0.4",
    "10 cm",
    "28Hz",
    "Gn 60",
    "5",
    "10",
    "LCC",
    "RMLO",
    "PORTABLE",
    "SUPINE",
    "2D",
    "Im 1",
)
SIZES = (8, 10, 12, 14, 16, 20)
WIDTHS = (512, 1024, 2048)
TURNS = (0, 90, 270)
FORMS = ("mono8", "mono16", "rgb", "ybr")
SYNTAXES = (ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEG2000Lossless, JPEG2000, RLELossless, HTJ2KLossless)
_INKS = ((255, 255, 255), (255, 255, 0), (0, 255, 0), (0, 255, 255), (255, 160, 0))
_APART_PIXELS = 100
"""So that what is read closely around one name does not help to find the next."""
_CONTRAST = 90
"""Grey levels between ink and the mean of its ground, so that a person can read it."""
_PART_PIXELS = 16
_KEPT_BY_CODING = 0.5
"""Correlation of a part of a text as drawn with what the codec left of it: smears without letters have hardly such a part."""


@dataclass
class Planted:
    """One text in one frame; `letters` is the mask of its pixels."""

    letters: NDArray[np.bool_]
    facts: dict[str, Any]


@dataclass
class Frame:
    """A frame, the identity its header would write, the names planted into it, and the clinical marks on it."""

    dataset: Dataset
    identity: list[str]
    planted: list[Planted] = field(default_factory=list)
    marks: list[Planted] = field(default_factory=list)
    lost_in_coding: list[Planted] = field(default_factory=list)
    """Names of which the lossy codec left nothing to read; they are not among `planted`."""
    facts: dict[str, Any] = field(default_factory=dict)


def make_frame(rng: np.random.Generator, *, names: int, **fixed: Any) -> Frame:
    """A frame with up to so many names well apart from each other, or a clean one with at most clinical marks. `fixed` pins any fact."""
    facts: dict[str, Any] = {
        "width": int(rng.choice(WIDTHS)),
        "ground": str(rng.choice(["black", "speckle", "anatomy", "page"], p=[0.25, 0.35, 0.35, 0.05])),
        "form": str(rng.choice(FORMS)),
        "syntax": SYNTAXES[int(rng.choice(6, p=[0.3, 0.25, 0.15, 0.15, 0.05, 0.1]))],
    } | fixed
    if facts["form"] == "mono16" and facts["syntax"] == JPEGBaseline8Bit:
        facts["form"] = "mono8"
    if facts["form"] == "ybr" and facts["syntax"] not in (ExplicitVRLittleEndian, JPEGBaseline8Bit):
        facts["form"] = "rgb"
    grey, facts["kind"] = ground_of(rng, facts["ground"], facts["width"] * 3 // 4, facts["width"])
    picture = np.repeat(grey[..., None], 3, axis=2)
    frame = Frame(Dataset(), _person(rng), facts=facts)
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(names):
        one = _plant(rng, picture, grey, _text(rng, frame.identity), facts, taken)
        if one is not None:
            frame.planted.append(one)
    if names == 0 and rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 5))):
            printed = str(rng.choice(MARKS))
            mark = _plant(rng, picture, grey, (printed, printed), facts, taken, is_mark=True)
            if mark is not None:
                frame.marks.append(mark)
    frame.dataset = dataset_of(picture, facts)
    if facts["syntax"] in (JPEGBaseline8Bit, JPEG2000):
        coded = np.squeeze(next(iter(frames_of(frame.dataset, pixel_shape(frame.dataset)))))
        frame.lost_in_coding = [one for one in frame.planted if not is_left_by_coding(picture, coded, one.letters)]
        frame.planted = [one for one in frame.planted if all(one is not lost for lost in frame.lost_in_coding)]
    return frame


def is_left_by_coding(picture: Grey, coded: NDArray[Any], letters: NDArray[np.bool_]) -> bool:
    """Whether anything of the text can be read in the decoded frame: on black, sparse dim letters are what a lossy codec drops."""
    rows, columns = np.nonzero(letters)
    place = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    shares = []
    for channel in range(3):
        drawn, left = picture[place][..., channel], (coded if coded.ndim == 2 else coded[..., channel])[place].astype(np.float32)
        along = int(drawn.shape[1] >= drawn.shape[0])
        parts = max(1, drawn.shape[along] // _PART_PIXELS)
        pairs = zip(np.array_split(drawn, parts, along), np.array_split(left, parts, along), strict=True)
        shares.append(float(np.mean([_correlation(*pair) >= _KEPT_BY_CODING for pair in pairs])))
    return max(shares) >= 0.25


def _correlation(one: Grey, other: Grey) -> float:
    one, other = one - one.mean(), other - other.mean()
    spread = float(np.sqrt((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / spread if spread > 1e-6 else 0.0


def _person(rng: np.random.Generator) -> list[str]:
    born = f"{rng.integers(1930, 2015)}{rng.integers(1, 13):02}{rng.integers(1, 29):02}"
    return [f"{rng.choice(FAMILY)}^{rng.choice(GIVEN)}", f"{rng.integers(100000, 99999999)}", born]


def _text(rng: np.random.Generator, identity: list[str]) -> tuple[str, str]:
    (family, given), number, born = identity[0].split("^"), identity[1], identity[2]
    forms = (
        ("FAMILY^GIVEN", f"{family}^{given}"),
        ("Family, Given", f"{family.title()}, {given.title()}"),
        ("GIVEN FAMILY", f"{given} {family}"),
        ("given family", f"{given.title()} {family.title()}"),
        ("name and date", f"{family} {given} {born[6:]}.{born[4:6]}.{born[:4]}"),
        ("name and number", f"{family} ID {number}"),
        ("number", f"ID {number}"),
        ("date", f"{born[:4]}-{born[4:6]}-{born[6:]}"),
    )
    return forms[int(rng.choice(len(forms), p=[0.18, 0.18, 0.16, 0.14, 0.12, 0.1, 0.06, 0.06]))]


def _plant(
    rng: np.random.Generator,
    picture: Grey,
    grey: Grey,
    text: tuple[str, str],
    facts: dict[str, Any],
    taken: list[tuple[int, int, int, int]],
    *,
    is_mark: bool = False,
) -> Planted | None:
    """The text stands in the picture where there is room and it can be read; None where no such place was found."""
    font, size = str(rng.choice(fonts())), int(rng.choice(SIZES))
    size = max(size, 12) if is_mark else max(size, 10) if font == "narrow" else size
    turn = int(rng.choice(TURNS, p=[0.7, 0.15, 0.15])) if not is_mark else 0
    wants_dark = bool(rng.random() < 0.5)
    plate = np.rot90(lettered(text[1], font, size), turn // 90)
    height, width = plate.shape
    rows, columns = grey.shape
    if height + 4 >= rows or width + 4 >= columns:
        return None
    for attempt in range(40):
        is_edge = bool(rng.random() < 0.4)
        y, x = int(rng.integers(1, rows - height - 1)), int(rng.integers(1, columns - width - 1))
        if is_edge:
            y = int(rng.choice([rng.integers(2, rows // 12), max(1, rows - height - int(rng.integers(2, rows // 12)))]))
        if any(
            x < r + _APART_PIXELS and left < x + width + _APART_PIXELS and y < b + _APART_PIXELS and top < y + height + _APART_PIXELS
            for left, top, r, b in taken
        ):
            continue
        under = grey[y : y + height, x : x + width]
        tone, value = _tone(rng, float(under[plate > 0.25].mean()), wants_dark and attempt < 30, facts["ground"])
        if value is None:
            continue
        if tone != "dim" and not _is_seen(under, plate, value):
            continue
        taken.append((x, y, x + width, y + height))
        is_colour = facts["form"] in ("rgb", "ybr") and tone == "light"
        ink = np.asarray(_INKS[int(rng.integers(len(_INKS)))] if is_colour else (255, 255, 255), np.float32) * (value / 255)
        share = plate[..., None]
        here = picture[y : y + height, x : x + width]
        picture[y : y + height, x : x + width] = here * (1 - share) + ink * share
        letters = np.zeros(grey.shape, bool)
        letters[y : y + height, x : x + width] = plate > 0.25
        own = {
            "size": size_of(font, size),
            "font": font,
            "turn": turn,
            "tone": tone,
            "text": text[0],
            "place": "edge" if is_edge else "anywhere",
        }
        return Planted(letters, {key: facts[key] for key in ("width", "ground", "kind", "form", "syntax")} | own)
    return None


def _is_seen(under: Grey, plate: Grey, value: float) -> bool:
    """Whether every letter stands out of its own ground, not just the text as a whole: half a name on black is another text."""
    length = max(plate.shape)
    for begin in range(0, length, 8):
        part = (slice(None), slice(begin, begin + 12)) if plate.shape[1] == length else (slice(begin, begin + 12), slice(None))
        if (plate[part] > 0.25).any() and abs(float(under[part].mean()) - value) < 0.75 * _CONTRAST:
            return False
    return True


def _tone(rng: np.random.Generator, mean: float, wants_dark: bool, ground: str) -> tuple[str, float | None]:
    if ground == "black":
        return ("dim", 40.0) if wants_dark else ("light", float(rng.choice([120, 180, 255])))
    values = [value for value in ((0.0, 30.0) if wants_dark else (180.0, 220.0, 255.0)) if abs(value - mean) >= _CONTRAST]
    return ("dark" if wants_dark else "light"), float(rng.choice(values)) if values else None


def dataset_of(picture: Grey, facts: dict[str, Any]) -> Dataset:
    """The picture (rows, columns, 3 of 0 to 255), or a list of them, as an instance of the form and transfer syntax."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = facts["syntax"]
    is_us = facts["ground"] in ("black", "speckle")
    dataset.SOPClassUID, dataset.Modality = ("1.2.840.10008.5.1.4.1.1.6.1", "US") if is_us else ("1.2.840.10008.5.1.4.1.1.1.1", "DX")
    frames = picture if picture.ndim == 4 else picture[None]
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    sixteen, colour = facts["form"] == "mono16", facts["form"] in ("rgb", "ybr")
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (16, 12, 11) if sixteen else (8, 8, 7)
    dataset.PixelRepresentation = 0
    if colour:
        dataset.PlanarConfiguration = 0
    values = np.rint((frames if colour else frames[..., 0]) * (4095 / 255 if sixteen else 1)).astype("<u2" if sixteen else "u1")
    _encode(dataset, values, facts)
    return dataset


def _encode(dataset: Dataset, values: NDArray[Any], facts: dict[str, Any]) -> None:
    syntax, colour = facts["syntax"], dataset.SamplesPerPixel == 3
    if syntax in (ExplicitVRLittleEndian, RLELossless):
        if facts["form"] == "ybr":
            values = np.stack([np.asarray(Image.fromarray(frame).convert("YCbCr")) for frame in values])
            dataset.PhotometricInterpretation = "YBR_FULL"
        payload = values.tobytes()
        dataset.add_new("PixelData", "OW" if dataset.BitsAllocated == 16 else "OB", payload + b"\0" * (len(payload) % 2))
        if syntax == RLELossless:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.SOPInstanceUID = "2.25.1"
            dataset.compress(RLELossless, generate_instance_uid=False)
        return
    streams = []
    for frame in values:
        if syntax == JPEGBaseline8Bit:
            stream = io.BytesIO()
            Image.fromarray(frame).save(stream, "JPEG", quality=88)
            streams.append(stream.getvalue())
        elif syntax == HTJ2KLossless:
            streams.append(bytes(imagecodecs.htj2k_encode(frame, reversible=True)))
        else:
            is_lossless = syntax == JPEG2000Lossless
            level = 0 if is_lossless else 42 if frame.dtype.itemsize == 1 else 66  # decibels below the largest value of the type
            streams.append(bytes(imagecodecs.jpeg2k_encode(frame, level=level, codecformat="j2k", reversible=is_lossless, mct=colour)))
    lossy = syntax in (JPEGBaseline8Bit, JPEG2000)
    if lossy:
        dataset.LossyImageCompression = "01"
    if colour:
        dataset.PhotometricInterpretation = {JPEGBaseline8Bit: "YBR_FULL_422", JPEG2000: "YBR_ICT"}.get(syntax, "YBR_RCT")
    dataset.add_new("PixelData", "OB", encapsulate(streams))
    dataset["PixelData"].is_undefined_length = True


def make_cine(rng: np.random.Generator, where: str, *, frames: int = 60) -> Frame:
    """A cine of moving speckle, 640 wide, with a name: "every frame", "one frame beside the fan", "one frame on the fan", or "none"."""
    facts: dict[str, Any] = {"width": 640, "ground": "speckle", "form": "mono8", "syntax": ExplicitVRLittleEndian, "where": where}
    grey, _ = ground_of(rng, "speckle", 480, 640)
    fan = grey > 0
    moving = np.stack([np.roll(grey, (int(4 * np.sin(index / 4)), int(rng.integers(-3, 4))), (0, 1)) * fan for index in range(frames)])
    frame = Frame(Dataset(), _person(rng), facts=facts)
    text, size = f"{frame.identity[0].replace('^', ', ')} {frame.identity[1]}", int(rng.choice((12, 14, 16, 20)))
    plate = lettered(text, str(rng.choice(["outline", "plotter", "strokes"])), size)
    height, width = plate.shape
    y, x = (int(rng.integers(200, 330)), int(rng.integers(200, 440 - width // 2))) if where.endswith("on the fan") else (4, 6)
    shown = range(frames) if where == "every frame" else [int(rng.integers(frames // 8, frames * 3 // 8))] if where != "none" else []
    letters = np.zeros(grey.shape, bool)
    width = min(width, 640 - x)
    letters[y : y + height, x : x + width] = plate[:, :width] > 0.25
    for index in shown:
        here = moving[index, y : y + height, x : x + width]
        moving[index, y : y + height, x : x + width] = here * (1 - plate[:, :width]) + 255 * plate[:, :width]
    if where != "none":
        frame.planted.append(Planted(letters, facts | {"size": size}))
    frame.dataset = dataset_of(np.repeat(moving[..., None], 3, axis=3).astype(np.float32), facts)
    return frame

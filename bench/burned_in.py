"""How many planted names the pixel screening finds, and how often it holds a clean frame.

    python -m bench.burned_in [--frames 200] [--clean 100] [--width-max 2048] [--seed 1] [--seconds-max 3600] [--json FILE]

Every planted frame carries one name (or name with date or number) of an invented person, at 8 to 20 pixels em size, light or dark, in one
of three fonts, straight or rotated by 90 degrees, on black, ultrasound-like speckle, an X-ray-like gradient or a white page, 512 to 2048
wide, grey (8 or 16 bits) or colour, native, RLE, HTJ2K or baseline JPEG. A name counts as found when the frame is held, or when the result
is CLEANED and at least 98 % of the planted letters' pixels lie in blanked boxes. Clean frames carry nothing or clinical marks.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLossless, JPEGBaseline8Bit, RLELossless

from compliance.burned_in import PixelScreening, screen_pixels
from compliance.text_detection import TextDetector, open_text_detector

FAMILY = (
    "MULLER",
    "KOWALSKA",
    "DUBOIS",
    "OKONKWO",
    "FERRARI",
    "NAKAMURA",
    "LINDQVIST",
    "HERNANDEZ",
    "SCHWARTZ",
    "IVANOVA",
    "OCONNOR",
    "WHITFIELD",
    "BAUMANN",
    "TREMBLAY",
    "JANSSEN",
)
GIVEN = (
    "HANS",
    "ANNA",
    "PIERRE",
    "NGOZI",
    "LUCA",
    "YUKI",
    "ASTRID",
    "MARIA",
    "JOSEF",
    "OLGA",
    "SEAN",
    "EMILY",
    "KLAUS",
    "MARIE",
    "PIETER",
)
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
SIZES = (8, 9, 10, 12, 14, 16, 20)
WIDTHS = (512, 640, 800, 1024, 1400, 2048)
GROUNDS = ("black", "speckle", "gradient", "page")
FORMS = ("mono8", "mono16", "rgb")
SYNTAXES = (ExplicitVRLittleEndian, RLELossless, HTJ2KLossless, JPEGBaseline8Bit)
SOP_CLASSES = {"black": ("1.2.840.10008.5.1.4.1.1.6.1", "US"), "speckle": ("1.2.840.10008.5.1.4.1.1.6.1", "US")}


@dataclass
class Planted:
    """One frame with what was planted; `letters` is the mask of the planted pixels."""

    dataset: Dataset
    identity: list[str]
    letters: np.ndarray[Any, Any]
    facts: dict[str, Any] = field(default_factory=dict)


def make_frame(rng: np.random.Generator, *, planted: bool, width_max: int = 2048, **fixed: Any) -> Planted:
    """A frame with a name, or a clean one with at most clinical marks. `fixed` pins any of the facts."""
    facts: dict[str, Any] = {
        "width": int(rng.choice([width for width in WIDTHS if width <= width_max])),
        "ground": str(rng.choice(GROUNDS)),
        "size": int(rng.choice(SIZES)),
        "font": str(rng.choice(["outline", "bitmap", "plotter"], p=[0.6, 0.15, 0.25])),
        "rotated": bool(rng.random() < 0.15),
        "form": str(rng.choice(FORMS)),
        "syntax": SYNTAXES[int(rng.integers(len(SYNTAXES)))],
        "place": str(rng.choice(["edge", "anywhere"], p=[0.6, 0.4])),
    } | fixed
    if facts["form"] == "mono16" and facts["syntax"] == JPEGBaseline8Bit:
        facts["syntax"] = HTJ2KLossless
    grey = _ground(rng, facts["ground"], facts["width"] * 3 // 4, facts["width"])
    identity = _person(rng)
    letters = np.zeros(grey.shape, np.float32)
    if planted:
        letters = _letters(rng, _text(rng, identity), grey.shape, facts)
        facts["tone"], value = _tone(rng, facts["ground"], grey, letters)
        grey = grey * (1 - letters) + value * letters
    elif rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            mark = _letters(
                rng, str(rng.choice(MARKS)), grey.shape, facts | {"rotated": False, "size": max(12, facts["size"]), "font": "outline"}
            )
            _, value = _tone(rng, facts["ground"], grey, mark)
            grey, letters = grey * (1 - mark) + value * mark, np.maximum(letters, mark)
    return Planted(_dataset(grey, facts, rng), identity, letters > 0.25, facts)


def _person(rng: np.random.Generator) -> list[str]:
    family, given = str(rng.choice(FAMILY)), str(rng.choice(GIVEN))
    born = f"{rng.integers(1930, 2015)}{rng.integers(1, 13):02}{rng.integers(1, 29):02}"
    return [f"{family}^{given}", f"{rng.integers(100000, 99999999)}", born]


def _text(rng: np.random.Generator, identity: list[str]) -> str:
    (family, given), number, born = identity[0].split("^"), identity[1], identity[2]
    forms = (
        f"{family}^{given}",
        f"{family.title()}, {given.title()}",
        f"{given} {family}",
        f"{family} {given} {born[6:]}.{born[4:6]}.{born[:4]}",
        f"{family} ID {number}",
    )
    return forms[int(rng.integers(len(forms)))]


def _ground(rng: np.random.Generator, kind: str, rows: int, columns: int) -> np.ndarray[Any, Any]:
    if kind == "black":
        return np.zeros((rows, columns), np.float32)
    if kind == "page":
        return np.full((rows, columns), 245, np.float32)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    if kind == "gradient":
        ribs = 18 * np.sin(y / rows * 40 + 4 * np.sin(x / columns * 3))
        body = 70 + 110 * np.exp(-(((x / columns - 0.5) / 0.35) ** 2)) + ribs
        return np.asarray(np.clip(body + rng.normal(0, 3, (rows, columns)), 0, 255), np.float32)
    noise = rng.rayleigh(1.0, (rows // 2 + 1, columns // 2 + 1)).astype(np.float32)
    fine = np.asarray(Image.fromarray(noise).resize((columns, rows), Image.Resampling.BICUBIC))
    coarse = np.asarray(Image.fromarray(rng.random((8, 8)).astype(np.float32)).resize((columns, rows), Image.Resampling.BICUBIC))
    radius = np.hypot(x - columns / 2, y + rows * 0.1)
    fan = (np.abs(np.arctan2(x - columns / 2, y + rows * 0.1)) < 0.75) & (radius > rows * 0.2) & (radius < rows * 1.02)
    return np.asarray(np.clip(55 * fine * (0.3 + coarse), 0, 255) * fan, np.float32)


def _letters(rng: np.random.Generator, text: str, shape: tuple[int, ...], facts: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The text's coverage from 0 to 1 in a frame of the shape."""
    size = facts["size"]
    if facts["font"] == "plotter":
        import cv2

        scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, max(7, round(size * 0.72)), 1)
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        plate = np.zeros((height + below + 4, width + 4), np.uint8)
        cv2.putText(plate, text, (2, height + 2), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_AA)
    else:
        font: Any = ImageFont.load_default(size)
        if facts["font"] == "bitmap":
            font = ImageFont.load_default_imagefont()
            facts["size"] = 11
        left, top, right, bottom = font.getbbox(text)
        image = Image.new("L", (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4))
        ImageDraw.Draw(image).text((2 - left, 2 - top), text, font=font, fill=255)
        plate = np.asarray(image)
    if facts["rotated"]:
        plate = np.rot90(plate, int(rng.choice([1, 3])))
    rows, columns = shape
    height, width = plate.shape
    if facts["place"] == "edge":
        y = int(rng.choice([rng.integers(2, max(3, rows // 12)), rows - height - rng.integers(2, max(3, rows // 12))]))
    else:
        y = int(rng.integers(0, max(1, rows - height)))
    x = int(rng.integers(0, max(1, columns - width)))
    result = np.zeros(shape, np.float32)
    height, width = min(height, rows - y), min(width, columns - x)
    result[y : y + height, x : x + width] = plate[:height, :width] / 255
    return result


def _tone(rng: np.random.Generator, ground: str, grey: np.ndarray[Any, Any], letters: np.ndarray[Any, Any]) -> tuple[str, float]:
    """Light or dark, but such that a person can read it: at least 90 levels from the mean of its ground (on black also 40, dim)."""
    mean = float(grey[letters > 0.25].mean()) if (letters > 0.25).any() else 0.0
    if ground == "black":
        return ("dim", 40.0) if rng.random() < 0.25 else ("light", float(rng.choice([120, 180, 255])))
    light = [("light", value) for value in (180.0, 220.0, 255.0) if value - mean >= 90]
    dark = [("dark", value) for value in (0.0, 30.0) if mean - value >= 90]
    choices = light + dark
    return choices[int(rng.integers(len(choices)))] if choices else ("light", 255.0)


def _dataset(grey: np.ndarray[Any, Any], facts: dict[str, Any], rng: np.random.Generator) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = facts["syntax"]
    dataset.SOPClassUID, dataset.Modality = SOP_CLASSES.get(facts["ground"], ("1.2.840.10008.5.1.4.1.1.1.1", "DX"))
    dataset.Rows, dataset.Columns = grey.shape
    sixteen, colour = facts["form"] == "mono16", facts["form"] == "rgb"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (16, 12, 11) if sixteen else (8, 8, 7)
    dataset.PixelRepresentation = 0
    values = np.rint(grey * (4095 / 255 if sixteen else 1)).astype("<u2" if sixteen else "u1")
    if colour:
        dataset.PlanarConfiguration = 0
        tint = rng.uniform(0.8, 1.0, 3)
        values = np.ascontiguousarray((values[..., None] * tint).astype(np.uint8))
    _encode(dataset, values, facts["syntax"])
    return dataset


def _encode(dataset: Dataset, values: np.ndarray[Any, Any], syntax: Any) -> None:
    if syntax == ExplicitVRLittleEndian:
        payload = values.tobytes()
        dataset.add_new("PixelData", "OW" if dataset.BitsAllocated == 16 else "OB", payload + b"\0" * (len(payload) % 2))
        return
    if syntax == RLELossless:
        dataset.add_new("PixelData", "OW" if dataset.BitsAllocated == 16 else "OB", values.tobytes())
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPInstanceUID = "2.25.1"
        dataset.compress(RLELossless, generate_instance_uid=False)
        return
    if syntax == JPEGBaseline8Bit:
        stream = io.BytesIO()
        Image.fromarray(values).save(stream, "JPEG", quality=88)
        dataset.PhotometricInterpretation = "YBR_FULL_422" if values.ndim == 3 else "MONOCHROME2"
        dataset.LossyImageCompression = "01"
        codestream = stream.getvalue()
    else:
        codestream = bytes(imagecodecs.htj2k_encode(values, reversible=True))
        dataset.PhotometricInterpretation = "YBR_RCT" if values.ndim == 3 else "MONOCHROME2"
    dataset.add_new("PixelData", "OB", encapsulate([codestream]))
    dataset["PixelData"].is_undefined_length = True


def judge(planted: Planted, result: PixelScreening) -> str:
    """ "blanked", "held" or "missed"."""
    if result.outcome == "HOLD":
        return "held"
    covered = np.zeros(planted.letters.shape, bool)
    for x0, y0, x1, y1 in (box.box for box in result.boxes):
        covered[y0:y1, x0:x1] = True
    share = covered[planted.letters].mean() if planted.letters.any() else 0
    return "blanked" if result.outcome == "CLEANED" and share >= 0.98 else "missed"


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    if total == 0:
        return 0.0, 1.0
    z, share = 1.96, hits / total
    centre, spread = share + z * z / (2 * total), z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (centre - spread) / (1 + z * z / total), (centre + spread) / (1 + z * z / total)


@dataclass
class Tally:
    """What was counted so far."""

    planted: int = 0
    clean: int = 0
    verdicts: dict[str, int] = field(default_factory=lambda: {"blanked": 0, "held": 0, "missed": 0})
    cells: dict[str, dict[str, list[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(lambda: [0, 0])))
    missed: list[dict[str, Any]] = field(default_factory=list)
    false_holds: int = 0
    falsely_blanked: int = 0
    marked: int = 0
    marks_lost: int = 0
    seconds: dict[str, dict[int, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))

    def add_planted(self, frame: Planted, result: PixelScreening) -> None:
        verdict = judge(frame, result)
        self.planted += 1
        self.verdicts[verdict] += 1
        facts = {key: getattr(value, "name", value) for key, value in frame.facts.items()}
        for key, value in facts.items():
            cell = self.cells[key][str(value)]
            cell[0] += verdict != "missed"
            cell[1] += 1
        if verdict == "missed":
            self.missed.append(facts | {"outcome": result.outcome})

    def add_clean(self, frame: Planted, result: PixelScreening) -> None:
        self.clean += 1
        self.false_holds += result.outcome == "HOLD"
        self.falsely_blanked += result.outcome == "CLEANED"
        if frame.letters.any():
            self.marked += 1
            self.marks_lost += any(frame.letters[y0:y1, x0:x1].any() for x0, y0, x1, y1 in (box.box for box in result.boxes))

    def figures(self) -> dict[str, Any]:
        found = self.planted - self.verdicts["missed"]
        return {
            "planted": self.planted,
            "recall": round(found / max(self.planted, 1), 4),
            "recall_95": wilson(found, self.planted),
            **self.verdicts,
            "clean": self.clean,
            "false_holds": self.false_holds,
            "false_holds_95": wilson(self.false_holds, self.clean),
            "falsely_blanked": self.falsely_blanked,
            "clean_with_marks": self.marked,
            "frames_with_marks_lost": self.marks_lost,
            "cpu_seconds": {
                kind: {width: round(float(np.mean(t)), 2) for width, t in sorted(times.items())} for kind, times in self.seconds.items()
            },
            "by": {key: {value: f"{hit}/{total}" for value, (hit, total) in sorted(cell.items())} for key, cell in self.cells.items()},
            "missed_frames": self.missed,
        }


def run(detector: TextDetector, frames: int, clean: int, width_max: int, seed: int, seconds_max: float) -> Tally:
    """Clean frames are spread between the planted ones, so that a run cut short by `seconds_max` still says something of both."""
    rng = np.random.default_rng(seed)
    tally = Tally()
    started = time.perf_counter()
    while (tally.planted < frames or tally.clean < clean) and time.perf_counter() - started < seconds_max:
        planted = tally.planted * max(clean, 1) <= tally.clean * max(frames, 1) if tally.clean < clean else True
        planted = planted and tally.planted < frames
        frame = make_frame(rng, planted=planted, width_max=width_max)
        begun = time.process_time()
        result = screen_pixels(frame.dataset, frame.identity, detector)
        tally.seconds["planted" if planted else "clean"][frame.facts["width"]].append(time.process_time() - begun)
        (tally.add_planted if planted else tally.add_clean)(frame, result)
        _progress(f"planted {tally.planted} missed {tally.verdicts['missed']}, clean {tally.clean} held {tally.false_holds}")
    return tally


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line}   ", end="", file=sys.stderr)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name, value in (("frames", 200), ("clean", 100), ("width-max", 2048), ("seed", 1), ("threads", 1), ("seconds-max", 3600)):
        arguments.add_argument(f"--{name}", type=int, default=value)
    arguments.add_argument("--json")
    chosen = arguments.parse_args()
    detector = open_text_detector(threads=chosen.threads)
    if detector is None:
        print("The extra 'ocr' is not installed: pip install 'readgate[ocr]'", file=sys.stderr)
        return 2
    tally = run(detector, chosen.frames, chosen.clean, chosen.width_max, chosen.seed, chosen.seconds_max)
    text = json.dumps(tally.figures(), indent=1)
    if chosen.json:
        with open(chosen.json, "w", encoding="utf-8") as out:
            out.write(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How many planted names the pixel screening finds, and how often it holds a clean frame.

    python -m bench.burned_in [--full] [--names 60] [--clean 20] [--cines 1] [--seed 1] [--width 512,1024,2048] [--corpus DIR]
                              [--seconds-max 3600] [--threads 1] [--part 0/4] [--json FILE]

Planted are names of invented persons, and their numbers and dates, 8 to 20 pixels em size, light, dark and dim, in up to seven fonts,
straight and turned by 90 and 270 degrees, on black, ultrasound-like speckle, phantoms like anatomy and pages, 512 to 2048 wide, grey (8 or
16 bits), RGB and YBR, native, JPEG baseline, JPEG 2000 (lossless and lossy), HTJ2K or RLE: two on a frame of 512, eight on one of 2048,
well apart.

A planted text counts as `blanked` when the result is CLEANED and at least 98 % of its letters' pixels lie in blanked boxes, as `held` when
the instance is held and a box lies over it, else as `missed`, also where the instance is held for something else. A text of which a lossy
codec left nothing to read is counted apart, as `lost_in_coding`. Clean frames carry nothing or clinical marks. With --corpus, files of the
directory are read as if at risk; whether they hold text is for a person to say.

With --part, frames are planted and clean by turns, and of these pairs this process takes every fourth, say: parts add up to a run of
several processes, and each by itself is a sample. Cines are read by the first part.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from bench.planted_frames import WIDTHS, Frame, make_cine, make_frame
from compliance.burned_in import PixelScreening, screen_pixels
from compliance.text_detection import TextDetector, open_text_detector

NAMES_PER_FRAME = {512: 2, 1024: 4, 2048: 8}
#: Narrow frames are cheaper to read: of each width about as many names, not as many frames.
_FRAMES_PER_WIDTH = {512: 0.66, 1024: 0.27, 2048: 0.07}
CINES = ("every frame", "one frame beside the fan", "one frame on the fan", "none")
VERDICTS = ("blanked", "held", "missed")
_CORPUS_PIXELS_MAX = 8_000_000


def judge(letters: np.ndarray[Any, Any], result: PixelScreening) -> str:
    """One of VERDICTS."""
    covered = np.zeros(letters.shape, bool)
    for x0, y0, x1, y1 in (box.box for box in result.boxes):
        covered[y0:y1, x0:x1] = True
    share = covered[letters].mean() if letters.any() else 0
    if result.outcome == "HOLD":
        return "held" if share >= 0.5 else "missed"
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

    verdicts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VERDICTS, 0))
    cells: dict[str, dict[str, dict[str, int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: dict.fromkeys(VERDICTS, 0)))
    )
    missed: list[dict[str, Any]] = field(default_factory=list)
    clean: int = 0
    false_holds: int = 0
    falsely_blanked: int = 0
    lost_in_coding: int = 0
    marks: int = 0
    marks_lost: list[dict[str, str]] = field(default_factory=list)
    clean_cells: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    corpus: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def planted(self) -> int:
        return sum(self.verdicts.values())

    def add(self, frame: Frame, result: PixelScreening, cpu_seconds: float) -> None:
        kind = "cine" if "where" in frame.facts else "clean" if not frame.planted else "planted"
        self.seconds[f"{kind} {frame.facts['width']}"].append(cpu_seconds)
        for one in frame.planted:
            verdict = judge(one.letters, result)
            self.verdicts[verdict] += 1
            facts = {key: str(getattr(value, "name", value)) for key, value in one.facts.items()}
            for key, value in facts.items():
                self.cells[key][value][verdict] += 1
            if verdict == "missed":
                rows, columns = np.nonzero(one.letters)
                self.missed.append(facts | {"outcome": result.outcome, "at": f"{columns.min()},{rows.min()}"})
        self.lost_in_coding += len(frame.lost_in_coding)
        if not frame.planted and not frame.lost_in_coding:
            self._add_clean(frame, result)

    def _add_clean(self, frame: Frame, result: PixelScreening) -> None:
        held, blanked = result.outcome == "HOLD", result.outcome == "CLEANED"
        self.clean += 1
        self.false_holds += held
        self.falsely_blanked += blanked
        cell = self.clean_cells[str(frame.facts.get("kind", "cine"))]
        cell[0], cell[1], cell[2] = cell[0] + 1, cell[1] + held, cell[2] + blanked
        self.marks += len(frame.marks)
        for mark in frame.marks:
            # Of a held frame nothing is lost: a person looks at it.
            if blanked and any(mark.letters[y0:y1, x0:x1].any() for x0, y0, x1, y1 in (box.box for box in result.boxes)):
                self.marks_lost.append({key: str(getattr(value, "name", value)) for key, value in mark.facts.items()})

    def figures(self) -> dict[str, Any]:
        found = self.planted - self.verdicts["missed"]
        return {
            "planted": self.planted,
            "recall": round(found / max(self.planted, 1), 4),
            "recall_95": [round(share, 4) for share in wilson(found, self.planted)],
            **self.verdicts,
            "lost_in_coding": self.lost_in_coding,
            "clean": self.clean,
            "false_holds": self.false_holds,
            "false_holds_95": [round(share, 4) for share in wilson(self.false_holds, self.clean)],
            "falsely_blanked": self.falsely_blanked,
            "clinical_marks": self.marks,
            "marks_lost": len(self.marks_lost),
            "cpu_seconds": {
                kind: {"frames": len(spent), "mean": round(float(np.mean(spent)), 2), "most": round(max(spent), 2)}
                for kind, spent in sorted(self.seconds.items())
            },
            "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "by": {
                key: {value: " / ".join(map(str, cell.values())) for value, cell in sorted(cells.items())}
                for key, cells in self.cells.items()
            },
            "clean_by": {
                kind: f"{total}, held {held}, blanked {blanked}" for kind, (total, held, blanked) in sorted(self.clean_cells.items())
            },
            "corpus": dict(self.corpus),
            "missed_texts": self.missed,
            "lost_marks": self.marks_lost,
        }


def run(detector: TextDetector, *, names: int, clean: int, cines: int, widths: list[int], seed: int, seconds_max: float) -> Tally:
    """Clean frames are spread between the planted ones, so that a run cut short by `seconds_max` still says something of both."""
    tally, started, index = Tally(), time.perf_counter(), 0
    shares = np.asarray([_FRAMES_PER_WIDTH[width] for width in widths])
    while (tally.planted < names or tally.clean < clean) and time.perf_counter() - started < seconds_max:
        rng = np.random.default_rng([seed, index])  # each frame can be made again by itself
        index += 1
        is_clean = tally.planted * clean > tally.clean * names or tally.planted >= names
        width = int(rng.choice(widths, p=shares / shares.sum()))
        frame = make_frame(rng, names=0 if is_clean and tally.clean < clean else NAMES_PER_FRAME[width], width=width)
        frame.facts["frame"] = index - 1
        for one in frame.planted:
            one.facts["frame"] = index - 1
        _screen(tally, frame, detector)
    _screen_cines(tally, detector, cines, seed, started + seconds_max)
    for cells in tally.cells.values():
        cells.pop("frame", None)
    return tally


def run_part(
    detector: TextDetector, *, part: int, parts: int, names: int, clean: int, cines: int, widths: list[int], seed: int, seconds_max: float
) -> Tally:
    """Of the pairs of a planted and a clean frame every one whose number leaves `part` when divided by `parts`, until there are enough."""
    tally, started, pair = Tally(), time.perf_counter(), part
    shares = np.asarray([_FRAMES_PER_WIDTH[width] for width in widths])
    while (tally.planted < names or tally.clean < clean) and time.perf_counter() - started < seconds_max:
        for index in (2 * pair, 2 * pair + 1):
            rng = np.random.default_rng([seed, index])
            width = int(rng.choice(widths, p=shares / shares.sum()))
            frame = make_frame(rng, names=0 if index % 2 else NAMES_PER_FRAME[width], width=width)
            for one in frame.planted:
                one.facts["frame"] = index
            _screen(tally, frame, detector)
        pair += parts
    if part == 0:
        _screen_cines(tally, detector, cines, seed, started + seconds_max)
    for cells in tally.cells.values():
        cells.pop("frame", None)
    return tally


def _screen_cines(tally: Tally, detector: TextDetector, cines: int, seed: int, until: float) -> None:
    for number in range(cines):
        for where in CINES:
            if time.perf_counter() < until:
                _screen(tally, make_cine(np.random.default_rng([seed, 99, number]), where), detector)


def _screen(tally: Tally, frame: Frame, detector: TextDetector) -> None:
    begun = time.process_time()
    result = screen_pixels(frame.dataset, frame.identity, detector)
    tally.add(frame, result, time.process_time() - begun)
    _progress(f"planted {tally.planted} missed {tally.verdicts['missed']}, clean {tally.clean} held {tally.false_holds}")


def read_corpus(tally: Tally, directory: Path, detector: TextDetector) -> Iterator[tuple[Path, PixelScreening]]:
    """Every readable image of the directory, looked at as if it were at risk, and its result."""
    for path in sorted(directory.rglob("*")):
        dataset = _image_of(path)
        if dataset is None:
            continue
        begun = time.process_time()
        result = screen_pixels(dataset, ["NOBODY^AT ALL"], detector)
        tally.seconds["corpus"].append(time.process_time() - begun)
        tally.corpus[f"{result.outcome} {result.reason}".strip()] += 1
        _progress(f"corpus {dict(tally.corpus)}")
        yield path, result


def _image_of(path: Path) -> Dataset | None:
    try:
        dataset = dcmread(path)
        pixels = int(dataset.Rows) * int(dataset.Columns)
        if "PixelData" not in dataset or pixels > _CORPUS_PIXELS_MAX or "TransferSyntaxUID" not in dataset.file_meta:
            return None
    except Exception:
        return None  # not DICOM, or not an image
    dataset.BurnedInAnnotation = "YES"
    return dataset


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{line}   ", end="", file=sys.stderr)


def main() -> int:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--full", action="store_true", help="720 names, 320 clean frames, 10 cines of each kind")
    for name, value in (("names", 60), ("clean", 20), ("cines", 1), ("seed", 1), ("threads", 1), ("seconds-max", 7200)):
        arguments.add_argument(f"--{name}", type=int, default=value)
    arguments.add_argument("--width", default=",".join(map(str, WIDTHS)))
    arguments.add_argument("--corpus", type=Path)
    arguments.add_argument("--part", help="0/4: the first of four processes that share a run")
    arguments.add_argument("--json")
    chosen = arguments.parse_args()
    if chosen.full:
        chosen.names, chosen.clean, chosen.cines = 720, 320, 10
    detector = open_text_detector(threads=chosen.threads)
    if detector is None:
        print("The extra 'ocr' is not installed: pip install 'readgate[ocr]'", file=sys.stderr)
        return 2
    widths = [int(width) for width in chosen.width.split(",")]
    asked: dict[str, Any] = {name: getattr(chosen, name) for name in ("names", "clean", "cines", "seed", "seconds_max")}
    if chosen.part:
        part, parts = (int(number) for number in chosen.part.split("/"))
        tally = run_part(detector, part=part, parts=parts, widths=widths, **asked)
    else:
        tally = run(detector, widths=widths, **asked)
    if chosen.corpus:
        for path, result in read_corpus(tally, chosen.corpus, detector):
            if result.outcome != "CLEAN":
                print(f"{path.relative_to(chosen.corpus)}: {result.outcome} {result.reason} {len(result.boxes)}", flush=True)
    text = json.dumps(tally.figures(), indent=1)
    if chosen.json:
        Path(chosen.json).write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

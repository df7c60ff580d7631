"""Finding and reading text in a picture, by the models inside the rapidocr wheel: no network, no downloads.

Only the windows where letters could stand (text_windows.py) are read: the network costs a second for a million pixels.
The picture is read in tiles and enlarged, because the detector's own scaling makes 8-pixel letters of a wide frame disappear.
Vertical text is read in both directions and the better reading kept.
On speckle and grain the network sees no small letters: lines of strokes (text_lines.py) are cut out and read without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from compliance.denormal_numbers import denormals_are_zero
from compliance.device_masks import Box
from compliance.text_lines import stroke_lines
from compliance.text_windows import tiles

Grey = NDArray[np.float32]
Picture = NDArray[np.uint8]

ENLARGEMENT = 1.5
CLOSE_ENLARGEMENT = 2.5
"""Letters of 8 pixels are below what the detector was trained on. Twice the size finds no more and costs 1.8 times as much."""
_LINE_WIDTH_MIN = 64
_SOFTENING_PIXELS = 0.6
_WORDLIKE_SCORE, _WORDLIKE_SIGNS = 0.55, 3
_LONGER_PIXELS = 4
_DETECTOR_THRESHOLD, _BOX_THRESHOLD = 0.2, 0.25
"""Below the library's: on speckle small letters reach no more, and speckle itself a hundredth. What is no text is read as none."""


@dataclass(frozen=True)
class DetectedText:
    """One line of text: box in pixels of the picture (x1 and y1 outside), reading, and the recogniser's confidence from 0 to 1."""

    x0: int
    y0: int
    x1: int
    y1: int
    text: str
    score: float


class TextDetector(Protocol):
    def read(
        self,
        picture: Picture,
        *,
        closely: bool = False,
        windows: Sequence[Box] | None = None,
        settled: Sequence[Box] = (),
    ) -> list[DetectedText]:
        """Every line of text found in a picture of 8-bit grey values (rows, columns), readable or not (then text is empty).

        Where `windows` (text_windows.py) are given, only they are looked at. Lines that lie within one of the boxes `settled` need not be
        read again and are left out.

        `closely` looks for the smallest letters at several times the cost; for pictures that are level but for some windows.
        """

    def read_strokes(self, grey: Grey, *, windows: Sequence[Box], settled: Sequence[Box] = ()) -> list[DetectedText]:
        """What is read where strokes lie in lines (text_lines.py), which need be no text at all: also names that noise hides from `read`.

        A line is read with its ends cut in more than one way: boxes overlap, and the caller believes none that is not read well.
        """


def open_text_detector(*, threads: int = 1) -> TextDetector | None:
    """The detector, or None where the extra `ocr` is not installed. Loading takes about a second and 200 MB: once per process."""
    try:
        return RapidTextDetector(threads=threads)
    except ImportError:
        return None


class RapidTextDetector:
    """rapidocr's detection and recognition networks, driven tile by tile. One thread of one process at a time.

    Raises: ImportError, where the extra is not installed.
    """

    def __init__(self, *, threads: int = 1) -> None:
        self._cv2: Any = importlib.import_module("cv2")
        self._cv2.setNumThreads(threads)
        rapidocr: Any = importlib.import_module("rapidocr")
        self._line_input: Any = importlib.import_module("rapidocr.ch_ppocr_rec").TextRecInput
        models = Path(rapidocr.__file__).parent / "models"
        sessions = {stage: _session(models, name, threads) for stage, name in (("Det", "*_det_*.onnx"), ("Rec", "*_rec_*.onnx"))}
        engine = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                # We enlarge ourselves; the network's own scaling is held off.
                "Det.limit_side_len": 32,
                "Det.thresh": _DETECTOR_THRESHOLD,
                "Det.box_thresh": _BOX_THRESHOLD,
            }
        )
        for stage, session in sessions.items():
            engine.cfg[stage]._set_flag("allow_objects", True)
            engine.cfg[stage].session = session
        self._detect = engine._load_det_model()
        self._recognise = engine._load_rec_model()
        # Lines are as wide as the widest of their batch; the library would fill up each to 320 pixels and read the emptiness.
        self._recognise.rec_image_shape = [3, 48, _LINE_WIDTH_MIN]
        self._crop: Any = importlib.import_module("rapidocr.utils.process_img").get_rotate_crop_image

    def read(
        self,
        picture: Picture,
        *,
        closely: bool = False,
        windows: Sequence[Box] | None = None,
        settled: Sequence[Box] = (),
    ) -> list[DetectedText]:
        with denormals_are_zero():
            return self._read(picture, CLOSE_ENLARGEMENT if closely else ENLARGEMENT, windows, settled)

    def read_strokes(self, grey: Grey, *, windows: Sequence[Box], settled: Sequence[Box] = ()) -> list[DetectedText]:
        lines = stroke_lines(grey, windows, settled)
        found = self._read_cuts(grey, [(line.boxes[0], line.is_vertical) for line in lines], 0.0)
        # What reads like words is read again: with nearer and further ends, and without the finest grain, which turns letters into others.
        words = [line for line, text in zip(lines, found, strict=True) if _is_wordlike(text)]
        found += self._read_cuts(grey, [(box, line.is_vertical) for line in words for box in line.boxes[1:]], 0.0)
        softly = [(box, line.is_vertical) for line in words for box in (line.boxes[0], _longer(line.boxes[0], grey.shape))]
        return found + self._read_cuts(grey, softly, _SOFTENING_PIXELS)

    def _read_cuts(self, grey: Grey, lines: list[tuple[Box, bool]], softening: float) -> list[DetectedText]:
        if not lines:
            return []
        cuts = [self._cut_out(grey, box, is_vertical, softening) for box, is_vertical in lines]
        with denormals_are_zero():
            readings = self._read_lines(cuts)
        return [DetectedText(*box, text, score) for (box, _), (text, score) in zip(lines, readings, strict=True)]

    def _cut_out(self, grey: Grey, box: Box, is_vertical: bool, softening: float) -> list[Picture]:
        cv2 = self._cv2
        cut = grey[box[1] : box[3], box[0] : box[2]]
        cut = cv2.GaussianBlur(cut, (0, 0), softening) if softening else cut
        level = np.asarray(np.rint((cut - cut.min()) * (255 / max(float(cut.max() - cut.min()), 1e-6))), np.uint8)
        enlarged = cv2.resize(level, None, fx=CLOSE_ENLARGEMENT, fy=CLOSE_ENLARGEMENT, interpolation=cv2.INTER_CUBIC)
        large = cv2.cvtColor(enlarged, cv2.COLOR_GRAY2BGR)
        return [np.ascontiguousarray(np.rot90(large, turn)) for turn in ((1, 3) if is_vertical else (0,))]

    def _read(self, picture: Picture, enlargement: float, windows: Sequence[Box] | None, settled: Sequence[Box]) -> list[DetectedText]:
        found: list[DetectedText] = []
        for x, y, right, bottom in [(0, 0, picture.shape[1], picture.shape[0])] if windows is None else windows:
            window = picture[y:bottom, x:right]
            for top, end in tiles(window.shape[0]):
                for left, side in tiles(window.shape[1]):
                    tile = window[top:end, left:side]
                    y0, y1, x0, x1 = _content(tile)
                    if y1 > y0:
                        place = x + left + x0, y + top + y0
                        here = [(one[0] - place[0], one[1] - place[1], one[2] - place[0], one[3] - place[1]) for one in settled]
                        found.extend(_moved(text, *place) for text in self._read_tile(tile[y0:y1, x0:x1], enlargement, here))
        return found

    def _read_tile(self, tile: Picture, enlargement: float, settled: Sequence[Box]) -> list[DetectedText]:
        lines = self._lines(tile, enlargement, settled)
        readings = self._read_lines([cuts for _, cuts in lines]) if lines else []
        return [DetectedText(*box, text, score) for (box, _), (text, score) in zip(lines, readings, strict=True)]

    def _lines(self, tile: Picture, enlargement: float, settled: Sequence[Box]) -> list[tuple[Box, list[Picture]]]:
        """The boxes of what the detector takes for lines of the tile, those within `settled` left out, and what is to be read for each."""
        cv2 = self._cv2
        grey = cv2.resize(tile, None, fx=enlargement, fy=enlargement, interpolation=cv2.INTER_CUBIC)
        large = cv2.cvtColor(cv2.copyMakeBorder(grey, 16, 16, 16, 16, cv2.BORDER_REPLICATE), cv2.COLOR_GRAY2BGR)
        corners = self._detect(large).boxes
        height, width = tile.shape
        lines: list[tuple[Box, list[Picture]]] = []
        for line in () if corners is None else corners:
            (x0, y0), (x1, y1) = (line.min(axis=0) - 16) / enlargement, (line.max(axis=0) - 16) / enlargement
            box = max(0, int(x0)), max(0, int(y0)), min(width, int(np.ceil(x1)) + 1), min(height, int(np.ceil(y1)) + 1)
            if not any(_lies_within(box, other) for other in settled):
                lines.append((box, self._line(large, line)))
        return lines

    def _line(self, picture: Picture, corners: NDArray[np.float32]) -> list[Picture]:
        """The line cut out upright, in the directions in which it may have to be read."""
        cut: Picture = self._crop(picture, corners.astype(np.float32).copy())
        size = corners.max(axis=0) - corners.min(axis=0)
        return [cut, cut[::-1, ::-1].copy()] if size[1] > 1.4 * size[0] else [cut]

    def _read_lines(self, lines: list[list[Picture]]) -> list[tuple[str, float]]:
        cuts = [cut for line in lines for cut in line]
        output = self._recognise(self._line_input(img=cuts, return_word_box=False))
        readings = [(str(text), float(score)) for text, score in zip(output.txts, output.scores, strict=True)]
        best, position = [], 0
        for line in lines:
            best.append(max(readings[position : position + len(line)], key=lambda reading: reading[1]))
            position += len(line)
        return best


def _session(models: Path, name: str, threads: int) -> Any:
    """The network as onnxruntime runs it three times as fast as by default.

    Numbers in the detector underflow, and the processor takes a hundred cycles for each of those: they count as zero. The option tells it
    to the threads of the session; the first one of a process would leave it on for the thread that opens it, which `read` sees to itself.
    """
    runtime: Any = importlib.import_module("onnxruntime")
    path = next(iter(sorted(models.glob(name))), None)
    if path is None:
        raise ImportError("the models of rapidocr are not where its wheel puts them")  # it would download them
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    providers = [("CPUExecutionProvider", {"arena_extend_strategy": "kSameAsRequested"})]
    with denormals_are_zero(False):
        return runtime.InferenceSession(str(path), sess_options=options, providers=providers)


def _content(tile: Picture) -> tuple[int, int, int, int]:
    """Rows and columns of the tile outside of which it is flat, with a margin; much of a frame is, and costs nothing then."""
    level = int(np.median(tile))
    differs = np.abs(tile.astype(np.int16) - level) > 1
    rows, columns = np.flatnonzero(differs.any(axis=1)), np.flatnonzero(differs.any(axis=0))
    if rows.size == 0:
        return 0, 0, 0, 0
    margin = 12
    height, width = tile.shape
    return (
        max(0, int(rows[0]) - margin),
        min(height, int(rows[-1]) + margin),
        max(0, int(columns[0]) - margin),
        min(width, int(columns[-1]) + margin),
    )


def _is_wordlike(text: DetectedText) -> bool:
    return text.score >= _WORDLIKE_SCORE and sum(sign.isalnum() for sign in text.text) >= _WORDLIKE_SIGNS


def _longer(box: Box, shape: tuple[int, ...]) -> Box:
    x0, y0, x1, y1 = box
    across, down = (_LONGER_PIXELS, 0) if x1 - x0 >= y1 - y0 else (0, _LONGER_PIXELS)
    return max(0, x0 - across), max(0, y0 - down), min(shape[1], x1 + across), min(shape[0], y1 + down)


def _lies_within(box: Box, other: Box) -> bool:
    return other[0] <= box[0] and other[1] <= box[1] and box[2] <= other[2] and box[3] <= other[3]


def _moved(text: DetectedText, x: int, y: int) -> DetectedText:
    return replace(text, x0=text.x0 + x, y0=text.y0 + y, x1=text.x1 + x, y1=text.y1 + y)

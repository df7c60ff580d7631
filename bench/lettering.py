"""Letters as devices print them: outline fonts, a bitmap font, and single strokes as plotters and scanners draw them."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Coverage = NDArray[np.float32]

#: Name of a font, and where it may lie; "outline" and "bitmap" come with Pillow, "plotter" with OpenCV, "strokes" stands below.
_FILES = {
    "sans": "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "mono": "/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf",
    "narrow": "/usr/share/fonts/truetype/liberation/LiberationSansNarrow-Regular.ttf",
}
_BITMAP_PIXELS = 11

#: Strokes of each sign on a grid of 4 by 6, as pairs of column and row; strokes are parted by a blank.
_STROKES = {
    "A": "062046 1434",
    "B": "06003041423303 3344453606",
    "C": "4130100105163645",
    "D": "06002042442606",
    "E": "40000646 0333",
    "F": "400006 0333",
    "G": "41301001051636454323",
    "H": "0006 4046 0343",
    "I": "2026 1030 1636",
    "J": "4045361605",
    "K": "0006 4003 1346",
    "L": "000646",
    "M": "0600234046",
    "N": "06004640",
    "O": "1030414536160501 0110",
    "P": "06003041423303",
    "Q": "1030414536160501 0110 3446",
    "R": "06003041423303 2346",
    "S": "413010010213334445361605",
    "T": "0040 2026",
    "U": "000516364540",
    "V": "002640",
    "W": "0016233640",
    "X": "0046 4006",
    "Y": "002340 2326",
    "Z": "00400646",
    "0": "1030414536160501 0110 0541",
    "1": "112026 1636",
    "2": "01103041420646",
    "3": "0110304142334445361605 1333",
    "4": "36300444",
    "5": "400003334445361605",
    "6": "3010010516364544331304",
    "7": "004026",
    "8": "103041423313020110 1333444536160504 0413",
    "9": "43130201103041453616",
    "^": "022042",
    ",": "2617",
    ".": "2526",
    ":": "2122 2526",
    "-": "1333",
    "/": "0640",
    " ": "",
}


def fonts() -> list[str]:
    """The fonts there are on this machine."""
    return ["outline", "bitmap", "plotter", "strokes", *(name for name, path in _FILES.items() if Path(path).exists())]


def lettered(text: str, font: str, size: int) -> Coverage:
    """Coverage from 0 to 1, cut to the text. `size` is the em in pixels; "bitmap" has its own, strokes are 7 pixels high at least."""
    if font == "strokes":
        return _by_strokes(text.upper(), max(7, round(size * 0.72)))
    if font == "plotter":
        return _by_plotter(text, max(7, round(size * 0.72)))
    face: Any = ImageFont.load_default_imagefont() if font == "bitmap" else _face(font, size)
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("L", (math.ceil(right - left) + 4, math.ceil(bottom - top) + 4))
    ImageDraw.Draw(image).text((2 - left, 2 - top), text, font=face, fill=255)
    return np.asarray(np.asarray(image) / 255, np.float32)


def size_of(font: str, size: int) -> int:
    return _BITMAP_PIXELS if font == "bitmap" else size


@cache
def _face(font: str, size: int) -> Any:
    return ImageFont.load_default(size) if font == "outline" else ImageFont.truetype(_FILES[font], size)


def _by_plotter(text: str, height: int) -> Coverage:
    import cv2

    scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, height, 1)
    (width, tall), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    plate = np.zeros((tall + below + 4, width + 4), np.uint8)
    cv2.putText(plate, text, (2, tall + 2), cv2.FONT_HERSHEY_SIMPLEX, scale, 255, 1, cv2.LINE_AA)
    return np.asarray(plate / 255, np.float32)


def _by_strokes(text: str, height: int) -> Coverage:
    """One pixel wide and not smoothed, two pixels from 14 pixels of height on."""
    unit = height / 6
    step = 6 * unit * 0.92
    image = Image.new("L", (math.ceil(len(text) * step) + 6, math.ceil(height * 7 / 6) + 6))
    draw = ImageDraw.Draw(image)
    for place, sign in enumerate(text):
        for stroke in _STROKES.get(sign, "").split(" "):
            points = [(2 + place * step + int(x) * unit, 2 + int(y) * unit) for x, y in zip(stroke[::2], stroke[1::2], strict=True)]
            if len(points) > 1:
                draw.line(points, fill=255, width=1 if height < 14 else 2)
    return np.asarray(np.asarray(image) / 255, np.float32)

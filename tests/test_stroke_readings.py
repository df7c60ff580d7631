"""What is believed of readings of strokes that may be no text, and what noise is not blanked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from compliance.burned_in import screen_pixels
from compliance.device_masks import Box
from compliance.text_detection import DetectedText
from compliance.text_ground import in_noise, on_even_ground
from tests.planted_text import IDENTITY, PlantedText, ground, make_image

PLACE = (96, 76, 144, 96)


class StrokesRead(PlantedText):
    """The network finds nothing; what is read of strokes is given, for as long as they are there."""

    def __init__(self, *readings: tuple[Box, str, float]) -> None:
        super().__init__()
        self.readings = readings

    def read_strokes(self, grey: NDArray[np.float32], *, windows: Sequence[Box], settled: Sequence[Box] = ()) -> list[DetectedText]:
        return [
            DetectedText(*box, text, score) for box, text, score in self.readings if np.ptp(grey[box[1] : box[3], box[0] : box[2]]) > 60
        ]


def _with_strokes() -> NDArray[np.uint8]:
    values = ground()
    values[80:92, 100:140:4] = 250
    return values


@pytest.mark.parametrize(
    ("readings", "outcome"),
    [
        ([(PLACE, "KOWALSKA", 0.3)], "CLEANED"),
        ([(PLACE, "KOWALSKI ANNA", 0.5)], "CLEANED"),
        ([(PLACE, "Zoltan", 0.7)], "CLEAN"),
        ([(PLACE, "Zoltan", 0.95)], "HOLD"),
        ([(PLACE, "XXV", 0.95)], "CLEAN"),
        ([(PLACE, "93157", 0.7)], "CLEAN"),
        ([(PLACE, "931575", 0.95)], "CLEANED"),
        ([(PLACE, "SUPINE", 0.99), ((104, 76, 132, 96), "UPIN", 0.97)], "CLEAN"),
        ([(PLACE, "KOWALSKA", 0.9), ((104, 76, 132, 96), "OWALS", 0.97)], "CLEANED"),
    ],
)
def test_only_what_names_the_study_or_was_read_well_is_believed(readings: list[tuple[Box, str, float]], outcome: str) -> None:
    result = screen_pixels(make_image(_with_strokes()), IDENTITY, StrokesRead(*readings))
    assert result.outcome == outcome
    assert len(result.boxes) == (0 if outcome == "CLEAN" else 1)


def test_of_the_readings_of_one_line_the_longest_is_blanked() -> None:
    long, short = (80, 76, 150, 96), (90, 78, 140, 94)
    result = screen_pixels(make_image(_with_strokes()), IDENTITY, StrokesRead((short, "KOWALSKA", 0.9), (long, "KOWALSKA", 0.8)))
    assert len(result.boxes) == 1 and result.boxes[0].box[0] < 80 and result.boxes[0].box[2] > 150


class ReadBadly(PlantedText):
    """A line at the upper edge that nobody can read, closely or not."""

    def read(
        self,
        picture: NDArray[np.uint8],
        *,
        closely: bool = False,
        windows: Sequence[Box] | None = None,
        settled: Sequence[Box] = (),
    ) -> list[DetectedText]:
        return [DetectedText(100, 4, 150, 16, "MRXCVI", 0.3)] if np.ptp(picture[4:16, 100:150]) > 60 else []


@pytest.mark.parametrize("is_noise", [True, False])
def test_what_cannot_be_read_is_blanked_at_the_edge_but_not_in_speckle(is_noise: bool) -> None:
    values = np.zeros((160, 240), np.uint8)
    if is_noise:
        values = np.clip(45 * np.random.default_rng(2).rayleigh(1.0, values.shape), 0, 255).astype(np.uint8)
    values[5:15, 102:148:4] = 255
    values[80:92, 100:140:4] = 255
    result = screen_pixels(make_image(values), IDENTITY, ReadBadly())
    assert result.outcome == ("CLEAN" if is_noise else "CLEANED")


def test_speckle_is_noise_and_a_page_is_even() -> None:
    speckle = np.asarray(45 * np.random.default_rng(2).rayleigh(1.0, (160, 240)), np.float32)
    page = np.full((160, 240), 245, np.float32)
    page[80:92, 100:140:4] = 0
    assert in_noise(PLACE, speckle) and not on_even_ground(PLACE, speckle)
    assert not in_noise(PLACE, page) and on_even_ground(PLACE, page)

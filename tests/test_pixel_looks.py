"""Which frames of a cine are looked at: text of any colour in any frame, and no frame is taken for clean because there were too many."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset

from compliance.burned_in import screen_pixels
from compliance.pixel_frames import pixel_shape
from compliance.pixel_looks import looks_of
from tests.planted_text import IDENTITY, PlantedText, make_image, text_image


def _colour(frames: list[NDArray[np.uint8]]) -> Dataset:
    dataset = make_image(frames[0])
    dataset.NumberOfFrames, dataset.PixelData = len(frames), np.stack(frames).tobytes()
    return dataset


def _page(colour: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    page = np.full((160, 240, 3), 255, np.uint8)
    if colour is not None:
        page[80:92, 100:140:4] = colour
    return page


@pytest.mark.parametrize("colour", [(255, 200, 0), (255, 0, 0), (0, 0, 0)])
def test_coloured_text_in_one_frame_between_the_samples_is_read_and_blanked(colour: tuple[int, int, int]) -> None:
    frames = [_page(colour if index == 7 else None) for index in range(20)]
    result = screen_pixels(_colour(frames), IDENTITY, PlantedText(((98, 78, 142, 94), "KOWALSKA ANNA")))
    after = np.frombuffer(result.dataset.PixelData, "u1").reshape(20, 160, 240, 3)
    assert result.outcome == "CLEANED" and np.ptp(after[7, 80:92, 100:140].astype(int)) == 0


def test_coloured_text_that_moving_ground_hides_from_projections_is_read_in_its_frame() -> None:
    levels = [255, 0, 130]
    frames = [np.full((160, 240, 3), levels[index % 3], np.uint8) for index in range(20)]
    frames[6] = _page((255, 120, 0))
    dataset = _colour(frames)
    shown = [look for look in looks_of(dataset, pixel_shape(dataset)) if look.frame == 6]
    assert any(np.ptp(look.grey[80:92, 100:140]) > 100 for look in shown)


def test_dim_text_in_one_frame_is_read() -> None:
    frames = np.stack([np.full((160, 240), (255, 0, 90)[index % 3], np.uint8) for index in range(20)])
    frames[:, :4, :4], frames[:, :4, 4:8] = 0, 255
    frames[8, 80:92, 100:140:4] = 140
    dataset = make_image(frames)
    assert 8 in [look.frame for look in looks_of(dataset, pixel_shape(dataset))]


def _noted(count: int, total: int = 60) -> NDArray[np.uint8]:
    """A cine of uneven ground in which `count` frames carry a word each where no other frame has one."""
    frames = np.stack([np.full((320, 640), (0, 255)[index % 2], np.uint8) for index in range(total)])
    for number in range(count):
        word = text_image("WRD", rows=32, columns=64, at=(8, 6), size=16)
        y, x = number // 9 * 40 + 8, number % 9 * 70 + 4
        frames[2 * number + 2, y : y + 32, x : x + 64] = word
    return frames


def test_all_frames_with_a_word_of_their_own_are_read() -> None:
    frames = _noted(12)
    dataset = make_image(frames)
    at = [look.frame for look in looks_of(dataset, pixel_shape(dataset))]
    assert {2 * number + 2 for number in range(12)} <= set(at)
    named = PlantedText(((4 + 2 * 70 + 8, 54, 4 + 2 * 70 + 44, 76), "KOWALSKA"))  # the twelfth word
    assert screen_pixels(make_image(frames), IDENTITY, named).outcome == "CLEANED"


def test_more_frames_with_words_of_their_own_than_are_read_hold_the_instance() -> None:
    frames = _noted(40, 90)
    held = screen_pixels(make_image(frames), IDENTITY, PlantedText())
    assert (held.outcome, held.reason) == ("HOLD", "TEXT_IN_MANY_FRAMES")
    # A person who blanks where they stand settles it.
    seen = screen_pixels(make_image(frames), IDENTITY, PlantedText(), reviewed=[(0, 0, 640, 240)])
    assert seen.outcome == "CLEANED"

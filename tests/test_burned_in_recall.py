"""A small run of the measurement of planted names: the larger one is `python -m bench.burned_in --full`."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.uid import JPEG2000, JPEG2000Lossless

from bench.burned_in import judge, run, run_part
from bench.lettering import fonts, lettered
from bench.planted_frames import dataset_of, is_left_by_coding, make_cine, make_frame
from compliance.burned_in import PixelScreening, ScreenedBox, screen_pixels
from compliance.pixel_frames import frames_of, pixel_shape
from compliance.text_detection import TextDetector, open_text_detector
from tests.planted_text import PlantedText


@pytest.fixture(scope="module")
def detector() -> TextDetector:
    opened = open_text_detector()
    if opened is None:
        pytest.skip("the extra ocr is not installed")
    return opened


@pytest.mark.slow
def test_planted_names_are_found_and_clean_frames_pass(detector: TextDetector) -> None:
    tally = run(detector, names=12, clean=5, cines=0, widths=[512], seed=11, seconds_max=300)
    assert (tally.planted, tally.clean) == (12, 5)
    assert tally.verdicts["missed"] == 0 and tally.false_holds == 0 and not tally.marks_lost


@pytest.mark.slow
@pytest.mark.parametrize("where", ["every frame", "one frame beside the fan", "one frame on the fan", "none"])
def test_name_in_a_cine_is_found_in_whatever_frame_it_stands(where: str, detector: TextDetector) -> None:
    cine = make_cine(np.random.default_rng(4), where, frames=20)
    result = screen_pixels(cine.dataset, cine.identity, detector)
    assert [judge(one.letters, result) for one in cine.planted] == ["blanked"] * len(cine.planted)
    assert result.outcome == ("CLEANED" if cine.planted else "CLEAN")


def test_what_was_not_covered_counts_as_missed() -> None:
    frame = make_frame(np.random.default_rng(2), names=1, width=512, ground="black")
    letters = frame.planted[0].letters
    rows, columns = np.nonzero(letters)
    whole = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    half = (whole[0], whole[1], (whole[0] + whole[2]) // 2, whole[3])
    for outcome, box, verdict in (
        ("CLEANED", whole, "blanked"),
        ("CLEANED", half, "missed"),
        ("CLEAN", whole, "missed"),
        ("HOLD", whole, "held"),
        ("HOLD", (0, 0, 1, 1), "missed"),
    ):
        result = PixelScreening(outcome, "", (ScreenedBox(box, "identifying"),), frame.dataset)  # type: ignore[arg-type]
        assert judge(letters, result) == verdict


def test_parts_of_a_run_read_frames_of_their_own() -> None:
    asked = {"names": 3, "clean": 2, "cines": 0, "widths": [512], "seed": 5, "seconds_max": 60.0}
    tallies = [run_part(PlantedText(), part=part, parts=2, **asked) for part in (0, 1)]  # type: ignore[arg-type]
    frames = [{int(one["frame"]) for one in tally.missed} for tally in tallies]
    assert frames == [{0, 4}, {2, 6}] and [tally.clean for tally in tallies] == [2, 2]


def test_every_font_draws_every_sign() -> None:
    for font in fonts():
        for sign in "AZaz09^,.-/":
            assert lettered(sign, font, 12).max() > 0.4


@pytest.mark.parametrize(("syntax", "value", "is_left"), [(JPEG2000, 12, False), (JPEG2000, 255, True), (JPEG2000Lossless, 12, True)])
def test_name_that_a_lossy_codec_left_out_is_not_planted(syntax: str, value: int, is_left: bool) -> None:
    plate = lettered("NAKAMURA YUKI", "outline", 10)
    picture, letters = np.zeros((384, 512, 3), np.float32), np.zeros((384, 512), bool)
    place = (slice(40, 40 + plate.shape[0]), slice(30, 30 + plate.shape[1]))
    picture[place], letters[place] = value * plate[..., None], plate > 0.25
    dataset = dataset_of(picture, {"syntax": syntax, "ground": "black", "form": "mono8"})
    coded = np.squeeze(next(iter(frames_of(dataset, pixel_shape(dataset)))))
    assert is_left_by_coding(picture, coded, letters) == is_left


#: Frames of seed 1 with names of 8 to 12 pixels on speckle that the detector network alone does not find: light, dark, coloured, turned,
#: beside the edge of the fan, native and lossy.
_SMALL_NAMES_IN_NOISE = (169, 255, 406, 506, 530, 551)


@pytest.mark.slow
@pytest.mark.parametrize("number", _SMALL_NAMES_IN_NOISE)
def test_small_names_in_noise_are_found(number: int, detector: TextDetector) -> None:
    rng = np.random.default_rng([1, number])
    rng.random()  # where the run draws the width
    frame = make_frame(rng, names=2, width=512)
    result = screen_pixels(frame.dataset, frame.identity, detector)
    assert [judge(one.letters, result) for one in frame.planted] == ["blanked"] * 2

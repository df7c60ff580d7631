"""Screening in a child process: the same answer, and a death that loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

from compliance.pixel_child import PixelChild, PixelLimits
from tests.planted_text import CT, HTJ2K, IDENTITY, ground, make_image, text_image

pytestmark = pytest.mark.skipif(find_spec("rapidocr") is None, reason="the extra ocr is not installed")


@pytest.fixture(scope="module")
def child() -> Iterator[PixelChild]:
    with PixelChild() as running:
        yield running


def test_child_cleans_and_keeps_the_rest_of_the_header(child: PixelChild) -> None:
    values = text_image("KOWALSKA^ANNA 4821337")
    dataset = make_image(values, PatientID="pseudonym", SeriesDescription="Bauch")
    dataset.file_meta.ImplementationClassUID = "2.25.7"
    result = child.screen(dataset, IDENTITY)
    assert (result.outcome, result.dataset.PatientID, result.dataset.file_meta.ImplementationClassUID) == ("CLEANED", "pseudonym", "2.25.7")
    assert not np.frombuffer(result.dataset.PixelData, "u1")[: 40 * values.shape[1]].any() and dataset.PixelData == values.tobytes()


def test_child_that_is_killed_leaves_a_hold_and_the_next_instance_gets_a_new_one(child: PixelChild) -> None:
    dataset = make_image(text_image("R LAT"))
    child.screen(dataset, IDENTITY)
    dead = child.pid
    assert dead is not None
    os.kill(dead, signal.SIGSTOP)
    os.kill(dead, signal.SIGKILL)
    first = child.screen(dataset, IDENTITY)
    second = child.screen(dataset, IDENTITY)
    assert first.outcome == "CLEAN" or first.reason == "PIXEL_WORKER_DIED"
    assert (second.outcome, second.dataset is dataset, child.pid != dead) == ("CLEAN", True, True)


def test_child_that_outgrows_its_memory_leaves_a_hold() -> None:
    with PixelChild(PixelLimits(address_space_bytes=300 << 20)) as small:
        result = small.screen(make_image(ground()), IDENTITY)
    assert result.outcome == "HOLD" and result.reason in ("PIXEL_WORKER_DIED", "OCR_UNAVAILABLE")


def test_child_that_is_late_leaves_a_hold() -> None:
    with PixelChild(PixelLimits(seconds_per_instance=0.01)) as slow:
        result = slow.screen(make_image(text_image("KOWALSKA ANNA", rows=600, columns=800)), IDENTITY)
        assert slow.pid is None
    assert (result.outcome, result.reason) == ("HOLD", "PIXEL_WORKER_LATE")


def test_what_passes_unseen_starts_no_child() -> None:
    with PixelChild() as idle:
        dataset = make_image(ground(), sop_class_uid=CT, modality="CT", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
        assert (idle.screen(dataset, IDENTITY).outcome, idle.pid) == ("CLEAN", None)


def test_bad_data_is_held_by_the_child_and_the_child_lives(child: PixelChild) -> None:
    broken = make_image(ground(), syntax=HTJ2K, payload=b"\xfe\xff\x00\xe0\x00\x00\x00\x00garbage")
    result = child.screen(broken, IDENTITY)
    assert result.outcome == "HOLD" and result.dataset is broken
    assert child.screen(make_image(text_image("AP")), IDENTITY).outcome == "CLEAN"

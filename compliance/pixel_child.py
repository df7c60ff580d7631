"""Pixel screening in a process of its own, which may die without losing anything.

Invariants
- The child holds no key and is confined (confinement.py) before the first byte is read: memory, descriptors, cores, and where the kernel
  grants it network and files.
- One child serves many instances, because loading the models costs a second; it is replaced when it dies, takes too long, or has served
  its share.
- The child is given pixels, overlays and the attributes that masks ask for, not the whole header; of its answer only the elements of the
  pixels are taken over. What comes back is JSON and bytes, never a pickle: a child taken over by a codec's bug can lie about one instance
  and do no more to its parent.
- A child that dies or is late leaves the instance on HOLD (PIXEL_WORKER_DIED, PIXEL_WORKER_LATE).

Questions and answers (child_wire.py) carry a DICOM file (PS3.10).
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset

from compliance import child_wire
from compliance.burned_in import PixelScreening, ScreenedBox, screen_pixels
from compliance.confined_process import ConfinedProcess
from compliance.confinement import confine
from compliance.device_masks import Box, DeviceMask, criterion_keywords, known_masks, matching_masks, pixel_risk
from compliance.overlay_planes import overlay_groups
from compliance.pixel_frames import frames_of, grey_pictures, pixel_shape, put
from compliance.pixel_looks import stretched
from compliance.text_detection import TextDetector, open_text_detector
from crypto.errors import RefusedContent

QUESTION_BYTES_MAX = 3 << 30
_OUTCOMES = ("CLEAN", "CLEANED", "HOLD")
_PIXEL_GROUPS = frozenset({0x0028, 0x7FE0, *range(0x6000, 0x6100, 2)})
_DERIVATION = 0x00082111
_CHARSET = 0x00080005


@dataclass(frozen=True)
class PixelLimits:
    """What one child may use. `instances_max`: after so many it is replaced, so that slow leaks of codecs stay small."""

    address_space_bytes: int = 6 << 30
    seconds_per_instance: float = 300.0
    seconds_to_start: float = 60.0
    instances_max: int = 2_000
    threads: int = 1


class PixelChild:
    """Screens instances in a child process, one at a time; callers in several threads wait for each other."""

    def __init__(self, limits: PixelLimits | None = None) -> None:
        self._limits = limits or PixelLimits()
        self._process: ConfinedProcess | None = None
        self._served = 0
        self._lock = threading.Lock()

    def screen(
        self,
        dataset: Dataset,
        identity: Sequence[str],
        *,
        masks: Iterable[DeviceMask] | None = None,
        reviewed: Sequence[Box] | None = None,
    ) -> PixelScreening:
        """As `screen_pixels`, with the detector of the child. What passes unseen never goes to the child."""
        known = list(known_masks() if masks is None else masks)
        if not reviewed and pixel_risk(dataset, matching_masks(dataset, known)) is None and not overlay_groups(dataset):
            return PixelScreening("CLEAN", "", (), dataset)
        question = {
            "identity": list(identity),
            "masks": [mask.to_json() for mask in known],
            "reviewed": None if reviewed is None else [list(box) for box in reviewed],
        }
        with self._lock:
            return self._asked(dataset, question)

    def render(self, dataset: Dataset, frame: int) -> bytes:
        """The frame (from 0) as a PNG of 8-bit grey or colour, for the hospital's own staff.

        Raises: RefusedContent where it cannot be decoded within the limits.
        """
        with self._lock:
            try:
                process = self._started()
                deadline = time.monotonic() + self._limits.seconds_per_instance
                process.send({"render": frame}, _file_of(_needed(dataset, [])), deadline)
                answer, payload = process.receive(0, deadline)
                if answer.get("rendered") and payload[:8] == b"\x89PNG\r\n\x1a\n":
                    return payload
            except Exception:  # whatever its answer did to us, that child is not asked again
                self.close()
        raise RefusedContent("PIXEL_UNDECODABLE", tag="(7FE0,0010)")

    def close(self) -> None:
        """The child is gone."""
        process, self._process, self._served = self._process, None, 0
        if process is not None:
            process.close()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def __enter__(self) -> PixelChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, dataset: Dataset, question: dict[str, Any]) -> PixelScreening:
        try:
            process = self._started()
            deadline = time.monotonic() + self._limits.seconds_per_instance
            file = _file_of(_needed(dataset, question["masks"]))
            process.send(question, file, deadline)
            answer, payload = process.receive(len(file), deadline)
            self._served += 1
            if self._served >= self._limits.instances_max:
                self.close()
            return _screening(answer, payload, dataset)
        except TimeoutError:
            reason = "PIXEL_WORKER_LATE"
        except Exception:
            # A broken pipe, half an answer, or an answer that is none: whatever it was, that child is not asked again.
            reason = "PIXEL_WORKER_DIED"
        self.close()
        return PixelScreening("HOLD", reason, (), dataset, "unscreened")

    def _started(self) -> ConfinedProcess:
        if self._process is not None and self._process.is_alive:
            return self._process
        self.close()
        arguments = [str(self._limits.address_space_bytes), str(self._limits.threads)]
        process = self._process = ConfinedProcess(
            "compliance.pixel_child",
            arguments,
            kind="pixels",
            seconds_to_start=self._limits.seconds_to_start,
            threads=self._limits.threads,
        )
        return process


def serve(source: int, sink: int, *, threads: int) -> None:
    """The child's life: answers until its parent closes the pipe."""
    detector: TextDetector | None = None
    is_open = False
    while True:
        try:
            question, payload = child_wire.receive(source, QUESTION_BYTES_MAX)
        except EOFError:
            return
        dataset = dcmread(io.BytesIO(payload), force=True)
        if "render" in question:
            picture = _rendered(dataset, int(question["render"]))
            child_wire.send(sink, {"rendered": picture is not None}, picture or b"")
            continue
        if not is_open:
            # Loading the models costs a second and 200 MB: not for a child that only renders.
            detector, is_open = open_text_detector(threads=threads), True
        masks = [DeviceMask.from_json(mask) for mask in question["masks"]]
        reviewed = question["reviewed"]
        boxes = None if reviewed is None else [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in reviewed]
        result = screen_pixels(dataset, question["identity"], detector, masks=masks, reviewed=boxes)
        facts = {
            "outcome": result.outcome,
            "reason": result.reason,
            "boxes": [[*screened.box, screened.why] for screened in result.boxes],
            "risk": result.risk,
            "pictures_read": result.pictures_read,
            "masks": list(result.masks),
            "overlays_removed": result.overlays_removed,
        }
        child_wire.send(sink, facts, _file_of(result.dataset) if result.outcome == "CLEANED" else b"")


def _rendered(dataset: Dataset, frame: int) -> bytes | None:
    try:
        shape = pixel_shape(dataset)
        picture = next(iter(frames_of(dataset, shape, [frame])))
        grey = stretched(grey_pictures(picture, dataset, shape)[0])
    except (RefusedContent, StopIteration, IndexError):
        return None
    if shape.photometric == "MONOCHROME1":
        grey = np.asarray(255 - grey, np.uint8)
    return bytes(imagecodecs.png_encode(grey))


def _screening(answer: dict[str, Any], payload: bytes, dataset: Dataset) -> PixelScreening:
    if answer["outcome"] not in _OUTCOMES:
        raise ValueError("no such outcome")
    cleaned = _with_pixels_of(dcmread(io.BytesIO(payload), force=True), dataset) if answer["outcome"] == "CLEANED" else dataset
    boxes = tuple(ScreenedBox((int(x0), int(y0), int(x1), int(y1)), str(why)) for x0, y0, x1, y1, why in answer["boxes"])
    return PixelScreening(
        answer["outcome"],
        str(answer["reason"]),
        boxes,
        cleaned,
        str(answer["risk"]),
        int(answer["pictures_read"]),
        tuple(str(name) for name in answer["masks"]),
        int(answer["overlays_removed"]),
    )


def _needed(dataset: Dataset, masks: Sequence[Mapping[str, Any]]) -> Dataset:
    """The elements that the screening looks at."""
    asked = {tag_for_keyword(keyword) for keyword in criterion_keywords(masks)}
    needed = Dataset()
    needed._dict = {
        tag: element
        for tag, element in dataset._dict.items()
        if tag >> 16 in _PIXEL_GROUPS or tag in asked or tag in (_DERIVATION, _CHARSET)
    }
    needed._read_charset = dataset._read_charset
    needed.file_meta = dataset.file_meta
    return needed


def _with_pixels_of(answer: Dataset, dataset: Dataset) -> Dataset:
    """The dataset as it was, but with the pixels, and without the overlays, of the answer."""
    merged = copy(dataset)
    merged._dict = {tag: element for tag, element in dataset._dict.items() if tag >> 16 not in _PIXEL_GROUPS or tag >> 16 == 0x28}
    for tag in answer.keys():  # noqa: SIM118 -- iterating a Dataset converts every element
        if tag >> 16 in _PIXEL_GROUPS or tag == _DERIVATION:
            merged[tag] = answer[tag]
    merged.file_meta = copy(dataset.file_meta)
    merged.file_meta._dict = dict(dataset.file_meta._dict)
    put(merged.file_meta, "TransferSyntaxUID", answer.file_meta.TransferSyntaxUID)
    merged._pixel_array = None
    return merged


def _file_of(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    # ImplementationVersionName is a criterion of device masks.
    if "ImplementationVersionName" in dataset.file_meta:
        meta.ImplementationVersionName = dataset.file_meta.ImplementationVersionName
    whole = Dataset()
    whole._dict = {tag: element for tag, element in dataset._dict.items() if tag >> 16 > 2}
    whole._read_charset = dataset._read_charset
    whole.file_meta = meta
    dcmwrite(buffer, whole, enforce_file_format=False)
    return buffer.getvalue()


def main() -> None:
    # Its libraries are loaded by now; nothing of a stranger's is.
    confinement = confine(int(sys.argv[1]))
    # Answers go to a descriptor of their own: a library that prints must not speak in our name.
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    child_wire.send(sink, {"ready": True, "confinement": confinement.to_json()})
    serve(source, sink, threads=int(sys.argv[2]))


if __name__ == "__main__":
    main()

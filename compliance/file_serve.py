"""The confined child of `readgate deidentify`: reads files that it is handed open, and writes what may leave to files handed to it.

Invariants
- It holds no secret and no path: files to read and to write come as descriptors, pseudonyms of UIDs and what studies say of persons are
  asked of the parent. It is confined before anything but the standard library is loaded (confinement.py).
- It takes no more memory for a file than some multiple of the file's size.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from compliance import child_wire
from compliance.confinement import allow, confine
from compliance.deid_serve import BASE_BYTES, OCR_BYTES, PAYLOAD_TIMES, QUESTION_BYTES_MAX

if TYPE_CHECKING:
    from pydicom import Dataset

    from compliance.burned_in import PixelScreening
    from compliance.text_detection import TextDetector

#: As many files to read and to write as go with one question, an archive beside them.
DESCRIPTORS_MAX = 40
#: What one file may be that it writes.
_WRITTEN_BYTES_MAX = 16 << 30


class _Screen:
    """The pixel step, in this process; the models are loaded when the first instance at risk comes."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._detector: TextDetector | None = None
        self._has_looked = False
        #: What the instance at hand may take beside the models.
        self.more_bytes = BASE_BYTES

    def __call__(self, dataset: Dataset, words: Any) -> PixelScreening:
        from compliance.burned_in import PixelScreening, screen_pixels
        from compliance.device_masks import known_masks, matching_masks, pixel_risk
        from compliance.overlay_planes import overlay_groups

        masks = list(known_masks())
        if pixel_risk(dataset, matching_masks(dataset, masks)) is None and not overlay_groups(dataset):
            return PixelScreening("CLEAN", "", (), dataset)
        allow(OCR_BYTES + self.more_bytes, self._seconds)
        if not self._has_looked:
            from compliance.text_detection import open_text_detector

            self._detector, self._has_looked = open_text_detector(threads=1), True
        return screen_pixels(dataset, words, self._detector, masks=masks)


def serve(connection: socket.socket, sink: int, seconds: float) -> None:
    """Answers until the parent closes the connection."""
    from compliance.deid_profile import DeidProfile, Option
    from compliance.file_passes import FilePasses

    source = connection.fileno()

    def ask(words: dict[str, Any]) -> Any:
        child_wire.send(sink, words)
        return child_wire.receive(source, 0)[0]["told"]

    screen = _Screen(seconds)

    def allow_for(size: int) -> None:
        screen.more_bytes = BASE_BYTES + PAYLOAD_TIMES * size
        allow(screen.more_bytes, seconds)

    settings, _ = child_wire.receive(source, 0)
    profile = DeidProfile(settings["profile"], frozenset(map(Option, settings["options"])))
    has_screen = profile.has(Option.CLEAN_PIXEL_DATA)
    passes = FilePasses(profile, ask, screen=screen if has_screen else None, allow=allow_for, compress=settings["compress"])
    while True:
        descriptors = _handed(connection)
        if descriptors is None:
            return
        question, _ = child_wire.receive(source, QUESTION_BYTES_MAX)
        for answer in passes.answers(question, descriptors):
            child_wire.send(sink, answer)


def _handed(connection: socket.socket) -> list[int] | None:
    """The files that come next, None where nothing does. Raises EOFError where not all came: this process may hold no more."""
    byte, descriptors, flags, _ = socket.recv_fds(connection, 1, DESCRIPTORS_MAX)
    if flags & socket.MSG_CTRUNC:
        raise EOFError
    return descriptors if byte else None


def main() -> None:
    address_space_bytes, seconds = int(sys.argv[1]), float(sys.argv[2])
    confinement = confine(address_space_bytes, written_bytes_max=_WRITTEN_BYTES_MAX)
    # Answers go to a descriptor of their own: a library that prints must not speak in our name.
    connection, sink = socket.socket(fileno=os.dup(0)), os.dup(1)
    os.dup2(2, 1)
    import gc

    import compliance.file_passes  # noqa: F401 - loaded before the first deadline runs
    from compliance.invented_instance import prepare

    prepare(compress=sys.argv[3] == "compress")

    # Next to nothing made for an instance is cyclic: looking for that after every few hundred objects costs a tenth of the work.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    child_wire.send(sink, {"ready": True, "confinement": confinement.to_json()})
    serve(connection, sink, seconds)


if __name__ == "__main__":
    main()

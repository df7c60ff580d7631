"""The confined child of de-identification: takes instances of one study after another and gives back what `deidentify` made of them.

Invariants
- It holds no key: the pseudonym of a UID is asked of the parent, who holds the hospital's secret; nothing is sealed or opened here.
- It is confined before anything but the standard library is loaded (confinement.py), and takes no more memory for an instance than some
  multiple of the instance's size. No key, no data and no other file than code and models can be opened where the kernel has Landlock.
- What it raises goes back as a reason code, a constant detail and a tag. Its standard error goes nowhere.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import sys
from typing import TYPE_CHECKING, Any

from compliance import child_wire
from compliance.confinement import allow, confine

if TYPE_CHECKING:
    from pydicom import Dataset

    from compliance.burned_in import PixelScreening
    from compliance.identified import Pseudonymity
    from compliance.text_detection import TextDetector

QUESTION_BYTES_MAX = 3 << 30
#: Beside what the process has when it begins with an instance: a fixed part, and so many times the payload (copies, frames, output).
BASE_BYTES, PAYLOAD_TIMES = 384 << 20, 8
#: How much nicer it is than its parent.
GIVES_WAY = 3
#: The models of text detection and what they work with.
OCR_BYTES = 2 << 30


class _AskedUids(dict[str, str]):
    """Pseudonyms of UIDs, asked of the parent when first needed."""

    def __init__(self, source: int, sink: int) -> None:
        super().__init__()
        self._source, self._sink = source, sink

    def get(self, original: str, default: Any = None) -> Any:
        found = super().get(original)
        if found is None:
            child_wire.send(self._sink, {"ask": original})
            answer, _ = child_wire.receive(self._source, 0)
            found = self[original] = str(answer["uid"])
        return found


class _Screen:
    """The pixel step of one instance, in this process; the models are loaded when the first instance at risk comes."""

    def __init__(self, server: _Server, question: dict[str, Any], more_bytes: int) -> None:
        self._server, self._question, self._more_bytes = server, question, more_bytes
        self.proposed: list[list[Any]] = []

    def __call__(self, dataset: Dataset, words: Any) -> PixelScreening:
        from compliance.burned_in import PixelScreening, screen_pixels
        from compliance.device_masks import DeviceMask, matching_masks, pixel_risk
        from compliance.overlay_planes import overlay_groups

        masks = [DeviceMask.from_json(mask) for mask in self._server.masks]
        reviewed = self._question["reviewed"]
        if not reviewed and pixel_risk(dataset, matching_masks(dataset, masks)) is None and not overlay_groups(dataset):
            return PixelScreening("CLEAN", "", (), dataset)
        allow(OCR_BYTES + self._more_bytes, self._server.seconds)
        boxes = None if reviewed is None else [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in reviewed]
        result = screen_pixels(dataset, words, self._server.detector(), masks=masks, reviewed=boxes)
        if result.outcome == "HOLD":
            self.proposed = [[*one.box, one.why] for one in result.boxes]
        return result


class _Server:
    def __init__(self, source: int, sink: int, seconds: float) -> None:
        self._source, self._sink, self.seconds = source, sink, seconds
        self._under: Pseudonymity | None = None
        self.masks: list[dict[str, Any]] = []
        self._detector: TextDetector | None = None
        self._has_looked = False

    def detector(self) -> TextDetector | None:
        if not self._has_looked:
            from compliance.text_detection import open_text_detector

            self._detector, self._has_looked = open_text_detector(threads=1), True
        return self._detector

    def serve(self) -> None:
        """Answers until the parent closes the pipe."""
        while True:
            try:
                question, payload = child_wire.receive(self._source, QUESTION_BYTES_MAX)
            except EOFError:
                return
            if "study" in question:
                self._under, self.masks = self._pseudonymity(question["study"]), question["masks"]
                continue
            words, made = self._instance(question, payload)
            child_wire.send(self._sink, words, made)

    def _pseudonymity(self, said: dict[str, Any]) -> Pseudonymity:
        from compliance.deid_profile import DeidProfile, Option
        from compliance.identified import Pseudonymity

        profile = DeidProfile(said["profile"]["name"], frozenset(Option(one) for one in said["profile"]["options"]))
        identity = identity_of_json(said["identity"])
        names = (said["pseudonym"], said["date_offset_days"], said["accession_pseudonym"])
        under = Pseudonymity(said["hospital_id"], b"", *names, identity, profile)
        under.memo["uids"] = _AskedUids(self._source, self._sink)
        return under

    def _instance(self, question: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        from compliance.deid_profile import Option
        from compliance.deidentify import deidentify
        from compliance.identified import IdentifiedDataset
        from crypto.errors import RefusedContent

        assert self._under is not None
        more_bytes = BASE_BYTES + PAYLOAD_TIMES * len(payload)
        allow(more_bytes, self.seconds)
        source = IdentifiedDataset(payload, question["transfer_syntax_uid"], question["sop_class_uid"], question["sop_instance_uid"])
        screen = _Screen(self, question, more_bytes)
        try:
            made = deidentify(
                source,
                self._under,
                screen=screen if self._under.profile.has(Option.CLEAN_PIXEL_DATA) else None,
                compress=question["compress"],
            )
        except RefusedContent as refused:
            return {"refused": [refused.reason_code, refused.detail, refused.tag], "proposed": screen.proposed}, b""
        except (MemoryError, RecursionError):
            return {"refused": ["WORKER_LIMIT", "it takes more memory than an instance of its size may", None], "proposed": []}, b""
        # What the bytes say themselves the parent reads for itself.
        facts = {
            "transfer_syntax_uid": made.transfer_syntax_uid,
            "action_counts": dict(made.action_counts),
            "flags": made.flags,
        }
        return {"made": facts}, made.payload


def identity_json(identity: Any) -> dict[str, list[str]]:
    """The terms as JSON: texts as they are, days as ISO 8601, undecoded bytes in hexadecimal."""

    def said(value: Any) -> str:
        return value.hex() if isinstance(value, bytes) else value.isoformat() if isinstance(value, dt.date) else str(value)

    return {one.name: sorted(map(said, getattr(identity, one.name))) for one in dataclasses.fields(identity)}


def identity_of_json(said: dict[str, list[str]]) -> Any:
    """The terms that `identity_json` wrote."""
    from compliance.identity_terms import IdentityTerms

    read: dict[str, Any] = {"dates": dt.date.fromisoformat, "birth_dates": dt.date.fromisoformat, "undecoded": bytes.fromhex}
    return IdentityTerms(**{name: frozenset(map(read.get(name, str), values)) for name, values in said.items()})


def main() -> None:
    address_space_bytes, seconds = int(sys.argv[1]), float(sys.argv[2])
    # Who receives goes first: a scanner waits for an answer, and nobody for this process but a study that is not whole yet.
    os.nice(GIVES_WAY)
    confinement = confine(address_space_bytes)
    # Answers go to a descriptor of their own: a library that prints must not speak in our name.
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    # Loaded before the first deadline runs, and with all that instances need and none of them changes.
    import gc

    from compliance.invented_instance import prepare

    prepare()
    # Next to nothing made for an instance is cyclic: looking for that after every few hundred objects costs a tenth of the work.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    child_wire.send(sink, {"ready": True, "confinement": confinement.to_json()})
    _Server(source, sink, seconds).serve()


if __name__ == "__main__":
    main()

"""What a confined child made, read by its parent from the bytes alone: nothing that the child says of them is taken over.

Invariants
- Names, attributes, the DICOM JSON model and the places of the frames are worked out here, by the bounded parser of `dataset_bytes`, from
  the payload that the residual scan looks through.
- The UIDs are those of the source under the hospital's secret, the class is the source's, and what we write ourselves (the patient's
  pseudonym, the stamps of PS3.15 E.1.1) stands as we would write it: the scan leaves those elements out.
- Work and memory are bounded by the source's size: what holds more elements than the source could is no answer. What is kept from answer
  to answer is bounded in memory (`KeptRuns`), three times for each child.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from compliance.dataset_bytes import (
    EXPLICIT_LITTLE,
    EXPLICIT_VR_LITTLE_ENDIAN,
    PIXEL_TAGS,
    Element,
    elements,
    encoding_of,
    fragments,
    items,
)
from compliance.deid_profile import Option
from compliance.deidentify import _HEAD, _SLICES, _attributes, _first, _stamped
from compliance.element_runs import HeaderValues, KeptRuns, Part, RunParser
from compliance.element_values import json_values
from compliance.identified import IdentifiedDataset, InstanceAttributes, Pseudonymity
from compliance.instance_facts import InstanceFacts
from compliance.refusal_words import BOX_WHYS, REASONS, TAG, known_detail
from compliance.transcode import _VIDEO, HTJ2K_LOSSLESS, PixelDescription
from compliance.value_rules import _REGISTERED
from crypto.canonical import keyed_uid

Proposed = tuple[tuple[int, int, int, int, str], ...]
_SOP_CLASS, _SOP_UID, _STUDY_UID, _SERIES_UID = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
#: What `_stamped` writes whatever the pixels are.
_OURS = (0x00080005, 0x00080050, 0x00100010, 0x00100020, 0x00120062, 0x00120063, 0x00120064, 0x00280303)
_NATIVE = frozenset({"1.2.840.10008.1.2", EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2.2"})
_PIXEL_VRS = frozenset({"OB", "OW", "OF", "OD"})
#: Elements and items that an output may hold beside those of its source: the stamps and what they nest.
_ELEMENTS_BESIDE = 1_000
_FACE = "RECOGNIZABLE_VISUAL_FEATURES"
_FLAGS_TAKEN = ("UNUSED_BITS_CLEARED", "PIXELS_CLEANED")
_ACTIONS = frozenset("CDKUXZ")
_BOXES_MAX, _SIDE_MAX = 10_000, 1 << 16


@dataclass(frozen=True, slots=True)
class Contents:
    """What a payload says of itself."""

    transfer_syntax_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    frame_table: tuple[tuple[int, int], ...]
    dicom_json: dict[str, Any]
    attributes: InstanceAttributes
    has_face: bool


def contents_of(payload: bytes, said_syntax: str, source: IdentifiedDataset, under: Pseudonymity) -> Contents:
    """What `payload` is, as an answer to `source`; its text is not looked at here. `said_syntax` counts only where frames are encapsulated:
    it is the source's or the one that we make, and what it says is no more than how a stream is to be decoded.

    Raises: RefusedContent where either does not parse; ValueError where `payload` is no work on this source under these names.
    """
    known: _Known = under.memo.get("answers") or _Known()
    under.memo["answers"] = known
    parts = known.parser.parts(payload)
    model = known.model(payload, parts, len(source.payload) // 8 + _ELEMENTS_BESIDE)
    names = _names(source, under, known)
    if any(model.get(f"{tag:08X}", {}).get("Value") != said for tag, said in names.items()):
        raise ValueError("another instance")
    for piece in _stamped([], under, None, False):
        if piece.tag in _OURS and model.get(f"{piece.tag:08X}") != piece.json[f"{piece.tag:08X}"]:
            raise ValueError("not our stamps")
    pixels = _pixels(payload, [part for part in parts if isinstance(part, Element)])
    syntax: str = EXPLICIT_VR_LITTLE_ENDIAN
    frames: tuple[tuple[int, int], ...] = ()
    if pixels is not None:
        shape = InstanceFacts(payload, parts, known.facts).shape
        shape.check()
        syntax, frames = _frames(payload, pixels, shape, said_syntax, source.transfer_syntax_uid)
        key = f"{pixels.tag:08X}"
        model[key] = {"vr": pixels.vr, "BulkDataURI": f"bulkdata/{key}"}
    has_face = _first(model, "00080060") in _SLICES and str(_first(model, "00180015") or "HEAD").upper() in _HEAD
    sop, study, series = (str(names[tag][0]) for tag in (_SOP_UID, _STUDY_UID, _SERIES_UID))
    return Contents(syntax, sop, study, series, frames, model, _attributes(model), has_face)


class _Known:
    """What repeats from answer to answer of one child under one set of names: runs of elements, told by their bytes (element_runs.py)."""

    def __init__(self) -> None:
        self.parser = RunParser(EXPLICIT_LITTLE)
        self.facts = KeptRuns[dict[int, tuple[bytes, bytes]]]()
        self.source_names = HeaderValues((_SOP_UID, _STUDY_UID, _SERIES_UID))
        #: The model of a run and how many elements and items it has.
        self.models = KeptRuns[tuple[dict[str, Any], int]]()

    def model(self, payload: bytes, parts: list[Part], count_max: int) -> dict[str, Any]:
        """The model of an answer of at most so many elements and items."""
        whole: dict[str, Any] = {}
        left = count_max
        for part in parts:
            if isinstance(part, Element):
                reading = _Model(payload, left)
                whole.update(reading.of([part], 0))
                left = reading.left
                continue
            known = self.models.get(part[0])
            if known is None:
                reading = _Model(part[0].raw, left)
                model = reading.of(part[0].elements, 0)
                known = self.models.keep(part[0], (model, left - reading.left))
            whole.update(known[0])
            left -= known[1]
            if left < 0:
                raise ValueError("more elements than its source has")
        return whole


class _Model:
    """The DICOM JSON model (PS3.18 F) of an output, at most so many elements and items of it."""

    def __init__(self, payload: bytes, count_max: int) -> None:
        self._payload, self.left = payload, count_max

    def of(self, found: list[Element], depth: int) -> dict[str, Any]:
        self.left -= len(found)
        if self.left < 0:
            raise ValueError("more elements than its source has")
        return {f"{one.tag:08X}": self._element(one, depth) for one in found if depth or one.tag not in PIXEL_TAGS}

    def _element(self, element: Element, depth: int) -> dict[str, Any]:
        if element.vr != "SQ":
            return json_values(element.vr, self._payload[element.value : element.end], element.tag)
        models: list[dict[str, Any]] = []
        for start, end, _ in items(self._payload, element.value, element.end, EXPLICIT_LITTLE, depth, undefined=False):
            self.left -= 1
            models.append(self.of(elements(self._payload, start, end, EXPLICIT_LITTLE, depth + 1), depth + 1))
        return {"vr": "SQ", "Value": models} if models else {"vr": "SQ"}


def _names(source: IdentifiedDataset, under: Pseudonymity, known: _Known) -> dict[int, list[str]]:
    """The values that class, instance, study and series must have."""
    keeps = under.profile.has(Option.RETAIN_UIDS)
    names: dict[int, list[str]] = {_SOP_CLASS: [source.sop_class_uid]}
    header = known.source_names.of(source.payload, encoding_of(source.transfer_syntax_uid))
    for tag, value in header[0].items() if header is not None else ():
        parts = [part.strip("\0 ") for part in value.decode("latin-1").strip("\0 ").split("\\")]
        names[tag] = [part if keeps or part.startswith(_REGISTERED) else keyed_uid(under.uid_secret, part) for part in parts]
    if len(names) != 4 or not all(all(said) for said in names.values()):
        raise ValueError("a source without names")
    return names


def _pixels(payload: bytes, found: list[Element]) -> Element | None:
    """The pixel data, which end the payload; nothing else stands in their group, for the scan looks through it as bytes only."""
    inside = [element for element in found if element.tag >> 16 >= 0x7FE0]
    if not inside:
        return None
    (pixels,) = inside
    if pixels.tag not in PIXEL_TAGS or pixels.vr not in _PIXEL_VRS or pixels.stop != len(payload):
        raise ValueError("something else than pixel data beside them")
    return pixels


def _frames(
    payload: bytes, pixels: Element, shape: PixelDescription, syntax: str, source_syntax: str
) -> tuple[str, tuple[tuple[int, int], ...]]:
    """(transfer syntax, place of each frame), as `transcode.write_pixels` lays them."""
    if pixels.undefined:
        table, *stored = fragments(payload, pixels.value, pixels.stop)
        if len(stored) != (1 if source_syntax.startswith(_VIDEO) else shape.frames):
            raise ValueError("not one fragment for each frame")
        offsets = [start - 8 - table[1] for start, _ in stored]
        if table[0] != table[1] and payload[table[0] : table[1]] != struct.pack(f"<{len(offsets)}I", *offsets):
            raise ValueError("not the offset table of these frames")
        # Frames pass as they came, or were made by us.
        if pixels.vr != "OB" or syntax not in (HTJ2K_LOSSLESS, source_syntax) or syntax in _NATIVE:
            raise ValueError("encapsulated frames of another syntax")
        return syntax, tuple((start, end - start) for start, end in stored)
    total = (shape.frame_bits() * shape.frames + 7) // 8
    if pixels.end - pixels.value != total + (total & 1):
        raise ValueError("not as many bytes as the frames need")
    if shape.frame_bits() % 8:
        return EXPLICIT_VR_LITTLE_ENDIAN, ((pixels.value, total),)
    length = shape.frame_bits() // 8
    return EXPLICIT_VR_LITTLE_ENDIAN, tuple((pixels.value + index * length, length) for index in range(shape.frames))


def flags_of(said: Any, contents: Contents) -> tuple[str, ...]:
    """What a person should know: the face by the contents, the rest as the child says, of a closed list. Raises ValueError."""
    if not isinstance(said, list) or not all(flag in (_FACE, *_FLAGS_TAKEN) for flag in said):
        raise ValueError("not a flag")
    return (*((_FACE,) if contents.has_face else ()), *(flag for flag in _FLAGS_TAKEN if flag in said))


def counts_of(said: Any) -> dict[str, int]:
    """How often each action was taken, as the child says. Raises ValueError."""
    if (
        not isinstance(said, dict)
        or not _ACTIONS.issuperset(said)
        or not all(type(count) is int and 0 <= count < 1 << 32 for count in said.values())
    ):
        raise ValueError("not a count of actions")
    return said


def refusal_of(said: Any) -> tuple[str, str, str | None]:
    """(reason code, detail, tag) of closed lists; a detail that is no constant of ours is dropped. Raises ValueError."""
    reason, detail, tag = said
    if reason not in REASONS or not isinstance(detail, str) or not (tag is None or (isinstance(tag, str) and TAG.fullmatch(tag))):
        raise ValueError("not a refusal")
    return reason, known_detail(detail), tag


def proposed_of(said: Any) -> Proposed:
    """Boxes that a person may accept. Raises ValueError."""
    if len(said) > _BOXES_MAX:
        raise ValueError("more boxes than a picture has")
    boxes = tuple((x0, y0, x1, y1, why) for x0, y0, x1, y1, why in said)
    for *sides, why in boxes:
        if why not in BOX_WHYS or not all(type(side) is int and 0 <= side <= _SIDE_MAX for side in sides):
            raise ValueError("not a box")
    return boxes

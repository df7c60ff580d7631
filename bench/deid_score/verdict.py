"""What a tool did with one carrier, against the key: leaks, required actions, retention, references, pixels.

Leaks are planted texts found anywhere in the output's bytes. Required actions are judged as MIDI-B counts them, but harder: an element
that had to be mapped, moved or cleaned must be there in its new form (PS3.15 E.1.1), unless the tool ran without the option for it.
"""

from __future__ import annotations

import datetime as dt
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.tag import Tag

from bench.deid_score.answer_key import Carrier, PlantedRow
from bench.deid_score.burned_text import letters_left
from bench.deid_score.canary_search import SearchedFile
from bench.deid_score.pixels import decoded
from bench.deid_score.table import Row, rows

#: Beyond this distance from a planted text its surroundings must be untouched.
_BOX_MARGIN_PIXELS = 28
_LETTERS_LEFT_MAX = 0.02
_PLAIN_TONES_MAX = 6
_SAME_OUTSIDE_MIN = 0.97
_EMPTY_OR_DUMMY = frozenset({"", "None", "[]", "REMOVED", "ANONYMIZED", "ANONYMOUS"})


@dataclass
class Verdict:
    """Counts of one tool over a set; keys name slots."""

    leaks: Counter[str] = field(default_factory=Counter)
    leaks_by_slot: Counter[str] = field(default_factory=Counter)
    required: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    to_keep: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    held_by_kind: Counter[str] = field(default_factory=Counter)
    needlessly_held: Counter[str] = field(default_factory=Counter)
    carriers: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    unreadable: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def require(self, slot: str, is_met: bool, what: str = "") -> None:
        """Count one required action."""
        self.required[slot] += 1
        self.passed[slot] += is_met
        if not is_met:
            self.failures[f"{slot}: {what}"] += 1

    def keep(self, slot: str, is_met: bool, what: str = "") -> None:
        """Count one thing that had to stay."""
        self.to_keep[slot] += 1
        self.kept[slot] += is_met
        if not is_met:
            self.failures[f"kept, {slot}: {what}"] += 1


@dataclass
class Links:
    """What must agree over a whole set: UIDs and offsets, learned from the outputs themselves."""

    new_instance: dict[str, str] = field(default_factory=dict)
    new_study: dict[str, set[str]] = field(default_factory=dict)
    new_patient: dict[str, set[str]] = field(default_factory=dict)
    offsets: dict[str, set[int]] = field(default_factory=dict)

    def learn(self, carrier: Carrier, output: Dataset) -> None:
        """Take the identifiers of one output in."""
        self.new_instance[carrier.sop_instance_uid] = str(output.get("SOPInstanceUID", ""))
        self.new_study.setdefault(str(carrier.dataset.get("StudyInstanceUID", "")), set()).add(str(output.get("StudyInstanceUID", "")))
        self.new_patient.setdefault(carrier.persona.mrn, set()).add(str(output.get("PatientID", "")))
        old, new = _day(carrier.dataset.get("StudyDate")), _day(output.get("StudyDate"))
        if old and new:
            self.offsets.setdefault(carrier.persona.mrn, set()).add((new - old).days)


def judge(carrier: Carrier, path: Path, verdict: Verdict, links: Links, columns: frozenset[str]) -> None:
    """One output against its share of the key."""
    data = path.read_bytes()
    try:
        output = dcmread(io.BytesIO(data), force=True)
        for _ in output.iterall():
            pass
    except Exception:
        verdict.unreadable += 1
        return
    _leaks(carrier, data, output, path.name, verdict)
    for row in carrier.rows:
        _row(carrier, row, output, verdict, columns, links)
    _texts(carrier, output, verdict)
    for kept in carrier.kept:
        element = _element(output, kept.path)
        # What was there without a value has to be there, without a value.
        is_kept = element is not None and _same(str(element.value), kept.original)
        verdict.keep(kept.slot, is_kept, f"({kept.path[-1] >> 16:04X},{kept.path[-1] & 0xFFFF:04X})")
    _identifiers(carrier, output, verdict, columns)
    for reference, original in carrier.references:
        value = _at(output, reference)
        # Whether it leads to the right instance is known when all outputs are: `judge_links`.
        verdict.require(
            "references", value is not None and str(value) != original, f"({reference[-1] >> 16:04X},{reference[-1] & 0xFFFF:04X})"
        )
        expected = links.new_instance.get(original)
        if expected and value is not None:
            verdict.require("references resolve", str(value) == expected, carrier.kind)
    _pixels(carrier, output, verdict)


def judge_links(verdict: Verdict, links: Links, columns: frozenset[str]) -> None:
    """What only a whole set shows: one pseudonym and offset per patient, no two patients under one, studies together."""
    for patients in links.new_patient.values():
        verdict.require("one pseudonym per patient", len(patients) == 1, "several")
    everyone = [next(iter(names)) for names in links.new_patient.values() if len(names) == 1]
    verdict.require("patients never merge", len(set(everyone)) == len(everyone), "two patients under one pseudonym")
    for studies in links.new_study.values():
        verdict.require("one study stays one", len(studies) == 1, "several")
    if "rtnLongModifDatesOpt" in columns:
        for offsets in links.offsets.values():
            verdict.require("one offset per patient", len(offsets) == 1 and 0 not in offsets, "several offsets or none")


def _leaks(carrier: Carrier, data: bytes, output: Dataset, name: str, verdict: Verdict) -> None:
    pixel_start = data.find(b"\xe0\x7f\x10\x00O") if "PixelData" in output else -1
    searched = SearchedFile(data, pixel_start if pixel_start > 0 else None)
    shown = "\n".join(_strings(output))
    folded = _folded(shown)
    for canary in dict.fromkeys(carrier.all_canaries()):
        slot = canary.slot or f"header of {carrier.slot}"
        is_found = searched.holds(canary.text) or canary.text in name or (len(canary.text) > 3 and _stands_in(canary.text, folded))
        verdict.require(f"removed: {slot.split(':')[0]}", not is_found, f"{canary.letter} {slot}")
        if is_found:
            verdict.leaks[canary.letter] += 1
            verdict.leaks_by_slot[slot] += 1


def _stands_in(text: str, folded: str) -> bool:
    form = _folded(text)
    if not form.strip():
        return False
    left, right = (r"(?<![\d.])" if form[0].isdigit() else ""), (r"(?!\d)" if form[-1].isdigit() else "")
    return re.search(left + re.escape(form) + right, folded) is not None


def _strings(dataset: Dataset) -> Iterator[str]:
    for element in dataset.iterall():
        if element.VR not in ("SQ", "OB", "OW", "OF", "OD", "OL", "OV", "UN", "UI") and element.value not in (None, ""):
            yield str(element.value)


def _folded(text: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)).casefold()


def _row(carrier: Carrier, planted: PlantedRow, output: Dataset, verdict: Verdict, columns: frozenset[str], links: Links) -> None:
    row = _ROWS[planted.path[-1]]
    allowed = row.allowed(columns)
    element = _element(output, planted.path)
    value = None if element is None else element.value
    slot = carrier.slot.replace("rows", "row of E.1-1")
    is_met = any(_meets(action, row, planted, value, element is not None, carrier) for action in allowed)
    if row.tag == 0x00080050 and element is not None and "Z" in allowed:
        is_met = carrier.persona.accession not in str(value)
    if allowed == {"K"} and not is_met and "X" not in allowed:
        verdict.keep("rows to keep", False, row.pattern)
        return
    verdict.require(slot, is_met, f"{row.pattern} {'/'.join(sorted(allowed))}")


def _meets(action: str, row: Row, planted: PlantedRow, value: Any, is_there: bool, carrier: Carrier) -> bool:
    text = "" if value is None else str(value)
    if action == "X" or row.tag >> 16 < 0x0008 or row.tag >> 24 == 0x50:
        return not is_there
    if action == "Z":
        return is_there and (text in _EMPTY_OR_DUMMY or not len(text) or (text != planted.original and carrier.persona.family not in text))
    if action == "D":
        return is_there and text != "" and planted.original not in text
    if action == "U":
        return is_there and text != planted.original and re.fullmatch(r"[0-9.]{3,64}", text) is not None
    if action == "K":
        expected = planted.original.replace(f" {carrier.persona.family}", "")
        return is_there and (text == planted.original or expected in text)
    return _is_cleaned(row, planted, text, is_there, carrier)


def _is_cleaned(row: Row, planted: PlantedRow, text: str, is_there: bool, carrier: Carrier) -> bool:
    if planted.vr in ("DA", "DT"):
        old, new = _day(planted.original), _day(text)
        return new is not None and new != old and text[8:] == planted.original[8:]
    if planted.vr == "TM":
        return text == planted.original
    if planted.vr == "AS":
        return text == planted.original
    if planted.vr in ("OB", "OW", "UN"):
        return True
    if planted.vr == "SQ" or not is_there:
        return carrier.persona.family not in text
    kept = "left knee" in text if "left knee" in planted.original else True
    return kept and carrier.persona.family not in text


def _texts(carrier: Carrier, output: Dataset, verdict: Verdict) -> None:
    for planted in carrier.texts:
        value = _at(output, planted.path, planted.item)
        for words in planted.kept:
            verdict.keep(planted.slot, value is not None and words in str(value), repr(words))


def _identifiers(carrier: Carrier, output: Dataset, verdict: Verdict, columns: frozenset[str]) -> None:
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        old, new = str(carrier.dataset.get(keyword, "")), str(output.get(keyword, ""))
        verdict.require("UIDs mapped", bool(new) and new != old, keyword)
    verdict.require("patient id replaced", str(output.get("PatientID", "")) != carrier.persona.mrn, "")
    verdict.require("stamped", str(output.get("PatientIdentityRemoved", "")) == "YES", "(0012,0062)")
    codes = {str(item.get("CodeValue", "")) for item in output.get("DeidentificationMethodCodeSequence", None) or []}
    verdict.require("stamped", "113100" in codes or bool(output.get("DeidentificationMethod")), "(0012,0063) or (0012,0064)")
    if "rtnLongModifDatesOpt" in columns and _day(carrier.dataset.get("StudyDate")):
        old_day, new_day = _day(carrier.dataset.get("StudyDate")), _day(output.get("StudyDate"))
        verdict.require("dates moved", new_day is not None and new_day != old_day, "(0008,0020)")


def _pixels(carrier: Carrier, output: Dataset, verdict: Verdict) -> None:
    if "PixelData" not in carrier.dataset or carrier.dataset.get("BitsAllocated", 0) == 1:
        return
    before = decoded(carrier.dataset)
    if before is None:
        return
    after = decoded(output)
    if after is None or after.shape != before.shape:
        verdict.keep("pixels", False, f"{carrier.slot}: not decoded or of another shape")
        return
    outside = np.ones(before.shape[:-1] if _is_colour(carrier.dataset) else before.shape, bool)
    for box in carrier.boxes:
        left = letters_left(before, after, box)
        verdict.require("pixels: burned-in text", left <= _LETTERS_LEFT_MAX, carrier.slot)
        if left > _LETTERS_LEFT_MAX:
            verdict.leaks["A"] += 1
            verdict.leaks_by_slot[carrier.slot] += 1
        x0, y0, x1, y1 = box
        outside[
            ..., max(0, y0 - _BOX_MARGIN_PIXELS) : y1 + _BOX_MARGIN_PIXELS, max(0, x0 - _BOX_MARGIN_PIXELS) : x1 + _BOX_MARGIN_PIXELS
        ] = False
    same = (before == after).all(-1) if _is_colour(carrier.dataset) else before == after
    if carrier.slot == "corpus" and not same.all() and _is_blanked(before, after):
        # The file has text of its own burned in: what was changed is black or another plain tone, the rest is as it was.
        verdict.keep("pixels around cleaned text", True, carrier.kind)
        return
    share = float(np.mean(same[outside])) if outside.any() else 1.0
    least = _SAME_OUTSIDE_MIN if carrier.boxes else 1.0
    verdict.keep("pixels", share >= least, f"{carrier.slot}: {share:.3f} the same")


def _is_blanked(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> bool:
    return len(np.unique(after[before != after])) <= _PLAIN_TONES_MAX


def _is_colour(dataset: Dataset) -> bool:
    return int(dataset.get("SamplesPerPixel", 1)) == 3


def _element(dataset: Dataset, path: tuple[int, ...], last_item: int = 0) -> Any:
    for index, tag in enumerate(path[:-1]):
        item = last_item if index == len(path) - 2 else 0
        sequence = dataset.get(Tag(tag))
        if sequence is None or sequence.VR != "SQ" or len(sequence.value or []) <= item:
            return None
        dataset = sequence.value[item]
    return dataset.get(Tag(path[-1]))


def _at(dataset: Dataset, path: tuple[int, ...], last_item: int = 0) -> Any:
    element = _element(dataset, path, last_item)
    return None if element is None else element.value


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return abs(float(one) - float(other)) < 1e-6
    except ValueError:
        return one.replace(" ", "") == other.replace(" ", "")


def _day(value: Any) -> dt.date | None:
    try:
        return dt.datetime.strptime(str(value)[:8], "%Y%m%d").date()
    except ValueError:
        return None


_ROWS: dict[int, Row] = {row.tag: row for row in rows()}

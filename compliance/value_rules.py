"""One value rewritten by the action that holds for its element: emptied, replaced, mapped, moved or cleaned.

Invariants
- Text is decoded strictly, cleaned and written as UTF-8; a number or code that has not the form of its VR does not pass.
- Days move by the patient's one offset, times of day stay, ages are at most 90 years.
- A UID is the same for ever under one secret; those the standard registered stay.
"""

from __future__ import annotations

from compliance import character_sets, date_shift
from compliance.deid_profile import Option
from compliance.element_values import DUMMIES, STRING_VRS, TEXT_VRS, capped_age, has_form
from compliance.encapsulated_pdf import proved_pdf
from compliance.free_text import TextCleaner
from compliance.identified import Pseudonymity
from compliance.profile_table import load_table, tag_text
from crypto.canonical import keyed_uid
from crypto.errors import RefusedContent

_PATIENT_NAME, _PATIENT_ID = 0x00100010, 0x00100020
_DOCUMENT, _DOCUMENT_LENGTH = 0x00420011, 0x00420015
#: UIDs of classes and codings rather than of instances (PS3.6 A): kept where registered, else mapped like any other.
_REGISTERED = ("1.2.840.10008.", "2.16.840.1.113883.6.")

#: Codes that a document cannot be read without (PS3.3 C.17.3), whoever is called "Text".
_ENUMERATED = {
    0x0040A040: frozenset(
        "TEXT NUM CODE CONTAINER DATETIME DATE TIME UIDREF PNAME COMPOSITE IMAGE WAVEFORM SCOORD SCOORD3D TCOORD".split()
    ),
    0x0040A010: frozenset({"CONTAINS", "HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "HAS PROPERTIES", "INFERRED FROM"}),
    # Lossy Image Compression, Burned In Annotation, laterality: one letter or number of the table, whatever the patient is called.
    0x00282110: frozenset({"00", "01"}),
    0x00280301: frozenset({"YES", "NO"}),
    0x00200060: frozenset("LR"),
    0x00200062: frozenset("LRUB"),
    0x00209072: frozenset("LRUB"),
    0x00280004: frozenset("MONOCHROME1,MONOCHROME2,PALETTE COLOR,RGB,YBR_FULL,YBR_FULL_422,YBR_PARTIAL_420,YBR_ICT,YBR_RCT,XYB".split(",")),
}


class ValueRules:
    """The values of one patient; its caches live in `under.memo`."""

    def __init__(self, under: Pseudonymity) -> None:
        self._under = under
        has = under.profile.has
        text: TextCleaner | None = under.memo.get("text")
        self._text = text or TextCleaner(
            under.identity,
            keep_institutions=has(Option.RETAIN_INSTITUTION),
            keep_devices=has(Option.RETAIN_DEVICE),
            keep_dates=has(Option.RETAIN_FULL_DATES),
        )
        under.memo["text"] = self._text
        self._uids: dict[str, str] = under.memo.setdefault("uids", {})

    def value(self, tag: int, vr: str, value: bytes, action: str, charset: tuple[str, ...]) -> tuple[str, bytes, str] | None:
        """(VR, new value, action) or None to remove."""
        if tag in (_PATIENT_NAME, _PATIENT_ID):
            return vr, self._under.pseudonym.encode(), action
        if tag == _DOCUMENT and value and action == "D":
            # The dummy that D asks for is a document of the same pages, made anew and proved.
            return vr, proved_pdf(value, self._text, self._under.identity.search_words), action
        if tag == _DOCUMENT_LENGTH:
            return None  # of another document now; Type 3
        if action == "Z" or (not value and action != "D"):
            return vr, b"", action
        if action == "D":
            return vr, self._dummy(tag, vr, value), action
        if vr == "UI":
            return self._uid_value(value, action)
        if vr not in STRING_VRS:
            if action == "C":
                return None
            return vr, value, action
        text = character_sets.decode(value, character_sets.codecs_of(charset))
        if text is None:
            # No character set of the declared ones reads it, so nothing can say whose name it holds.
            return (vr, b"", "Z") if action == "K" or action == "C" else None
        return self._string_value(tag, vr, text.rstrip("\0 "), action)

    def _string_value(self, tag: int, vr: str, text: str, action: str) -> tuple[str, bytes, str] | None:
        if vr in ("DA", "DT", "TM"):
            return vr, self._time_value(vr, text, action).encode(), action
        if vr == "AS":
            return vr, "\\".join(capped_age(part) or "" for part in text.split("\\")).encode(), action
        if vr == "PN":
            return vr, b"", "Z"
        if vr in TEXT_VRS or vr == "AE":
            # Long texts the table does not name are read as closely as those it cleans; what it keeps loses only the study's people.
            unlisted = vr in ("LT", "ST", "UT", "UC") and load_table().action(tag, self._under.profile) != "K"
            cleaned = self._clean(tag, vr, text, generic=action == "C" or unlisted)
            if vr == "AE" and cleaned != text:
                cleaned = "REMOVED"
            return vr, cleaned.encode(), action if cleaned == text else "C"
        if not has_form(vr, text):
            return None
        if tag in _ENUMERATED and text in _ENUMERATED[tag]:
            return vr, text.encode(), action
        if vr == "CS" and self._clean(tag, "CS", text, generic=False) != text:
            # A code that names somebody or some place is one in no table: it may be required (Content Label), so it is not left empty.
            return vr, DUMMIES["CS"], "D"
        return vr, text.encode(), action

    def _clean(self, tag: int, vr: str, text: str, *, generic: bool) -> str:
        parts = [text] if vr in ("LT", "ST", "UT") else text.split("\\")
        cleaned = []
        for part in parts:
            result = self._text.clean(part, generic=generic)
            if result.is_doubtful:
                raise RefusedContent("DOUBTFUL_TEXT", "what looks like a person's name is none of the study's", tag=tag_text(tag))
            cleaned.append(result.text)
        return "\\".join(cleaned)

    def _time_value(self, vr: str, text: str, action: str) -> str:
        """Each value moved, kept or emptied; what is no date or time never passes."""
        days = self._under.date_offset_days if action == "C" else 0
        moved = []
        for part in text.split("\\"):
            if vr == "TM":
                moved.append(part.strip() if date_shift.valid_tm(part) else "")
            else:
                shift = date_shift.shift_da if vr == "DA" else date_shift.shift_dt
                moved.append(shift(part, days) or "")
        return "\\".join(moved)

    def _uid_value(self, value: bytes, action: str) -> tuple[str, bytes, str] | None:
        text = value.decode("latin-1").strip("\0 ")
        if not has_form("UI", text):
            return None
        if action == "K":
            return "UI", text.encode(), "K"
        mapped = [self.uid(part) for part in text.split("\\")]
        return "UI", "\\".join(mapped).encode(), "K" if "\\".join(mapped) == text else "U"

    def uid(self, original: str) -> str:
        """The UID that stands for `original`: itself where the standard registered it, else the keyed one."""
        stripped = original.strip("\0 ")
        if not stripped or stripped.startswith(_REGISTERED):
            return stripped
        mapped = self._uids.get(stripped)
        if mapped is None:
            mapped = self._uids[stripped] = keyed_uid(self._under.uid_secret, stripped)
        return mapped

    def _dummy(self, tag: int, vr: str, value: bytes) -> bytes:
        if vr == "UI":
            return self.uid(value.decode("latin-1")).encode() if value else b""
        return DUMMIES[vr]

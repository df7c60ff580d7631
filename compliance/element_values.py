# ruff: noqa: E501 - tables
"""Values by VR: dummies of the right form, validity, numbers, and the DICOM JSON model (PS3.18 Annex F)."""

from __future__ import annotations

import base64
import math
import re
import struct
from typing import Any

TEXT_VRS = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
SINGLE_TEXT_VRS = frozenset({"LT", "ST", "UT", "UR"})
STRING_VRS = TEXT_VRS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "PN", "TM", "UI", "UR"}
BULK_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_NUMBERS = {"FD": "d", "FL": "f", "SL": "i", "SS": "h", "SV": "q", "UL": "I", "US": "H", "UV": "Q"}

#: A value that is legal for its VR and says nothing (action D, PS3.15 E.1.1).
DUMMIES: dict[str, bytes] = {
    "AE": b"REMOVED", "AS": b"000D", "AT": b"\0\0\0\0", "CS": b"REMOVED", "DA": b"19000101", "DS": b"0", "DT": b"19000101000000", "FD": bytes(8),
    "FL": bytes(4), "IS": b"0", "LO": b"REMOVED", "LT": b"REMOVED", "OB": bytes(2), "OD": bytes(8), "OF": bytes(4), "OL": bytes(4),
    "OV": bytes(8), "OW": bytes(2), "PN": b"REMOVED", "SH": b"REMOVED", "SL": bytes(4), "SS": bytes(2), "ST": b"REMOVED", "SV": bytes(8),
    "TM": b"000000", "UC": b"REMOVED", "UL": bytes(4), "UN": bytes(2), "UR": b"urn:removed", "US": bytes(2), "UT": b"REMOVED", "UV": bytes(8),
}  # fmt: skip

#: What a value of the VR may look like (PS3.5 6.2); a value that does not is no number or code and may be anything.
_FORMS = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "CS": re.compile(r"[A-Za-z0-9 _\-./,+&()]{0,64}"),
    "DS": re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"),
    "IS": re.compile(r"[+-]?\d{1,12}(?:\.0*)?"),
    "UI": re.compile(r"[0-9.]{1,64}"),
}
#: Non-pixel values up to this many bytes stand in the JSON; longer ones are left as bulk data.
INLINE_BYTES_MAX = 1024


def has_form(vr: str, text: str) -> bool:
    """Whether each value of `text` has the form its VR demands; VRs without a form of their own always do."""
    form = _FORMS.get(vr)
    return form is None or all(not part.strip("\0 ") or form.fullmatch(part.strip("\0 ")) for part in text.split("\\"))


def capped_age(text: str) -> str | None:
    """An AS value of at most 90 years (45 CFR 164.514(b)(2)(i)(C)); None where it is no age."""
    match = re.fullmatch(r"(\d{3})([DWMY])", text.strip("\0 ").upper())
    if match is None:
        return None
    count, unit = int(match.group(1)), match.group(2)
    years = count / {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}[unit]
    return "090Y" if years >= 90 else f"{count:03d}{unit}"


def json_values(vr: str, value: bytes, tag: int) -> dict[str, Any]:
    """The attribute's object in the DICOM JSON model; `value` little endian, text in UTF-8. No sequences."""
    result: dict[str, Any] = {"vr": vr}
    if vr in STRING_VRS:
        text = value.decode("utf-8", "replace").rstrip("\0 ")
        if text:
            parts = [text] if vr in SINGLE_TEXT_VRS else text.split("\\")
            result["Value"] = [_json_text(vr, part) for part in parts]
    elif vr == "AT":
        numbers = struct.unpack(f"<{len(value) // 2}H", value[: len(value) // 2 * 2])
        if numbers:
            result["Value"] = [f"{group:04X}{element:04X}" for group, element in zip(numbers[::2], numbers[1::2], strict=False)]
    elif vr in _NUMBERS:
        code = _NUMBERS[vr]
        size = struct.calcsize("<" + code)
        numbers = struct.unpack(f"<{len(value) // size}{code}", value[: len(value) // size * size])
        if numbers and all(math.isfinite(number) for number in numbers):
            result["Value"] = list(numbers)
    elif value:
        if len(value) <= INLINE_BYTES_MAX:
            result["InlineBinary"] = base64.b64encode(value).decode("ascii")
        else:
            result["BulkDataURI"] = f"bulkdata/{tag:08X}"
    return result


def _json_text(vr: str, text: str) -> Any:
    stripped = text if vr in ("LT", "ST", "UT") else text.strip(" ")
    if not stripped:
        return None
    if vr == "PN":
        return dict(zip(("Alphabetic", "Ideographic", "Phonetic"), stripped.split("="), strict=False))
    if vr in ("DS", "IS"):
        try:
            number = float(stripped)
        except ValueError:
            return stripped
        if not math.isfinite(number):
            return stripped
        return int(number) if vr == "IS" or (number.is_integer() and abs(number) < 2**53 and "." not in stripped) else number
    return stripped

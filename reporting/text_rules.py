"""What a text may consist of before anybody signs it.

A signed text must look on every page, screen and printer as it was written. So these are refused:
- control characters other than the line feed: they vanish, or move the cursor of whatever prints them;
- characters that reorder or hide their neighbours (Unicode TR 36, bidirectional overrides, zero-width space, byte order mark);
- unassigned, private-use and surrogate code points: no two fonts agree on them;
- text that is not in Unicode normal form C: two spellings of one text would have two digests.
The joiners U+200C and U+200D stay: Persian and the scripts of India are misspelt without them.
"""

from __future__ import annotations

import re
import unicodedata

from crypto.errors import RefusedContent

CONTROL_CHARACTER = "control-character"
NOT_NORMALISED = "not-normal-form-c"
TOO_LONG = "text-too-long"
MISSING = "section-missing"
NOT_TIDY = "blank-at-the-edge"
MALFORMED = "malformed-value"

_HIDING = frozenset("\u00ad\u180e\u200b\u200e\u200f\u2028\u2029\u2060\ufeff") | frozenset(
    chr(code) for start, end in ((0x202A, 0x202E), (0x2061, 0x2069), (0xFFF9, 0xFFFB), (0xE0000, 0xE007F)) for code in range(start, end + 1)
)
_REFUSED_CATEGORIES = frozenset(("Cc", "Cs", "Co", "Cn"))
_UID = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*", re.ASCII)


def tidy_text(text: str) -> str:
    """The text as an editor's box delivers it, made acceptable in form: normal form C, line feeds, no blanks at line ends or edges.

    Characters that `require_text` refuses are left in: a person must see and remove them.
    """
    lines = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


def require_text(name: str, text: object, *, characters_max: int, lines: bool = False, empty: bool = False) -> None:
    """Raises: RefusedContent: `text` is not a text under the rules of this module; the message names the field, never its content."""
    if not isinstance(text, str):
        raise RefusedContent(MALFORMED, f"{name} is not a text")
    if not text and not empty:
        raise RefusedContent(MISSING, name)
    if len(text) > characters_max:
        raise RefusedContent(TOO_LONG, f"{name} has {len(text)} characters, at most {characters_max} are accepted")
    for position, character in enumerate(text):
        if character == "\n" and lines:
            continue
        if character in _HIDING or unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise RefusedContent(CONTROL_CHARACTER, f"{name} holds U+{ord(character):04X} at position {position}")
    if text != text.strip():
        raise RefusedContent(NOT_TIDY, name)
    if not unicodedata.is_normalized("NFC", text):
        raise RefusedContent(NOT_NORMALISED, name)


def require_uid(name: str, value: object) -> None:
    """Raises: RefusedContent: `value` is no UID of PS3.5 section 9.1 (64 characters, components without leading zeros)."""
    if not isinstance(value, str) or len(value) > 64 or not _UID.fullmatch(value):
        raise RefusedContent(MALFORMED, f"{name} is not a UID")


def require_digest(name: str, value: object) -> None:
    """Raises: RefusedContent: `value` is not `sha256:` and 64 lower-case hexadecimal digits."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise RefusedContent(MALFORMED, f"{name} is not a digest of the form sha256:<64 hexadecimal digits>")


def require_language(name: str, value: object) -> None:
    """Raises: RefusedContent: `value` is no language tag in the shape of RFC 5646."""
    if not isinstance(value, str) or len(value) > 35 or not _LANGUAGE.fullmatch(value):
        raise RefusedContent(MALFORMED, f"{name} is not a language tag")

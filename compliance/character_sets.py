"""Text of every character set of the standard to str, strictly; the output is always UTF-8 (ISO_IR 192).

Invariants
- Nothing is replaced: bytes that the declared character set cannot hold are tried as UTF-8 and then reported as undecodable (None).
- A declared default repertoire that holds other bytes is read as UTF-8 if it is UTF-8, else as Latin-1, as such senders mean.
PS3.3 C.12.1.1.2, PS3.5 6.1.2, PS3.5 Annexes H to K.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from crypto.errors import RefusedContent

#: Defined terms of (0008,0005), single-byte and the multi-byte without code extensions.
_CODECS = {
    "": "ascii",
    "ISO_IR 6": "ascii",
    "ISO_IR 100": "iso8859_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 144": "iso8859_5",
    "ISO_IR 127": "iso8859_6",
    "ISO_IR 126": "iso8859_7",
    "ISO_IR 138": "iso8859_8",
    "ISO_IR 148": "iso8859_9",
    "ISO_IR 203": "iso8859_15",
    "ISO_IR 13": "shift_jis",
    "ISO_IR 166": "tis_620",
    "ISO_IR 192": "utf_8",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "ISO 2022 IR 6": "ascii",
    "ISO 2022 IR 100": "iso8859_1",
    "ISO 2022 IR 101": "iso8859_2",
    "ISO 2022 IR 109": "iso8859_3",
    "ISO 2022 IR 110": "iso8859_4",
    "ISO 2022 IR 144": "iso8859_5",
    "ISO 2022 IR 127": "iso8859_6",
    "ISO 2022 IR 126": "iso8859_7",
    "ISO 2022 IR 138": "iso8859_8",
    "ISO 2022 IR 148": "iso8859_9",
    "ISO 2022 IR 203": "iso8859_15",
    "ISO 2022 IR 13": "shift_jis",
    "ISO 2022 IR 166": "tis_620",
    "ISO 2022 IR 87": "ascii",
    "ISO 2022 IR 159": "ascii",
    "ISO 2022 IR 149": "euc_kr",
    "ISO 2022 IR 58": "gb2312",
}

#: Escape sequences of PS3.3 Tables C.12-3 and C.12-4: what follows them, and whether it is G0 JIS that its own codec must see escaped.
_ESCAPES: dict[bytes, str] = {
    b"\x1b(B": "ascii",
    b"\x1b(J": "shift_jis",
    b"\x1b)I": "shift_jis",
    b"\x1b-A": "iso8859_1",
    b"\x1b-B": "iso8859_2",
    b"\x1b-C": "iso8859_3",
    b"\x1b-D": "iso8859_4",
    b"\x1b-L": "iso8859_5",
    b"\x1b-G": "iso8859_6",
    b"\x1b-F": "iso8859_7",
    b"\x1b-H": "iso8859_8",
    b"\x1b-M": "iso8859_9",
    b"\x1b-b": "iso8859_15",
    b"\x1b-T": "tis_620",
    b"\x1b$B": "iso2022_jp",
    b"\x1b$(D": "iso2022_jp_2",
    b"\x1b$)C": "euc_kr",
    b"\x1b$)A": "gb2312",
}
_ESCAPE = re.compile(b"|".join(re.escape(code) for code in sorted(_ESCAPES, key=len, reverse=True)))
#: Control characters that end an escape's reach (PS3.5 6.1.2.5.3).
_RESET = re.compile(rb"([\r\n\f\t\\^=])")
_CONTROL = re.compile(rb"([\r\n\f\t])")


@lru_cache(maxsize=256)
def codecs_of(declared: tuple[str, ...]) -> tuple[str, ...]:
    """Python codecs of the values of (0008,0005). Raises RefusedContent for a term the standard does not define."""
    names = []
    for term in declared or ("",):
        known = _CODECS.get(_normal(term))
        if known is None:
            raise RefusedContent("UNKNOWN_CHARACTER_SET", "PS3.3 C.12.1.1.2", tag="(0008,0005)")
        names.append(known)
    return tuple(names)


def _normal(term: str) -> str:
    """Spellings that real senders use for defined terms."""
    text = term.strip().upper().replace("_", " ").replace("-", " ")
    text = re.sub(r"^ISO ?IR ?", "ISO_IR ", text)
    text = re.sub(r"^ISO ?2022 ?IR ?", "ISO 2022 IR ", text)
    return {"UTF 8": "ISO_IR 192", "UTF8": "ISO_IR 192", "ISO 8859 1": "ISO_IR 100", "ISO 2022 IR 192": "ISO_IR 192"}.get(text, text)


def decode(value: bytes, codecs: Sequence[str]) -> str | None:
    """The text, or None where no reading of the declared character sets (nor UTF-8) holds it."""
    if value.isascii() and b"\x1b" not in value:
        # Shift JIS and its kin read two ASCII codes otherwise, but identity and clinical text mean backslash and tilde here.
        return value.decode("ascii")
    if b"\x1b" in value:
        return _decode_escaped(value, codecs)
    return _decode_plain(value, codecs[0], codecs[1:])


def _decode_plain(value: bytes, codec: str, others: Sequence[str] = ()) -> str | None:
    """`others` are sets declared for use behind escapes, which some senders leave out."""
    others = [one for one in others if one != "ascii"]
    attempts = ("utf_8", *others, "iso8859_1") if codec == "ascii" else (codec, "utf_8", *others)
    for attempt in attempts:
        try:
            return value.decode(attempt)
        except UnicodeDecodeError:
            continue
    return None


def _decode_escaped(value: bytes, codecs: Sequence[str]) -> str | None:
    text: list[str] = []
    pos, codec, escape = 0, codecs[0], b""
    in_force = codec
    while True:
        match = _ESCAPE.search(value, pos)
        chunk = value[pos : match.start() if match else len(value)]
        # In a two-byte G0 set the codes of \\, ^ and = are halves of characters, so only control characters end it there.
        delimiter = _CONTROL if codec.startswith("iso2022") else _RESET
        for index, piece in enumerate(delimiter.split(chunk)):
            if index % 2:
                text.append(piece.decode("ascii"))
                continue
            if index:
                codec, escape = codecs[0], b""
                # Some senders escape once for many lines: what the first set cannot hold is read by the one that was in force.
                if not in_force.startswith("iso2022") and _decode_chunk(piece, codec, escape) is None:
                    codec = in_force
            decoded = _decode_chunk(piece, codec, escape)
            if decoded is None:
                return None
            text.append(decoded)
        if match is None:
            return "".join(text)
        escape, pos = match.group(), match.end()
        codec = in_force = _ESCAPES[escape]


def _decode_chunk(chunk: bytes, codec: str, escape: bytes) -> str | None:
    if not chunk:
        return ""
    if b"\x1b" in chunk:
        return None
    try:
        if codec.startswith("iso2022"):
            return (escape + chunk + b"\x1b(B").decode(codec)
        return chunk.decode(codec)
    except UnicodeDecodeError:
        return _decode_plain(chunk, "utf_8") if codec != "utf_8" else None

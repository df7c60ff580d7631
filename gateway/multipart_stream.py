"""A multipart/related body read as it comes in (RFC 2387, RFC 2046 5.1): never held, every part of its framing bounded.

Bounded are the boundary (70 characters, RFC 2046 5.1.1), what stands before the first part, the header fields of a part and the number of
parts. What a part holds goes on in the pieces in which it arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from enum import Enum, auto

from crypto.errors import RefusedContent

MALFORMED = "multipart_malformed"
BOUNDARY_CHARACTERS_MAX = 70
HEAD_BYTES_MAX = 8 * 1024
PARTS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class PartBegins:
    """Header fields by lower-case name; of one that comes twice the last."""

    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class PartBytes:
    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnds:
    pass


Event = PartBegins | PartBytes | PartEnds


class _State(Enum):
    PREAMBLE = auto()
    DELIMITER = auto()
    HEADERS = auto()
    BODY = auto()
    EPILOGUE = auto()


def media_type_of(content_type: str) -> tuple[str, dict[str, str]]:
    """(type/subtype in lower case, its parameters) of a Content-Type field; ("", {}) for what is none."""
    message = Message()
    try:
        message["Content-Type"] = content_type
        parameters = message.get_params() or []
    except (ValueError, TypeError):
        return "", {}
    if not parameters or "/" not in parameters[0][0]:
        return "", {}
    return parameters[0][0].lower(), {name.lower(): str(value) for name, value in parameters[1:]}


class MultipartReader:
    """Feed it the body; take the events."""

    def __init__(self, boundary: str) -> None:
        """Raises: RefusedContent for a boundary that RFC 2046 does not allow."""
        if not 1 <= len(boundary) <= BOUNDARY_CHARACTERS_MAX or not boundary.isascii() or not boundary.isprintable():
            raise RefusedContent(MALFORMED, "RFC 2046 5.1.1")
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        # The line break before the first delimiter may be the beginning of the body.
        self._buffer = bytearray(b"\r\n")
        self._state = _State.PREAMBLE
        self._parts = 0

    @property
    def is_complete(self) -> bool:
        """Whether the closing delimiter has come."""
        return self._state is _State.EPILOGUE

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete. Raises: RefusedContent."""
        if self._state is _State.EPILOGUE:
            return
        self._buffer += data
        while True:
            before = (self._state, len(self._buffer))
            yield from self._step()
            if self.is_complete or (self._state, len(self._buffer)) == before:
                return

    def _step(self) -> Iterator[Event]:
        if self._state is _State.PREAMBLE:
            self._skip_preamble()
        elif self._state is _State.DELIMITER:
            self._after_delimiter()
        elif self._state is _State.HEADERS:
            yield from self._headers()
        elif self._state is _State.BODY:
            yield from self._body()

    def _skip_preamble(self) -> None:
        found = self._buffer.find(self._delimiter)
        if found > HEAD_BYTES_MAX or (found < 0 and len(self._buffer) > HEAD_BYTES_MAX + len(self._delimiter)):
            raise RefusedContent(MALFORMED, "no part begins")
        if found >= 0:
            del self._buffer[: found + len(self._delimiter)]
            self._state = _State.DELIMITER

    def _after_delimiter(self) -> None:
        if self._buffer.startswith(b"--"):
            self._buffer.clear()
            self._state = _State.EPILOGUE
            return
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise RefusedContent(MALFORMED, "RFC 2046 5.1.1")
            return
        if bytes(self._buffer[:end]).strip(b" \t"):
            raise RefusedContent(MALFORMED, "RFC 2046 5.1.1")
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise RefusedContent(MALFORMED, "too many parts")
        # The line break stays: header fields end with an empty line, and there may be none of them.
        del self._buffer[:end]
        self._state = _State.HEADERS

    def _headers(self) -> Iterator[Event]:
        end = self._buffer.find(b"\r\n\r\n")
        if end > HEAD_BYTES_MAX or (end < 0 and len(self._buffer) > HEAD_BYTES_MAX):
            raise RefusedContent(MALFORMED, "header fields too long")
        # A part may be empty, and its delimiter then follows the empty line at once: so much must be there to see it.
        if end < 0 or len(self._buffer) < end + 2 + len(self._delimiter):
            return
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        self._buffer[:0] = b"\r\n" if self._buffer.startswith(self._delimiter[2:]) else b""
        fields = (line.partition(":") for line in lines if ":" in line)
        self._state = _State.BODY
        yield PartBegins({name.strip().lower(): value.strip() for name, _, value in fields})

    def _body(self) -> Iterator[Event]:
        found = self._buffer.find(self._delimiter)
        # As long as no delimiter is seen, the last bytes may be the beginning of one.
        end = found if found >= 0 else max(0, len(self._buffer) - len(self._delimiter) + 1)
        if end:
            piece = bytes(self._buffer[:end])
            del self._buffer[:end]
            yield PartBytes(piece)
        if found >= 0:
            del self._buffer[: len(self._delimiter)]
            self._state = _State.DELIMITER
            yield PartEnds()

"""MLLP: the block around an HL7 v2 message on a TCP connection (HL7 transport specification, MLLP release 1)."""

from __future__ import annotations

from crypto.errors import RefusedContent
from reporting.hl7_message import CONTROL_CHARACTER, MALFORMED, MESSAGE_BYTES_MAX, TOO_LONG

START_BLOCK, END_BLOCK = b"\x0b", b"\x1c\r"


def frame(payload: bytes) -> bytes:
    """The MLLP block around a message.

    Raises:
        RefusedContent: the message holds one of the block characters.
    """
    if b"\x0b" in payload or b"\x1c" in payload:
        raise RefusedContent(CONTROL_CHARACTER, "a message holds an MLLP block character")
    return START_BLOCK + payload + END_BLOCK


def unframe(received: bytes) -> tuple[bytes | None, bytes]:
    """The first whole message of what was received, or None, and the bytes after it.

    Raises:
        RefusedContent: what stands there is no MLLP block, or is longer than MESSAGE_BYTES_MAX; close the connection.
    """
    if not received:
        return None, b""
    if received[:1] != START_BLOCK:
        raise RefusedContent(MALFORMED, "no MLLP start block")
    end = received.find(END_BLOCK)
    if (end if end >= 0 else len(received)) > MESSAGE_BYTES_MAX:
        raise RefusedContent(TOO_LONG, f"a message of more than {MESSAGE_BYTES_MAX} bytes")
    if end < 0:
        return None, received
    return received[1:end], received[end + len(END_BLOCK) :]

"""Reading a DIMSE command set (PS3.7 6.3): group 0000, Implicit VR Little Endian, a few hundred bytes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gateway import dimse_responses as dimse
from gateway.pdu import ProtocolViolation

#: A command set has about a dozen elements of at most 64 bytes; 16 KiB is far more than any real one.
COMMAND_BYTES_MAX = 16384

_ELEMENT = struct.Struct("<HHI")


@dataclass(frozen=True, slots=True)
class Command:
    """The elements of a command set by element number, values as received but for trailing padding of UIDs."""

    field: int
    elements: dict[int, bytes]

    @property
    def has_dataset(self) -> bool:
        """Command Data Set Type (0000,0800): anything but 0101H means that a data set follows."""
        return self.number(0x0800, dimse.NO_DATASET) != dimse.NO_DATASET

    @property
    def message_id(self) -> int:
        """(0000,0110)"""
        return self.number(0x0110, 0)

    def number(self, element: int, default: int) -> int:
        """The value of a US element, or `default` where it is absent."""
        value = self.elements.get(element)
        return default if value is None or len(value) != 2 else int.from_bytes(value, "little")

    def uid(self, element: int) -> bytes:
        """The value of a UI element without its padding, b"" where it is absent."""
        return self.elements.get(element, b"").rstrip(b"\0 ")

    def text(self, element: int) -> str | None:
        """The value of an AE element without its padding, None where it is absent or not of the default repertoire."""
        value = self.elements.get(element, b"").strip(b"\0 ")
        return value.decode("ascii") if value and value.isascii() else None


def parse_command(encoded: bytes) -> Command:
    """Raises: ProtocolViolation if this is no command set of PS3.7 6.3.1 or names no operation."""
    elements: dict[int, bytes] = {}
    position, end, last = 0, len(encoded), -1
    while position + 8 <= end:
        group, number, length = _ELEMENT.unpack_from(encoded, position)
        position += 8
        if group != 0 or number <= last or length > end - position:
            raise _violation("command_set_malformed")
        elements[number] = encoded[position : position + length]
        position += length
        last = number
    field = elements.get(0x0100)
    if position != end or field is None or len(field) != 2:
        raise _violation("command_set_malformed")
    return Command(int.from_bytes(field, "little"), elements)


def _violation(reason_code: str) -> ProtocolViolation:
    return ProtocolViolation(reason_code, abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)

"""UIDs the protocol needs by name, and what a UID is (PS3.5 9.1, PS3.6 Table A-1)."""

from __future__ import annotations

import re

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH_MODEL = "1.2.840.10008.1.20.1"
STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"

IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
#: PS3.5 A.5, and the syntaxes that carry a deflated stream in another shape.
DEFLATED_TRANSFER_SYNTAXES = frozenset(
    {
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
        "1.2.840.10008.1.2.4.95",  # JPIP Referenced Deflate
        "1.2.840.10008.1.2.4.205",  # JPIP HTJ2K Referenced Deflate
        "1.2.840.10008.1.2.8.1",  # Deflated Image Frame Compression
    }
)

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
#: Ours, made once from a random UUID (PS3.5 B.2).
IMPLEMENTATION_CLASS_UID = "2.25.257752771225016194675940743930413784892"
IMPLEMENTATION_VERSION_NAME = "READGATE_0_1"

_UID = re.compile(rb"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))*")
_UID_BYTES_MAX = 64


def is_valid_uid(value: bytes) -> bool:
    """Components of digits without leading zeros, at most 64 characters; padding is not part of the value."""
    return 0 < len(value) <= _UID_BYTES_MAX and _UID.fullmatch(value) is not None

"""What one association may take of time and memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AssociationLimits:
    """Every duration is absolute from the moment it begins; no byte from the peer extends it."""

    #: From the accepted connection to the association, TLS handshake included.
    acse_seconds_max: float = 15.0
    #: Silence between two messages.
    idle_seconds_max: float = 300.0
    #: From the moment a PDU is waited for within a message to its last byte; and for the peer to take an answer.
    pdu_seconds_max: float = 60.0
    message_seconds_max: float = 7200.0
    #: Payload kept in memory before it is handed on in pieces.
    window_bytes: int = 4 * 1024 * 1024
    instance_bytes_max: int = 4 * 1024**3

"""What a person wrote about a patient's case: sealed, because people write names; the log keeps it sealed beside its codes."""

from __future__ import annotations

from crypto.keys import KeyStore
from crypto.sealed_box import open_small, seal_small


def seal_note(keys: KeyStore, hospital_id: str, place: str, text: str) -> bytes:
    """`text` sealed under the hospital's key for notes, bound to the `place` it stands in ("quarantine/7")."""
    return seal_small(keys.secret(f"notes/{hospital_id}"), text.encode(), place.encode())


def open_note(keys: KeyStore, hospital_id: str, place: str, sealed: bytes | None) -> str:
    """The text, "" where there is none. Raises: IntegrityFailure."""
    return open_small(keys.secret(f"notes/{hospital_id}"), sealed, place.encode()).decode() if sealed is not None else ""

"""Entries of the log in words, and the notes that stand sealed beside them, wherever they were written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from compliance.audit import AuditEntry, EventType
from compliance.sealed_note import seal_note
from crypto.errors import IntegrityFailure, NotFound
from crypto.keys import FileKeyStore
from gateway.log_words import details_of, links_of, subject_words
from gateway.pages_log_entry import sealed_text
from gateway.register_note import seal_reason


def entry(**of: Any) -> AuditEntry:
    made: dict[str, Any] = {
        "entry_index": 7,
        "recorded_at": datetime(2026, 11, 22, tzinfo=UTC),
        "event_id": "110113",
        "event_type": EventType.USER_SECURITY_CHANGED,
        "action": "U",
        "outcome": "0",
        "actor": "po",
        "detail": {},
        "salt": "",
        "leaf_hash": "",
    }
    return AuditEntry(**{**made, **of})


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ({"detail": {"reader": "r1", "credential": "LICENCE", "status": "SUSPENDED"}}, "credential LICENCE, reader r1, status SUSPENDED"),
        ({"event_type": EventType.DECIDE, "detail": {"action": "VIEW", "reader": "r1"}}, "r1 asked to open it"),
        ({"event_type": EventType.REIDENTIFY, "detail": {"opened": 3, "purpose": "hospital page"}}, "3 identities, hospital page"),
        ({"object_id": "quarantine/7", "detail": {"how": "RELEASED"}}, "quarantine item 7; how RELEASED"),
        ({"object_id": "received/4", "detail": {"instances": 2, "tag": ""}}, "received study 4; images 2"),
        ({"detail": {"locked": False, "attempts": 1, "unheard_of": "x"}}, "attempts 1, unheard of x"),
    ],
)
def test_line_of_an_entry_is_in_words(of: dict[str, Any], words: str) -> None:
    assert subject_words(entry(**of)) == words


def test_details_are_whole_and_reasons_are_sentences() -> None:
    shown = dict(
        details_of(entry(event_type=EventType.DECIDE, detail={"reasons": ["CRED_LICENCE_EXPIRED:ES"], "action": "VIEW", "active": False}))
    )
    assert shown == {"Reasons": "The licence has expired (ES) (CRED_LICENCE_EXPIRED:ES)", "Asked": "to open it", "May log in": "no"}


def test_links_lead_to_everything_about_study_object_and_patient() -> None:
    found = dict(links_of(entry(study_instance_uid="2.25.1", object_id="quarantine/7", detail={"patient": "RG-1"})))
    assert found == {
        "Everything about this study": "/privacy?q=2.25.1",
        "Everything about quarantine item 7": "/privacy?q=quarantine%2F7",
        "Everything about this patient": "/privacy?q=RG-1",
    }


def test_notes_are_opened_where_they_were_written_and_nowhere_else(tmp_path: Path) -> None:
    keys = FileKeyStore(tmp_path / "keys")
    of_item = entry(hospital_id="h1", object_id="quarantine/7", sealed_body=seal_note(keys, "h1", "quarantine/7", "Sent twice"))
    assert sealed_text(keys, of_item) == "Sent twice"
    assert sealed_text(keys, entry(sealed_body=seal_reason(keys, None, "Letter"))) == "Letter"
    moved = entry(hospital_id="h1", object_id="quarantine/8", sealed_body=of_item.sealed_body)
    with pytest.raises(IntegrityFailure):
        sealed_text(keys, moved)
    with pytest.raises(NotFound):
        sealed_text(keys, entry())

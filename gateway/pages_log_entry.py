"""One entry of the log for the privacy officer: all that it says in words, its proof, and what a person wrote that stands sealed beside it.

What is sealed is opened on the page alone, with a reason; the opening is an entry of its own in the same transaction, and is shown once.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from sqlmodel import Session

from compliance import audit
from compliance.audit import AuditEntry
from compliance.decision_log import DecisionRow
from compliance.principal import Principal
from compliance.sealed_note import open_note
from compliance.study import Study, require_study
from crypto.errors import IntegrityFailure, NotFound
from crypto.keys import KeyStore
from gateway.log_rows import EVENT_WORDS, LogFilters, note_reading, outcome_of
from gateway.log_words import details_of, links_of, object_words
from gateway.login import Visitor
from gateway.page_shell import shell_of
from gateway.register_note import open_reason, seal_reason
from gateway.request_context import App, PostedForm, natural_number, privacy_officer_of, reason_in
from gateway.web.contexts_registers import LogEntryPage
from gateway.web.rendering import render

router = APIRouter(prefix="/privacy/entries")
Officer = Annotated[Visitor, Depends(privacy_officer_of)]


@router.get("/{entry_index}")
def show_entry(app: App, officer: Officer, entry_index: str) -> Response:
    note_reading(app, officer, LogFilters())
    return _page(app, officer, entry_index, None)


@router.post("/{entry_index}/open")
def open_sealed(request: Request, app: App, officer: Officer, form: PostedForm, entry_index: str) -> Response:
    """What the person wrote. The opening stands in the log before the page is made."""
    reason = reason_in(form)
    with app.database.transaction() as session:
        entry = _require_entry(session, entry_index)
        text = sealed_text(app.keys, entry)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.AUDIT_LOG_USED,
                event_type=audit.EventType.LOG_READ,
                action=audit.Action.READ,
                actor=officer.principal_id,
                hospital_id=entry.hospital_id,
                study_instance_uid=entry.study_instance_uid,
                object_id=f"entry/{entry.entry_index}",
                network_address=officer.login.address,
                detail={"act": "sealed note opened", "entry": entry.entry_index},
                sealed_body=seal_reason(app.keys, entry.hospital_id, reason),
            ),
            at=app.now(),
        )
    return _page(app, officer, entry_index, text)


def sealed_text(keys: KeyStore, entry: AuditEntry) -> str:
    """What a person wrote beside the entry: a register's reason, or a note bound to the object that the entry names.

    Raises: NotFound where nothing is sealed; IntegrityFailure.
    """
    if entry.sealed_body is None:
        raise NotFound("nothing is sealed beside this entry")
    try:
        return open_reason(keys, entry)
    except IntegrityFailure:
        if entry.hospital_id is None or entry.object_id is None:
            raise
        return open_note(keys, entry.hospital_id, entry.object_id, entry.sealed_body)


def _page(app: App, officer: Visitor, entry_index: str, text: str | None) -> Response:
    with app.database.reading() as session:
        entry = _require_entry(session, entry_index)
        person = session.get(Principal, entry.actor)
        study: Study | None = None
        if entry.study_instance_uid:
            try:
                study = require_study(session, entry.study_instance_uid)
            except NotFound:
                study = None
        has_decision = entry.decision_digest is not None and session.get(DecisionRow, entry.decision_digest) is not None
    outcome = outcome_of(entry)
    context = LogEntryPage(
        shell=shell_of(app, officer, "/privacy", title=f"Entry {entry.entry_index}"),
        index=entry.entry_index,
        event=EVENT_WORDS.get(entry.event_type, entry.event_type),
        outcome={"success": "Success", "refused": "Refused", "failure": "Failure"}[outcome],
        tone="good" if outcome == "success" else "warning" if outcome == "refused" else "bad",
        at=entry.recorded_at,
        who=f"{person.display_name} ({entry.actor})" if person is not None else entry.actor,
        address=entry.network_address or "",
        hospital_id=entry.hospital_id or "",
        pseudonym=study.patient_pseudonym if study is not None else "",
        study_instance_uid=entry.study_instance_uid or "",
        about=object_words(entry.object_id or ""),
        object_id=entry.object_id or "",
        details=details_of(entry),
        links=links_of(entry),
        decision_digest=entry.decision_digest if has_decision and entry.decision_digest is not None else "",
        leaf_hash=entry.leaf_hash,
        is_sealed=entry.sealed_body is not None,
        text=text,
    )
    return render("log_entry.html.j2", context)


def _require_entry(session: Session, entry_index: str) -> AuditEntry:
    number = natural_number(entry_index, digits_max=15)
    entry = session.get(AuditEntry, number) if number is not None else None
    if entry is None:
        raise NotFound("no such entry")
    return entry

"""The register of evidence: agreements, assessments and approvals, with their documents kept sealed; the privacy officer's.

A document is sealed before the answer and is opened by the privacy officer alone; each opening is an entry of the log.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from sqlmodel import Session, select

from compliance.credential import Employer, Evidence
from compliance.evidence_document import keep_document, open_document
from compliance.hospital import Hospital
from crypto.errors import BadInput, Conflict
from gateway.application import Application
from gateway.login import Visitor
from gateway.posted_document import OfficersDocument
from gateway.register_effects import take_effect_of_evidence
from gateway.register_entries import add_evidence, withdraw_evidence
from gateway.register_exchange import evidence_types
from gateway.register_page import Register, day_in, done, refused, show_register
from gateway.register_rows import evidence_rows
from gateway.request_context import App, PostedForm, privacy_officer_of, reason_in
from gateway.web.contexts import Choice
from gateway.web.contexts_oversight import FormField

router = APIRouter(prefix="/evidence")
Officer = Annotated[Visitor, Depends(privacy_officer_of)]
_REGISTER = Register(
    "/evidence",
    "Evidence",
    "Agreements, assessments and approvals that decisions rest on. Their documents are kept sealed; the digest stands in every decision.",
    ("Evidence", "Type", "Parties", "Issued", "Last day", "Verified by", "Document (SHA-256)", "State"),
    "Register evidence",
    has_file=True,
)


@router.get("")
def show_evidence(request: Request, app: App, officer: Officer) -> Response:
    return show_register(
        request, app, officer, _REGISTER, lambda session: (evidence_rows(session, app.now()), _evidence_fields(app, session))
    )


@router.post("")
def register_evidence(request: Request, app: App, officer: Officer, posted: OfficersDocument) -> Response:
    try:
        evidence = _evidence(app, posted.fields, officer.principal_id)
        add_evidence(app, officer.principal_id, evidence, document=posted.content)
    except (BadInput, Conflict) as error:
        return refused(request, app, officer, error, show_evidence)
    take_effect_of_evidence(app, evidence.parties)
    return done("/evidence", "added")


@router.post("/{evidence_id}/document")
def add_document(request: Request, app: App, officer: Officer, posted: OfficersDocument, evidence_id: str) -> Response:
    """The document of evidence that was registered without one."""
    try:
        if posted.content is None:
            raise BadInput("No file was chosen.")
        with app.database.transaction() as session:
            keep_document(session, app.keys, evidence_id, posted.content, actor=officer.principal_id, now=app.now())
    except (BadInput, Conflict) as error:
        return refused(request, app, officer, error, show_evidence)
    return done("/evidence", "kept")


@router.get("/{evidence_id}/document")
def download_document(app: App, officer: Officer, evidence_id: str) -> Response:
    """The document as it was handed in. That it was opened is in the log before the first byte leaves."""
    with app.database.transaction() as session:
        content = open_document(session, app.keys, evidence_id, actor=officer.principal_id, now=app.now())
    headers = {
        "Content-Disposition": f'attachment; filename="evidence-{secrets.token_hex(4)}.{"pdf" if content.startswith(b"%PDF-") else "bin"}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.post("/{evidence_id}/withdraw")
def withdraw(app: App, officer: Officer, form: PostedForm, evidence_id: str) -> Response:
    parties = withdraw_evidence(app, officer.principal_id, evidence_id, reason=reason_in(form))
    take_effect_of_evidence(app, parties)
    return done("/evidence", "changed")


def _evidence_fields(app: Application, session: Session) -> tuple[FormField, ...]:
    hospitals = session.exec(select(Hospital.hospital_id, Hospital.name).order_by(Hospital.name)).all()
    employers = session.exec(select(Employer.employer_id, Employer.name).order_by(Employer.name)).all()
    return (
        FormField(
            "type", "Type", "select", tuple(Choice(name, name) for name in evidence_types(app.law)), hint="As the rules in force name it."
        ),
        FormField("hospital", "Hospital", "select", tuple(Choice(key, f"{name} ({key})") for key, name in hospitals), is_required=False),
        FormField("employer", "Employer", "select", tuple(Choice(key, f"{name} ({key})") for key, name in employers), is_required=False),
        FormField("issued", "Issued", "date"),
        FormField("expires", "Last day on which it holds", "date"),
        FormField("document", "Document", "file", is_required=False, hint="At most 16 MB; kept sealed here."),
        FormField("digest", "Or its SHA-256", is_required=False, hint="64 hexadecimal digits, where the document stays elsewhere."),
    )


def _evidence(app: Application, form: Mapping[str, str], actor: str) -> Evidence:
    parties = [form[name] for name in ("hospital", "employer") if form.get(name)]
    digest = form.get("digest", "").strip().lower()
    if form.get("type") not in evidence_types(app.law) or not parties:
        raise BadInput("Evidence has a type that a rule asks for, and at least one party.")
    if digest and (len(digest) != 64 or any(character not in "0123456789abcdef" for character in digest)):
        raise BadInput("A SHA-256 has 64 hexadecimal digits.")
    with app.database.reading() as session:
        is_known = all(session.get(Hospital, party) or session.get(Employer, party) for party in parties)
    if not is_known:
        raise BadInput("A party is not registered.")
    return Evidence(
        evidence_id=f"{form['type'].lower().replace('_', '-')[:40]}-{secrets.token_hex(4)}",
        evidence_type=form["type"],
        parties=parties,
        issued_at=day_in(form, "issued"),
        expires_at=day_in(form, "expires") + timedelta(days=1),
        verified_by=actor,
        document_digest=digest or None,
        recorded_at=app.now(),
    )

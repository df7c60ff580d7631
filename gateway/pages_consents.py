"""The register of consents: the newest word of each patient, by pseudonym, in and out as FHIR R4 Consent; the privacy officer's."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from sqlmodel import Session, select

from compliance.consent_fhir import write_consent
from compliance.credential import Consent, newest_consent
from compliance.crosswalk import PatientLink
from compliance.facts_vocabulary import CONSENT_KINDS
from compliance.hospital import Hospital
from crypto.errors import BadInput, Conflict, NotFound
from gateway.consent_words import terms_words
from gateway.login import Visitor
from gateway.page_shell import shell_of
from gateway.posted_document import OfficersDocument
from gateway.register_effects import take_effect
from gateway.register_entries import record_consent
from gateway.register_exchange import import_consent
from gateway.register_note import note_export
from gateway.register_page import Register, day_in, done, refused, row_key, show_register
from gateway.register_rows import consent_rows
from gateway.request_context import App, PostedForm, privacy_officer_of, reason_in
from gateway.strict_json import read_json
from gateway.web.contexts import Choice, Link, Notice
from gateway.web.contexts_oversight import FormField
from gateway.web.contexts_registers import ConsentImportPage, ConsentPage
from gateway.web.rendering import render

router = APIRouter(prefix="/consents")
Officer = Annotated[Visitor, Depends(privacy_officer_of)]
_REGISTER = Register(
    "/consents",
    "Consents",
    "The newest word of each patient, by pseudonym.",
    ("Patient", "Hospital", "Kind", "Given", "Until", "Extends to", "Version", "State"),
    "Register a consent",
    links=(Link("Import FHIR", "/consents/import"),),
)


@router.get("")
def show_consents(request: Request, app: App, officer: Officer) -> Response:
    return show_register(request, app, officer, _REGISTER, lambda session: (consent_rows(session), _consent_fields(session)))


@router.post("")
def register_consent(request: Request, app: App, officer: Officer, form: PostedForm) -> Response:
    try:
        hospital_id, pseudonym = form.get("hospital", ""), form.get("patient", "").strip()
        with app.database.reading() as session:
            known = session.exec(
                select(PatientLink.link_pk).where(PatientLink.hospital_id == hospital_id, PatientLink.pseudonym == pseudonym)
            ).first()
        if known is None:
            raise BadInput("This hospital has no patient of that pseudonym.")
        if form.get("status") not in ("ACTIVE", "REFUSED"):
            raise BadInput("A consent is given or refused; a given one is withdrawn in the list.")
        given_at = day_in(form, "given")
        # Of today's words the newest is the one that is being written down now.
        given_at = app.now() if given_at.date() == app.now().date() else given_at
        record_consent(
            app,
            officer.principal_id,
            hospital_id=hospital_id,
            patient_pseudonym=pseudonym,
            status=form["status"],
            kind=form.get("kind", ""),
            given_at=given_at,
        )
    except (BadInput, Conflict) as error:
        return refused(request, app, officer, error, show_consents)
    take_effect(app, hospital_ids=[hospital_id], patient_pseudonym=pseudonym)
    return done("/consents", "added")


@router.get("/import")
def show_import(request: Request, app: App, officer: Officer) -> Response:
    refusal = str(getattr(request.state, "refusal", ""))
    notices = (Notice(refusal, "bad"),) if refusal else ()
    context = ConsentImportPage(shell=shell_of(app, officer, "/consents", title="Import a consent", notices=notices))
    return render("consent_import.html.j2", context, status_code=422 if refusal else 200)


@router.post("/import")
def take_import(request: Request, app: App, officer: Officer, posted: OfficersDocument) -> Response:
    """A FHIR Consent or a Bundle of them, pasted or as a file; all of it or nothing. Nothing of it is shown again where it is refused."""
    pasted = posted.fields.get("document", "").strip()
    try:
        if bool(pasted) is (posted.content is not None):
            raise BadInput("Paste a document or choose a file, one of the two.")
        import_consent(app, officer.principal_id, read_json(posted.content if posted.content is not None else pasted))
    except (BadInput, NotFound, Conflict) as error:
        return refused(request, app, officer, error, show_import)
    return done("/consents", "imported")


@router.get("/{consent_key}")
def show_consent(app: App, officer: Officer, consent_key: str) -> Response:
    with app.database.reading() as session:
        row = _require_consent(session, consent_key)
        newest = newest_consent(session, row.hospital_id, row.patient_pseudonym, row.kind)
        hospital = session.get(Hospital, row.hospital_id)
    context = ConsentPage(
        shell=shell_of(app, officer, "/consents", title="Consent"),
        consent_key=str(row.consent_pk),
        pseudonym=row.patient_pseudonym,
        hospital_name=hospital.name if hospital is not None else row.hospital_id,
        kind=row.kind.capitalize(),
        status=row.status.capitalize(),
        tone="good" if row.status == "ACTIVE" else "bad",
        version=row.version,
        is_newest=newest is not None and newest.consent_pk == row.consent_pk,
        given_at=row.given_at,
        withdrawn_at=row.withdrawn_at,
        expires_at=row.expires_at,
        recorded_at=row.recorded_at,
        document_digest=row.document_digest or "",
        terms=terms_words(row.terms),
    )
    return render("consent.html.j2", context)


@router.get("/{consent_key}/fhir")
def export_consent(app: App, officer: Officer, consent_key: str) -> Response:
    """One consent as FHIR JSON; that it left is in the log."""
    with app.database.transaction() as session:
        row = _require_consent(session, consent_key)
        note_export(session, app.now(), officer.principal_id, "consents", 1, row.hospital_id)
        resource = write_consent(row)
    headers = {
        "Content-Disposition": f'attachment; filename="consent-{row.consent_pk}.json"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return JSONResponse(resource, headers=headers, media_type="application/fhir+json")


@router.post("/{consent_key}/withdraw")
def withdraw_consent(app: App, officer: Officer, form: PostedForm, consent_key: str) -> Response:
    reason = reason_in(form)
    with app.database.reading() as session:
        consent = session.get(Consent, row_key(consent_key))
    if consent is None:
        raise NotFound("no such consent")
    record_consent(
        app,
        officer.principal_id,
        hospital_id=consent.hospital_id,
        patient_pseudonym=consent.patient_pseudonym,
        status="WITHDRAWN",
        kind=consent.kind,
        given_at=consent.given_at,
        reason=reason,
    )
    take_effect(app, hospital_ids=[consent.hospital_id], patient_pseudonym=consent.patient_pseudonym)
    return done("/consents", "changed")


def _require_consent(session: Session, consent_key: str) -> Consent:
    row = session.get(Consent, row_key(consent_key))
    if row is None:
        raise NotFound("no such consent")
    return row


def _consent_fields(session: Session) -> tuple[FormField, ...]:
    hospitals = session.exec(select(Hospital.hospital_id, Hospital.name).order_by(Hospital.name)).all()
    return (
        FormField("hospital", "Hospital", "select", tuple(Choice(key, name) for key, name in hospitals)),
        FormField("patient", "Patient's pseudonym", hint="RG- and twenty signs, as the hospital's list or a report shows it."),
        FormField("kind", "Kind", "select", tuple(Choice(kind, kind.capitalize()) for kind in CONSENT_KINDS)),
        FormField("status", "The patient", "select", (Choice("ACTIVE", "Consented"), Choice("REFUSED", "Refused"))),
        FormField("given", "On", "date"),
    )

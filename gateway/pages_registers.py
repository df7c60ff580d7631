"""The registers: readers and hospitals for the operator; credentials, evidence and consents for the privacy officer.

Every change goes through gateway/enrolment.py (audited in its transaction) and takes effect before the page answers (register_effects.py).
What a form gets wrong is said on the page again; nothing was changed then.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from sqlmodel import Session, col, select

from compliance.credential import Consent, Credential, Employer, Evidence, Reader
from compliance.crosswalk import PatientLink
from compliance.facts_vocabulary import CONSENT_KINDS, CREDENTIAL_TYPES
from compliance.hospital import Hospital
from compliance.principal import Principal
from compliance.rule import Wanted
from crypto.errors import BadInput, Conflict, NotFound
from gateway.application import Application
from gateway.enrolment import add_credential, add_evidence, change_credential_status, end_access, record_consent, withdraw_evidence
from gateway.login import Visitor
from gateway.page_shell import paging_of, shell_of
from gateway.register_effects import take_effect
from gateway.register_rows import Rows, consent_rows, credential_rows, evidence_rows, hospital_rows, matching, reader_rows
from gateway.request_context import App, PostedForm, operator_of, page_number, privacy_officer_of, reason_in
from gateway.web.contexts import Choice, Notice
from gateway.web.contexts_oversight import FormField, RegisterPage
from gateway.web.rendering import render
from worklist.claim import expire_leases

router = APIRouter()
Officer = Annotated[Visitor, Depends(privacy_officer_of)]
Operator = Annotated[Visitor, Depends(operator_of)]
ROWS_PER_PAGE = 50
_DONE = {
    "added": "Registered. It counts from now on.",
    "changed": "Changed. It counts from now on; claims that lost their right have ended.",
    "ended": "The access has ended, and with it every login and claim of this person.",
}
_TITLES = {
    "/readers": ("Readers", "Who may log in as a reader. Credentials are kept by the privacy officer.", ""),
    "/hospitals": ("Hospitals", "Each hospital with its senders and where its reports go. Changed with: readgate site.", ""),
    "/credentials": (
        "Credentials",
        "What each reader may show for the law to look at. Each change is an entry in the log.",
        "Register a credential",
    ),
    "/evidence": ("Evidence", "Agreements, assessments and approvals that decisions rest on.", "Register evidence"),
    "/consents": ("Consents", "The newest word of each patient, by pseudonym.", "Register a consent"),
}
_COLUMNS = {
    "/readers": ("Name", "Reader", "Qualification", "Employer", "Established in", "Access"),
    "/hospitals": ("Name", "Hospital", "Law of", "Stored in", "Senders", "Reports go to", "Complete after"),
    "/credentials": ("Reader", "Kind", "What", "Issued", "Last day", "Verified", "State"),
    "/evidence": ("Evidence", "Type", "Parties", "Issued", "Last day", "Verified by", "Document (SHA-256)", "State"),
    "/consents": ("Patient", "Hospital", "Kind", "Given", "Version", "State"),
}


@router.get("/readers")
def show_readers(request: Request, app: App, operator: Operator) -> Response:
    return _page(request, app, operator, "/readers", lambda session: (reader_rows(session), ()))


@router.post("/readers/{reader_id}/end")
def end_reader(app: App, operator: Operator, form: PostedForm, reader_id: str) -> Response:
    with app.database.reading() as session:
        if session.get(Reader, reader_id) is None:
            raise NotFound("no such reader")
    end_access(app, operator.principal_id, reader_id, reason=reason_in(form))
    expire_leases(app.database, now=app.now(), new_uid=app.new_uid)
    take_effect(app, reader_ids=[reader_id])
    return _done("/readers", "ended")


@router.get("/hospitals")
def show_hospitals(request: Request, app: App, operator: Operator) -> Response:
    return _page(request, app, operator, "/hospitals", lambda session: (hospital_rows(session), ()))


@router.get("/credentials")
def show_credentials(request: Request, app: App, officer: Officer) -> Response:
    return _page(request, app, officer, "/credentials", lambda session: (credential_rows(session, app.now()), _credential_fields(session)))


@router.post("/credentials")
def register_credential(request: Request, app: App, officer: Officer, form: PostedForm) -> Response:
    try:
        credential = _credential(form, officer.principal_id, app.now())
        with app.database.reading() as session:
            if credential.kind == "PRIVILEGE" and session.get(Hospital, credential.claim["hospital"]) is None:
                raise BadInput("This hospital is not registered.")
        add_credential(app, officer.principal_id, credential)
    except (BadInput, NotFound) as error:
        return _refused(request, app, officer, error, show_credentials)
    take_effect(app, reader_ids=[credential.reader_id])
    return _done("/credentials", "added")


@router.post("/credentials/{credential_key}/{act}")
def change_credential(request: Request, app: App, officer: Officer, form: PostedForm, credential_key: str, act: str) -> Response:
    status = {"suspend": "SUSPENDED", "reinstate": "ACTIVE"}.get(act)
    if status is None:
        raise NotFound("no such act")
    reason = reason_in(form)
    with app.database.reading() as session:
        standing = session.get(Credential, _key(credential_key))
        # An expired or revoked credential is not brought back by a page: the issuer's new word is a new credential.
        if standing is None or standing.superseded_at is not None or standing.status not in ("ACTIVE", "SUSPENDED"):
            raise NotFound("no such credential")
    try:
        reader_id = change_credential_status(app, officer.principal_id, _key(credential_key), status, reason=reason)
    except BadInput as error:
        return _refused(request, app, officer, error, show_credentials)
    take_effect(app, reader_ids=[reader_id])
    return _done("/credentials", "changed")


@router.get("/evidence")
def show_evidence(request: Request, app: App, officer: Officer) -> Response:
    return _page(request, app, officer, "/evidence", lambda session: (evidence_rows(session, app.now()), _evidence_fields(app, session)))


@router.post("/evidence")
def register_evidence(request: Request, app: App, officer: Officer, form: PostedForm) -> Response:
    try:
        evidence = _evidence(app, form, officer.principal_id)
        add_evidence(app, officer.principal_id, evidence)
    except (BadInput, Conflict) as error:
        return _refused(request, app, officer, error, show_evidence)
    take_effect(app)
    return _done("/evidence", "added")


@router.post("/evidence/{evidence_id}/withdraw")
def withdraw(app: App, officer: Officer, form: PostedForm, evidence_id: str) -> Response:
    withdraw_evidence(app, officer.principal_id, evidence_id, reason=reason_in(form))
    take_effect(app)
    return _done("/evidence", "changed")


@router.get("/consents")
def show_consents(request: Request, app: App, officer: Officer) -> Response:
    return _page(request, app, officer, "/consents", lambda session: (consent_rows(session), _consent_fields(session)))


@router.post("/consents")
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
        given_at = _instant(form, "given")
        if given_at > app.now():
            raise BadInput("The consent was given in the future.")
        record_consent(
            app,
            officer.principal_id,
            hospital_id=hospital_id,
            patient_pseudonym=pseudonym,
            status=form["status"],
            kind=form.get("kind", ""),
            given_at=given_at,
        )
    except BadInput as error:
        return _refused(request, app, officer, error, show_consents)
    take_effect(app, hospital_ids=[hospital_id], patient_pseudonym=pseudonym)
    return _done("/consents", "added")


@router.post("/consents/{consent_key}/withdraw")
def withdraw_consent(app: App, officer: Officer, form: PostedForm, consent_key: str) -> Response:
    reason = reason_in(form)
    with app.database.reading() as session:
        consent = session.get(Consent, _key(consent_key))
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
    return _done("/consents", "changed")


def _page(
    request: Request,
    app: Application,
    visitor: Visitor,
    path: str,
    fill: Callable[[Session], tuple[Rows, tuple[FormField, ...]]],
    refusal: str = "",
) -> Response:
    q, page = request.query_params.get("q", "")[:64], page_number(request)
    with app.database.reading() as session:
        rows, fields = fill(session)
    listed = matching(rows, q)
    start = (page - 1) * ROWS_PER_PAGE
    shown = tuple(listed[start : start + ROWS_PER_PAGE])
    done = _DONE.get(request.query_params.get("done", ""), "")
    refusal = refusal or str(getattr(request.state, "refusal", ""))
    notices = [Notice(refusal, "bad")] if refusal else [Notice(done, "good")] if done else []
    heading, intro, label = _TITLES[path]
    context = RegisterPage(
        shell=shell_of(app, visitor, path, notices=tuple(notices)),
        heading=heading,
        intro=intro,
        columns=_COLUMNS[path],
        rows=shown,
        paging=paging_of(path, {"q": q}, page, len(listed), ROWS_PER_PAGE, shown=len(shown)),
        q=q,
        add_href=path if fields else None,
        add_label=label,
        fields=fields,
    )
    return render("register.html.j2", context, status_code=422 if refusal else 200)


def _refused(
    request: Request, app: Application, visitor: Visitor, error: Exception, show: Callable[[Request, Any, Any], Response]
) -> Response:
    """The page again, with what was wrong in the words of this program; the person who reads it is the one who typed it."""
    request.state.refusal = f"Nothing was changed. {error}"
    return show(request, app, visitor)


def _done(path: str, what: str) -> Response:
    return RedirectResponse(f"{path}?done={what}", status_code=303)


def _credential_fields(session: Session) -> tuple[FormField, ...]:
    readers = session.exec(
        select(Reader.reader_id, Principal.display_name)
        .join(Principal, col(Principal.principal_id) == Reader.reader_id)
        .order_by(Principal.display_name)
    ).all()
    return (
        FormField("reader", "Reader", "select", tuple(Choice(key, f"{name} ({key})") for key, name in readers)),
        FormField("kind", "Kind", "select", tuple(Choice(kind, kind.replace("_", " ").capitalize()) for kind in sorted(CREDENTIAL_TYPES))),
        FormField(
            "subject",
            "What it is about",
            hint="Licence: jurisdiction (ES, US-OH). Specialty, board: its name. Privilege: the hospital. Cover: territories, or ANY. "
            "Registration, exclusion check: the register.",
        ),
        FormField("number", "Number or value", is_required=False, hint="Of a registration."),
        FormField("modalities", "Modalities", is_required=False, hint="Of a privilege: CT, MR, or ANY."),
        FormField("by_proxy", "By proxy", "select", (Choice("no", "No"), Choice("yes", "Yes")), is_required=False, hint="Of a privilege."),
        FormField("issued", "Issued", "date"),
        FormField("expires", "Last day on which it holds", "date"),
        FormField("verified", "Verified with the issuer", "date"),
        FormField("method", "How it was verified", hint="Register of the issuing body, letter, telephone."),
    )


def _credential(form: Mapping[str, str], actor: str, now: datetime) -> Credential:
    kind, subject = form.get("kind", ""), form.get("subject", "").strip()
    claims: dict[str, Callable[[], dict[str, Any]]] = {
        "LICENCE": lambda: {"jurisdiction": subject},
        "SPECIALTY": lambda: {"value": subject},
        "BOARD": lambda: {"value": subject},
        "PRIVILEGE": lambda: {
            "hospital": subject,
            "modalities": _names(form.get("modalities", "")) or ["ANY"],
            "by_proxy": form.get("by_proxy") == "yes",
        },
        "COVER": lambda: {"territory": _names(subject)},
        "REGISTRATION": lambda: {"register": subject, **({"value": form["number"].strip()} if form.get("number", "").strip() else {})},
        "EXCLUSION_CHECK": lambda: {"register": subject},
    }
    if kind not in claims or not subject:
        raise BadInput("A credential has a kind and says what it is about.")
    verified_at = _instant(form, "verified")
    if verified_at > now:
        raise BadInput("It was verified in the future.")
    return Credential(
        reader_id=form.get("reader", ""),
        kind=kind,
        claim=claims[kind](),
        issued_at=_instant(form, "issued"),
        expires_at=_instant(form, "expires") + timedelta(days=1),
        verified_at=verified_at,
        verification_method=form.get("method", "").strip()[:200],
        verified_by=actor,
        recorded_at=now,
    )


def _evidence_fields(app: Application, session: Session) -> tuple[FormField, ...]:
    hospitals = session.exec(select(Hospital.hospital_id, Hospital.name).order_by(Hospital.name)).all()
    employers = session.exec(select(Employer.employer_id, Employer.name).order_by(Employer.name)).all()
    return (
        FormField(
            "type", "Type", "select", tuple(Choice(name, name) for name in _evidence_types(app)), hint="As the rules in force name it."
        ),
        FormField("hospital", "Hospital", "select", tuple(Choice(key, f"{name} ({key})") for key, name in hospitals), is_required=False),
        FormField("employer", "Employer", "select", tuple(Choice(key, f"{name} ({key})") for key, name in employers), is_required=False),
        FormField("issued", "Issued", "date"),
        FormField("expires", "Last day on which it holds", "date"),
        FormField("digest", "SHA-256 of the document", is_required=False, hint="64 hexadecimal digits; the document stays where it is."),
    )


def _evidence(app: Application, form: Mapping[str, str], actor: str) -> Evidence:
    parties = [form[name] for name in ("hospital", "employer") if form.get(name)]
    digest = form.get("digest", "").strip().lower()
    if form.get("type") not in _evidence_types(app) or not parties:
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
        issued_at=_instant(form, "issued"),
        expires_at=_instant(form, "expires") + timedelta(days=1),
        verified_by=actor,
        document_digest=digest or None,
        recorded_at=app.now(),
    )


def _evidence_types(app: Application) -> list[str]:
    """Every type of evidence that a rule of the law in force asks for."""

    def walk(wanted: Wanted) -> set[str]:
        own = {wanted.name} if wanted.form == "evidence" else set()
        return own.union(*(walk(one) for group in wanted.groups for one in group))

    return sorted(set().union(*(walk(need) for rule in app.law.rules.values() for need in rule.needs)))


def _consent_fields(session: Session) -> tuple[FormField, ...]:
    hospitals = session.exec(select(Hospital.hospital_id, Hospital.name).order_by(Hospital.name)).all()
    return (
        FormField("hospital", "Hospital", "select", tuple(Choice(key, name) for key, name in hospitals)),
        FormField("patient", "Patient's pseudonym", hint="RG- and twenty signs, as the hospital's list or a report shows it."),
        FormField("kind", "Kind", "select", tuple(Choice(kind, kind.capitalize()) for kind in CONSENT_KINDS)),
        FormField("status", "The patient", "select", (Choice("ACTIVE", "Consented"), Choice("REFUSED", "Refused"))),
        FormField("given", "On", "date"),
    )


def _instant(form: Mapping[str, str], name: str) -> datetime:
    try:
        return datetime.combine(date.fromisoformat(form.get(name, "")), time(), UTC)
    except ValueError:
        raise BadInput(f"The date {name} is not a date.") from None


def _names(text: str) -> list[str]:
    return [name for part in text.replace(";", ",").split(",") if (name := part.strip())]


def _key(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NotFound("no such entry")
    return int(text)

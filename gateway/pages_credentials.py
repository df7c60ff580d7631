"""The register of credentials: what each reader may show for the law to look at, kept by the privacy officer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from sqlmodel import Session, col, select

from compliance.credential import Credential, Reader
from compliance.facts_vocabulary import CREDENTIAL_TYPES
from compliance.principal import Principal
from crypto.errors import BadInput, NotFound
from gateway.login import Visitor
from gateway.register_effects import take_effect
from gateway.register_entries import add_credential, change_credential_status, require_change
from gateway.register_page import Register, day_in, done, names_in, refused, row_key, show_register
from gateway.register_rows import credential_rows
from gateway.request_context import App, PostedForm, privacy_officer_of, reason_in
from gateway.web.contexts import Choice
from gateway.web.contexts_oversight import FormField

router = APIRouter(prefix="/credentials")
Officer = Annotated[Visitor, Depends(privacy_officer_of)]
_REGISTER = Register(
    "/credentials",
    "Credentials",
    "What each reader may show for the law to look at. Each change is an entry in the log.",
    ("Reader", "Kind", "What", "Issued", "Last day", "Verified with the issuer", "State"),
    "Register a credential",
)


@router.get("")
def show_credentials(request: Request, app: App, officer: Officer) -> Response:
    return show_register(
        request, app, officer, _REGISTER, lambda session: (credential_rows(session, app.now()), _credential_fields(session))
    )


@router.post("")
def register_credential(request: Request, app: App, officer: Officer, form: PostedForm) -> Response:
    try:
        credential = _credential(form, officer.principal_id, app.now())
        add_credential(app, officer.principal_id, credential)
    except (BadInput, NotFound) as error:
        return refused(request, app, officer, error, show_credentials)
    take_effect(app, reader_ids=[credential.reader_id])
    return done("/credentials", "added")


@router.post("/{credential_key}/{act}")
def change_credential(request: Request, app: App, officer: Officer, form: PostedForm, credential_key: str, act: str) -> Response:
    status = {"suspend": "SUSPENDED", "reinstate": "ACTIVE", "revoke": "REVOKED"}.get(act)
    if status is None:
        raise NotFound("no such act")
    reason, credential_pk = reason_in(form), row_key(credential_key)
    with app.database.reading() as session:
        require_change(session, credential_pk, status)
    try:
        reader_id = change_credential_status(app, officer.principal_id, credential_pk, status, reason=reason)
    except BadInput as error:
        return refused(request, app, officer, error, show_credentials)
    take_effect(app, reader_ids=[reader_id])
    return done("/credentials", "changed")


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
        FormField("number", "Number", is_required=False, hint="Of a licence: the issuer's number. Of a registration: its number or value."),
        FormField("modalities", "Modalities", is_required=False, hint="Of a privilege: CT, MR, or ANY."),
        FormField("by_proxy", "By proxy", "select", (Choice("no", "No"), Choice("yes", "Yes")), is_required=False, hint="Of a privilege."),
        FormField("issued", "Issued", "date"),
        FormField("expires", "Last day on which it holds", "date"),
        FormField("verified", "Verified with the issuer", "date"),
        FormField("method", "How it was verified", hint="Register of the issuing body, letter, telephone."),
    )


def _credential(form: Mapping[str, str], actor: str, now: datetime) -> Credential:
    kind, subject, number = form.get("kind", ""), form.get("subject", "").strip(), form.get("number", "").strip()
    claims: dict[str, Callable[[], dict[str, Any]]] = {
        "LICENCE": lambda: {"jurisdiction": subject, **({"number": number} if number else {})},
        "SPECIALTY": lambda: {"value": subject},
        "BOARD": lambda: {"value": subject},
        "PRIVILEGE": lambda: {
            "hospital": subject,
            "modalities": names_in(form.get("modalities", "")) or ["ANY"],
            "by_proxy": form.get("by_proxy") == "yes",
        },
        "COVER": lambda: {"territory": names_in(subject)},
        "REGISTRATION": lambda: {"register": subject, **({"value": number} if number else {})},
        "EXCLUSION_CHECK": lambda: {"register": subject},
    }
    if kind not in claims or not subject:
        raise BadInput("A credential has a kind and says what it is about.")
    if not form.get("method", "").strip():
        raise BadInput("Say how the issuer was asked: without that a credential is hearsay.")
    return Credential(
        reader_id=form.get("reader", ""),
        kind=kind,
        claim=claims[kind](),
        issued_at=day_in(form, "issued"),
        expires_at=day_in(form, "expires") + timedelta(days=1),
        verified_at=day_in(form, "verified"),
        verification_method=form.get("method", "").strip()[:200],
        verified_by=actor,
        recorded_at=now,
    )

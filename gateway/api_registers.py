"""The registers for programs: JSON over HTTP with a bearer token (register_token.py, docs/API.md).

- Every change is made by the same functions as a page's: audited in its transaction, and in effect before the answer.
- A token of a hospital reaches that hospital alone; what belongs to another one is not found, exactly as what does not exist.
- An error is a problem document (RFC 9457) that names the field; it repeats no value of what was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from compliance import audit
from compliance.evidence_document import keep_document
from crypto.errors import BadInput, Conflict, NotAllowed, NotFound, ReadgateError, TemporarilyUnable
from gateway.register_effects import take_effect, take_effect_of_evidence
from gateway.register_entries import change_credential_status, record_consent, require_change, withdraw_evidence
from gateway.register_exchange import (
    export_consents,
    export_credentials,
    export_evidence,
    import_consent,
    import_credentials,
    import_evidence,
    newest_consents,
)
from gateway.register_note import note_export
from gateway.register_token import UNKNOWN_TOKEN, RegisterToken, program_of, require_scope
from gateway.request_context import App, address_of, application_of, natural_number
from gateway.responses import answer_of, reason_of
from gateway.strict_json import read_json
from gateway.study_why import own_study, why_unclaimed_document

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_FHIR = "application/fhir+json"


class ProblemRoute(APIRoute):
    """A route whose errors are problem documents, whatever the program says it accepts, and entries of the log."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except ReadgateError as error:
                await run_in_threadpool(_note_refusal, request, error)
                return _problem(error)

        return answered


router = APIRouter(prefix="/api/v1", route_class=ProblemRoute)


def _program(scope: str) -> Callable[[Request, App], RegisterToken]:
    def authorised(request: Request, app: App) -> RegisterToken:
        program = program_of(app.database, request.headers.get("authorization", ""), now=app.now())
        request.state.program = program
        return require_scope(program, scope)

    return authorised


async def _document(request: Request) -> Any:
    return read_json(await request.body())


EvidenceWriter = Annotated[RegisterToken, Depends(_program("evidence:write"))]


async def _content(request: Request, program: EvidenceWriter) -> bytes:
    """The body of a program that may send one."""
    return await request.body()


Document = Annotated[Any, Depends(_document)]
ConsentReader = Annotated[RegisterToken, Depends(_program("consents:read"))]
ConsentWriter = Annotated[RegisterToken, Depends(_program("consents:write"))]
StudyReader = Annotated[RegisterToken, Depends(_program("studies:read"))]
CredentialReader = Annotated[RegisterToken, Depends(_program("credentials:read"))]
CredentialWriter = Annotated[RegisterToken, Depends(_program("credentials:write"))]
Content = Annotated[bytes, Depends(_content)]
EvidenceReader = Annotated[RegisterToken, Depends(_program("evidence:read"))]


@router.get("/consents")
def list_consents(request: Request, app: App, program: ConsentReader) -> Response:
    """The hospital's newest consents as a FHIR Bundle; `?patient=` narrows it to one pseudonym."""
    patient = request.query_params.get("patient")
    with app.database.reading() as session:
        bundle = export_consents(session, hospital_id=program.hospital_id, patient_pseudonym=patient)
    # The log has it before the program does; nobody else waits for the writer's lock meanwhile.
    with app.database.transaction() as session:
        note_export(session, app.now(), program.actor, "consents", len(bundle["entry"]), program.hospital_id)
    return JSONResponse(bundle, headers=_HEADERS, media_type=_FHIR)


@router.post("/consents")
def take_consents(app: App, program: ConsentWriter, document: Document) -> Response:
    """A FHIR Consent, or a Bundle of them, of the token's hospital; all or none."""
    versions = import_consent(app, program.actor, document, hospital_id=program.hospital_id)
    return JSONResponse({"versions": versions}, 201, _HEADERS)


@router.post("/consents/withdrawals")
def take_withdrawal(app: App, program: ConsentWriter, document: Document) -> Response:
    """{"patient", "kind", "reason"}: the patient takes back what stands; open viewers lose the right before the answer."""
    fields = _fields(document, required=("patient", "kind"), optional=("reason",))
    with app.database.reading() as session:
        rows = newest_consents(session, hospital_id=program.hospital_id, patient_pseudonym=fields["patient"])
    standing = next((row for row in rows if row.kind == fields["kind"]), None)
    if standing is None:
        raise NotFound("no such consent")
    version = record_consent(
        app,
        program.actor,
        hospital_id=standing.hospital_id,
        patient_pseudonym=standing.patient_pseudonym,
        status="WITHDRAWN",
        kind=standing.kind,
        given_at=standing.given_at,
        reason=fields.get("reason", "")[:500],
    )
    take_effect(app, hospital_ids=[standing.hospital_id], patient_pseudonym=standing.patient_pseudonym)
    return JSONResponse({"version": version}, 201, _HEADERS)


@router.get("/credentials")
def list_credentials(request: Request, app: App, program: CredentialReader) -> Response:
    """The standing credentials; `?reader=` narrows it to one reader."""
    with app.database.transaction() as session:
        document = export_credentials(session, reader_id=request.query_params.get("reader"))
        note_export(session, app.now(), program.actor, "credentials", len(document["credentials"]), None)
    return JSONResponse(document, headers=_HEADERS)


@router.post("/credentials")
def take_credentials(app: App, program: CredentialWriter, document: Document) -> Response:
    """A document as GET gives it; all or none."""
    return JSONResponse({"numbers": import_credentials(app, program.actor, document)}, 201, _HEADERS)


@router.post("/credentials/{number}/status")
def change_credential(app: App, program: CredentialWriter, document: Document, number: str) -> Response:
    """{"status": "SUSPENDED" | "ACTIVE" | "REVOKED", "reason"}"""
    fields = _fields(document, required=("status", "reason"))
    if len(fields["reason"].strip()) < 3:
        raise BadInput("reason: has 3 characters at least")
    credential_pk = natural_number(number, digits_max=15) or 0
    with app.database.reading() as session:
        require_change(session, credential_pk, fields["status"])
    reader_id = change_credential_status(app, program.actor, credential_pk, fields["status"], reason=fields["reason"].strip()[:500])
    take_effect(app, reader_ids=[reader_id])
    return JSONResponse({"reader": reader_id, "status": fields["status"]}, headers=_HEADERS)


@router.get("/evidence")
def list_evidence(app: App, program: EvidenceReader) -> Response:
    """The evidence that counts; never the documents behind it."""
    with app.database.transaction() as session:
        document = export_evidence(session)
        note_export(session, app.now(), program.actor, "evidence", len(document["evidence"]), None)
    return JSONResponse(document, headers=_HEADERS)


@router.post("/evidence")
def take_evidence(app: App, program: EvidenceWriter, document: Document) -> Response:
    """A document as GET gives it; all or none."""
    return JSONResponse({"ids": import_evidence(app, program.actor, document)}, 201, _HEADERS)


@router.put("/evidence/{evidence_id}/document")
def take_document(app: App, program: EvidenceWriter, content: Content, evidence_id: str) -> Response:
    """The bytes of the document, kept sealed; once kept it is not replaced."""
    with app.database.transaction() as session:
        sha256 = keep_document(session, app.keys, evidence_id, content, actor=program.actor, now=app.now())
    return JSONResponse({"id": evidence_id, "sha256": sha256}, 201, _HEADERS)


@router.post("/evidence/{evidence_id}/withdrawal")
def withdraw(app: App, program: EvidenceWriter, document: Document, evidence_id: str) -> Response:
    """{"reason"}: the paper counts no longer; claims that stood on it have ended before the answer."""
    fields = _fields(document, required=("reason",))
    parties = withdraw_evidence(app, program.actor, evidence_id, reason=fields["reason"][:500])
    take_effect_of_evidence(app, parties)
    return JSONResponse({"id": evidence_id}, headers=_HEADERS)


@router.get("/studies/{study_instance_uid}/unclaimed")
def show_unclaimed(app: App, program: StudyReader, study_instance_uid: str) -> Response:
    """Why nobody has claimed the study: counts by reason, no reader's name."""
    with app.database.reading() as session:
        study = own_study(session, program.hospital_id, study_instance_uid)
        return JSONResponse(why_unclaimed_document(session, app.law, study, now=app.now()), headers=_HEADERS)


def _fields(document: Any, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Mapping[str, str]:
    """The members of a flat object of texts. Raises: BadInput naming the first that is wrong."""
    if not isinstance(document, Mapping):
        raise BadInput("the document is a JSON object")
    for name in required:
        if not isinstance(document.get(name), str) or not document[name]:
            raise BadInput(f"{name}: is a text")
    if set(document) - set(required) - set(optional) or not all(isinstance(value, str) for value in document.values()):
        raise BadInput(f"the document has {', '.join(required)}" + (f", and may have {', '.join(optional)}" if optional else ""))
    return document


def _note_refusal(request: Request, error: ReadgateError) -> None:
    """What a known program was refused is in the log: which request, and the kind of the error. Strangers write nothing there."""
    program: RegisterToken | None = getattr(request.state, "program", None)
    if program is None or isinstance(error, TemporarilyUnable):
        return
    app = application_of(request)
    with app.database.transaction() as session:
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.SECURITY_ALERT,
                event_type=audit.EventType.REFUSED,
                action=audit.Action.EXECUTE,
                actor=program.actor,
                outcome=audit.Outcome.MINOR_FAILURE,
                hospital_id=program.hospital_id,
                network_address=address_of(request) or None,
                detail={"act": f"{request.method} {request.scope['route'].path}", "refused": reason_of(error) or type(error).__name__},
            ),
            at=app.now(),
        )


def _problem(error: ReadgateError) -> Response:
    answer, reason = answer_of(error), reason_of(error)
    status, headers = answer.status, dict(_HEADERS)
    if isinstance(error, NotAllowed) and reason == UNKNOWN_TOKEN:
        status, headers["WWW-Authenticate"] = 401, "Bearer"
    # These say which field is wrong and why, in words of this program; of the others only their class is told.
    detail = str(error) if isinstance(error, BadInput | NotFound | Conflict) else answer.advice
    body = {"title": answer.title, "status": status, "reason_code": reason, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")

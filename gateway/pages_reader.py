"""The reader's pages: worklist, claim, read, write, sign. Pages decide nothing; what may be done is asked of the worklist and the law.

Every route here is a plain function, so that it runs in a thread: database, files and key derivation never hold up the event loop.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from compliance.study import open_order_text, open_study_key, study_by_pk
from crypto.canonical import digest, keyed_uid
from crypto.errors import BadInput, Conflict, NotAllowed, NotFound, ReadgateError
from gateway.application import Application
from gateway.login import Visitor
from gateway.page_shell import shell_of
from gateway.reading_desk import (
    begun,
    critical_of,
    href_of_study,
    kinds_for,
    obligation_sentence,
    obstacles,
    patient_summary,
    priors_shown,
    signed_reports,
    text_of,
    watermark,
)
from gateway.reason_words import reason_sentence, refusal_sentence
from gateway.request_context import App, PostedForm, page_number, reader_of
from gateway.responses import answer_of, reason_of
from gateway.web.contexts import Notice, ReadPage, Refusal, SignPreview, WorklistRowPart
from gateway.web.rendering import render
from gateway.worklist_page import filters_of, row_of, worklist_page
from reporting.authoring import load_draft, save_draft
from reporting.content import ReportKind
from reporting.signing import sign
from worklist.addendum import begin_addendum
from worklist.claim import LEASE_MINUTES, claim, heartbeat, release
from worklist.procedure_step import State
from worklist.view_grant import ViewGrant, open_view, standing_grants
from worklist.workitem import ProcedureStep, require_step

router = APIRouter()
ReaderVisitor = Annotated[Visitor, Depends(reader_of)]
#: An open page asks this often whether it may stay open: a right that ended takes the images off the screen within five seconds.
HEARTBEAT_SECONDS = 3
#: A lease this much shorter than a new one is renewed; in between a heartbeat writes nothing.
_LEASE_SLACK = timedelta(minutes=1)
#: A grant that ends sooner than this is asked about again now.
_GRANT_SLACK = timedelta(seconds=30)


class DraftSections(BaseModel):
    model_config = ConfigDict(extra="forbid")
    technique: str = ""
    comparison: str = ""
    findings: str = ""
    impression: str = ""


class DraftCritical(BaseModel):
    model_config = ConfigDict(extra="forbid")
    is_critical: bool = False
    statement: str = Field(default="", max_length=300)
    communicated_to: str = Field(default="", max_length=120)
    #: An instant in UTC, or "".
    communicated_at: str = Field(default="", max_length=40)

    @field_validator("communicated_at")
    @classmethod
    def _is_an_instant(cls, value: str) -> str:
        if value and datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("an instant without a time zone")
        return value


class DraftBody(BaseModel):
    """What the page saves; sizes are checked again by the author's module."""

    model_config = ConfigDict(extra="forbid")
    version: int = Field(ge=0)
    kind: Literal["PRELIMINARY", "FINAL", "ADDENDUM", "CORRECTION"]
    sections: DraftSections
    critical: DraftCritical = DraftCritical()


def transaction_uid_of(app: Application, procedure_step_uid: str, visitor: Visitor) -> str:
    """The Transaction UID of claims made on pages: known to this login's requests and to nobody who only sees the rows."""
    return keyed_uid(app.keys.secret("transaction"), f"{procedure_step_uid}/{visitor.login_digest}")


@router.get("/worklist")
def show_worklist(request: Request, app: App, reader: ReaderVisitor) -> Response:
    notices = _end_notice(app, reader, request.query_params.get("ended", ""))
    shell = shell_of(app, reader, "/worklist", notices=notices)
    return render("worklist.html.j2", worklist_page(app, reader, filters_of(request.query_params), page=page_number(request), shell=shell))


@router.post("/worklist/{procedure_step_uid}/claim")
def claim_step(request: Request, app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str) -> Response:
    refusal = ""
    try:
        claim(
            app.database,
            app.law,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader.principal_id,
            login_digest=reader.login_digest,
            transaction_uid=transaction_uid_of(app, procedure_step_uid, reader),
            now=app.now(),
            keys=app.keys,
        )
    except (Conflict, NotAllowed) as error:
        refusal = refusal_sentence(error.reason_code) or f"Not yours to claim: {error.reason_code}."
    if "HX-Request" not in request.headers:
        return RedirectResponse(f"/read/{procedure_step_uid}" if not refusal else "/worklist", status_code=303)
    with app.database.reading() as session:
        row = row_of(session, app, reader, require_step(session, procedure_step_uid))
    part = WorklistRowPart(row=row, csrf_token=reader.login.csrf_token, now=app.now(), refusal=refusal)
    headers = {} if refusal else {"HX-Redirect": f"/read/{procedure_step_uid}"}
    return render("worklist_row.html.j2", part, headers=headers)


@router.get("/read/{procedure_step_uid}")
def read(request: Request, app: App, reader: ReaderVisitor, procedure_step_uid: str) -> Response:
    step = _own_step(app, reader, procedure_step_uid)
    is_held = _is_held(step, reader, app.now())
    if not is_held and step.state != State.COMPLETED:
        return RedirectResponse(f"/worklist?ended={procedure_step_uid}", status_code=303)
    grants = _grants(app, reader, procedure_step_uid) if is_held else []
    return render("read.html.j2", _read_page(app, reader, step, grants, request.query_params.get("kind", "")))


@router.post("/read/{procedure_step_uid}/draft")
def keep_draft(app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str, body: DraftBody) -> Response:
    critical = body.critical
    fields = {
        **body.sections.model_dump(),
        "kind": body.kind,
        "is_critical": "yes" if critical.is_critical else "",
        "critical_statement": critical.statement,
        "critical_communicated_to": critical.communicated_to,
        "critical_communicated_at": critical.communicated_at,
    }
    try:
        draft = save_draft(
            app.database,
            app.keys,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader.principal_id,
            login_digest=reader.login_digest,
            base_version=body.version,
            sections=fields,
            now=app.now(),
        )
    except NotAllowed as error:
        raise _why_ended(app, reader, procedure_step_uid, error) from None
    return JSONResponse({"version": draft.version, "saved_at": draft.saved_at.isoformat() if draft.saved_at else None})


@router.post("/read/{procedure_step_uid}/heartbeat")
def keep_claim(app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str) -> Response:
    """The lease runs on, and the right to look is asked about again where its quarter of an hour ends soon."""
    step, now = _own_step(app, reader, procedure_step_uid), app.now()
    lease = step.lease_expires_at
    try:
        if not _is_held(step, reader, now) or lease is None or lease < now + timedelta(minutes=LEASE_MINUTES) - _LEASE_SLACK:
            lease = heartbeat(
                app.database,
                procedure_step_uid=procedure_step_uid,
                reader_id=reader.principal_id,
                login_digest=reader.login_digest,
                now=now,
            )
        grants = _grants(app, reader, procedure_step_uid)
    except NotAllowed as error:
        raise _why_ended(app, reader, procedure_step_uid, error) from None
    return JSONResponse(
        {
            "lease_expires_at": lease.isoformat(),
            "session_expires_at": reader.login.expires_at.isoformat(),
            "decision_digest": grants[0].decision_digest,
        }
    )


@router.get("/read/{procedure_step_uid}/sign")
def preview(app: App, reader: ReaderVisitor, procedure_step_uid: str) -> Response:
    step, now = _own_step(app, reader, procedure_step_uid), app.now()
    if not _is_held(step, reader, now):
        return _refused(NotAllowed("NOT_YOUR_CLAIM"))
    with app.database.reading() as session:
        study, draft = study_by_pk(session, step.study_pk), load_draft(session, app.keys, step, reader.principal_id)
        indication = open_order_text(open_study_key(app.keys, study), study).get("indication", "")
        kinds = kinds_for(session, study, step)
    kind = str(draft.sections.get("kind") or "")
    found = obstacles(draft.sections, kind, kinds, now)
    warnings = [*found, "Nothing is written yet."] if draft.version == 0 else list(found)
    if step.amendment:
        warnings.append("Images were added to this study after it was routed. Look at them before you sign.")
    return render(
        "sign_preview.html.j2",
        SignPreview(
            procedure_step_uid=procedure_step_uid,
            csrf_token=reader.login.csrf_token,
            kind=kind,
            text=text_of(draft.sections, indication),
            critical=critical_of(draft.sections),
            draft_version=draft.version,
            report_digest=digest(draft.sections),
            manifest_digest=study.manifest_digest,
            instance_count=study.instance_count,
            reader_name=reader.principal.display_name,
            warnings=tuple(warnings),
            can_sign=draft.version > 0 and not found,
        ),
    )


@router.post("/read/{procedure_step_uid}/sign")
def sign_report(request: Request, app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str) -> Response:
    version = form.get("draft_version", "")
    if not version.isdigit():
        raise BadInput("the form lacks the draft's version")
    try:
        with app.database.reading() as session:
            draft = load_draft(session, app.keys, require_step(session, procedure_step_uid), reader.principal_id)
        if digest(draft.sections) != form.get("report_digest"):
            raise Conflict("DRAFT_MOVED_ON", "what you see is not the newest draft")
        sign(
            app.database,
            app.keys,
            app.law,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader.principal_id,
            login_digest=reader.login_digest,
            transaction_uid=transaction_uid_of(app, procedure_step_uid, reader),
            kind=ReportKind(draft.sections.get("kind") or ReportKind.FINAL),
            draft_version=int(version),
            passphrase=form.get("passphrase", ""),
            now=app.now(),
            new_uid=app.new_uid,
        )
    except NotFound:
        raise
    except ReadgateError as error:
        return _refused(error)
    if "HX-Request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": f"/read/{procedure_step_uid}"})
    return RedirectResponse(f"/read/{procedure_step_uid}", status_code=303)


@router.post("/read/{procedure_step_uid}/release")
def release_step(app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str) -> Response:
    _own_step(app, reader, procedure_step_uid)
    stated = " ".join(form.get("reason", "").split())[:300]
    release(
        app.database,
        procedure_step_uid=procedure_step_uid,
        reader_id=reader.principal_id,
        login_digest=reader.login_digest,
        now=app.now(),
        new_uid=app.new_uid,
        reason=f"RELEASED_BY_READER: {stated}" if stated else "RELEASED_BY_READER",
    )
    return RedirectResponse("/worklist", status_code=303)


@router.post("/read/{procedure_step_uid}/addendum")
def add_to_report(app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str) -> Response:
    kind = form.get("kind", "")
    if kind not in (ReportKind.ADDENDUM, ReportKind.CORRECTION):
        raise BadInput("kind is ADDENDUM or CORRECTION")
    _own_step(app, reader, procedure_step_uid)
    begun = begin_addendum(
        app.database,
        app.law,
        completed_step_uid=procedure_step_uid,
        reader_id=reader.principal_id,
        login_digest=reader.login_digest,
        transaction_uid_of=lambda uid: transaction_uid_of(app, uid, reader),
        now=app.now(),
        keys=app.keys,
        new_uid=app.new_uid,
    )
    return RedirectResponse(f"/read/{begun.procedure_step_uid}?kind={kind}", status_code=303)


def _own_step(app: Application, reader: Visitor, procedure_step_uid: str) -> ProcedureStep:
    """Raises: NotFound, also for a step that is another reader's."""
    with app.database.reading() as session:
        step = require_step(session, procedure_step_uid)
    if step.claiming_reader_id != reader.principal_id:
        raise NotFound("no such procedure step")
    return step


def _is_held(step: ProcedureStep, reader: Visitor, now: datetime) -> bool:
    is_running = step.lease_expires_at is not None and now < step.lease_expires_at
    return step.state == State.IN_PROGRESS and step.login_digest == reader.login_digest and is_running


def _why_ended(app: Application, reader: Visitor, procedure_step_uid: str, error: NotAllowed) -> ReadgateError:
    """What a page is told whose claim is gone: a right that was revoked by its reason (403), a claim that ended as a conflict (409)."""
    if error.reason_code != "NOT_YOUR_CLAIM":
        return error
    reason = (_own_step(app, reader, procedure_step_uid).cancellation_reason or "NOT_YOUR_CLAIM").partition(": ")[0]
    is_end_of_claim = reason in ("NOT_YOUR_CLAIM", "LEASE_EXPIRED", "RELEASED_BY_READER")
    return Conflict(reason) if is_end_of_claim else NotAllowed(reason)


def _end_notice(app: Application, reader: Visitor, procedure_step_uid: str) -> tuple[Notice, ...]:
    """Why a step that the reader wanted to open is no longer theirs."""
    with app.database.reading() as session:
        step = session.get(ProcedureStep, procedure_step_uid) if procedure_step_uid else None
    if step is None or step.claiming_reader_id != reader.principal_id or step.state == State.COMPLETED:
        return ()
    reason = (step.cancellation_reason or "NOT_YOUR_CLAIM").partition(": ")[0]
    return (Notice(refusal_sentence(reason) or reason_sentence(reason), "warning"),)


def _grants(app: Application, reader: Visitor, procedure_step_uid: str) -> list[ViewGrant]:
    """The standing grants of this claim, current study first; asked anew where there is none for long. Raises: NotAllowed."""
    now = app.now()
    with app.database.reading() as session:
        standing = [
            grant
            for grant in standing_grants(session, reader_id=reader.principal_id, login_digest=reader.login_digest, now=now)
            if grant.procedure_step_uid == procedure_step_uid
        ]
    if not any(grant.object_kind == "CURRENT" and grant.valid_until > now + _GRANT_SLACK for grant in standing):
        standing = open_view(
            app.database,
            app.law,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader.principal_id,
            login_digest=reader.login_digest,
            now=now,
            keys=app.keys,
        )
    return sorted(standing, key=lambda grant: grant.object_kind != "CURRENT")


def _read_page(app: Application, reader: Visitor, step: ProcedureStep, grants: list[ViewGrant], wanted_kind: str) -> ReadPage:
    now, is_held = app.now(), bool(grants)
    with app.database.reading() as session:
        study = study_by_pk(session, step.study_pk)
        study_key = open_study_key(app.keys, study)
        kinds = kinds_for(session, study, step)
        kind, draft = begun(load_draft(session, app.keys, step, reader.principal_id), step, kinds, wanted_kind)
        page = ReadPage(
            shell=shell_of(app, reader, "/worklist", title="Reading"),
            row=row_of(session, app, reader, step),
            viewer_href=href_of_study(session, study) if is_held else None,
            watermark=watermark(reader.principal.display_name, now, grants),
            now=now,
            text=text_of(draft.sections, open_order_text(study_key, study).get("indication", "")),
            critical=critical_of(draft.sections),
            draft_version=draft.version,
            kind=kind,
            kinds=kinds,
            obligations=tuple(obligation_sentence(name) for name in step.obligations),
            can_write=is_held,
            can_sign=is_held and bool(kinds),
            can_release=is_held,
            can_add=step.state == State.COMPLETED,
            saved_at=draft.saved_at if draft.version else None,
            lease_expires_at=step.lease_expires_at if is_held else None,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            priors=priors_shown(session, app, study, grants),
            signed=signed_reports(session, study_key, study),
            patient_summary=patient_summary(study),
        )
    return page


def _refused(error: ReadgateError) -> Response:
    reason = reason_of(error)
    text = f"Not signed. {refusal_sentence(reason) or answer_of(error).advice}"
    return render("refusal.html.j2", Refusal(text=text, reference=reason), status_code=422)

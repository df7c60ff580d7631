"""The reader's pages: worklist, claim, read, write, sign. Pages decide nothing; what may be done is asked of the worklist and the law.

Every route here is a plain function, so that it runs in a thread: database, files and key derivation never hold up the event loop.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from compliance.deid_manifest import manifest_words
from compliance.hospital import require_hospital
from compliance.reminders import reminders_of_reader
from compliance.study import open_order_text, open_study_key, study_by_pk
from crypto.errors import BadInput, Conflict, NotAllowed
from gateway.application import Application
from gateway.held_step import ReaderVisitor, grants_of_step, is_held, look_back, own_step, transaction_uid_of, why_ended
from gateway.login import Visitor, visitor_of
from gateway.obligation_words import obligation_sentence
from gateway.page_shell import shell_of
from gateway.reading_desk import (
    begun,
    critical_of,
    href_of_study,
    kinds_for,
    patient_summary,
    priors_shown,
    said_of,
    signatures,
    signed_reports,
    text_of,
    watermark,
)
from gateway.reason_words import reason_sentence, refusal_sentence
from gateway.request_context import SESSION_COOKIE, App, PostedForm, address_of, page_number
from gateway.web.contexts import CriticalResult, Notice, ReadPage, ReportText, WorklistRowPart
from gateway.web.rendering import day, render
from gateway.worklist_page import filters_of, row_of, worklist_page
from reporting.authoring import load_draft, save_draft
from reporting.content import ReportKind
from worklist.addendum import begin_addendum
from worklist.claim import LEASE_MINUTES, claim, heartbeat, release
from worklist.procedure_step import State
from worklist.view_grant import ViewGrant
from worklist.workitem import ProcedureStep, require_step

router = APIRouter()
#: An open page asks this often whether it may stay open: a right that ended takes the images off the screen within five seconds.
HEARTBEAT_SECONDS = 3
#: A lease this much shorter than a new one is renewed; in between a heartbeat writes nothing.
_LEASE_SLACK = timedelta(minutes=1)


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


class BeatBody(BaseModel):
    model_config = ConfigDict(extra="forbid")
    #: Since the last key, click or scroll on the page or in its viewer; None where the page does not know.
    idle_seconds: int | None = Field(default=None, ge=0, le=86_400)


@router.get("/worklist")
def show_worklist(request: Request, app: App, reader: ReaderVisitor) -> Response:
    notices = (*_end_notice(app, reader, request.query_params.get("ended", "")), *_ending_soon(app, reader))
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
    step = own_step(app, reader, procedure_step_uid)
    held = is_held(step, reader, app.now())
    if not held and step.state != State.COMPLETED:
        return RedirectResponse(f"/worklist?ended={procedure_step_uid}", status_code=303)
    if not held:
        refusals = look_back(app, reader, step)
        if refusals:
            return render("read.html.j2", _closed_page(app, reader, step, refusals))
    grants = grants_of_step(app, reader, procedure_step_uid) if held else []
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
        raise why_ended(app, reader, procedure_step_uid, error) from None
    return JSONResponse({"version": draft.version, "saved_at": draft.saved_at.isoformat() if draft.saved_at else None})


@router.post("/read/{procedure_step_uid}/heartbeat")
def keep_claim(request: Request, app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str, body: BeatBody) -> Response:
    """The lease runs on, and the right to look is asked about again where its quarter of an hour ends soon.

    The page says how long ago the person last touched it: reading is work, an empty chair is not.
    """
    if body.idle_seconds is not None:
        active_at = app.now() - timedelta(seconds=body.idle_seconds)
        visitor_of(app, request.cookies.get(SESSION_COOKIE, ""), address_of(request), active_at=active_at)
    step, now = own_step(app, reader, procedure_step_uid), app.now()
    lease = step.lease_expires_at
    try:
        if not is_held(step, reader, now) or lease is None or lease < now + timedelta(minutes=LEASE_MINUTES) - _LEASE_SLACK:
            lease = heartbeat(
                app.database,
                procedure_step_uid=procedure_step_uid,
                reader_id=reader.principal_id,
                login_digest=reader.login_digest,
                now=now,
            )
        grants = grants_of_step(app, reader, procedure_step_uid)
    except NotAllowed as error:
        raise why_ended(app, reader, procedure_step_uid, error) from None
    return JSONResponse(
        {
            "lease_expires_at": lease.isoformat(),
            "session_expires_at": reader.login.expires_at.isoformat(),
            "decision_digest": grants[0].decision_digest,
        }
    )


@router.post("/read/{procedure_step_uid}/release")
def release_step(app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str) -> Response:
    own_step(app, reader, procedure_step_uid)
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
    own_step(app, reader, procedure_step_uid)
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


def _end_notice(app: Application, reader: Visitor, procedure_step_uid: str) -> tuple[Notice, ...]:
    """Why a step that the reader wanted to open is no longer theirs."""
    with app.database.reading() as session:
        step = session.get(ProcedureStep, procedure_step_uid) if procedure_step_uid else None
    if step is None or step.claiming_reader_id != reader.principal_id or step.state == State.COMPLETED:
        return ()
    reason = (step.cancellation_reason or "NOT_YOUR_CLAIM").partition(": ")[0]
    return (Notice(refusal_sentence(reason) or reason_sentence(reason), "warning"),)


def _ending_soon(app: Application, reader: Visitor) -> tuple[Notice, ...]:
    """What of the reader's own papers ends soon: they renew it, nobody else can."""
    now = app.now()
    with app.database.reading() as session:
        rows = reminders_of_reader(session, reader.principal_id, now=now)
    return tuple(
        Notice(
            f"Your {row.subject.partition(' of ')[0].replace('_', ' ').lower()} ends on {day(row.ends_at.date())}. Renew it in time.",
            "warning",
        )
        for row in rows
    )


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
            obligations=(*said_of(study), *(obligation_sentence(name) for name in step.obligations)),
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
            deid_words=manifest_words(require_hospital(session, study.hospital_id), study),
            deid_href=f"/dicom-web/studies/{study.study_instance_uid}/deidentification" if is_held else None,
        )
    return page


def _closed_page(app: Application, reader: Visitor, step: ProcedureStep, refusals: list[str]) -> ReadPage:
    """What a reader sees of their own report once the law no longer lets them look: that they signed it."""
    notices = tuple(Notice(f"Not shown: {refusal_sentence(code) or reason_sentence(code)}", "warning") for code in refusals)
    with app.database.reading() as session:
        return ReadPage(
            shell=shell_of(app, reader, "/worklist", title="Reading", notices=notices),
            row=row_of(session, app, reader, step, is_told=False),
            viewer_href=None,
            watermark=watermark(reader.principal.display_name, app.now(), []),
            now=app.now(),
            text=ReportText(),
            critical=CriticalResult(),
            draft_version=0,
            kind="",
            kinds=(),
            can_write=False,
            can_sign=False,
            can_release=False,
            signed=signatures(session, study_by_pk(session, step.study_pk)),
        )

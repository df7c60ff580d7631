"""The page that shows what a signature will cover, and the signature. What was shown is named in the form, and nothing else is signed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from sqlmodel import col, select

from compliance import audit
from compliance.audit import AuditEntry
from compliance.second_factor import FAILURES_MAX, LOCK_MINUTES
from compliance.study import open_order_text, open_study_key, study_by_pk
from crypto.canonical import digest
from crypto.errors import BadInput, Conflict, NotAllowed, NotFound, ReadgateError
from gateway.application import Application
from gateway.held_step import ReaderVisitor, is_held, own_step, transaction_uid_of
from gateway.login import Visitor
from gateway.reading_desk import critical_of, kinds_for, obstacles, said_of, text_of
from gateway.reason_words import refusal_sentence
from gateway.request_context import App, PostedForm, natural_number
from gateway.responses import answer_of, reason_of
from gateway.web.contexts import Refusal, SignPreview
from gateway.web.rendering import render
from reporting.authoring import load_draft
from reporting.content import ReportKind
from reporting.signing import sign
from worklist.workitem import require_step

router = APIRouter()
#: What crypto/signing_key.py says of a passphrase that opens nothing.
KEY_NOT_OPENED = "wrong-passphrase"
SIGNING_LOCKED = "SIGNING_LOCKED"


@router.get("/read/{procedure_step_uid}/sign")
def preview(app: App, reader: ReaderVisitor, procedure_step_uid: str) -> Response:
    step, now = own_step(app, reader, procedure_step_uid), app.now()
    if not is_held(step, reader, now):
        return _refused(NotAllowed("NOT_YOUR_CLAIM"))
    with app.database.reading() as session:
        study, draft = study_by_pk(session, step.study_pk), load_draft(session, app.keys, step, reader.principal_id)
        order_text = open_order_text(open_study_key(app.keys, study), study)
        kinds = kinds_for(session, study, step)
    kind = str(draft.sections.get("kind") or "")
    found = obstacles(draft.sections, kind, kinds, now)
    warnings = [*found, "Nothing is written yet."] if draft.version == 0 else list(found)
    warnings += said_of(study)
    if step.amendment:
        warnings.append("Images or an order were added to this study after it was routed. Look at both before you sign.")
    return render(
        "sign_preview.html.j2",
        SignPreview(
            procedure_step_uid=procedure_step_uid,
            csrf_token=reader.login.csrf_token,
            kind=kind,
            text=text_of(draft.sections, order_text.get("indication", "")),
            critical=critical_of(draft.sections),
            draft_version=draft.version,
            report_digest=digest(draft.sections),
            manifest_digest=study.manifest_digest,
            order_digest=digest(order_text),
            instance_count=study.instance_count,
            reader_name=reader.principal.display_name,
            warnings=tuple(warnings),
            can_sign=draft.version > 0 and not found,
        ),
    )


@router.post("/read/{procedure_step_uid}/sign")
def sign_report(request: Request, app: App, reader: ReaderVisitor, form: PostedForm, procedure_step_uid: str) -> Response:
    version = natural_number(form.get("draft_version"))
    if version is None:
        raise BadInput("the form lacks the draft's version")
    try:
        with app.database.reading() as session:
            step = require_step(session, procedure_step_uid)
            study, draft = study_by_pk(session, step.study_pk), load_draft(session, app.keys, step, reader.principal_id)
        _require_unlocked(app, reader)
        _require_shown(form, draft.sections, open_order_text(open_study_key(app.keys, study), study), study.manifest_digest)
        sign(
            app.database,
            app.keys,
            app.law,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader.principal_id,
            login_digest=reader.login_digest,
            transaction_uid=transaction_uid_of(app, procedure_step_uid, reader),
            kind=ReportKind(draft.sections.get("kind") or ReportKind.FINAL),
            draft_version=version,
            manifest_digest=form.get("manifest_digest", ""),
            passphrase=form.get("passphrase", ""),
            now=app.now(),
            new_uid=app.new_uid,
        )
    except NotFound:
        raise
    except ReadgateError as error:
        if reason_of(error) == KEY_NOT_OPENED:
            _note_wrong_passphrase(app, reader, procedure_step_uid)
        return _refused(error)
    if "HX-Request" in request.headers:
        return Response(status_code=204, headers={"HX-Redirect": f"/read/{procedure_step_uid}"})
    return RedirectResponse(f"/read/{procedure_step_uid}", status_code=303)


def _require_unlocked(app: Application, reader: Visitor) -> None:
    """A guesser has few tries: wrong passphrases in a row lock signing for a while. Raises: NotAllowed(SIGNING_LOCKED)."""
    with app.database.reading() as session:
        newest = session.exec(
            select(AuditEntry.outcome)
            .where(
                AuditEntry.actor == reader.principal_id,
                AuditEntry.event_type == audit.EventType.SIGN,
                col(AuditEntry.recorded_at) > app.now() - timedelta(minutes=LOCK_MINUTES),
            )
            .order_by(col(AuditEntry.entry_index).desc())
            .limit(FAILURES_MAX)
        ).all()
    if len(newest) == FAILURES_MAX and all(outcome == audit.Outcome.SERIOUS_FAILURE for outcome in newest):
        raise NotAllowed(SIGNING_LOCKED)


def _note_wrong_passphrase(app: Application, reader: Visitor, procedure_step_uid: str) -> None:
    with app.database.transaction() as session:
        step = require_step(session, procedure_step_uid)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.PROCEDURE_RECORD,
                event_type=audit.EventType.SIGN,
                action=audit.Action.EXECUTE,
                actor=reader.principal_id,
                outcome=audit.Outcome.SERIOUS_FAILURE,
                hospital_id=step.hospital_id,
                study_instance_uid=study_by_pk(session, step.study_pk).study_instance_uid,
                object_id=procedure_step_uid,
                network_address=reader.login.address,
                detail={"reason": "WRONG_PASSPHRASE"},
            ),
            at=app.now(),
        )


def _require_shown(form: Mapping[str, str], sections: Mapping[str, Any], order_text: Mapping[str, str], manifest_digest: str) -> None:
    """What the form was made for is what would be signed now. Raises: Conflict."""
    if digest(sections) != form.get("report_digest"):
        raise Conflict("DRAFT_MOVED_ON", "what you see is not the newest draft")
    if manifest_digest != form.get("manifest_digest") or digest(order_text) != form.get("order_digest"):
        raise Conflict("MOVED_ON", "the images or the order are not those that were shown")


def _refused(error: ReadgateError) -> Response:
    reason = reason_of(error)
    text = f"Not signed. {refusal_sentence(reason) or answer_of(error).advice}"
    return render("refusal.html.j2", Refusal(text=text, reference=reason), status_code=422)

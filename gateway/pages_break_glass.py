"""Emergency access for readers, and what the privacy officer looks at afterwards: reviews, notices, reminders."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from sqlmodel import Session, col, select

from compliance.emergency_access import EmergencyAccess
from compliance.principal import Principal
from compliance.privacy_review import PrivacyReview, Verdict, open_reviews, see_notice, settle_review, unseen_notices
from compliance.reminders import see_reminder, unseen_reminders
from compliance.study import study_by_pk
from crypto.errors import BadInput, Conflict, NotAllowed, NotFound
from gateway.application import Application
from gateway.held_step import transaction_uid_of
from gateway.login import Visitor
from gateway.page_shell import paging_of, shell_of
from gateway.reason_words import refusal_sentence
from gateway.request_context import App, PostedForm, privacy_officer_of, reader_of, reason_in
from gateway.web.contexts import Choice, Notice
from gateway.web.contexts_emergency import BreakGlassPage
from gateway.web.contexts_oversight import Cell, RegisterPage, RegisterRow, RowAction
from gateway.web.rendering import instant, render
from reporting.delivery_decision import long_denied
from worklist.break_glass import REASON_CODES, break_glass, glasses_left
from worklist.procedure_step import State
from worklist.workitem import require_step

router = APIRouter()
Reader = Annotated[Visitor, Depends(reader_of)]
Officer = Annotated[Visitor, Depends(privacy_officer_of)]
_REVIEWS = "/privacy/reviews"


@router.get("/worklist/{procedure_step_uid}/break-glass")
def show_break_glass(app: App, reader: Reader, procedure_step_uid: str) -> Response:
    return _form(app, reader, procedure_step_uid)


@router.post("/worklist/{procedure_step_uid}/break-glass")
def post_break_glass(app: App, reader: Reader, form: PostedForm, procedure_step_uid: str) -> Response:
    try:
        break_glass(
            app.database,
            app.keys,
            app.law,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader.principal_id,
            login_digest=reader.login_digest,
            transaction_uid=transaction_uid_of(app, procedure_step_uid, reader),
            code=form.get("code", ""),
            reason_code=form.get("reason_code", ""),
            text=form.get("text", ""),
            requested_by=form.get("requested_by", ""),
            can_patient_consent=form.get("can_consent") != "no",
            now=app.now(),
        )
    except BadInput as error:
        return _form(app, reader, procedure_step_uid, f"Nothing was opened: {error}.", 422)
    except NotAllowed as error:
        return _form(app, reader, procedure_step_uid, refusal_sentence(error.reason_code) or f"Refused: {error.reason_code}.", 403)
    except Conflict as error:
        return _form(app, reader, procedure_step_uid, refusal_sentence(error.reason_code) or f"Refused: {error.reason_code}.", 409)
    return RedirectResponse(f"/read/{procedure_step_uid}", status_code=303)


@router.get(_REVIEWS)
def show_reviews(request: Request, app: App, officer: Officer) -> Response:
    now = app.now()
    with app.database.reading() as session:
        rows = [_review_row(session, review, now) for review in open_reviews(session)]
        rows += [
            RegisterRow(
                (
                    Cell("Notice"),
                    Cell(notice.reader_id),
                    Cell(notice.hospital_id),
                    Cell(notice.subject.replace("_", " ").capitalize(), href=f"/privacy/decisions/{notice.decision_digest}"),
                    Cell(instant(notice.noted_at)),
                    Cell("Unseen", "warning"),
                ),
                (RowAction(f"{_REVIEWS}/notices/{notice.notice_pk}/seen", "Seen"),),
            )
            for notice in unseen_notices(session)
        ]
        rows += [
            RegisterRow(
                (
                    Cell("Reminder"),
                    Cell(reminder.reader_id or reminder.parties),
                    Cell(reminder.subject),
                    Cell(f"{reminder.threshold_days} days"),
                    Cell(instant(reminder.ends_at)),
                    Cell("Ends soon" if reminder.ends_at > now else "Ended", "warning" if reminder.ends_at > now else "bad"),
                ),
                (RowAction(f"{_REVIEWS}/reminders/{reminder.reminder_pk}/seen", "Seen"),),
            )
            for reminder in unseen_reminders(session, now=now)
        ]
        # Not acknowledged away: it stands until the law lets the report leave, or the hospital has it otherwise.
        rows += [
            RegisterRow(
                (
                    Cell("Report held back"),
                    Cell(", ".join(delivery.denied_reasons)),
                    Cell(delivery.hospital_id),
                    Cell("The law does not let it leave", href=f"/privacy/decisions/{delivery.decision_digest}"),
                    Cell(instant(delivery.queued_at)),
                    Cell("More than a day", "bad"),
                ),
            )
            for delivery in long_denied(session, now=now)
        ]
    done = request.query_params.get("done", "")
    notices = (Notice("Recorded.", "good"),) if done else ()
    context = RegisterPage(
        shell=shell_of(app, officer, _REVIEWS, notices=notices),
        heading="Reviews",
        intro="Emergency access waits here for your judgement. A reader whose access waits for more than 72 hours claims nothing. "
        "A report that the law has held back for more than a day stands here too.",
        columns=("What", "Who", "Where", "About", "Due or since", "State"),
        rows=tuple(rows),
        paging=paging_of(_REVIEWS, {}, 1, len(rows), max(1, len(rows)), shown=len(rows)),
        empty_text="Nothing waits for you.",
    )
    return render("register.html.j2", context)


@router.post(_REVIEWS + "/{review_key}/{verdict}")
def settle(app: App, officer: Officer, form: PostedForm, review_key: str, verdict: str) -> Response:
    chosen = {"justified": Verdict.JUSTIFIED, "not-justified": Verdict.NOT_JUSTIFIED}.get(verdict)
    if chosen is None:
        raise NotFound("no such verdict")
    with app.database.transaction() as session:
        settle_review(session, _key(review_key), chosen, note=reason_in(form), actor=officer.principal_id, now=app.now())
    return RedirectResponse(f"{_REVIEWS}?done=1", status_code=303)


@router.post(_REVIEWS + "/notices/{notice_key}/seen")
def mark_notice(app: App, officer: Officer, form: PostedForm, notice_key: str) -> Response:
    with app.database.transaction() as session:
        see_notice(session, _key(notice_key), actor=officer.principal_id, now=app.now())
    return RedirectResponse(f"{_REVIEWS}?done=1", status_code=303)


@router.post(_REVIEWS + "/reminders/{reminder_key}/seen")
def mark_reminder(app: App, officer: Officer, form: PostedForm, reminder_key: str) -> Response:
    with app.database.transaction() as session:
        see_reminder(session, _key(reminder_key), actor=officer.principal_id, now=app.now())
    return RedirectResponse(f"{_REVIEWS}?done=1", status_code=303)


def _form(app: Application, reader: Visitor, procedure_step_uid: str, refusal: str = "", status_code: int = 200) -> Response:
    with app.database.reading() as session:
        step = require_step(session, procedure_step_uid)
        if step.state != State.SCHEDULED:
            raise NotFound("no such procedure step")
        study = study_by_pk(session, step.study_pk)
        left = glasses_left(session, reader.principal_id, now=app.now())
    context = BreakGlassPage(
        shell=shell_of(app, reader, "/worklist", title="Emergency access"),
        procedure_step_uid=procedure_step_uid,
        study=" ".join(part for part in (study.modality, study.description, study.patient_pseudonym) if part),
        reasons=tuple(Choice(code, words) for code, words in REASON_CODES.items()),
        left=max(0, left),
        refusal=refusal,
    )
    return render("break_glass.html.j2", context, status_code=status_code)


def _review_row(session: Session, review: PrivacyReview, now: datetime) -> RegisterRow:
    access = session.exec(
        select(EmergencyAccess)
        .where(EmergencyAccess.procedure_step_uid == review.procedure_step_uid, EmergencyAccess.reader_id == review.reader_id)
        .order_by(col(EmergencyAccess.access_pk).desc())
    ).first()
    person = session.get(Principal, review.reader_id)
    what = f"{REASON_CODES.get(access.reason_code, access.reason_code)}: {access.text} ({access.requested_by})" if access else "Review"
    base = f"{_REVIEWS}/{review.review_pk}"
    return RegisterRow(
        (
            Cell("Emergency access" if access is not None else "Review"),
            Cell(person.display_name if person is not None else review.reader_id),
            Cell(review.hospital_id),
            Cell(what, href=f"/privacy/decisions/{review.decision_digest}"),
            Cell(instant(review.due_at)),
            Cell("Overdue", "bad") if review.due_at <= now else Cell("Waiting", "warning"),
        ),
        (
            RowAction(f"{base}/justified", "Justified", asks_reason=True),
            RowAction(f"{base}/not-justified", "Not justified", asks_reason=True, is_grave=True),
        ),
    )


def _key(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise NotFound("no such row")
    return int(text)

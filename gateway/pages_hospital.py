"""The pages of a hospital's staff: their studies under their patients' own names, the reports, and deliveries that need a person.

What belongs to another hospital is not found, exactly as what does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from compliance import audit
from compliance.principal import Role
from compliance.study import open_study_key, require_study
from crypto.errors import BadInput, NotFound
from gateway.application import Application
from gateway.expected_instances import expect_instances_of
from gateway.hospital_studies import STATES, STUDIES_PER_PAGE, find_studies, own_received_study
from gateway.login import Visitor
from gateway.page_shell import paging_of, shell_of
from gateway.reason_words import reason_sentence
from gateway.register_note import seal_reason
from gateway.request_context import App, PostedForm, hospital_staff_of, natural_number, page_number, reason_in, staff_or_operator_of
from gateway.study_life import newest_copied_report
from gateway.study_why import why_unclaimed_document
from gateway.web.contexts import ErrorPage
from gateway.web.contexts_oversight import HospitalStudiesPage
from gateway.web.rendering import render
from reporting.delivery_decision import LAW_SAYS_NO, decide_download
from reporting.delivery_queue import release_dead_letter, require_delivery
from reporting.report_copy import ReportCopy, open_copy

router = APIRouter()
Staff = Annotated[Visitor, Depends(hospital_staff_of)]
StaffOrOperator = Annotated[Visitor, Depends(staff_or_operator_of)]


@router.get("/studies")
def show_studies(request: Request, app: App, staff: Staff) -> Response:
    number = natural_number(request.query_params.get("number"), digits_max=15)
    return _studies_page(app, staff, f"#{number}" if number is not None else "", _state_of(request.query_params), page_number(request))


@router.post("/studies/search")
def search_studies(request: Request, app: App, staff: Staff, form: PostedForm) -> Response:
    """A patient's name is in the form, never in an address: those end up in histories, bookmarks and the logs of proxies."""
    q, state = form.get("q", "").strip()[:128], _state_of(form)
    if not q:
        return RedirectResponse("/studies" + (f"?state={state}" if state else ""), status_code=303)
    return _studies_page(app, staff, q, state, page_number(request, form))


def _state_of(fields: Mapping[str, str]) -> str:
    return state if (state := fields.get("state", "")) in {choice.value for choice in STATES} else ""


def _studies_page(app: Application, staff: Visitor, q: str, state: str, page: int) -> Response:
    found = find_studies(app, staff, q=q, state=state, page=page)
    paging = paging_of("/studies", {"state": state}, page, found.total, STUDIES_PER_PAGE, shown=len(found.studies))
    return render(
        "studies.html.j2",
        HospitalStudiesPage(
            shell=shell_of(app, staff, "/studies"),
            studies=found.studies,
            paging=paging,
            previous_page=page - 1 if q and paging.previous_href else None,
            next_page=page + 1 if q and paging.next_href else None,
            now=app.now(),
            q=q,
            state=state,
            states=STATES,
        ),
    )


@router.get("/studies/{study_key}/unclaimed")
def show_unclaimed(app: App, staff: Staff, study_key: str) -> Response:
    """Why nobody has claimed the study, as JSON: counts by reason, no reader's name."""
    with app.database.reading() as session:
        received = own_received_study(session, staff, study_key)
        if received is None or received.study_instance_uid is None:
            raise NotFound("no such study")
        study = require_study(session, received.study_instance_uid)
        document = why_unclaimed_document(session, app.law, study, now=app.now())
    return JSONResponse(document, headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


@router.get("/studies/{study_key}/report.pdf")
def download_report(app: App, staff: Staff, study_key: str) -> Response:
    """The hospital's copy of the newest report. The entry in the log stands before the first byte leaves.

    A report that no delivery brought yet leaves here under the same decision as by one; what is against it is shown, and on record.
    """
    with app.database.transaction() as session:
        received = own_received_study(session, staff, study_key)
        if received is None or received.study_instance_uid is None:
            raise NotFound("no such study")
        study = require_study(session, received.study_instance_uid)
        assert study.study_pk is not None
        report = newest_copied_report(session, study.study_pk)
        if report is None:
            raise NotFound("there is no report yet")
        now = app.now()
        digest, against = decide_download(session, app.law, app.keys, report, study, actor=staff.principal_id, now=now)
        detail: dict[str, Any] = {"kind": "DOWNLOAD"}
        if against:
            detail |= {"reason": LAW_SAYS_NO, "reasons": against[:40]}
        else:
            copy = session.get(ReportCopy, report.report_uid)
            assert copy is not None, "the report was found by its copy"
            pdf = open_copy(open_study_key(app.keys, study), copy)
            detail["sha256"] = copy.pdf_sha256
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.EXPORT,
                event_type=audit.EventType.DELIVER,
                action=audit.Action.READ,
                actor=staff.principal_id,
                outcome=audit.Outcome.MINOR_FAILURE if against else audit.Outcome.SUCCESS,
                hospital_id=study.hospital_id,
                study_instance_uid=study.study_instance_uid,
                object_id=report.report_uid,
                decision_digest=digest,
                network_address=staff.login.address,
                detail=detail,
            ),
            at=now,
        )
    if against:
        return _held_back(against)
    # The name of a file ends up in folders and recent-files lists, so it says nothing of the patient.
    name = f"report-{report.report_uid.rpartition('.')[2][-12:]}.pdf"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return Response(pdf, media_type="application/pdf", headers=headers)


def _held_back(against: Sequence[str]) -> Response:
    page = ErrorPage(
        title="Held back by the law",
        message=" ".join(reason_sentence(reason) for reason in against),
        what_to_do="The report leaves by itself once nothing stands against it. Your privacy officer can look at the decision.",
        status=403,
        reference=", ".join(against),
    )
    return render("error.html.j2", page, status_code=403)


@router.post("/studies/{study_key}/expected")
def expect_images(app: App, staff: Staff, form: PostedForm, study_key: str) -> Response:
    """How many images the study will have; once they are there it is processed without any quiet time."""
    expected = form.get("expected", "").strip()
    if not (expected.isascii() and expected.isdigit() and len(expected) < 8):
        raise BadInput("the number of images is a whole number")
    with app.database.reading() as session:
        received = own_received_study(session, staff, study_key)
    if received is None:
        raise NotFound("no such study")
    expect_instances_of(app, received.hospital_id, received.study_lookup, int(expected), actor=staff.principal_id, by="study")
    return RedirectResponse("/studies", status_code=303)


@router.post("/deliveries/{delivery_id}/release")
def release_delivery(app: App, visitor: StaffOrOperator, form: PostedForm, delivery_id: str) -> Response:
    """A dead letter is sent again from its first attempt."""
    reason = reason_in(form)
    with app.database.transaction() as session:
        if not (delivery_id.isascii() and delivery_id.isdigit() and len(delivery_id) < 16):
            raise NotFound("no such delivery")
        delivery = require_delivery(session, int(delivery_id))
        is_staff = visitor.principal.role == Role.HOSPITAL_STAFF
        if is_staff and delivery.hospital_id != visitor.principal.hospital_id:
            raise NotFound("no such delivery")
        release_dead_letter(session, int(delivery_id), actor=visitor.principal_id, now=app.now())
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.EXPORT,
                event_type=audit.EventType.RESTRICTED_FUNCTION,
                action=audit.Action.EXECUTE,
                actor=visitor.principal_id,
                hospital_id=delivery.hospital_id,
                object_id=delivery.report_uid,
                detail={"act": "release dead letter"},
                sealed_body=seal_reason(app.keys, delivery.hospital_id, reason),
            ),
            at=app.now(),
        )
    return RedirectResponse("/studies" if is_staff else "/deliveries", status_code=303)

"""The operator's registers: readers and hospitals."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from compliance.credential import Reader
from crypto.errors import NotFound
from gateway.enrolment import end_access
from gateway.login import Visitor
from gateway.register_effects import take_effect
from gateway.register_page import Register, done, show_register
from gateway.register_rows import hospital_rows, reader_rows
from gateway.request_context import App, PostedForm, operator_of, reason_in
from worklist.claim import expire_leases

router = APIRouter()
Operator = Annotated[Visitor, Depends(operator_of)]
_READERS = Register(
    "/readers",
    "Readers",
    "Who may log in as a reader. Credentials are kept by the privacy officer.",
    ("Name", "Reader", "Qualification", "Employer", "Established in", "Access"),
)
_HOSPITALS = Register(
    "/hospitals",
    "Hospitals",
    "Each hospital with its senders and where its reports go. Changed with: readgate site.",
    ("Name", "Hospital", "Law of", "Stored in", "Senders", "Reports go to", "Complete after"),
)


@router.get("/readers")
def show_readers(request: Request, app: App, operator: Operator) -> Response:
    return show_register(request, app, operator, _READERS, lambda session: (reader_rows(session), ()))


@router.post("/readers/{reader_id}/end")
def end_reader(app: App, operator: Operator, form: PostedForm, reader_id: str) -> Response:
    with app.database.reading() as session:
        if session.get(Reader, reader_id) is None:
            raise NotFound("no such reader")
    end_access(app, operator.principal_id, reader_id, reason=reason_in(form))
    expire_leases(app.database, now=app.now(), new_uid=app.new_uid)
    take_effect(app, reader_ids=[reader_id])
    return done("/readers", "ended")


@router.get("/hospitals")
def show_hospitals(request: Request, app: App, operator: Operator) -> Response:
    return show_register(request, app, operator, _HOSPITALS, lambda session: (hospital_rows(session), ()))

"""The privacy officer's log and the operator's deliveries: pseudonyms only."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from sqlmodel import col, func, select

from compliance.audit_checkpoint import verify_log
from gateway.delivery_rows import delivery_rows
from gateway.log_rows import ENTRIES_PER_PAGE, EVENTS, LogFilters, log_entries, note_reading, note_verification, tree_head_of
from gateway.login import Visitor
from gateway.page_shell import paging_of, shell_of
from gateway.request_context import App, PostedForm, operator_of, page_number, privacy_officer_of
from gateway.web.contexts import Choice
from gateway.web.contexts_oversight import DeliveriesPage, PrivacyPage
from gateway.web.rendering import render
from reporting.delivery_queue import Delivery, DeliveryState

router = APIRouter()
Officer = Annotated[Visitor, Depends(privacy_officer_of)]
Operator = Annotated[Visitor, Depends(operator_of)]
DELIVERIES_PER_PAGE = 50
DELIVERY_STATES = (
    Choice("dead", "Dead letter"),
    Choice("queued", "On its way"),
    Choice("delivered", "Delivered"),
)
_STATES = {"dead": DeliveryState.DEAD_LETTER, "queued": DeliveryState.QUEUED, "delivered": DeliveryState.DELIVERED}


@router.get("/privacy")
def show_log(request: Request, app: App, officer: Officer) -> Response:
    """The log, newest first. That it is read is written first: no entry is shown to somebody whose reading is not on record."""
    filters, page = LogFilters.of(request.query_params), page_number(request)
    note_reading(app, officer, filters)
    with app.database.reading() as session:
        entries, total = log_entries(session, filters, page=page)
        head = tree_head_of(session)
    return render(
        "privacy.html.j2",
        PrivacyPage(
            shell=shell_of(app, officer, "/privacy"),
            entries=entries,
            tree_head=head,
            paging=paging_of("/privacy", vars(filters), page, total, ENTRIES_PER_PAGE, shown=len(entries)),
            q=filters.q,
            event=filters.event,
            events=EVENTS,
            outcome=filters.outcome,
            since=filters.since,
            until=filters.until,
        ),
    )


@router.post("/privacy/verify")
def verify(app: App, officer: Officer, form: PostedForm) -> Response:
    """The whole log is checked against its leaves, its checkpoints and its head, and what was found is an entry."""
    with app.database.reading() as session:
        if not app.database.is_sqlite:
            # SQLite reads a snapshot; PostgreSQL has to be asked for one, or entries appended meanwhile would look like damage.
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        found = verify_log(session, app.log_signer.public_key)
    with app.database.transaction() as session:
        note_verification(session, officer, found, now=app.now())
    return RedirectResponse("/privacy", status_code=303)


@router.get("/deliveries")
def show_deliveries(request: Request, app: App, operator: Operator) -> Response:
    state, page = request.query_params.get("state", ""), page_number(request)
    state = state if state in _STATES else ""
    with app.database.reading() as session:
        query = select(Delivery)
        if state:
            query = query.where(Delivery.state == _STATES[state])
        total = session.exec(select(func.count()).select_from(query.subquery())).one()
        # What needs a person first, then the newest.
        ordered = query.order_by(col(Delivery.state) != DeliveryState.DEAD_LETTER, col(Delivery.delivery_pk).desc())
        deliveries = session.exec(ordered.offset((page - 1) * DELIVERIES_PER_PAGE).limit(DELIVERIES_PER_PAGE)).all()
        rows = delivery_rows(session, deliveries, may_release=True)
    return render(
        "deliveries.html.j2",
        DeliveriesPage(
            shell=shell_of(app, operator, "/deliveries"),
            rows=rows,
            paging=paging_of("/deliveries", {"state": state}, page, total, DELIVERIES_PER_PAGE, shown=len(rows)),
            state=state,
            states=DELIVERY_STATES,
        ),
    )

"""Login, logout, the home page of each role, and the event channel that tells open pages that something changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse
from sqlmodel import Session, col, func, select
from starlette.concurrency import run_in_threadpool

from compliance.jurisdiction import COUNTRIES
from compliance.principal import SESSION_HOURS_MAX, LoginSession, Role, is_live
from crypto.errors import NotAllowed
from gateway.application import Application
from gateway.login import Visitor, log_in, log_out
from gateway.page_shell import NAVIGATION, shell_of, waiting
from gateway.request_context import DEVICE_COOKIE, SESSION_COOKIE, AnyVisitor, App, PostedForm, address_of
from gateway.web.contexts import Choice, HomePage, LoginPage, Tile, Tone
from gateway.web.rendering import render
from worklist.procedure_step import State
from worklist.routed_reader import ELIGIBLE, RoutedReader
from worklist.workitem import ProcedureStep

router = APIRouter()
_EVENT_SECONDS = 2.0
#: A channel ends after this long; the browser opens the next one.
_CHANNEL_SECONDS = 1800.0
_DEVICE_COOKIE_DAYS = 365
_TEXTS = {
    "/worklist": "Studies that you may read",
    "/studies": "Your studies and their reports",
    "/quarantine": "Studies that wait for you to decide",
    "/privacy": "Who did what, and the proof of it",
    "/privacy/decisions": "Why each access was allowed or refused",
    "/privacy/reviews": "Emergency access, notices and papers that end soon",
    "/credentials": "What readers may show",
    "/evidence": "Agreements and approvals",
    "/consents": "What patients said",
    "/deliveries": "Reports that no hospital has taken",
    "/readers": "Who may log in to read",
    "/hospitals": "Senders and destinations",
}
_URGENT: dict[str, Tone] = {"/deliveries": "bad", "/quarantine": "warning", "/privacy/reviews": "warning"}
_HOMES = {Role.READER: "/worklist", Role.HOSPITAL_STAFF: "/studies", Role.PRIVACY_OFFICER: "/privacy", Role.OPERATOR: "/deliveries"}


@router.get("/")
def home(app: App, visitor: AnyVisitor) -> Response:
    with app.database.reading() as session:
        tiles = [_tile(session, href, label, visitor, app.now()) for href, label in NAVIGATION[visitor.principal.role]]
    tiles.sort(key=lambda tile: tile.tone == "neutral")
    return render("home.html.j2", HomePage(shell=shell_of(app, visitor, "/"), tiles=tuple(tiles)))


@router.get("/login")
def login_page(request: Request, app: App) -> Response:
    return _login_form(request)


@router.post("/login")
async def login(request: Request, app: App) -> Response:
    """There is no session yet that a token could belong to, so the browser's own word counts: no other site may log somebody in here."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed("CSRF", "the form came from another site")
    form = await request.form(max_files=0, max_fields=20)
    values = {name: str(form.get(name) or "") for name in ("user_name", "password", "code", "declared_country", "next")}
    country = values["declared_country"]
    try:
        if country not in COUNTRIES:
            raise NotAllowed("LOGIN_REFUSED")
        logged_in = await run_in_threadpool(
            log_in,
            app,
            principal_id=values["user_name"],
            password=values["password"],
            code=values["code"],
            declared_country=country,
            address=address_of(request),
            device_token=request.cookies.get(DEVICE_COOKIE),
        )
    except NotAllowed:
        return _login_form(
            request,
            user_name=values["user_name"][:64],
            country=country,
            refusal="Name, password or code is wrong, or the account is locked.",
        )
    target = (
        values["next"] if values["next"].startswith("/") and not values["next"].startswith(("//", "/\\")) else _HOMES[Role(logged_in.role)]
    )
    response = RedirectResponse(target, status_code=303)
    # TLS may end before us: what browsers see is what the operator says they see.
    is_secure = request.url.scheme == "https" or app.settings.http.public_url.startswith("https://")
    response.set_cookie(
        SESSION_COOKIE, logged_in.session_token, max_age=SESSION_HOURS_MAX * 3600, httponly=True, secure=is_secure, samesite="strict"
    )
    if logged_in.device_token:
        response.set_cookie(
            DEVICE_COOKIE, logged_in.device_token, max_age=_DEVICE_COOKIE_DAYS * 86400, httponly=True, secure=is_secure, samesite="strict"
        )
    return response


@router.post("/logout")
def logout(app: App, visitor: AnyVisitor, form: PostedForm) -> Response:
    log_out(app, visitor)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(SESSION_COOKIE)
    return response


@router.get("/events")
def events(request: Request, app: App, visitor: AnyVisitor) -> Response:
    """Server-sent events: `worklist` whenever steps were scheduled, claimed or ended. It says that, not what."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_changes(request, app, visitor.login_digest), media_type="text/event-stream", headers=headers)


async def _changes(request: Request, app: Application, login_digest: str) -> AsyncIterator[str]:
    seen = await run_in_threadpool(_worklist_state, app, login_digest)
    for _ in range(int(_CHANNEL_SECONDS / _EVENT_SECONDS)):
        if app.stopping.is_set() or await request.is_disconnected():
            return
        await asyncio.sleep(_EVENT_SECONDS)
        state = await run_in_threadpool(_worklist_state, app, login_digest)
        if state is None:
            return
        if state != seen:
            seen = state
            yield "event: worklist\ndata: changed\n\n"
        else:
            yield ": still here\n\n"


def _worklist_state(app: Application, login_digest: str) -> tuple[object, ...] | None:
    """Something that differs when the list does; None once the login is over."""
    with app.database.reading() as session:
        login = session.get(LoginSession, login_digest)
        if login is None or not is_live(login, app.now()):
            return None
        counts = session.exec(select(ProcedureStep.state, func.count()).group_by(ProcedureStep.state)).all()
        amended = session.exec(select(func.sum(ProcedureStep.amendment))).one()
        # A right that began or ended moves studies on or off this reader's list, though no step changed.
        routed = session.exec(
            select(func.count())
            .select_from(RoutedReader)
            .where(RoutedReader.reader_id == login.principal_id, RoutedReader.outcome == ELIGIBLE)
        ).one()
    return (tuple(sorted((state, count) for state, count in counts)), amended, routed)


def _tile(session: Session, href: str, label: str, visitor: Visitor, now: datetime) -> Tile:
    count = waiting(session, href, visitor, now=now)
    if href == "/worklist":
        count = session.exec(
            select(func.count())
            .select_from(ProcedureStep)
            .join(RoutedReader, col(RoutedReader.study_pk) == ProcedureStep.study_pk)
            .where(
                ProcedureStep.state == State.SCHEDULED,
                RoutedReader.reader_id == visitor.principal_id,
                RoutedReader.outcome == ELIGIBLE,
            )
        ).one()
    tone: Tone = "neutral"
    if count and href in _URGENT:
        tone = _URGENT[href]
    return Tile(title=label, href=href, count=count, text=_TEXTS.get(href, ""), tone=tone)


def _login_form(request: Request, *, user_name: str = "", country: str = "", refusal: str = "") -> Response:
    # The page writes the names out in the browser's own words (Intl.DisplayNames); the code alone is enough to choose by.
    countries = (Choice("", "Choose"), *(Choice(code, code) for code in sorted(COUNTRIES)))
    page = LoginPage(
        csrf_token="",
        countries=countries,
        user_name=user_name,
        declared_country=country,
        next_href=request.query_params.get("next", "")[:200],
        refusal=refusal,
    )
    return render("login.html.j2", page, status_code=403 if refusal else 200)

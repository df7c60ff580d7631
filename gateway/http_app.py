"""The HTTP side of one application: pages, DICOMweb, viewer files, health and metrics, with one place for errors and headers."""

from __future__ import annotations

import os
from urllib.parse import quote

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crypto.errors import BadInput, NotAllowed, NotFound, ReadgateError
from gateway import (
    api_registers,
    dicomweb_routes,
    pages_break_glass,
    pages_consents,
    pages_credentials,
    pages_decisions,
    pages_deid_manifest,
    pages_entry,
    pages_evidence,
    pages_hospital,
    pages_log_entry,
    pages_oversight,
    pages_pixel_queue,
    pages_pixel_review,
    pages_quarantine,
    pages_reader,
    pages_registers,
    pages_signing,
)
from gateway.application import Application
from gateway.metrics import is_metrics_reader, metrics_text
from gateway.posted_document import document_bytes_max
from gateway.reason_words import refusal_sentence
from gateway.request_context import SESSION_COOKIE, SESSION_ENDED, address_of
from gateway.responses import answer_of, reason_of
from gateway.stow_routes import is_upload, stow_routes
from gateway.viewer_files import find_viewer, viewer_router
from gateway.web.contexts import ErrorPage
from gateway.web.rendering import StaticPages, render

log = structlog.get_logger()
#: Nothing that a page posts is larger than a report: four sections of 32,768 characters.
BODY_BYTES_MAX = 1024 * 1024
_PAGES = (
    pages_break_glass,
    pages_entry,
    pages_reader,
    pages_signing,
    pages_hospital,
    pages_quarantine,
    pages_pixel_queue,
    pages_pixel_review,
    pages_oversight,
    pages_log_entry,
    pages_decisions,
    pages_deid_manifest,
    pages_registers,
    pages_credentials,
    pages_evidence,
    pages_consents,
    api_registers,
)
_NO_STORE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def make_http_app(application: Application) -> FastAPI:
    """The ASGI application over `application`. No schema pages: the interface is documented, not advertised."""
    http = FastAPI(title="Readgate", docs_url=None, redoc_url=None, openapi_url=None)
    http.state.application = application
    http.add_middleware(LimitBody)
    http.add_middleware(RefuseNul)
    http.mount("/static", StaticPages(), name="static")
    for pages in _PAGES:
        http.include_router(pages.router)
    http.include_router(dicomweb_routes.router)
    http.router.routes.extend(stow_routes(application))
    http.include_router(viewer_router(find_viewer(os.environ)))
    http.add_api_route("/health", _health, methods=["GET"])
    http.add_api_route("/metrics", _metrics, methods=["GET"])
    http.add_exception_handler(ReadgateError, _readgate_error)
    http.add_exception_handler(HTTPException, _http_error)
    http.add_exception_handler(RequestValidationError, _invalid_request)
    http.add_exception_handler(Exception, _unknown_error)
    return http


class RefuseNul:
    """Answers 400 where path, query or a form's fields hold a NUL: no text of ours has one, and PostgreSQL takes none.

    A JSON body says it as an escape, which the reader's text rules refuse by name; what is uploaded is binary and passes, and the fields
    beside a document are looked at where they are read (posted_document.py).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if "\0" in scope["path"] or b"%00" in scope.get("query_string", b"") or b"\0" in scope.get("query_string", b""):
            await _invalid_request(Request(scope), BadInput("a NUL"))(scope, receive, send)
            return
        kind = dict(scope["headers"]).get(b"content-type", b"").lower()
        # Of a form's body only the encoding differs: %00 where fields are encoded, the byte itself where they are not.
        nul = b"%00" if kind.startswith(b"application/x-www-form-urlencoded") else b"\0"
        is_form = kind.startswith((b"application/x-www-form-urlencoded", b"multipart/form-data", b"application/json"))
        last = b""

        async def looked_at() -> Message:
            nonlocal last
            message = await receive()
            body = message.get("body", b"")
            if nul in last + body or b"\0" in body:
                raise HTTPException(400)
            last = body[-2:]
            return message

        is_binary = is_upload(scope) or document_bytes_max(scope) is not None
        await self._app(scope, looked_at if is_form and not is_binary else receive, send)


class LimitBody:
    """Ends a request whose body grows over the limit, whatever its Content-Length said, before anything of it is parsed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0
        most = document_bytes_max(scope) or BODY_BYTES_MAX

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise HTTPException(413)
            return message

        is_limited = scope["type"] == "http" and not is_upload(scope)
        await self._app(scope, limited if is_limited else receive, send)


def _health(request: Request) -> JSONResponse:
    application: Application = request.app.state.application
    with application.database.reading():
        pass
    return JSONResponse({"status": "ok"}, headers=_NO_STORE)


def _metrics(request: Request) -> Response:
    """For the networks the configuration names, loopback by default; to everybody else there is no such page."""
    application: Application = request.app.state.application
    if not is_metrics_reader(application, address_of(request)):
        raise NotFound("no such page")
    return Response(metrics_text(application), media_type=CONTENT_TYPE_LATEST)


def _readgate_error(request: Request, error: Exception) -> Response:
    answer, reason = answer_of(error), reason_of(error)
    if isinstance(error, NotAllowed) and error.reason_code == SESSION_ENDED:
        if _wants_page(request):
            target = f"?next={quote(request.url.path, safe='/')}" if request.method == "GET" and request.url.path != "/" else ""
            return RedirectResponse(f"/login{target}", status_code=303)
        response: Response = JSONResponse({"reason_code": reason, "detail": "Log in again."}, status_code=401, headers=_NO_STORE)
        response.delete_cookie(SESSION_COOKIE)
        return response
    return _error(request, answer.status, answer.title, refusal_sentence(reason) or answer.advice, reason)


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    title = {400: "Not understood", 404: "Not found", 405: "Not possible here", 413: "Too large"}.get(status, "That did not work")
    return _error(request, status, title, "Check the address.", "")


def _invalid_request(request: Request, error: Exception) -> Response:
    # What was sent may hold anything, so nothing of it is repeated.
    return _error(request, 400, "Not understood", "Check the request.", "INVALID_REQUEST")


def _unknown_error(request: Request, error: Exception) -> Response:
    route = request.scope.get("route")
    log.error("request_failed", error=type(error).__name__, path=getattr(route, "path", ""))
    return _error(request, 500, "Something failed here", "Call the operator and name the time.", "")


def _error(request: Request, status: int, title: str, advice: str, reason: str) -> Response:
    if _wants_page(request):
        page = ErrorPage(title=title, message=advice, what_to_do="Go back, or to the first page.", status=status, reference=reason)
        return render("error.html.j2", page, status_code=status)
    return JSONResponse(
        {"title": title, "status": status, "reason_code": reason, "detail": advice},
        status_code=status,
        media_type="application/problem+json",
        headers=_NO_STORE,
    )


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(("/dicom-web", "/api/"))

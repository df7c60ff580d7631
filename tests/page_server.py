"""The sample pages, the static files and the viewer's files behind a real server on loopback, for a real browser to look at.

The few posts that the pages make are answered from a script, so that the pages' own behaviour can be seen; no product code is doubled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from playwright.sync_api import expect

from crypto.errors import NotFound
from gateway.viewer_files import viewer_router
from gateway.web import contexts as c
from gateway.web.rendering import StaticPages, render
from tests import page_catalogue, page_samples

CHROMIUM_ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
VIEWER = Path(__file__).resolve().parents[1] / "viewer" / "dist"
#: Five seconds, the library's own, is what a slow disk may take for one save; how fast a page is is not what these tests ask.
expect.set_options(timeout=30_000)
AXE = VIEWER.parent / "node_modules" / "axe-core" / "axe.min.js"


@dataclass
class Script:
    """What the server answers and what it was told."""

    drafts: list[dict[str, Any]] = field(default_factory=list)
    draft_status: int = 200
    heartbeat: Callable[[], Response] = lambda: JSONResponse({"lease_expires_at": "2026-11-22T10:30:00Z"})
    forms: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sign_refusal: str = ""
    events: bytes = b": nothing happens here\n\nretry: 60000\n\n"


def page_application(script: Script, viewer_folder: Path | None = None) -> FastAPI:
    app = FastAPI()
    app.mount("/static", StaticPages())
    app.include_router(viewer_router(viewer_folder))

    @app.exception_handler(NotFound)
    def not_found(_request: Request, _error: NotFound) -> Response:
        return Response(status_code=404)

    @app.get("/events")
    def events() -> Response:
        return Response(script.events, media_type="text/event-stream")

    @app.get("/worklist")
    def worklist() -> Response:
        return render("worklist.html.j2", dataclasses.replace(page_samples.worklist(), rows=page_samples.worklist_rows()[:2]))

    @app.get("/page/{name}")
    def page(name: str) -> Response:
        template, context = page_catalogue.pages()[name]
        return render(template, context)

    @app.post("/worklist/{uid}/claim")
    async def claim(uid: str, request: Request) -> Response:
        script.forms.append(("claim", {key: str(value) for key, value in (await request.form()).items()}))
        row = next(row for row in page_samples.worklist_rows() if row.procedure_step_uid == uid)
        held = dataclasses.replace(row, status="Held by you", tone="mine", can_claim=False, can_open=True)
        return render("worklist_row.html.j2", c.WorklistRowPart(held, "token", page_samples.NOW))

    @app.post("/read/{uid}/draft")
    async def draft(uid: str, request: Request) -> Response:
        script.drafts.append({**(await request.json()), "csrf": request.headers.get("x-csrf-token")})
        if script.draft_status != 200:
            return JSONResponse({"reason_code": "X", "detail": "The claim has ended."}, script.draft_status)
        return JSONResponse({"version": script.drafts[-1]["version"] + 1, "saved_at": "2026-11-22T10:05:00Z"})

    @app.post("/read/{uid}/heartbeat")
    def heartbeat(uid: str) -> Response:
        return script.heartbeat()

    @app.get("/read/{uid}/sign")
    def sign_preview(uid: str) -> Response:
        return render("sign_preview.html.j2", page_samples.sign_preview())

    @app.post("/read/{uid}/sign")
    async def sign(uid: str, request: Request) -> Response:
        script.forms.append(("sign", {key: str(value) for key, value in (await request.form()).items()}))
        if script.sign_refusal:
            return render("refusal.html.j2", c.Refusal(script.sign_refusal), status_code=422)
        return Response(headers={"HX-Redirect": "/page/read-signed"})

    return app


@contextlib.contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """The address of `app` on a free port of loopback, until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        if time.monotonic() > deadline:
            raise RuntimeError("the page server did not start")
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)

"""From a context (contexts.py) to an HTML response: Jinja2 with autoescape, and the headers that every page of ours carries.

- A name that the context does not have is an error (StrictUndefined), never an empty place on a page.
- The policy allows scripts and styles from our own static files alone: nothing inline, nothing evaluated, no other host.
- Pages are never kept by a cache: each may name a study, and the next person at the screen is somebody else.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.types import Scope

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

HERE = Path(__file__).resolve().parent
#: Mounted by the application at /static; the names in pages carry a digest (?v=) so that they may be cached for good.
STATIC_FOLDER = HERE / "static"

PAGE_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
)


def page_headers(*, may_be_framed: bool = False) -> dict[str, str]:
    """The security headers of our own pages; `may_be_framed` allows our own reading page to frame it."""
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": PAGE_CONTENT_SECURITY_POLICY.format(ancestors="'self'" if may_be_framed else "'none'"),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "SAMEORIGIN" if may_be_framed else "DENY",
    }


def render(
    name: str, context: DataclassInstance, *, status_code: int = 200, may_be_framed: bool = False, headers: dict[str, str] | None = None
) -> HTMLResponse:
    """The page `name` ("worklist.html.j2") of `context`, whose fields are the template's names.

    Templates are ours: one that asks for what its context lacks raises jinja2.UndefinedError, a fault of the program.
    """
    fields = {field.name: getattr(context, field.name) for field in dataclasses.fields(context)}
    content = _environment().get_template(name).render(fields)
    return HTMLResponse(content, status_code=status_code, headers={**page_headers(may_be_framed=may_be_framed), **(headers or {})})


class StaticPages(StaticFiles):
    """Our static files, for the application to mount at /static; an address that carries the digest of its content is kept for good."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC_FOLDER)

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        is_fixed = response.status_code in (200, 304) and f"/static/{path}?{scope['query_string'].decode('latin-1')}" == static_href(path)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_fixed else "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Any] = {
        "instant": instant,
        "iso": iso,
        "day": day,
        "time_left": time_left,
        "due_tone": due_tone,
        "short_digest": short_digest,
    }
    environment.filters.update(filters)
    environment.globals["static"] = static_href
    return environment


@functools.cache
def static_href(name: str) -> str:
    """The address of a static file, with its digest: another content is another address."""
    digest = hashlib.sha256((STATIC_FOLDER / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


def iso(at: datetime) -> str:
    """An aware instant in UTC to the second, for the datetime attribute of <time>."""
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def instant(at: datetime) -> str:
    """An aware instant for people: 2026-11-22 10:04 UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def day(on: date) -> str:
    return on.isoformat()


def time_left(due_at: datetime, now: datetime) -> str:
    """Time to a deadline in words of at most two units: "42 min", "3 h 05", "2 d 4 h"; a minus sign once it has passed."""
    minutes = int((due_at - now).total_seconds() // 60)
    sign, minutes = ("−", -minutes) if minutes < 0 else ("", minutes)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{sign}{hours // 24} d {hours % 24} h"
    return f"{sign}{hours} h {minutes:02d}" if hours else f"{sign}{minutes} min"


def due_tone(due_at: datetime, now: datetime) -> str:
    """`bad` once overdue, `warning` in the last half hour, else `neutral`."""
    seconds = (due_at - now).total_seconds()
    return "bad" if seconds < 0 else "warning" if seconds < 1800 else "neutral"


def short_digest(digest: str) -> str:
    """The first twelve digits of a digest, for people to compare at a glance; the full one is always in reach."""
    return digest.removeprefix("sha256:")[:12]

"""What the pages of the registers share: one table with a search, one form to add, and how a change is answered.

Every change goes through register_entries.py or enrolment.py (audited in its transaction) and takes effect before the page answers
(register_effects.py). What a form gets wrong is said on the page again; nothing was changed then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from sqlmodel import Session

from crypto.errors import BadInput, NotFound
from gateway.application import Application
from gateway.login import Visitor
from gateway.page_shell import paging_of, shell_of
from gateway.register_rows import Rows, matching
from gateway.request_context import page_number
from gateway.web.contexts import Link, Notice
from gateway.web.contexts_oversight import FormField, RegisterPage
from gateway.web.rendering import render

ROWS_PER_PAGE = 50
_DONE = {
    "added": "Registered. It counts from now on.",
    "changed": "Changed. It counts from now on; claims that lost their right have ended.",
    "ended": "The access has ended, and with it every login and claim of this person.",
    "imported": "Imported. What was said counts from now on; claims that lost their right have ended.",
    "kept": "The document is kept sealed.",
}


@dataclass(frozen=True)
class Register:
    """What is the same on every showing of one register."""

    path: str
    heading: str
    intro: str
    columns: tuple[str, ...]
    add_label: str = ""
    #: Whether the form to add brings a file.
    has_file: bool = False
    links: tuple[Link, ...] = ()


def show_register(
    request: Request,
    app: Application,
    visitor: Visitor,
    register: Register,
    fill: Callable[[Session], tuple[Rows, tuple[FormField, ...]]],
) -> Response:
    """The page, with what was just done or refused above it."""
    q, page = request.query_params.get("q", "")[:64], page_number(request)
    with app.database.reading() as session:
        rows, fields = fill(session)
    listed = matching(rows, q)
    start = (page - 1) * ROWS_PER_PAGE
    shown = tuple(listed[start : start + ROWS_PER_PAGE])
    refusal = str(getattr(request.state, "refusal", ""))
    done = _DONE.get(request.query_params.get("done", ""), "")
    notices = [Notice(refusal, "bad")] if refusal else [Notice(done, "good")] if done else []
    context = RegisterPage(
        shell=shell_of(app, visitor, register.path, notices=tuple(notices)),
        heading=register.heading,
        intro=register.intro,
        columns=register.columns,
        rows=shown,
        paging=paging_of(register.path, {"q": q}, page, len(listed), ROWS_PER_PAGE, shown=len(shown)),
        q=q,
        add_href=register.path if fields else None,
        add_label=register.add_label,
        fields=fields,
        has_file=register.has_file,
        links=register.links,
    )
    return render("register.html.j2", context, status_code=422 if refusal else 200)


def refused(
    request: Request, app: Application, visitor: Visitor, error: Exception, show: Callable[[Request, Any, Any], Response]
) -> Response:
    """The page again, with what was wrong in the words of this program; the person who reads it is the one who typed it."""
    request.state.refusal = f"Nothing was changed. {error}"
    return show(request, app, visitor)


def done(path: str, what: str) -> Response:
    return RedirectResponse(f"{path}?done={what}", status_code=303)


def day_in(form: Mapping[str, str], name: str) -> datetime:
    """The first instant of the day. Raises: BadInput."""
    try:
        return datetime.combine(date.fromisoformat(form.get(name, "")), time(), UTC)
    except ValueError:
        raise BadInput(f"The date {name} is not a date.") from None


def names_in(text: str) -> list[str]:
    return [name for part in text.replace(";", ",").split(",") if (name := part.strip())]


def row_key(text: str) -> int:
    """Raises: NotFound."""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NotFound("no such entry")
    return int(text)

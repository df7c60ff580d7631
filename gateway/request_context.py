"""What every route asks first: which deployment, and who is there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Annotated

from fastapi import Depends, Request

from compliance.principal import Role
from crypto.errors import BadInput, NotAllowed
from gateway.application import Application
from gateway.login import Visitor, require_csrf, visitor_of

SESSION_COOKIE = "readgate_session"
DEVICE_COOKIE = "readgate_device"
SESSION_ENDED = "SESSION_ENDED"
#: A review of pixels has a field for each proposed box; the body is bounded before (http_app.py).
FIELDS_MAX = 1_000


def application_of(request: Request) -> Application:
    app: Application = request.app.state.application
    return app


def address_of(request: Request) -> str:
    """The peer's own address, or what a trusted proxy (http.trusted_proxies) says of its peer: the last hop of X-Forwarded-For.

    A trusted proxy that says nothing readable leaves the address unknown (""): its own would pass for everybody's.
    """
    peer = request.client.host if request.client is not None else ""
    if not _is_in(peer, application_of(request).settings.http.trusted_proxies):
        return peer
    hop = ",".join(request.headers.getlist("X-Forwarded-For")).rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(hop))
    except ValueError:
        return ""


def _is_in(address: str, networks: Iterable[str]) -> bool:
    try:
        return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)
    except ValueError:
        return False


def visitor_of_request(request: Request) -> Visitor:
    """Raises: NotAllowed(SESSION_ENDED)."""
    token = request.cookies.get(SESSION_COOKIE)
    if not token:
        raise NotAllowed(SESSION_ENDED)
    app = application_of(request)
    return visitor_of(app, token, address_of(request), active_at=None if _is_automatic(request) else app.now())


def _is_automatic(request: Request) -> bool:
    """Whether a page that merely stays open sends this by itself: heartbeat, event channel, refreshed list, images."""
    path = request.url.path
    is_refresh = path == "/worklist" and request.headers.get("HX-Trigger") == "rows"
    return path == "/events" or path.endswith("/heartbeat") or path.startswith("/dicom-web") or is_refresh


#: Asked once per request, however many dependencies want it.
AnyVisitor = Annotated[Visitor, Depends(visitor_of_request)]
App = Annotated[Application, Depends(application_of)]


def require_role(visitor: Visitor, *roles: Role) -> Visitor:
    """Raises: NotAllowed(ROLE)."""
    if visitor.principal.role not in roles:
        raise NotAllowed("ROLE", "this page is for somebody else")
    return visitor


def reader_of(visitor: AnyVisitor) -> Visitor:
    return require_role(visitor, Role.READER)


def hospital_staff_of(visitor: AnyVisitor) -> Visitor:
    return require_role(visitor, Role.HOSPITAL_STAFF)


def privacy_officer_of(visitor: AnyVisitor) -> Visitor:
    return require_role(visitor, Role.PRIVACY_OFFICER)


def operator_of(visitor: AnyVisitor) -> Visitor:
    return require_role(visitor, Role.OPERATOR)


def staff_or_operator_of(visitor: AnyVisitor) -> Visitor:
    return require_role(visitor, Role.HOSPITAL_STAFF, Role.OPERATOR)


async def posted_form(request: Request, visitor: AnyVisitor) -> Mapping[str, str]:
    """The fields of the form that was posted, once it has shown the session's CSRF token, in itself or in the header X-CSRF-Token.

    Every route that changes something depends on this one; a request with a JSON body has no fields and shows the header.
    Raises: NotAllowed(CSRF); BadInput for a form that names a field twice or holds a file.
    """
    fields: dict[str, str] = {}
    if request.headers.get("content-type", "").startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        for name, value in (await request.form(max_files=0, max_fields=FIELDS_MAX)).multi_items():
            if not isinstance(value, str) or name in fields:
                raise BadInput("the form is not one of ours")
            fields[name] = value
    require_csrf(visitor, request.headers.get("X-CSRF-Token") or fields.get("csrf_token"))
    return fields


PostedForm = Annotated[Mapping[str, str], Depends(posted_form)]
#: A stated reason is kept in the log for good, so it is kept short.
REASON_CHARACTERS_MAX = 500


def reason_in(form: Mapping[str, str]) -> str:
    """The reason a person gave for a grave act. Raises: BadInput where there is none."""
    reason = " ".join(form.get("reason", "").split())
    if not 3 <= len(reason) <= REASON_CHARACTERS_MAX:
        raise BadInput(f"a reason of 3 to {REASON_CHARACTERS_MAX} characters is needed")
    return reason


def natural_number(text: str | None, *, digits_max: int = 9) -> int | None:
    """The number that ASCII digits say; None for everything else, other scripts' digits among it, which int() takes or chokes on."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= digits_max else None


def page_number(request: Request, form: Mapping[str, str] | None = None) -> int:
    """The page of a list that the address (or the form) asks for, from 1."""
    page = request.query_params.get("page", "1") if form is None else form.get("page", "1")
    return max(1, natural_number(page, digits_max=6) or 1)

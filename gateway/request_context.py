"""What every route asks first: which deployment, and who is there."""

from __future__ import annotations

from fastapi import Request

from compliance.principal import Role
from crypto.errors import NotAllowed
from gateway.application import Application
from gateway.login import Visitor, require_csrf, visitor_of

SESSION_COOKIE = "readgate_session"
DEVICE_COOKIE = "readgate_device"
SESSION_ENDED = "SESSION_ENDED"


def application_of(request: Request) -> Application:
    app: Application = request.app.state.application
    return app


def address_of(request: Request) -> str:
    """The peer's own address. A proxy's word for it is not taken: put TLS termination and Readgate on one host, or terminate here."""
    return request.client.host if request.client is not None else ""


def visitor_of_request(request: Request) -> Visitor:
    """Raises: NotAllowed(SESSION_ENDED)."""
    token = request.cookies.get(SESSION_COOKIE)
    if not token:
        raise NotAllowed(SESSION_ENDED)
    visitor = visitor_of(application_of(request), token, address_of(request))
    request.state.visitor = visitor
    return visitor


def require_role(visitor: Visitor, *roles: Role) -> Visitor:
    """Raises: NotAllowed(ROLE)."""
    if visitor.principal.role not in roles:
        raise NotAllowed("ROLE", "this page is for somebody else")
    return visitor


def reader_of(request: Request) -> Visitor:
    return require_role(visitor_of_request(request), Role.READER)


def hospital_staff_of(request: Request) -> Visitor:
    return require_role(visitor_of_request(request), Role.HOSPITAL_STAFF)


def privacy_officer_of(request: Request) -> Visitor:
    return require_role(visitor_of_request(request), Role.PRIVACY_OFFICER)


def operator_of(request: Request) -> Visitor:
    return require_role(visitor_of_request(request), Role.OPERATOR)


async def require_csrf_of(request: Request, visitor: Visitor) -> None:
    """The CSRF token of the session, from the header or the form. Raises: NotAllowed(CSRF)."""
    shown = request.headers.get("X-CSRF-Token")
    if shown is None and request.headers.get("content-type", "").startswith(("application/x-www-form-urlencoded", "multipart/form-data")):
        value = (await request.form()).get("csrf_token")
        shown = value if isinstance(value, str) else None
    require_csrf(visitor, shown)

"""What surrounds every page: who is there, where they may go."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlencode

from sqlmodel import Session, func, select

from compliance.hospital import Hospital
from compliance.pixel_review import BURNED_IN_TEXT
from compliance.principal import Role
from compliance.privacy_review import open_reviews, unseen_notices
from compliance.quarantine import QuarantineItem, QuarantineState
from compliance.reminders import unseen_reminders
from gateway.application import Application
from gateway.login import Visitor
from gateway.web.contexts import NavigationEntry, Notice, Paging, Shell
from gateway.web.contexts import Role as PageRole
from reporting.delivery_decision import count_long_denied
from reporting.delivery_queue import Delivery, DeliveryState

_ROLES: dict[str, PageRole] = {
    Role.READER: "reader",
    Role.HOSPITAL_STAFF: "hospital_staff",
    Role.PRIVACY_OFFICER: "privacy_officer",
    Role.OPERATOR: "operator",
}
NAVIGATION: dict[str, tuple[tuple[str, str], ...]] = {
    Role.READER: (("/worklist", "Worklist"),),
    Role.HOSPITAL_STAFF: (
        ("/studies", "Studies"),
        ("/quarantine", "Quarantine"),
        ("/pixel-reviews", "Images to look at"),
        ("/pixel-masks", "Device masks"),
    ),
    Role.PRIVACY_OFFICER: (
        ("/privacy", "Audit log"),
        ("/privacy/decisions", "Decisions"),
        ("/privacy/reviews", "Reviews"),
        ("/credentials", "Credentials"),
        ("/evidence", "Evidence"),
        ("/consents", "Consents"),
    ),
    Role.OPERATOR: (("/deliveries", "Deliveries"), ("/readers", "Readers"), ("/hospitals", "Hospitals")),
}
_TITLES = {href: label for entries in NAVIGATION.values() for href, label in entries}


def shell_of(app: Application, visitor: Visitor, current: str, *, title: str | None = None, notices: tuple[Notice, ...] = ()) -> Shell:
    """The shell for `visitor` on the page of the navigation entry `current`."""
    entries = NAVIGATION[visitor.principal.role]
    with app.database.reading() as session:
        hospital = session.get(Hospital, visitor.principal.hospital_id) if visitor.principal.hospital_id is not None else None
        counts = {href: waiting(session, href, visitor, now=app.now()) for href, _ in entries}
    return Shell(
        title=title or _TITLES.get(current, "Readgate"),
        principal_name=visitor.principal.display_name,
        role=_ROLES[visitor.principal.role],
        csrf_token=visitor.login.csrf_token,
        hospital_name=hospital.name if hospital is not None else None,
        declared_country=visitor.login.declared_country,
        session_expires_at=visitor.login.expires_at,
        notices=notices,
        has_events=visitor.principal.role == Role.READER,
        navigation=tuple(
            NavigationEntry(href=href, label=label, count=counts[href] or None, is_current=href == current) for href, label in entries
        ),
    )


def waiting(session: Session, href: str, visitor: Visitor, *, now: datetime) -> int | None:
    """How many things behind a navigation entry wait for this person; None where nothing is counted."""
    if href == "/quarantine":
        held = select(func.count()).select_from(QuarantineItem).where(QuarantineItem.state == QuarantineState.HELD)
        return session.exec(held.where(QuarantineItem.hospital_id == visitor.principal.hospital_id)).one()
    if href == "/pixel-reviews":
        held = select(func.count()).select_from(QuarantineItem).where(QuarantineItem.state == QuarantineState.HELD)
        own = held.where(QuarantineItem.hospital_id == visitor.principal.hospital_id, QuarantineItem.reason_code == BURNED_IN_TEXT)
        return session.exec(own).one()
    if href == "/privacy/reviews":
        held_back = sum(count_long_denied(session, now=now).values())
        return len(open_reviews(session)) + len(unseen_notices(session)) + len(unseen_reminders(session, now=now)) + held_back
    if href == "/studies":
        return count_long_denied(session, now=now).get(visitor.principal.hospital_id or "", 0)
    if href == "/deliveries":
        return session.exec(select(func.count()).select_from(Delivery).where(Delivery.state == DeliveryState.DEAD_LETTER)).one()
    return None


def paging_of(path: str, query: Mapping[str, str], page: int, total: int, per_page: int, *, shown: int) -> Paging:
    """The paging of a list at `path` whose filters are `query`."""

    def href(number: int) -> str:
        kept = {name: value for name, value in query.items() if value} | ({"page": str(number)} if number > 1 else {})
        return path + (f"?{urlencode(kept)}" if kept else "")

    start = (page - 1) * per_page
    return Paging(
        first=start + 1 if shown else 0,
        last=start + shown,
        total=total,
        previous_href=href(page - 1) if page > 1 else None,
        next_href=href(page + 1) if start + per_page < total else None,
    )

"""The audit log as the privacy officer reads it: filtered, paged, in words; and that it was read, which is an entry of its own.

The verification that is shown is what the last run found: each run is an entry of the log (Audit Log Used, 110101), so its result outlives
the process, is the same in every process, and cannot be wished otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from sqlalchemy import String, cast
from sqlmodel import Session, col, func, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from compliance import audit
from compliance.audit_checkpoint import LogVerification, newest_checkpoint
from compliance.decision_log import DecisionRow
from compliance.principal import Principal
from compliance.study import Study
from gateway.application import LOG_ORIGIN, Application
from gateway.log_words import subject_words, value_words
from gateway.login import Visitor
from gateway.web.contexts import Choice, Tone
from gateway.web.contexts_oversight import AuditEntry, TreeHead

ENTRIES_PER_PAGE = 50
#: Reading on within this time, with the same filters, is one use of the log.
READ_AGAIN_MINUTES = 5
EVENT_WORDS: Mapping[str, str] = {
    audit.EventType.APPLICATION_START: "Application started",
    audit.EventType.APPLICATION_STOP: "Application stopped",
    audit.EventType.LOGIN: "Login",
    audit.EventType.LOGOUT: "Logout",
    audit.EventType.NODE_AUTHENTICATION: "Association refused",
    audit.EventType.EMERGENCY_OVERRIDE_STARTED: "Emergency access begun",
    audit.EventType.EMERGENCY_OVERRIDE_STOPPED: "Emergency access ended",
    audit.EventType.NETWORK_CONFIGURATION: "Network changed",
    audit.EventType.SECURITY_CONFIGURATION: "Register changed",
    audit.EventType.USER_SECURITY_CHANGED: "Person or credential changed",
    audit.EventType.RESTRICTED_FUNCTION: "Restricted act",
    audit.EventType.RECEIVE: "Received",
    audit.EventType.DEIDENTIFY: "De-identified",
    audit.EventType.QUARANTINE: "Quarantine",
    audit.EventType.ROUTE: "Routed",
    audit.EventType.CLAIM: "Claimed",
    audit.EventType.RELEASE: "Released",
    audit.EventType.LEASE_EXPIRED: "Claim ran out",
    audit.EventType.OPEN: "Images opened",
    audit.EventType.DRAFT: "Draft saved",
    audit.EventType.SIGN: "Signed",
    audit.EventType.DELIVER: "Delivered",
    audit.EventType.REIDENTIFY: "Identity opened",
    audit.EventType.DECIDE: "Decided",
    audit.EventType.REVOKE: "Right ended",
    audit.EventType.KEY_ROTATED: "Key rotated",
    audit.EventType.SHRED: "Study deleted",
    audit.EventType.REFUSED: "Refused",
    audit.EventType.AMENDED: "Images or order added",
    audit.EventType.REMIND: "Reminded",
    audit.EventType.LOG_READ: "Log read",
    audit.EventType.LOG_VERIFIED: "Log verified",
}
EVENTS = tuple(sorted((Choice(str(code), words) for code, words in EVENT_WORDS.items()), key=lambda choice: choice.label))
#: Acts that somebody is refused; anything else that did not succeed failed.
_REFUSABLE = frozenset(
    {
        audit.EventType.DECIDE,
        audit.EventType.CLAIM,
        audit.EventType.OPEN,
        audit.EventType.LOGIN,
        audit.EventType.REFUSED,
        audit.EventType.NODE_AUTHENTICATION,
    }
)
_ROLE_WORDS = {"READER": "reader", "HOSPITAL_STAFF": "hospital staff", "PRIVACY_OFFICER": "privacy officer", "OPERATOR": "operator"}


@dataclass(frozen=True)
class LogFilters:
    """As they stand in the address of /privacy."""

    q: str = ""
    event: str = ""
    outcome: str = ""
    since: str = ""
    until: str = ""

    @staticmethod
    def of(query: Mapping[str, str]) -> LogFilters:
        given = {name: query.get(name, "").strip()[:64] for name in ("q", "event", "outcome", "since", "until")}
        for name in ("since", "until"):
            given[name] = given[name] if _date(given[name]) else ""
        return LogFilters(**given)


def note_reading(app: Application, officer: Visitor, filters: LogFilters) -> None:
    """That the log was read is in the log, once per filter and five minutes: turning pages must not be most of what there is to read."""
    now = app.now()
    # What was searched for may be a name that somebody typed, and the log holds none: that there was a search is enough.
    used = "&".join(f"{name}={'given' if name == 'q' else value}" for name, value in vars(filters).items() if value)
    with app.database.transaction() as session:
        last = session.exec(
            select(audit.AuditEntry)
            .where(audit.AuditEntry.event_type == audit.EventType.LOG_READ, audit.AuditEntry.actor == officer.principal_id)
            .order_by(col(audit.AuditEntry.entry_index).desc())
            .limit(1)
        ).first()
        is_same = last is not None and last.detail.get("filters") == used
        if last is not None and is_same and now - last.recorded_at < timedelta(minutes=READ_AGAIN_MINUTES):
            return
        audit.append(session, _used(officer, audit.EventType.LOG_READ, audit.Action.READ, {"filters": used}), at=now)


def note_verification(session: Session, officer: Visitor, found: LogVerification, *, now: datetime) -> None:
    """What a run of the verifier found, as an entry."""
    detail: dict[str, Any] = {"size": found.size, "root": found.root, "findings": found.findings[:20], "checkpoints": found.checkpoints}
    outcome = audit.Outcome.SUCCESS if found.is_sound else audit.Outcome.MAJOR_FAILURE
    audit.append(session, _used(officer, audit.EventType.LOG_VERIFIED, audit.Action.EXECUTE, detail, outcome), at=now)


def tree_head_of(session: Session) -> TreeHead:
    head, checkpoint = audit.tree_head(session), newest_checkpoint(session)
    last = session.exec(
        select(audit.AuditEntry)
        .where(audit.AuditEntry.event_type == audit.EventType.LOG_VERIFIED)
        .order_by(col(audit.AuditEntry.entry_index).desc())
        .limit(1)
    ).first()
    verification, tone = _verification(last)
    return TreeHead(
        size=head.size,
        root=head.root().hex(),
        origin=LOG_ORIGIN,
        signed_at=checkpoint.signed_at if checkpoint is not None else None,
        verification=verification,
        tone=tone,
        verified_at=last.recorded_at if last is not None else None,
    )


def log_entries(session: Session, filters: LogFilters, *, page: int) -> tuple[tuple[AuditEntry, ...], int]:
    """(the entries of this page, newest first, the number of all that match)"""
    query = _matching(session, filters)
    total = session.exec(select(func.count()).select_from(query.subquery())).one()
    rows = session.exec(
        query.order_by(col(audit.AuditEntry.entry_index).desc()).offset((page - 1) * ENTRIES_PER_PAGE).limit(ENTRIES_PER_PAGE)
    ).all()
    return _in_words(session, rows), total


def outcome_of(entry: audit.AuditEntry) -> Literal["success", "refused", "failure"]:
    if entry.outcome == audit.Outcome.SUCCESS:
        return "success"
    return "refused" if entry.event_type in _REFUSABLE else "failure"


def route_of(document: str) -> str:
    """ "DE → ES" of a decision's document: from where the patient is cared for to where the reader is established."""
    facts = json.loads(document).get("facts", {})
    origin, reader = facts.get("origin", {}).get("jurisdiction"), facts.get("reader", {}).get("establishment")
    return f"{origin} → {reader}" if origin and reader else ""


def _matching(session: Session, filters: LogFilters) -> SelectOfScalar[audit.AuditEntry]:
    entry = audit.AuditEntry
    query = select(entry)
    if filters.event:
        query = query.where(entry.event_type == filters.event)
    if filters.outcome == "success":
        query = query.where(entry.outcome == audit.Outcome.SUCCESS)
    elif filters.outcome in ("refused", "failure"):
        is_refusable = col(entry.event_type).in_(_REFUSABLE)
        query = query.where(entry.outcome != audit.Outcome.SUCCESS, is_refusable if filters.outcome == "refused" else ~is_refusable)
    since, until = _date(filters.since), _date(filters.until)
    if since is not None:
        query = query.where(entry.recorded_at >= datetime.combine(since, time(), UTC))
    if until is not None:
        query = query.where(entry.recorded_at < datetime.combine(until + timedelta(days=1), time(), UTC))
    if filters.q:
        text = f"%{_escaped(filters.q)}%"
        people = select(Principal.principal_id).where(col(Principal.display_name).ilike(text, escape="\\"))
        studies = select(Study.study_instance_uid).where(col(Study.patient_pseudonym).ilike(text, escape="\\"))
        query = query.where(
            or_(
                col(entry.actor).ilike(text, escape="\\"),
                col(entry.actor).in_(people),
                col(entry.study_instance_uid).in_(studies),
                entry.study_instance_uid == filters.q,
                col(entry.object_id).ilike(text, escape="\\"),
                entry.decision_digest == filters.q,
                cast(col(entry.detail), String).ilike(text, escape="\\"),
            )
        )
    return query


def _in_words(session: Session, rows: Sequence[audit.AuditEntry]) -> tuple[AuditEntry, ...]:
    people = _people(session, {row.actor for row in rows})
    uids = {row.study_instance_uid for row in rows if row.study_instance_uid}
    pseudonyms = dict(
        session.exec(select(Study.study_instance_uid, Study.patient_pseudonym).where(col(Study.study_instance_uid).in_(uids))).all()
    )
    digests = {row.decision_digest for row in rows if row.decision_digest}
    routes = {
        digest: route_of(document)
        for digest, document in session.exec(select(DecisionRow.digest, DecisionRow.document).where(col(DecisionRow.digest).in_(digests)))
    }
    return tuple(
        AuditEntry(
            index=row.entry_index,
            at=row.recorded_at,
            event=EVENT_WORDS.get(row.event_type, row.event_type),
            outcome=outcome_of(row),
            principal=people.get(row.actor, (row.actor, ""))[0],
            role=people.get(row.actor, ("", "program" if row.actor.startswith("readgate/") else ""))[1],
            pseudonym=pseudonyms.get(row.study_instance_uid or "", ""),
            subject=subject_words(row),
            route=routes.get(row.decision_digest or "", ""),
            # An entry may name a decision whose page there is not (a preview): no link then.
            decision_digest=row.decision_digest if row.decision_digest in routes and row.decision_digest is not None else "",
            reason_code=(code := _reason(row)),
            reason_text=value_words(row.event_type, "reason", code).removesuffix(f" ({code})") if code else "",
        )
        for row in rows
    )


def _people(session: Session, ids: set[str]) -> dict[str, tuple[str, str]]:
    rows = session.exec(
        select(Principal.principal_id, Principal.display_name, Principal.role).where(col(Principal.principal_id).in_(ids))
    ).all()
    return {principal_id: (name, _ROLE_WORDS.get(role, role)) for principal_id, name, role in rows}


def _reason(row: audit.AuditEntry) -> str:
    if row.outcome == audit.Outcome.SUCCESS and row.event_type != audit.EventType.REVOKE:
        return ""
    reasons = row.detail.get("reasons")
    return str(reasons[0]) if isinstance(reasons, list) and reasons else _short(row.detail.get("refused") or row.detail.get("reason") or "")


def _verification(last: audit.AuditEntry | None) -> tuple[str, Tone]:
    if last is None:
        return "Not verified yet", "warning"
    findings = last.detail.get("findings") or []
    if findings:
        more = f", and {len(findings) - 1} more" if len(findings) > 1 else ""
        return f"Broken: {findings[0]}{more}", "bad"
    return f"Verified: every one of {last.detail.get('size', 0)} entries stands under its head", "good"


def _used(
    officer: Visitor,
    event_type: audit.EventType,
    action: audit.Action,
    detail: dict[str, Any],
    outcome: audit.Outcome = audit.Outcome.SUCCESS,
) -> audit.AuditEvent:
    return audit.AuditEvent(
        event_id=audit.EventId.AUDIT_LOG_USED,
        event_type=event_type,
        action=action,
        actor=officer.principal_id,
        outcome=outcome,
        network_address=officer.login.address,
        detail=detail,
    )


def _short(value: object) -> str:
    text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
    return text if len(text) <= 48 else text[:45] + "..."


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None

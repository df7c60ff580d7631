"""The registers as tables: what each page of pages_registers.py lists, and how a row stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from compliance.credential import Credential, Employer, Evidence, Reader
from compliance.evidence_document import EvidenceDocument
from compliance.hospital import DicomPeer, Hospital, ReportTarget
from compliance.principal import Principal
from gateway.consent_words import extent_words
from gateway.delivery_rows import channel_of
from gateway.register_exchange import newest_consents
from gateway.web.contexts import Tone
from gateway.web.contexts_oversight import Cell, RegisterRow, RowAction
from gateway.web.rendering import day, short_digest

#: People renew what runs out within this time; the reminders of the law's engine come earlier.
EXPIRES_SOON = timedelta(days=30)
Rows = list[RegisterRow]


def reader_rows(session: Session) -> Rows:
    rows = session.exec(
        select(Reader, Principal, Employer)
        .join(Principal, col(Principal.principal_id) == Reader.reader_id)
        .join(Employer, col(Employer.employer_id) == Reader.employer_id)
        .order_by(col(Reader.reader_id))
    ).all()
    return [
        RegisterRow(
            cells=(
                Cell(principal.display_name),
                Cell(reader.reader_id, is_code=True),
                Cell(reader.qualification),
                Cell(f"{employer.name} ({employer.employer_id}, {employer.country})"),
                Cell(reader.establishment),
                Cell("May log in", "good") if principal.is_active else Cell("Access ended", "neutral"),
            ),
            actions=(RowAction(f"/readers/{reader.reader_id}/end", "End access", asks_reason=True, is_grave=True),)
            if principal.is_active
            else (),
        )
        for reader, principal, employer in rows
    ]


def credential_rows(session: Session, now: datetime) -> Rows:
    rows = session.exec(
        select(Credential, Principal)
        .join(Principal, col(Principal.principal_id) == Credential.reader_id)
        .where(col(Credential.superseded_at).is_(None))
        .order_by(col(Credential.reader_id), col(Credential.kind), col(Credential.credential_pk))
    ).all()
    found = []
    for credential, principal in rows:
        state, tone = _credential_state(credential, now)
        found.append(
            RegisterRow(
                cells=(
                    Cell(principal.display_name),
                    Cell(_words(credential.kind)),
                    Cell(claim_words(credential.claim)),
                    Cell(day(credential.issued_at.date())),
                    Cell(_last_day(credential.expires_at)),
                    Cell(f"{day(credential.verified_at.date())}, {credential.verification_method or 'no method given'}"),
                    Cell(state, tone),
                ),
                actions=_credential_actions(credential),
            )
        )
    return found


def evidence_rows(session: Session, now: datetime) -> Rows:
    rows = session.exec(select(Evidence).order_by(col(Evidence.withdrawn_at).is_not(None), col(Evidence.evidence_id))).all()
    kept = set(session.exec(select(EvidenceDocument.evidence_id)).all())
    found = []
    for evidence in rows:
        state, tone = ("Withdrawn", _neutral()) if evidence.withdrawn_at is not None else _validity(evidence.expires_at, now)
        found.append(
            RegisterRow(
                cells=(
                    Cell(evidence.evidence_id, is_code=True),
                    Cell(evidence.evidence_type),
                    Cell(", ".join(evidence.parties)),
                    Cell(day(evidence.issued_at.date())),
                    Cell(_last_day(evidence.expires_at)),
                    Cell(evidence.verified_by),
                    _document_cell(evidence, evidence.evidence_id in kept),
                    Cell(state, tone),
                ),
                actions=_evidence_actions(evidence, evidence.evidence_id in kept),
            )
        )
    return found


def consent_rows(session: Session) -> Rows:
    """The newest version of each kind of each patient's consent; that one counts."""
    tones: dict[str, Tone] = {"ACTIVE": "good", "REFUSED": "bad", "WITHDRAWN": "bad", "UNKNOWN": "warning"}
    return [
        RegisterRow(
            cells=(
                Cell(row.patient_pseudonym, href=f"/consents/{row.consent_pk}"),
                Cell(row.hospital_id),
                Cell(_words(row.kind)),
                Cell(day(row.given_at.date()) if row.given_at is not None else "not given"),
                Cell(_last_day(row.expires_at) if row.expires_at is not None else "no end"),
                Cell(extent_words(row.terms) if row.status == "ACTIVE" else "–"),
                Cell(str(row.version)),
                Cell(_words(row.status), tones.get(row.status, "neutral")),
            ),
            actions=(RowAction(f"/consents/{row.consent_pk}/withdraw", "Withdraw", asks_reason=True, is_grave=True),)
            if row.status == "ACTIVE"
            else (),
        )
        for row in sorted(newest_consents(session), key=lambda one: one.recorded_at, reverse=True)
    ]


def hospital_rows(session: Session) -> Rows:
    senders = session.exec(select(DicomPeer).order_by(DicomPeer.calling_ae_title)).all()
    targets = session.exec(select(ReportTarget).order_by(col(ReportTarget.target_pk))).all()
    return [
        RegisterRow(
            cells=(
                Cell(hospital.name),
                Cell(hospital.hospital_id, is_code=True),
                Cell(hospital.jurisdiction),
                Cell(hospital.storage_country),
                Cell(", ".join(_sender(peer) for peer in senders if peer.hospital_id == hospital.hospital_id) or "none"),
                Cell("; ".join(channel_of(target) for target in targets if target.hospital_id == hospital.hospital_id) or "none"),
                Cell(f"{hospital.quiet_seconds:g} s"),
            )
        )
        for hospital in session.exec(select(Hospital).order_by(Hospital.hospital_id)).all()
    ]


def matching(rows: Sequence[RegisterRow], q: str) -> Rows:
    """The rows one of whose cells holds `q`."""
    text = q.strip().casefold()
    return [row for row in rows if not text or any(text in cell.text.casefold() for cell in row.cells)]


def claim_words(claim: dict[str, Any]) -> str:
    """What a credential says, beyond its kind: "h1, modalities ANY", "US-OH"."""
    parts = []
    for name, value in sorted(claim.items(), key=lambda item: (item[0] not in ("jurisdiction", "value", "hospital", "register"), item[0])):
        if isinstance(value, bool):
            parts += ["by proxy"] if value else []
        else:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            parts.append(f"{name} {text}" if parts or isinstance(value, list) else text)
    return ", ".join(parts)


def _credential_state(credential: Credential, now: datetime) -> tuple[str, Tone]:
    if credential.status != "ACTIVE":
        return _words(credential.status), "bad"
    return _validity(credential.expires_at, now)


def _credential_actions(credential: Credential) -> tuple[RowAction, ...]:
    href = f"/credentials/{credential.credential_pk}"
    revoke = RowAction(f"{href}/revoke", "Revoke", asks_reason=True, is_grave=True)
    if credential.status == "ACTIVE":
        return (RowAction(f"{href}/suspend", "Suspend", asks_reason=True, is_grave=True), revoke)
    return (RowAction(f"{href}/reinstate", "Reinstate", asks_reason=True), revoke) if credential.status == "SUSPENDED" else ()


def _document_cell(evidence: Evidence, is_kept: bool) -> Cell:
    if evidence.document_digest is None:
        return Cell("not kept here")
    digest = short_digest(evidence.document_digest)
    return Cell(f"Open {digest}", href=f"/evidence/{evidence.evidence_id}/document") if is_kept else Cell(digest, is_code=True)


def _evidence_actions(evidence: Evidence, is_kept: bool) -> tuple[RowAction, ...]:
    if evidence.withdrawn_at is not None:
        return ()
    href = f"/evidence/{evidence.evidence_id}"
    withdraw = RowAction(f"{href}/withdraw", "Withdraw", asks_reason=True, is_grave=True)
    return (withdraw,) if is_kept else (RowAction(f"{href}/document", "Add the document", asks_file=True), withdraw)


def _validity(expires_at: datetime, now: datetime) -> tuple[str, Tone]:
    if expires_at <= now:
        return "Expired", "bad"
    days = (expires_at - now).days
    return (f"Expires in {days} days", "warning") if expires_at - now <= EXPIRES_SOON else ("Valid", "good")


def _last_day(expires_at: datetime) -> str:
    """The last day on which it holds: it ends before `expires_at`."""
    return day((expires_at - timedelta(microseconds=1)).date())


def _sender(peer: DicomPeer) -> str:
    ways = [word for word, is_open in (("TLS", peer.certificate_sha256 is not None), ("plaintext", peer.is_plaintext_allowed)) if is_open]
    return f"{peer.calling_ae_title} ({', '.join(ways) or 'shut'})"


def _words(constant: str) -> str:
    return constant.replace("_", " ").capitalize()


def _neutral() -> Tone:
    return "neutral"

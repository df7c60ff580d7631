"""What the audit log has to yield by law: the accounting of disclosures (45 CFR 164.528) and the records of processing (GDPR Art. 30).

Both are made of entries and rows at one moment, name patients by pseudonym only, and say what they do not know. The hospital, which
knows the names, hands them on. They are not legal advice; who signs them is the hospital.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session, col, select

from compliance.audit import AuditEntry, EventType
from compliance.credential import Employer, Evidence, Reader
from compliance.decision_log import DecisionRow
from compliance.hospital import report_targets, require_hospital
from compliance.jurisdiction import compile_territory, country_of
from compliance.lawbook import LawBundle
from compliance.principal import Principal
from compliance.study import Study

#: 45 CFR 164.528(a)(3): six years before the request.
ACCOUNTING_WINDOW = timedelta(days=6 * 365 + 2)


def accounting_of_disclosures(
    session: Session,
    hospital_id: str,
    *,
    until: datetime,
    since: datetime | None = None,
    patient_pseudonym: str | None = None,
    without_tpo: bool = False,
) -> dict[str, Any]:
    """Every disclosure of the hospital's studies to a reader, as 164.528(b)(2) asks; a series to one recipient for one purpose is one row.

    Reading is treatment, which the rule exempts (164.528(a)(1)(i)); the rows carry `is_tpo` and stay in, because the law of a state or the
    hospital may want them. `without_tpo` leaves them out. Raises: NotFound.
    """
    hospital = require_hospital(session, hospital_id)
    start = since if since is not None else until - ACCOUNTING_WINDOW
    studies = {row.study_instance_uid: row for row in session.exec(select(Study).where(Study.hospital_id == hospital_id)).all()}
    entries = session.exec(
        select(AuditEntry)
        .where(
            AuditEntry.hospital_id == hospital_id,
            AuditEntry.event_type == EventType.OPEN,
            AuditEntry.outcome == "0",
            col(AuditEntry.recorded_at) >= start,
            col(AuditEntry.recorded_at) < until,
        )
        .order_by(col(AuditEntry.entry_index))
    ).all()
    series: dict[tuple[str, str, str], dict[str, Any]] = {}
    unmatched = 0
    for entry in entries:
        study = studies.get(entry.study_instance_uid or "")
        if study is None:
            unmatched += 1
            continue
        if patient_pseudonym not in (None, study.patient_pseudonym):
            continue
        purpose = _purpose(session, entry)
        key = study.patient_pseudonym, entry.actor, purpose
        row = series.setdefault(key, _disclosure(session, study, entry, purpose))
        row["count"] += 1
        row["last_at"] = entry.recorded_at
        row["entries"].append(entry.entry_index)
        row["phi"] = sorted({*row["phi"], _description(study)})
    rows = [row for row in series.values() if not (without_tpo and row["is_tpo"])]
    return {
        "report": "accounting-of-disclosures",
        "rule": "45 CFR 164.528(b)(2)",
        "hospital": {"id": hospital_id, "name": hospital.name, "address": hospital.address},
        "since": start,
        "until": until,
        "disclosures": sorted(rows, key=lambda row: row["first_at"]),
        "entries_without_a_study": unmatched,
        "made_of": {"entries": len(entries), "without_tpo": without_tpo},
    }


def records_of_processing(
    session: Session, hospital_id: str, law: LawBundle, *, at: datetime, contact: Mapping[str, str]
) -> dict[str, Any]:
    """Art. 30(1) for the hospital as controller and 30(2) for this deployment as processor, as things stand at `at`.

    `contact` gives what no row holds: names and contacts of controller, processor and data protection officers. Raises: NotFound.
    """
    hospital = require_hospital(session, hospital_id)
    eea = compile_territory(("@EU_EEA",), law.sets)
    recipients = []
    for reader in session.exec(select(Reader).order_by(Reader.reader_id)).all():
        employer = session.get(Employer, reader.employer_id)
        if employer is None or not _has_read(session, hospital_id, reader.reader_id):
            continue
        is_third = not eea.matches(country_of(reader.establishment), at)
        recipients.append(
            {
                "recipient": employer.name,
                "country": employer.country,
                "reads_from": reader.establishment,
                "is_third_country": is_third,
                "safeguards": _safeguards(session, {hospital_id, employer.employer_id}, at),
            }
        )
    shown: list[dict[str, Any]] = []
    for row in recipients:
        if row not in shown:
            shown.append(row)
    common = {
        "purposes": ["reading of imaging studies for treatment (Art. 9(2)(h))", "proof of lawful access"],
        "recipients": shown,
        "security": [
            "pseudonymised before it leaves the hospital's side (DICOM PS3.15 Annex E), identities sealed apart",
            "encrypted at rest under a key per study, which can be destroyed alone",
            "TLS with certificates of both sides for DICOM; access decided and recorded before the first byte",
            "append-only audit log with signed tree heads (RFC 6962)",
        ],
    }
    return {
        "report": "records-of-processing",
        "rule": "Regulation (EU) 2016/679 Art. 30",
        "at": at,
        "controller": {
            "article": "30(1)",
            "name": hospital.name,
            "address": hospital.address,
            "contact": contact.get("controller", _UNKNOWN),
            "data_protection_officer": contact.get("controller_dpo", _UNKNOWN),
            "data_subjects": ["patients", "readers", "hospital staff"],
            "data_categories": ["imaging studies and reports (health data, Art. 9)", "orders", "credentials", "access records"],
            "erasure": "by destroying the study's key; originals at the edge after the period set as originals_keep_days",
            "reports_go_to": [f"{target.kind} {target.host}:{target.port}" for target in report_targets(session, hospital_id)],
            **common,
        },
        "processor": {
            "article": "30(2)",
            "contact": contact.get("processor", _UNKNOWN),
            "data_protection_officer": contact.get("processor_dpo", _UNKNOWN),
            "on_behalf_of": hospital.name,
            "processing": ["receiving", "de-identifying", "storing", "showing to readers", "returning signed reports", "recording access"],
            "storage_country": hospital.storage_country,
            "transfers": [row for row in shown if row["is_third_country"]],
            **common,
        },
    }


def readable(report: Mapping[str, Any]) -> str:
    """Either report as text for people."""
    lines = [f"{report['report'].replace('-', ' ').capitalize()} ({report['rule']})", ""]
    if report["report"] == "accounting-of-disclosures":
        hospital = report["hospital"]
        lines += [f"{hospital['name']}, {report['since']:%Y-%m-%d} to {report['until']:%Y-%m-%d}", ""]
        for row in report["disclosures"]:
            to = row["recipient"]
            lines += [
                f"{row['first_at']:%Y-%m-%d %H:%M}Z  patient {row['patient_pseudonym']}",
                f"    to       {to['name']}, {to['organisation']}, {to['country']}",
                f"    what     {'; '.join(row['phi'])}",
                f"    purpose  {row['purpose']}{' (treatment, payment or operations)' if row['is_tpo'] else ''}",
            ]
            if row["count"] > 1:
                lines.append(f"    series   {row['count']} times, last on {row['last_at']:%Y-%m-%d %H:%M}Z")
            lines.append("")
        lines.append(f"{len(report['disclosures'])} disclosures")
        return "\n".join(lines) + "\n"
    for side in ("controller", "processor"):
        lines.append(f"{side.capitalize()}, Art. {report[side]['article']}")
        lines += _lines(report[side], 1)
        lines.append("")
    return "\n".join(lines)


_UNKNOWN = "not on record: to be filled in"


def _disclosure(session: Session, study: Study, entry: AuditEntry, purpose: str) -> dict[str, Any]:
    principal, reader = session.get(Principal, entry.actor), session.get(Reader, entry.actor)
    employer = session.get(Employer, reader.employer_id) if reader is not None else None
    return {
        "patient_pseudonym": study.patient_pseudonym,
        "first_at": entry.recorded_at,
        "last_at": entry.recorded_at,
        "count": 0,
        "recipient": {
            "id": entry.actor,
            "name": principal.display_name if principal is not None else entry.actor,
            "organisation": employer.name if employer is not None else "",
            # 164.528(b)(2)(ii) asks for the address "if known": the country is.
            "country": employer.country if employer is not None else "",
        },
        "phi": [],
        "purpose": purpose,
        "is_tpo": purpose in ("TREAT", "ETREAT"),
        "entries": [],
    }


def _description(study: Study) -> str:
    """A brief description of what was disclosed (164.528(b)(2)(iii)), pseudonymous itself."""
    part = f" {study.body_part}" if study.body_part else ""
    return f"de-identified {study.modality or 'imaging'}{part} study, {study.instance_count} instances"


def _purpose(session: Session, entry: AuditEntry) -> str:
    """As the decision says it, TREAT where none is on record."""
    row = session.get(DecisionRow, entry.decision_digest) if entry.decision_digest is not None else None
    if row is None:
        return "TREAT"
    return "ETREAT" if '"purpose":"ETREAT"' in row.document else "TREAT"


def _has_read(session: Session, hospital_id: str, reader_id: str) -> bool:
    return (
        session.exec(
            select(AuditEntry.entry_index)
            .where(AuditEntry.hospital_id == hospital_id, AuditEntry.actor == reader_id, AuditEntry.event_type == EventType.OPEN)
            .limit(1)
        ).first()
        is not None
    )


def _safeguards(session: Session, parties: set[str], at: datetime) -> list[str]:
    rows = session.exec(select(Evidence).where(col(Evidence.withdrawn_at).is_(None)).order_by(Evidence.evidence_id)).all()
    return [f"{row.evidence_type} ({row.evidence_id})" for row in rows if set(row.parties) <= parties and row.expires_at > at]


def _lines(value: Any, depth: int) -> list[str]:
    indent = "    " * depth
    if isinstance(value, Mapping):
        found: list[str] = []
        for name, item in value.items():
            if isinstance(item, Mapping | list):
                found += [f"{indent}{name.replace('_', ' ')}", *(_lines(item, depth + 1) or [f"{indent}    none"])]
            else:
                found.append(f"{indent}{name.replace('_', ' ')}: {item}")
        return found
    if isinstance(value, list):
        return [line for item in value for line in _lines(item, depth)]
    return [f"{indent}{value}"]

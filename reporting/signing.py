"""Sign: the reader's signature over the report and, inside it, over what was read.

0. The draft and the images are those the reader was shown, and the claim, the login and the study are theirs.
1. The law is asked for this act (SIGN_PRELIMINARY or SIGN_FINAL); the digest of that decision goes into the report.
2. The reader's key, opened by the passphrase, signs the canonical report (outside the transaction: opening it takes a third of a second).
3. In one transaction everything of 0 and 1 is looked at again; the report stands, the step is COMPLETED, deliveries are queued, the audit
   entry is written. If we crash before the commit, nothing was signed; the reader signs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, select

from compliance import audit
from compliance.credential import Reader, require_reader
from compliance.database import Database
from compliance.decision import decide
from compliance.decision_log import decide_and_record
from compliance.emergency_access import end_emergency_access
from compliance.facts import gather_facts
from compliance.lawbook import LawBundle
from compliance.obligation import unmet_for_study
from compliance.principal import LoginSession, Principal, require_principal
from compliance.study import Study, manifest_of, open_order_text, open_study_key, study_by_pk
from crypto.errors import Conflict, NotAllowed, RefusedContent
from crypto.keys import KeyStore
from reporting.content import SECTIONS, CriticalResult, ReportContent, ReportKind, SigningReader
from reporting.delivery_queue import queue_deliveries
from reporting.report import Report, has_final, newest_draft, newest_report, open_draft, seal_envelope
from reporting.signed_report import SignedReport, sign_report
from reporting.text_rules import MALFORMED
from worklist.claim import require_claim, successor_of
from worklist.procedure_step import State, WorkitemCode, require_transition
from worklist.view_grant import revoke_grants
from worklist.workitem import ProcedureStep, is_amended_since_report, transaction_uid_digest

PRELIMINARY_ONLY = "PRELIMINARY_ONLY"


@dataclass(frozen=True)
class _Prepared:
    """What step 0 and 1 found, to be compared in step 3."""

    content: ReportContent
    facts: dict[str, Any]
    draft_version: int
    manifest_digest: str
    wrapped_key: bytes
    public_key_pem: str


def sign(
    database: Database,
    keys: KeyStore,
    law: LawBundle,
    *,
    procedure_step_uid: str,
    reader_id: str,
    login_digest: str,
    transaction_uid: str,
    kind: ReportKind,
    draft_version: int,
    manifest_digest: str,
    passphrase: str,
    now: datetime,
    new_uid: Callable[[], str],
) -> Report:
    """See the module.

    Raises: NotFound; NotAllowed (no claim, wrong passphrase, or the law says no: that is recorded); Conflict (the draft, the study or the
    step moved on); RefusedContent (the report lacks what its kind needs).
    """
    with database.reading() as session:
        prepared = _prepare(
            session, keys, law, procedure_step_uid, reader_id, login_digest, kind, draft_version, manifest_digest, now, new_uid
        )
    signed = sign_report(prepared.content, wrapped_key=prepared.wrapped_key, passphrase=passphrase, public_key_pem=prepared.public_key_pem)
    refusal: NotAllowed | None = None
    with database.transaction() as session:
        step = require_claim(session, procedure_step_uid, reader_id, login_digest, now=now)
        study = _locked_study(session, step)
        if step.transaction_uid_digest != transaction_uid_digest(transaction_uid):
            raise Conflict("TRANSACTION_UID_WRONG")
        newest = newest_draft(session, procedure_step_uid)
        if newest is None or newest.version != prepared.draft_version or study.manifest_digest != prepared.manifest_digest:
            raise Conflict("MOVED_ON", "the draft or the study changed while it was being signed")
        head = newest_report(session, study)
        if (head.report_digest if head is not None else None) != prepared.content.predecessor_digest:
            raise Conflict("MOVED_ON", "another report was signed meanwhile")
        _require_kind(session, study, step, kind)
        facts = _facts(session, keys, study, require_reader(session, reader_id), login_digest, kind, now)
        decision = decide_and_record(session, law, facts, study_instance_uid=study.study_instance_uid, actor=reader_id, at=now)
        unmet = unmet_for_study(decision.obligations, law, study, facts, now)
        if decision.outcome != "ALLOW":
            refusal = NotAllowed(next(iter(decision.reasons), "DENIED"), ", ".join(decision.reasons))
        elif unmet is not None:
            refusal = NotAllowed(unmet, "what the law asks in return is not kept here")
        elif decision.digest != prepared.content.decision_digest:
            raise Conflict("MOVED_ON", "the facts changed while the report was being signed")
        else:
            report = _keep(session, keys, step, study, signed, decision.obligations, now, new_uid)
    if refusal is not None:
        raise refusal
    return report


def _prepare(
    session: Session,
    keys: KeyStore,
    law: LawBundle,
    procedure_step_uid: str,
    reader_id: str,
    login_digest: str,
    kind: ReportKind,
    draft_version: int,
    manifest_digest: str,
    now: datetime,
    new_uid: Callable[[], str],
) -> _Prepared:
    step = require_claim(session, procedure_step_uid, reader_id, login_digest, now=now)
    study, reader = study_by_pk(session, step.study_pk), require_reader(session, reader_id)
    draft = newest_draft(session, procedure_step_uid)
    if draft is None or draft.version != draft_version:
        raise Conflict("DRAFT_MOVED_ON", "what you see is not the newest draft")
    if study.manifest_digest != manifest_digest:
        raise Conflict("MOVED_ON", "the images are not those that were shown")
    _require_kind(session, study, step, kind)
    facts = _facts(session, keys, study, reader, login_digest, kind, now)
    predecessor, study_key = newest_report(session, study), open_study_key(keys, study)
    content = _content(
        study,
        reader,
        require_principal(session, reader_id),
        kind,
        {**open_draft(study_key, draft), "indication": open_order_text(study_key, study).get("indication", "")},
        predecessor.report_digest if predecessor is not None else None,
        decide(facts, law).digest,
        now,
        new_uid,
    )
    return _Prepared(content, facts, draft.version, study.manifest_digest, reader.wrapped_signing_key, reader.public_key_pem)


def _locked_study(session: Session, step: ProcedureStep) -> Study:
    """The study, locked and as it is now: its reports are a chain, and two signatures at once take their turns."""
    return session.exec(
        select(Study).where(Study.study_pk == step.study_pk).with_for_update().execution_options(populate_existing=True)
    ).one()


def _require_kind(session: Session, study: Study, step: ProcedureStep, kind: ReportKind) -> None:
    """A chain starts with at most some preliminary reports and one final; what follows a final is an addendum or a correction of it."""
    is_later = kind in (ReportKind.ADDENDUM, ReportKind.CORRECTION)
    if is_later and not has_final(session, study):
        raise Conflict("NOT_FINAL_YET", "there is no final report to add to")
    if not is_later and has_final(session, study):
        raise Conflict("ALREADY_FINAL", "a final report is followed by an addendum or a correction")
    if is_later and not (step.is_addendum or is_amended_since_report(session, step)):
        raise Conflict("NOT_AN_ADDENDUM", "begin the addendum from the signed report")


def _facts(
    session: Session, keys: KeyStore, study: Study, reader: Reader, login_digest: str, kind: ReportKind, now: datetime
) -> dict[str, Any]:
    login = session.get(LoginSession, login_digest)
    if login is None:
        raise NotAllowed("SESSION_ENDED")
    action = "SIGN_PRELIMINARY" if kind == ReportKind.PRELIMINARY else "SIGN_FINAL"
    return gather_facts(session, action=action, study=study, reader=reader, login=login, at=now, keys=keys)


def _content(
    study: Study,
    reader: Reader,
    principal: Principal,
    kind: ReportKind,
    sections: dict[str, Any],
    predecessor_digest: str | None,
    decision_digest: str,
    now: datetime,
    new_uid: Callable[[], str],
) -> ReportContent:
    statement = sections.get("critical_statement", "") if sections.get("is_critical") else ""
    told_at = sections.get("critical_communicated_at", "")
    try:
        communicated_at = datetime.fromisoformat(told_at) if told_at else None
    except ValueError:
        raise RefusedContent(MALFORMED, "critical_communicated_at") from None
    critical = (
        None
        if not statement
        else CriticalResult(
            statement=statement, communicated_to=sections.get("critical_communicated_to", ""), communicated_at=communicated_at
        )
    )
    return ReportContent(
        report_uid=new_uid(),
        kind=kind,
        predecessor_digest=predecessor_digest,
        study_instance_uid=study.study_instance_uid,
        patient_pseudonym=study.patient_pseudonym,
        accession_pseudonym=study.accession_pseudonym,
        study_manifest_digest=study.manifest_digest,
        **{name: sections.get(name, "") for name in SECTIONS},
        critical_result=critical,
        reader=SigningReader(id=reader.reader_id, display_name=principal.display_name, qualification=reader.qualification),
        decision_digest=decision_digest,
        signed_at=now,
    )


def _keep(
    session: Session,
    keys: KeyStore,
    step: ProcedureStep,
    study: Study,
    signed: SignedReport,
    obligations: Sequence[str],
    now: datetime,
    new_uid: Callable[[], str],
) -> Report:
    report = _insert(session, keys, step, study, signed, now)
    is_handed_on = report.kind == ReportKind.PRELIMINARY and PRELIMINARY_ONLY in obligations
    if report.kind == ReportKind.PRELIMINARY and not is_handed_on:
        return report
    require_transition(State(step.state), State.COMPLETED, is_transaction_uid_right=True)
    step.state, step.ended_at = State.COMPLETED, now
    session.add(step)
    revoke_grants(session, reason="STEP_COMPLETED", now=now, procedure_step_uid=step.procedure_step_uid)
    end_emergency_access(session, step.procedure_step_uid, reason="STEP_COMPLETED", actor=report.reader_id, now=now)
    if is_handed_on:
        # The law lets this reader go no further: the study goes on to one who may sign finally.
        verification = successor_of(step, new_uid(), now=now)
        verification.workitem_code, verification.is_final_required = WorkitemCode.REPORT_VERIFICATION, True
        session.add(verification)
    session.flush()
    return report


def _insert(session: Session, keys: KeyStore, step: ProcedureStep, study: Study, signed: SignedReport, now: datetime) -> Report:
    content = signed.content
    report = Report(
        report_uid=content.report_uid,
        study_pk=step.study_pk,
        hospital_id=step.hospital_id,
        procedure_step_uid=step.procedure_step_uid,
        reader_id=content.reader.id,
        kind=content.kind,
        report_digest=content.digest(),
        predecessor_digest=content.predecessor_digest,
        decision_digest=content.decision_digest,
        manifest_digest=content.study_manifest_digest,
        manifest=manifest_of(session, study),
        sealed_envelope=seal_envelope(open_study_key(keys, study), content.report_uid, signed.envelope()),
        signed_at=now,
    )
    session.add(report)
    session.flush()
    queued = queue_deliveries(session, report, now=now)
    audit.append(
        session,
        audit.AuditEvent(
            event_id=audit.EventId.PROCEDURE_RECORD,
            event_type=audit.EventType.SIGN,
            action=audit.Action.CREATE,
            actor=report.reader_id,
            hospital_id=report.hospital_id,
            study_instance_uid=study.study_instance_uid,
            object_id=report.report_uid,
            decision_digest=report.decision_digest,
            detail={"kind": report.kind, "report": report.report_digest, "manifest": report.manifest_digest, "deliveries": queued},
        ),
        at=now,
    )
    return report

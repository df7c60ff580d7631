"""Deliver: the report reaches its hospital under the patient's own name, once per target, with a receipt.

1. The report is what its reader signed, with the key that reader registered, and it belongs to this study and this hospital (threat T12).
   The decision that it was signed under is on record, unchanged, and allowed just that; and the law is asked whether the report may leave
   today (delivery_decision.py): where it may not, the delivery waits with the reasons.
2. The identity is opened from the crosswalk (an audit event), and the hospital's copy is composed, sealed with the hospital's
   certificate, and verified as `readgate report verify` would. It is made once; every target and every retry gets the same bytes.
3. It is sent. SOP Instance UID and message control id are derived from the report, so that a repeated sending is recognised.
   If we crash after the peer took it and before 4, it is sent again under the same names.
4. The receipt and the audit entry stand, in one transaction; or the failure, with the time of the next attempt, or the dead letter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlmodel import Session, select

from compliance import audit
from compliance.credential import require_reader
from compliance.crosswalk import open_study_identity
from compliance.database import Database
from compliance.decision_log import require_decision, require_unchanged
from compliance.hospital import Hospital, ReportTarget, TargetKind, require_hospital
from compliance.lawbook import LawBundle
from compliance.study import Study, open_study_key, study_by_pk
from crypto.certificates import KeyAndCertificate
from crypto.errors import Conflict, IntegrityFailure, NotFound, PermanentPeerFailure, TemporarilyUnable
from crypto.keys import KeyStore
from reporting.content import ReportKind
from reporting.delivery_decision import ACTOR, decide_delivery
from reporting.delivery_queue import Delivery, DeliveryState, note_failure, require_delivery
from reporting.document import ReportSource, compose_document
from reporting.encapsulated import encapsulate
from reporting.identity import HospitalLetterhead, InstanceIdentity, PatientIdentity, StudyIdentity
from reporting.oru import MessageRoute, compose_oru
from reporting.report import Report, open_report, reports_of_study, require_report
from reporting.report_copy import ReportCopy, keep_copy, open_copy
from reporting.seal import seal_document
from reporting.signed_report import SignedReport, public_key_fingerprint
from reporting.verification import verify_report_pdf


class Senders(Protocol):
    """How documents leave; gateway/delivery_senders.py in the product.

    Both return the receipt as JSON-able facts, and raise TemporarilyUnable (try again) or PermanentPeerFailure (a person has to look).
    """

    def store(self, target: ReportTarget, part10: bytes) -> dict[str, Any]: ...
    def send_message(self, target: ReportTarget, message: bytes) -> dict[str, Any]: ...


@dataclass(frozen=True)
class _Parcel:
    target: ReportTarget
    source: ReportSource
    pdf: bytes


def deliver(
    database: Database,
    keys: KeyStore,
    law: LawBundle,
    *,
    delivery_pk: int,
    senders: Senders,
    signer_of: Callable[[str], KeyAndCertificate],
    trust_roots: Sequence[bytes],
    now: datetime,
) -> str:
    """The state of the delivery after one attempt, whatever went wrong in it. Raises: TemporarilyUnable when the database is away."""
    try:
        parcel = _parcel(database, keys, law, delivery_pk, signer_of, trust_roots, now)
        if isinstance(parcel, str):
            return parcel
        if parcel.target.kind == TargetKind.DICOM:
            receipt = senders.store(parcel.target, encapsulate(parcel.source, parcel.pdf))
        else:
            route = MessageRoute(**parcel.target.settings.get("route", {}))
            message = compose_oru(parcel.source, pdf=parcel.pdf, now=now, route=route)
            receipt = senders.send_message(parcel.target, message)
    except (TemporarilyUnable, Conflict):
        # A clock that ran backwards decides nothing; what a person mends is tried again.
        return _failed(database, delivery_pk, "TEMPORARILY_UNABLE", is_permanent=False, now=now)
    except PermanentPeerFailure:
        return _failed(database, delivery_pk, "PEER_REFUSES", is_permanent=True, now=now)
    except (IntegrityFailure, NotFound):
        return _failed(database, delivery_pk, "INTEGRITY_FAILURE", is_permanent=True, now=now)
    except Exception as error:
        # A setting nobody understands, or an error of ours: left to escape it would end the job, and the row would wait for ever.
        return _failed(database, delivery_pk, "CANNOT_BE_COMPOSED", is_permanent=True, now=now, error=type(error).__name__)
    with database.transaction() as session:
        delivery = require_delivery(session, delivery_pk)
        if delivery.state == DeliveryState.DELIVERED:
            return delivery.state
        delivery.state, delivery.receipt, delivery.delivered_at = DeliveryState.DELIVERED, receipt, now
        delivery.attempts += 1
        session.add(delivery)
        report = require_report(session, delivery.report_uid)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.EXPORT,
                event_type=audit.EventType.DELIVER,
                action=audit.Action.READ,
                actor=ACTOR,
                hospital_id=delivery.hospital_id,
                study_instance_uid=study_by_pk(session, report.study_pk).study_instance_uid,
                object_id=delivery.report_uid,
                decision_digest=delivery.decision_digest,
                detail={
                    "kind": delivery.kind,
                    "attempt": delivery.attempts,
                    "state": delivery.state,
                    "signed_under": report.decision_digest,
                    "decision_verified": True,
                },
            ),
            at=now,
        )
    return DeliveryState.DELIVERED


def _parcel(
    database: Database,
    keys: KeyStore,
    law: LawBundle,
    delivery_pk: int,
    signer_of: Callable[[str], KeyAndCertificate],
    trust_roots: Sequence[bytes],
    now: datetime,
) -> _Parcel | str:
    """What to send and where; the state of the delivery where nothing is to be sent now: it is over, or the law says no."""
    with database.transaction() as session:
        delivery = require_delivery(session, delivery_pk)
        if delivery.state != DeliveryState.QUEUED:
            return delivery.state
        report, target = require_report(session, delivery.report_uid), session.get(ReportTarget, delivery.target_pk)
        if target is None or target.hospital_id != report.hospital_id:
            raise IntegrityFailure("a delivery points at another hospital's target")
        study = study_by_pk(session, report.study_pk)
        _require_allowed(session, report, study)
        if not decide_delivery(session, law, keys, delivery, report, study, now=now):
            return delivery.state
        source = report_source(session, keys, report, study, actor=ACTOR, purpose="deliver", now=now)
        standing = session.get(ReportCopy, report.report_uid)
        pdf = open_copy(open_study_key(keys, study), standing) if standing is not None else None
    if pdf is None:
        pdf = _composed(source, signer_of(report.hospital_id), trust_roots, now)
        with database.transaction() as session:
            # Another target's worker may have composed it meanwhile: one after the other, and the first copy stays.
            session.exec(select(Report.report_uid).where(Report.report_uid == report.report_uid).with_for_update()).one()
            study_key = open_study_key(keys, study)
            pdf = open_copy(study_key, keep_copy(session, study_key, report.report_uid, pdf, now=now))
    return _Parcel(target, source, pdf)


def report_source(
    session: Session, keys: KeyStore, report: Report, study: Study, *, actor: str, purpose: str, now: datetime
) -> ReportSource:
    """Everything the hospital's copy is made of, verified; the crosswalk is opened, which is audited.

    Raises: IntegrityFailure, NotFound (shredded), RefusedContent.
    """
    if report.hospital_id != study.hospital_id:
        raise IntegrityFailure("a report and its study name different hospitals")
    study_key = open_study_key(keys, study)
    chain = {row.report_digest: open_report(study_key, row) for row in reports_of_study(session, study)}
    signed = chain[report.report_digest]
    _require_own_study(session, signed, report, study)
    predecessors: list[SignedReport] = []
    before = signed.content.predecessor_digest
    while before is not None:
        if before not in chain:
            raise IntegrityFailure("the chain of reports has a gap")
        predecessors.append(chain[before])
        before = chain[before].content.predecessor_digest
    identity = open_study_identity(session, keys, study, actor=actor, purpose=purpose, now=now)
    return ReportSource(
        signed=signed,
        patient=PatientIdentity(**identity["patient"]),
        letterhead=letterhead_of(require_hospital(session, report.hospital_id)),
        study=StudyIdentity(
            **identity["study"],
            instances=tuple(
                InstanceIdentity(
                    pseudonymous_sop_instance_uid=pseudonym, sop_instance_uid=uid, series_instance_uid=series, sop_class_uid=sop_class
                )
                for pseudonym, uid, series, sop_class in identity["instances"]
            ),
        ),
        predecessors=predecessors,
        manifest=report.manifest,
    )


def letterhead_of(hospital: Hospital) -> HospitalLetterhead:
    return HospitalLetterhead(name=hospital.name, address=tuple(line for line in hospital.address.split("\n") if line))


def _require_own_study(session: Session, signed: SignedReport, report: Report, study: Study) -> None:
    content = signed.content
    if (content.study_instance_uid, content.report_uid, content.reader.id) != (
        study.study_instance_uid,
        report.report_uid,
        report.reader_id,
    ):
        raise IntegrityFailure("the signed report is not of this study")
    if signed.key_fingerprint() != public_key_fingerprint(require_reader(session, report.reader_id).public_key_pem):
        raise IntegrityFailure("the report is signed with a key that its reader did not register")


def _require_allowed(session: Session, report: Report, study: Study) -> None:
    """The law was asked at the signature and said yes to this reader, this study and this kind; an older record names no study."""
    row = require_decision(session, report.decision_digest)
    facts: dict[str, Any] = require_unchanged(row)["facts"] if row.outcome == "ALLOW" else {}
    action = "SIGN_PRELIMINARY" if report.kind == ReportKind.PRELIMINARY else "SIGN_FINAL"
    if (facts.get("action"), facts.get("reader", {}).get("id")) != (action, report.reader_id):
        raise IntegrityFailure("the decision on record does not allow the signature of this report")
    if facts["object"].get("study", study.study_instance_uid) != study.study_instance_uid:
        raise IntegrityFailure("the decision on record is of another study")


def _composed(source: ReportSource, signer: KeyAndCertificate, trust_roots: Sequence[bytes], now: datetime) -> bytes:
    pdf = seal_document(compose_document(source, now=now), key_pem=signer.key_pem, certificate_pem=signer.certificate_pem, now=now)
    # What would not verify at the hospital is not sent there.
    if not verify_report_pdf(pdf, trust_roots).is_valid:
        raise IntegrityFailure("the composed report does not verify")
    return pdf


def _failed(database: Database, delivery_pk: int, reason: str, *, is_permanent: bool, now: datetime, error: str = "") -> str:
    with database.transaction() as session:
        delivery: Delivery = require_delivery(session, delivery_pk)
        if delivery.state == DeliveryState.QUEUED:
            note_failure(session, delivery, reason, is_permanent=is_permanent, now=now, error=error)
        return delivery.state

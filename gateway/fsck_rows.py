"""fsck, the rows: studies, procedure steps, reports and deliveries against each other and against their signatures."""

from __future__ import annotations

import hashlib
from collections import Counter

from sqlmodel import Session, select

from compliance.credential import Reader
from compliance.decision_log import DecisionRow
from compliance.study import Study, StudyStatus, instances_of_study, open_study_key, study_manifest
from crypto.canonical import digest
from crypto.errors import IntegrityFailure, NotFound, RefusedContent
from gateway.fsck import Fsck
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.report import Report, open_report
from reporting.report_copy import ReportCopy, open_copy
from reporting.signed_report import public_key_fingerprint
from worklist.procedure_step import State
from worklist.workitem import ProcedureStep


def check_studies(fsck: Fsck, deep: bool) -> None:
    """Every study consists of the instances of its manifest."""
    with fsck.app.database.reading() as session:
        for study in session.exec(select(Study)).all():
            assert study.study_pk is not None
            fsck.report.checked["studies"] += 1
            rows = instances_of_study(session, study.study_pk)
            if len(rows) != study.instance_count or digest(study_manifest(study.study_instance_uid, rows)) != study.manifest_digest:
                fsck.report.add("manifest_mismatch", f"study {study.study_instance_uid}")


def check_steps(fsck: Fsck, deep: bool) -> None:
    """At most one step of a study is IN PROGRESS, and each step's holder and end fit its state (PS3.4 Table CC.1.1-2)."""
    with fsck.app.database.reading() as session:
        steps = session.exec(select(ProcedureStep)).all()
        uids = _study_uids(session)
        reported = set(session.exec(select(Report.procedure_step_uid)).all())
    fsck.report.checked["procedure_steps"] = len(steps)
    in_progress = Counter(step.study_pk for step in steps if step.state == State.IN_PROGRESS)
    for study_pk, count in sorted(in_progress.items()):
        if count > 1:
            fsck.report.add("two_steps_in_progress", f"study {uids.get(study_pk, study_pk)}: {count} steps")
    for step in steps:
        if step.study_pk not in uids:
            fsck.report.add("row_points_nowhere", f"step {step.procedure_step_uid}: no study {step.study_pk}")
        has_holder = None not in (step.claiming_reader_id, step.transaction_uid_digest, step.lease_expires_at)
        has_ended = step.ended_at is not None
        fitting: dict[str, bool] = {
            State.SCHEDULED: step.claiming_reader_id is None and not has_ended,
            State.IN_PROGRESS: has_holder and not has_ended,
            State.COMPLETED: has_ended and step.procedure_step_uid in reported,
            State.CANCELED: has_ended,
        }
        if not fitting.get(step.state, False):
            fsck.report.add("step_contradicts_itself", f"step {step.procedure_step_uid} is {step.state}")


def check_reports(fsck: Fsck, deep: bool) -> None:
    """Every report verifies under its reader's registered key and stands on a recorded decision; every delivered one has its copy."""
    with fsck.app.database.reading() as session:
        studies = {study.study_pk: study for study in session.exec(select(Study)).all()}
        reports = session.exec(select(Report)).all()
        for report in reports:
            fsck.report.checked["reports"] += 1
            study = studies.get(report.study_pk)
            if study is None:
                fsck.report.add("row_points_nowhere", f"report {report.report_uid}: no study {report.study_pk}")
                continue
            if session.get(DecisionRow, report.decision_digest) is None:
                fsck.report.add("decision_missing", f"report {report.report_uid}: {report.decision_digest}")
            if study.status != StudyStatus.SHREDDED:
                _check_signature(fsck, session, report, study)
        _check_copies(fsck, session, {report.report_uid: studies.get(report.study_pk) for report in reports})


def _check_signature(fsck: Fsck, session: Session, report: Report, study: Study) -> None:
    name = f"report {report.report_uid}"
    try:
        study_key = open_study_key(fsck.app.keys, study)
    except (NotFound, IntegrityFailure):
        return  # the key is a finding of its own
    with fsck.expecting("signature_invalid", name, IntegrityFailure, RefusedContent):
        signed = open_report(study_key, report)
        reader = session.get(Reader, report.reader_id)
        is_own = reader is not None and signed.key_fingerprint() == public_key_fingerprint(reader.public_key_pem)
        content = signed.content
        is_this = (content.report_uid, content.study_instance_uid, content.digest(), content.study_manifest_digest) == (
            report.report_uid,
            study.study_instance_uid,
            report.report_digest,
            report.manifest_digest,
        )
        if not (is_own and is_this and digest(report.manifest) == report.manifest_digest):
            fsck.report.add("signature_invalid", name)


def _check_copies(fsck: Fsck, session: Session, studies: dict[str, Study | None]) -> None:
    for delivery in session.exec(select(Delivery).where(Delivery.state == DeliveryState.DELIVERED)).all():
        fsck.report.checked["deliveries"] += 1
        copy = session.get(ReportCopy, delivery.report_uid)
        study = studies.get(delivery.report_uid)
        if copy is None:
            fsck.report.add("delivered_without_copy", f"report {delivery.report_uid}")
        elif study is not None and study.status != StudyStatus.SHREDDED:
            _check_copy(fsck, copy, study)


def _check_copy(fsck: Fsck, copy: ReportCopy, study: Study) -> None:
    name = f"report {copy.report_uid}"
    try:
        study_key = open_study_key(fsck.app.keys, study)
    except (NotFound, IntegrityFailure):
        return  # the key is a finding of its own
    with fsck.expecting("report_copy_damaged", name, IntegrityFailure):
        if hashlib.sha256(open_copy(study_key, copy)).hexdigest() != copy.pdf_sha256:
            fsck.report.add("report_copy_damaged", name)


def _study_uids(session: Session) -> dict[int | None, str]:
    return {pk: uid for pk, uid in session.exec(select(Study.study_pk, Study.study_instance_uid)).all()}

"""The nine steps of one study, played over the wire without a person, each with its evidence; what does not hold is said and fails.

The hospital sends over DICOM TLS, the reader works over HTTP, the reports arrive at the hospital's archive and information system. What the
table shows is then read back from the rows, the log and the delivered files: nothing is taken from the player's own word.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from compliance.audit import AuditEntry, EventType
from compliance.audit_checkpoint import keep_checkpoint, verify_log
from compliance.credential import require_reader
from compliance.decision_log import DecisionRow
from compliance.study import Study, instances_of_study, priors_of, study_by_pk
from crypto.errors import IntegrityFailure, ReadgateError, TemporarilyUnable
from gateway.application import Application
from gateway.demo_reader import DemoReader
from gateway.demo_sender import SentStudy
from gateway.demo_site import DemoLogin
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy
from reporting.delivery_queue import Delivery, DeliveryState
from reporting.report import Report
from reporting.report_copy import ReportCopy
from reporting.signed_report import public_key_fingerprint
from reporting.verification import verify_report_pdf
from worklist.procedure_step import State
from worklist.routed_reader import eligible_ids, refusals_of
from worklist.view_grant import PRIORS_MAX
from worklist.workitem import ProcedureStep

_PROCESSED_SECONDS = 420.0
_DELIVERED_SECONDS = 60.0
#: The study that is read, and the one that must come along as its prior.
READ_STUDY, PRIOR_STUDY, UNSAFE_STUDY = "head-ct-follow-up", "head-ct", "ultrasound"
_REPORT = {
    "technique": "Axial CT of the head without intravenous contrast.",
    "comparison": "Head CT about four months earlier.",
    "findings": "The parietal haemorrhage seen before has resolved; a small hypodense defect remains at its place. "
    "No new haemorrhage. Ventricles and cisterns are normal in width. No midline shift. The skull is intact.",
    "impression": "Residual defect after left parietal haemorrhage. No acute intracranial finding.",
}


@dataclass
class PlayedStep:
    """One step with its evidence; `holds` is False with the reason in `problem`."""

    name: str
    seconds: float = 0.0
    evidence: dict[str, Any] = field(default_factory=dict)
    holds: bool = True
    problem: str = ""


@dataclass
class Play:
    """The whole play: nine steps and the closing checks."""

    steps: list[PlayedStep] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return bool(self.steps) and all(step.holds for step in self.steps)

    def document(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "steps": [
                {"name": step.name, "seconds": round(step.seconds, 3), "holds": step.holds, "problem": step.problem, **step.evidence}
                for step in self.steps
            ],
        }


class Player:
    """Plays against a running server; `sent` is what the demonstration's hospital sent."""

    def __init__(
        self, app: Application, http_address: tuple[str, int], login: DemoLogin, sent: dict[str, SentStudy], received: Path
    ) -> None:
        self._app, self._login, self._sent, self._received = app, login, sent, received
        self._reader = DemoReader(login, http_address)
        self._play = Play()
        self._step_uid = ""
        self._study = ""
        self._report_uid = ""

    def run(self) -> Play:
        """Every step in its order; after one that does not hold, none of the later ones could."""
        acts: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("receive", self._receive),
            ("de-identify", self._deidentify),
            ("seal", self._seal),
            ("route", self._route),
            ("claim", self._claim),
            ("view", self._view),
            ("report", self._write),
            ("sign", self._sign),
            ("deliver", self._deliver),
            ("never shown", self._never_shown),
            ("verify report", self._verify_report),
            ("verify audit log", self._verify_log),
        ]
        for name, act in acts:
            step = PlayedStep(name)
            self._play.steps.append(step)
            began = time.monotonic()
            try:
                step.evidence = act()
            except ReadgateError as error:
                step.holds, step.problem = False, str(error) or type(error).__name__
            step.seconds = time.monotonic() - began
            if not step.holds:
                break
        if self._play.holds:
            # The first step's time is the sender's: what is measured here is only reading it back.
            self._play.steps[0].seconds = self._sent[READ_STUDY].seconds
        return self._play

    def _receive(self) -> dict[str, Any]:
        sent = self._sent[READ_STUDY]
        with self._app.database.reading() as session:
            row = self._received_row(session, READ_STUDY)
            count = len(session.exec(select(ReceivedInstance).where(ReceivedInstance.received_study_pk == row.received_study_pk)).all())
            _require(count == sent.instances, "not every acknowledged instance has its row")
            return {
                "association": "TLS, client certificate",
                "instances": count,
                **_entry(session, EventType.RECEIVE, object_id=f"received/{row.received_study_pk}"),
            }

    def _deidentify(self) -> dict[str, Any]:
        with self._app.database.reading() as session:
            study = self._study_row(session, READ_STUDY)
            self._study = study.study_instance_uid
            return {
                "study": study.study_instance_uid,
                "patient": study.patient_pseudonym,
                "profile": study.deidentification["profile"],
                "actions": sum(study.deidentification["actions"].values()),
                **_entry(session, EventType.DEIDENTIFY, study=study),
            }

    def _seal(self) -> dict[str, Any]:
        with self._app.database.reading() as session:
            study = self._study_row(session, READ_STUDY)
            assert study.study_pk is not None
            instances = instances_of_study(session, study.study_pk)
        packs = dict(self._app.vault.pack_names())
        used = sorted({instance.pack_name for instance in instances})
        _require(all(name in packs for name in used), "a pack is not in the vault")
        return {
            "instances": len(instances),
            "packs": len(used),
            "bytes": sum(packs[name] for name in used),
            "manifest": study.manifest_digest,
        }

    def _route(self) -> dict[str, Any]:
        with self._app.database.reading() as session:
            study = self._study_row(session, READ_STUDY)
            step = session.exec(
                select(ProcedureStep).where(ProcedureStep.study_pk == study.study_pk, ProcedureStep.state == State.SCHEDULED)
            ).first()
            if step is None:
                raise IntegrityFailure("the study is not on the worklist")
            self._step_uid = step.procedure_step_uid
            eligible = eligible_ids(session, step.study_pk)
            _require(self._login.principal_id in eligible, "the eligible reader was not found eligible")
            return {
                "workitem": step.procedure_step_uid,
                "due": step.expected_completion_at.isoformat(timespec="seconds"),
                "eligible": eligible,
                "refused": {reader: reasons[0] for reader, reasons in refusals_of(session, step.study_pk).items()},
                "decision": _decision(session, study, "ROUTE", self._login.principal_id),
                **_entry(session, EventType.ROUTE, study=study),
            }

    def _claim(self) -> dict[str, Any]:
        self._reader.log_in()
        self._reader.page("/worklist")
        self._reader.post_form(f"/worklist/{self._step_uid}/claim", {})
        with self._app.database.reading() as session:
            step = session.get(ProcedureStep, self._step_uid)
            _require(
                step is not None and step.claiming_reader_id == self._login.principal_id and step.state == State.IN_PROGRESS,
                "the claim does not hold",
            )
            assert step is not None and step.lease_expires_at is not None
            study = study_by_pk(session, step.study_pk)
            return {
                "holder": step.claiming_reader_id,
                "lease": step.lease_expires_at.isoformat(timespec="seconds"),
                "decision": _decision(session, study, "VIEW", self._login.principal_id),
                **_entry(session, EventType.CLAIM, study=study),
            }

    def _view(self) -> dict[str, Any]:
        self._reader.page(f"/read/{self._step_uid}")
        frames, octets = 0, 0
        for series in self._reader.get_json(f"/dicom-web/studies/{self._study}/series"):
            series_uid = series["0020000E"]["Value"][0]
            base = f"/dicom-web/studies/{self._study}/series/{series_uid}"
            for instance in self._reader.get_json(f"{base}/metadata"):
                frames += 1
                octets += len(self._reader.get_part(f"{base}/instances/{instance['00080018']['Value'][0]}/frames/1"))
        with self._app.database.reading() as session:
            study = self._study_row(session, READ_STUDY)
            patient, prior = study.patient_pseudonym, self._study_row(session, PRIOR_STUDY)
            expected = {study.study_instance_uid, *(one.study_instance_uid for one in priors_of(session, study)[:PRIORS_MAX])}
            _require(prior.study_instance_uid in expected, "the prior does not belong to the patient")
        listed = {one["0020000D"]["Value"][0] for one in self._reader.get_json(f"/dicom-web/studies?00100020={patient}")}
        _require(listed == expected, "the search by patient did not answer with the study and its priors alone")
        with self._app.database.reading() as session:
            return {"frames": frames, "bytes": octets, "prior": prior.study_instance_uid, **_entry(session, EventType.OPEN, study=study)}

    def _write(self) -> dict[str, Any]:
        body = {
            "version": 0,
            "kind": "FINAL",
            "sections": _REPORT,
            "critical": {"is_critical": False, "statement": "", "communicated_to": "", "communicated_at": ""},
        }
        answer = self._reader.post_json(f"/read/{self._step_uid}/draft", body)
        with self._app.database.reading() as session:
            return {"draft": answer["version"], **_entry(session, EventType.DRAFT, object_id=self._step_uid)}

    def _sign(self) -> dict[str, Any]:
        preview = self._reader.page(f"/read/{self._step_uid}/sign")
        fields = {name: _field(preview, name) for name in ("draft_version", "report_digest", "manifest_digest", "order_digest")}
        self._reader.post_form(f"/read/{self._step_uid}/sign", {**fields, "passphrase": self._login.passphrase})
        with self._app.database.reading() as session:
            study = self._study_row(session, READ_STUDY)
            report = session.exec(select(Report).where(Report.study_pk == study.study_pk).order_by(col(Report.signed_at).desc())).first()
            if report is None:
                raise IntegrityFailure("the report was not signed")
            step = session.get(ProcedureStep, self._step_uid)
            _require(step is not None and step.state == State.COMPLETED, "the workitem is not completed")
            self._report_uid = report.report_uid
            return {
                "report": report.report_digest,
                "manifest": report.manifest_digest,
                "decision": report.decision_digest,
                **_entry(session, EventType.SIGN, study=study),
            }

    def _deliver(self) -> dict[str, Any]:
        deadline = time.monotonic() + _DELIVERED_SECONDS
        while True:
            with self._app.database.reading() as session:
                rows = session.exec(select(Delivery).where(Delivery.report_uid == self._report_uid)).all()
                if rows and all(row.state == DeliveryState.DELIVERED for row in rows):
                    study = self._study_row(session, READ_STUDY)
                    return {"receipts": {row.kind: row.receipt for row in rows}, **_entry(session, EventType.DELIVER, study=study)}
            if time.monotonic() > deadline:
                raise TemporarilyUnable(
                    "the report did not reach the hospital in time: "
                    + ", ".join(f"{row.kind} {row.state} {row.last_reason or ''}" for row in rows)
                )
            time.sleep(0.3)

    def _never_shown(self) -> dict[str, Any]:
        """The clip with a name in its pixels is held, or was cleaned; the reader's search does not list it either way."""
        with self._app.database.reading() as session:
            row = self._received_row(session, UNSAFE_STUDY)
            state = row.state
            if row.study_instance_uid is not None:
                flags = self._study_row(session, UNSAFE_STUDY).deidentification["flags"]
                _require("PIXELS_CLEANED" in flags, "the clip passed without its pixels being cleaned")
        return {"ultrasound": "cleaned" if state == ReceivedState.AVAILABLE else "in quarantine"}

    def _verify_report(self) -> dict[str, Any]:
        with self._app.database.reading() as session:
            copy = session.get(ReportCopy, self._report_uid)
            study = self._study_row(session, READ_STUDY)
            fingerprint = public_key_fingerprint(require_reader(session, self._login.principal_id).public_key_pem)
        assert copy is not None
        pdf = next(
            (path for path in sorted(self._received.glob("*.pdf")) if hashlib.sha256(path.read_bytes()).hexdigest() == copy.pdf_sha256),
            None,
        )
        if pdf is None:
            raise IntegrityFailure("the hospital's archive does not hold the copy that was sealed")
        verification = verify_report_pdf(pdf.read_bytes(), self._app.certificates.trust_roots(), reader_key_fingerprints={fingerprint})
        _require(verification.is_valid, "the delivered report does not verify")
        source = verification.source
        assert source is not None and study is not None
        sent = self._sent[READ_STUDY]
        _require(
            source.patient.name.split("=")[0] == sent.patient_name and source.study.study_instance_uid == sent.study_instance_uid,
            "the delivered report is not under the patient's own name and study",
        )
        return {"file": str(pdf), "checks": {check.name: check.result.value for check in verification.checks}}

    def _verify_log(self) -> dict[str, Any]:
        keep_checkpoint(self._app.database, self._app.log_signer, now=self._app.now())
        with self._app.database.reading() as session:
            found = verify_log(session, self._app.log_signer.public_key)
        _require(found.is_sound, "; ".join(found.findings))
        return {"entries": found.size, "root": found.root, "checkpoints": found.checkpoints}

    def _received_row(self, session: Session, name: str) -> ReceivedStudy:
        row = session.exec(select(ReceivedStudy).where(ReceivedStudy.study_lookup == self._sent[name].study_lookup)).first()
        if row is None:
            raise IntegrityFailure(f"{name} was sent and is not known")
        return row

    def _study_row(self, session: Session, name: str) -> Study:
        row = self._received_row(session, name)
        study = session.exec(select(Study).where(Study.study_instance_uid == (row.study_instance_uid or ""))).first()
        if study is None:
            raise IntegrityFailure(f"{name} did not come through de-identification")
        return study


def wait_until_processed(app: Application, sent: dict[str, SentStudy]) -> dict[str, str]:
    """The state of each sent study once none is under way. Raises: TemporarilyUnable when it takes too long."""
    names = {study.study_lookup: name for name, study in sent.items()}
    deadline = time.monotonic() + _PROCESSED_SECONDS
    while time.monotonic() < deadline:
        with app.database.reading() as session:
            rows = session.exec(select(ReceivedStudy)).all()
            states = {names[row.study_lookup]: row.state for row in rows if row.study_lookup in names}
            routed = set(session.exec(select(ProcedureStep.study_pk)).all())
            waiting = [study for study in session.exec(select(Study)).all() if study.study_pk not in routed]
        if (
            len(states) == len(sent)
            and not waiting
            and all(state in (ReceivedState.AVAILABLE, ReceivedState.QUARANTINED) for state in states.values())
        ):
            return states
        time.sleep(0.3)
    raise TemporarilyUnable("the sample studies were not processed in time")


def _entry(session: Session, event_type: EventType, *, study: Study | None = None, object_id: str | None = None) -> dict[str, Any]:
    """The newest audit entry of this kind about the study or object. Raises: IntegrityFailure where there is none."""
    query = select(AuditEntry).where(AuditEntry.event_type == event_type)
    if study is not None:
        query = query.where(AuditEntry.study_instance_uid == study.study_instance_uid)
    if object_id is not None:
        query = query.where(AuditEntry.object_id == object_id)
    entry = session.exec(query.order_by(col(AuditEntry.entry_index).desc())).first()
    if entry is None:
        raise IntegrityFailure(f"no audit entry {event_type} stands behind this step")
    return {"audit_entry": entry.entry_index}


def _decision(session: Session, study: Study, action: str, reader_id: str) -> str:
    row = session.exec(
        select(DecisionRow)
        .where(DecisionRow.study_instance_uid == study.study_instance_uid, DecisionRow.action == action, DecisionRow.reader_id == reader_id)
        .order_by(col(DecisionRow.decided_at).desc())
    ).first()
    if row is None or row.outcome != "ALLOW":
        raise IntegrityFailure(f"no decision allows {action}")
    return row.digest


def _field(html: str, name: str) -> str:
    """The value of a hidden field of a page of ours."""
    marker = f'name="{name}" value="'
    _, found, rest = html.partition(marker)
    if not found:
        raise IntegrityFailure(f"the page lacks the field {name}")
    return rest.partition('"')[0]


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise IntegrityFailure(otherwise)

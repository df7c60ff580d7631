"""What a worker process does: finish studies that fell quiet, run the study jobs, end what expired, sign checkpoints, clear the spool.

Any number of workers may run: each act is guarded by rows and workflow names, so that two workers do it once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlmodel import col, exists, select

from compliance.audit_checkpoint import keep_checkpoint
from compliance.bulkhead import bulkhead
from compliance.deid_child import DeidChildren
from compliance.device_masks import Box, DeviceMask
from compliance.hospital import Hospital
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.quarantine import hold
from compliance.reminders import remind
from compliance.study import Study, StudyStatus
from crypto.errors import Conflict, IntegrityFailure, ReadgateError, RefusedContent
from gateway.application import Application, jobs_url
from gateway.archive_ahead import ArchiveAhead
from gateway.commitment_queue import deliver_commitments, network_sender
from gateway.deidentify_ahead import DeidentifyAhead
from gateway.delivery_senders import senders_of
from gateway.healthy_copy import mend_from
from gateway.jobs import PUT_OFF, JobRunner, ProcessStopping, StudyJob
from gateway.order_joining import join_late_orders
from gateway.pixel_screening import ConfinedDeidentifier, PixelScreener
from gateway.processing import ACTOR, DEIDENTIFIED_AT_ONCE, archive_originals, deidentify_study, route_study
from gateway.received import ReceivedState, ReceivedStudy, locked_received_study, unarchived_segments
from gateway.received_usage import recount
from gateway.register_changes import follow_registers
from gateway.register_effects import route_what_the_calendar_ended
from gateway.spool_index import SpoolIndex
from gateway.study_attempts import StudyAttempt, StudyAttempts, Turn
from gateway.unsettled_packs import reclaim_packs
from reporting.delivery import deliver
from reporting.delivery_queue import Delivery, DeliveryState, due_deliveries, note_failure, require_delivery
from worklist.claim import expire_leases
from worklist.revocation import revoke_ended_rights
from worklist.workitem import ProcedureStep

log = structlog.get_logger()
CHECKPOINT_SECONDS = 60.0
SPOOL_SWEEP_SECONDS = 30.0
COMMITMENT_SECONDS = 10.0
RECOUNT_SECONDS = 3600.0
REVOCATION_SECONDS = 2.0
REMINDER_SECONDS = 900.0
STRANDED_SECONDS = 5.0
RECLAIM_SECONDS = 300.0
#: How often is looked whether a study is complete while any is coming in.
EXPECTING_SECONDS = 0.1
_Screener = PixelScreener | ConfinedDeidentifier


class StoppableDeidentifier:
    """De-identification that does not take the death of its children at shutdown for a verdict on the instance."""

    def __init__(self, children: DeidChildren, stopping: threading.Event) -> None:
        self._children, self._stopping = children, stopping

    def deidentify(
        self, source: IdentifiedDataset, under: Pseudonymity, *, masks: Sequence[DeviceMask], reviewed: Sequence[Box] | None
    ) -> DeidentifiedDataset:
        try:
            made = self._children.deidentify(source, under, masks=masks, reviewed=reviewed)
        except RefusedContent:
            if self._stopping.is_set():
                raise ProcessStopping from None
            raise
        if self._stopping.is_set():
            raise ProcessStopping
        return made


class Work:
    """The study jobs over one application (gateway/jobs.py StudyWork)."""

    def __init__(self, app: Application, screener: _Screener, attempts: StudyAttempts, ahead: DeidentifyAhead | None = None) -> None:
        self._app, self._screener, self._attempts, self._ahead = app, screener, attempts, ahead

    def archive(self, received_study_pk: int) -> int:
        self._require_running()
        with self._attempts.attempt(received_study_pk, is_last_step=False) as turn:
            return archive_originals(self._app, received_study_pk) if self._is_on(received_study_pk, turn) else PUT_OFF

    def deidentify(self, received_study_pk: int) -> str:
        self._require_running()
        with self._attempts.attempt(received_study_pk, is_last_step=True) as turn:
            if not self._is_on(received_study_pk, turn):
                return ""
            with nullcontext() if self._ahead is None else self._ahead.job(received_study_pk) as begun:
                return deidentify_study(self._app, received_study_pk, self._screener, begun)

    def route(self, study_instance_uid: str) -> str:
        self._require_running()
        return route_study(self._app, study_instance_uid).procedure_step_uid

    def hold_failed(self, received_study_pk: int, reason: str, generation: int | None) -> None:
        self._require_running()
        hold_failed(self._app, received_study_pk, reason, generation)

    def deliver(self, delivery_pk: int) -> str:
        self._require_running()
        app = self._app
        return deliver(
            app.database,
            app.keys,
            app.law,
            delivery_pk=delivery_pk,
            senders=senders_of(app),
            signer_of=app.document_signer,
            trust_roots=app.certificates.trust_roots(),
            now=app.now(),
        )

    def _is_on(self, received_study_pk: int, turn: Turn) -> bool:
        if turn is Turn.NEVER:
            hold_failed(self._app, received_study_pk, "PROCESSING_FAILED")
        return turn is Turn.NOW

    def _require_running(self) -> None:
        if self._app.stopping.is_set():
            raise ProcessStopping


@dataclass
class _Duty:
    name: str
    act: Callable[[], object]
    every_seconds: float
    due_at: float = 0.0


class Worker:
    """The jobs and the duties of this process, from `start` to `stop`."""

    def __init__(self, app: Application, index: SpoolIndex) -> None:
        self._app, self._index = app, index
        self._children = DeidChildren(DEIDENTIFIED_AT_ONCE)
        self._attempts = StudyAttempts(app.database)
        screener = StoppableDeidentifier(self._children, app.stopping)
        self._deidentify_ahead = DeidentifyAhead(app, screener, self._attempts)
        work = Work(app, screener, self._attempts, self._deidentify_ahead)
        self._runner = JobRunner(jobs_url(app.data, app.settings), app.settings.jobs, work)
        #: Of studies that wait to be processed, and of deliveries that are due: what the runner was told already.
        self._queued_studies: set[StudyJob] = set()
        self._queued_deliveries: set[tuple[int, int, str]] = set()
        self._is_expecting = False
        self._stopping = threading.Event()
        poll = app.settings.jobs.poll_seconds
        #: On a thread of its own: whoever waits for a study does not wait for a spool to be swept or a peer to be reached.
        self._completing = [_Duty("complete_studies", self.complete_studies, poll)]
        self._duties = [
            _Duty("hold_dead", self.hold_dead, STRANDED_SECONDS),
            _Duty("join_late_orders", lambda: join_late_orders(app), poll),
            _Duty("route_stranded", self.route_stranded, STRANDED_SECONDS),
            _Duty("queue_deliveries", self.queue_deliveries, poll),
            _Duty("expire_leases", lambda: expire_leases(app.database, now=app.now(), new_uid=app.new_uid), poll),
            _Duty(
                "revoke_ended_rights",
                lambda: revoke_ended_rights(app.database, app.law, now=app.now(), new_uid=app.new_uid, keys=app.keys),
                REVOCATION_SECONDS,
            ),
            _Duty("follow_registers", lambda: follow_registers(app), poll),
            _Duty("route_by_calendar", lambda: route_what_the_calendar_ended(app), STRANDED_SECONDS),
            _Duty("remind", self.remind, REMINDER_SECONDS),
            _Duty("checkpoint", lambda: keep_checkpoint(app.database, app.log_signer, now=app.now()), CHECKPOINT_SECONDS),
            _Duty("sweep_spool", self.sweep_spool, SPOOL_SWEEP_SECONDS),
            _Duty(
                "deliver_commitments",
                lambda: deliver_commitments(app.database, app.keys, network_sender(app), now=app.now()),
                COMMITMENT_SECONDS,
            ),
            _Duty("reclaim_packs", lambda: reclaim_packs(app.database, app.vault, now=app.now()), RECLAIM_SECONDS),
            _Duty("recount_usage", lambda: recount(app.database), RECOUNT_SECONDS),
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(duties,), name=name, daemon=True)
            for name, duties in (("completing", self._completing), ("duties", self._duties))
        ]
        self._ahead = ArchiveAhead(app)

    def start(self) -> None:
        self._index.recover(now=self._app.now())
        self._attempts.note_started()
        self._runner.start()
        for thread in self._threads:
            thread.start()
        self._ahead.start()
        if self._app.settings.jobs.ahead:
            self._deidentify_ahead.start()
        # The engine takes up what was cut short as it starts; with much of that it starts slowly.
        self._attempts.note_started()

    def stop(self) -> None:
        self._stopping.set()
        self._deidentify_ahead.stop()
        self._ahead.stop()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=30)
        # The child first: a workflow waits for its answer.
        self._children.close()
        self._deidentify_ahead.join()
        self._runner.stop()
        self._attempts.stop()

    def complete_studies(self) -> int:
        """Studies that fell quiet, or of which the sender said that all was sent, are COMPLETE and queued; how many were queued now."""
        app = self._app
        with app.database.reading() as session:
            waiting = session.exec(
                select(ReceivedStudy.received_study_pk, ReceivedStudy.last_at, ReceivedStudy.is_commitment_asked, Hospital.quiet_seconds)
                .join(Hospital, col(Hospital.hospital_id) == ReceivedStudy.hospital_id)
                .where(ReceivedStudy.state == ReceivedState.RECEIVING)
            ).all()
        now = app.now()
        self._is_expecting = bool(waiting)
        due = [pk for pk, last_at, is_asked, quiet in waiting if pk is not None and (is_asked or _is_quiet(last_at, quiet, now))]
        for pk in due:
            with bulkhead("complete_studies", received_study_pk=pk), app.database.transaction() as session:
                study = locked_received_study(session, pk)
                hospital = session.get(Hospital, study.hospital_id)
                assert hospital is not None
                if study.state == ReceivedState.RECEIVING and (
                    study.is_commitment_asked or _is_quiet(study.last_at, hospital.quiet_seconds, now)
                ):
                    study.state, study.complete_at = ReceivedState.COMPLETE, now
                    session.add(study)
        # If we crash here the study is COMPLETE and not queued: the next round queues it, and a name queued twice is queued once.
        jobs = self._waiting_jobs()
        new = jobs - self._queued_studies
        # After a start nothing is remembered, and most of what waits was queued by the process before.
        for job in sorted(new - self._runner.known_studies(new)):
            self._runner.process_study(*job)
        self._queued_studies = (self._queued_studies & jobs) | new
        return len(new)

    def hold_dead(self) -> int:
        """Studies whose job ended without bringing them anywhere are held; how many."""
        # Only what still waits: a job that was over a moment ago may have brought its study on.
        dead = self._runner.dead_studies(self._waiting_jobs() & self._queued_studies)
        for pk, generation, _ in dead:
            with bulkhead("hold_dead", received_study_pk=pk):
                hold_failed(self._app, pk, "PROCESSING_FAILED", generation)
        return len(dead)

    def _waiting_jobs(self) -> set[StudyJob]:
        """The jobs of the studies that are to be processed; one that took its process down too often waits until this one has been up."""
        with self._app.database.reading() as session:
            rows = session.exec(
                select(ReceivedStudy.received_study_pk, ReceivedStudy.generation, StudyAttempt)
                .outerjoin(StudyAttempt, col(StudyAttempt.received_study_pk) == ReceivedStudy.received_study_pk)
                .where(ReceivedStudy.state == ReceivedState.COMPLETE)
            ).all()
        jobs: set[StudyJob] = set()
        for pk, generation, attempt in rows:
            assert pk is not None
            is_of_this = attempt is not None and attempt.generation == generation
            if is_of_this and attempt.is_suspect and attempt.run_id is None and not self._attempts.is_calm:
                continue
            jobs.add((pk, generation, attempt.put_off if is_of_this else 0))
        return jobs

    def route_stranded(self) -> int:
        """Studies whose job died between de-identification and route are on the worklist after all; how many."""
        app = self._app
        with app.database.reading() as session:
            is_routed = exists().where(col(ProcedureStep.study_pk) == Study.study_pk, col(ProcedureStep.amendment) >= col(Study.amendment))
            stranded = session.exec(
                select(ReceivedStudy.received_study_pk, ReceivedStudy.generation, Study.study_instance_uid)
                .join(Study, col(Study.study_instance_uid) == ReceivedStudy.study_instance_uid)
                .where(ReceivedStudy.state == ReceivedState.AVAILABLE, Study.status == StudyStatus.AVAILABLE, ~is_routed)
            ).all()
        # A job that is still at it routes by itself; routing twice is routing once.
        over = [uid for pk, generation, uid in stranded if pk is not None and self._runner.is_over(pk, generation)]
        done = 0
        for study_instance_uid in over:
            with bulkhead("route_stranded", study_instance_uid=study_instance_uid):
                route_study(app, study_instance_uid)
                done += 1
        return done

    def queue_deliveries(self) -> int:
        app = self._app
        with app.database.reading() as session:
            rows = [row for pk in due_deliveries(session, now=app.now()) if (row := session.get(Delivery, pk)) is not None]
        due = {}
        for row in rows:
            assert row.delivery_pk is not None
            due[row.delivery_pk, row.attempts, row.next_attempt_at.strftime("%Y%m%d%H%M%S%f")] = row
        for attempt, row in due.items():
            with bulkhead("queue_deliveries", delivery_pk=attempt[0]):
                if attempt not in self._queued_deliveries:
                    self._runner.deliver_report(*attempt)
                    self._queued_deliveries.add(attempt)
                if self._runner.is_delivery_dead(*attempt):
                    # Its name is used up: only the next attempt, under another one, is worked on again.
                    fail_attempt(app, attempt[0], row.attempts)
        self._queued_deliveries &= due.keys()
        return len(due)

    def remind(self) -> int:
        """Reminders of what ends in 90, 30 or 7 days are made; how many."""
        with self._app.database.transaction() as session:
            made = len(remind(session, now=self._app.now()))
        if made:
            log.warning("reminders_made", count=made)
        return made

    def sweep_spool(self) -> int:
        """Closed segments all of whose instances lie in the vault are removed; how many."""
        app, removed = self._app, 0
        self._index.recover(now=app.now())
        # Named before the rows are asked: a segment that is closed from here on may have frames without a row yet.
        closed = self._index.recovered_segments
        with app.database.reading() as session:
            needed = unarchived_segments(session)
        for segment_id in sorted(closed - needed):
            try:
                # What came again may be the healthy copy of what is damaged in the vault.
                mend_from(app, segment_id)
                app.spool.remove_segment(segment_id)
                removed += 1
            except (Conflict, IntegrityFailure):
                # Of damage the study's own job, and fsck, say what it is; the segment stays.
                continue
        return removed

    def _run(self, duties: list[_Duty]) -> None:
        elapsed = 0.0
        step = min(self._app.settings.jobs.poll_seconds, EXPECTING_SECONDS)
        while not self._stopping.wait(step):
            elapsed += step
            for duty in duties:
                if elapsed >= duty.due_at - step / 2:
                    duty.due_at = elapsed + duty.every_seconds
                    self._do(duty)
                    if duty.act == self.complete_studies and self._is_expecting:
                        # A study is coming in: whoever waits for it should not wait for us to look.
                        duty.due_at = elapsed + step

    def _do(self, duty: _Duty) -> None:
        try:
            duty.act()
        except IntegrityFailure:
            log.error("duty_found_damage", duty=duty.name)
        except ReadgateError as error:
            log.warning("duty_put_off", duty=duty.name, error=type(error).__name__)
        except Exception as error:
            # A duty must not end the others; the kind of a foreign error is no identity.
            log.error("duty_failed", duty=duty.name, error=type(error).__name__)


def fail_attempt(app: Application, delivery_pk: int, attempts: int) -> None:
    """An attempt whose process died, or failed for a reason of ours, counts as failed: tried again later, at last a dead letter."""
    with app.database.transaction() as session:
        delivery = require_delivery(session, delivery_pk)
        if delivery.state == DeliveryState.QUEUED and delivery.attempts == attempts:
            note_failure(session, delivery, "PROCESSING_FAILED", is_permanent=False, now=app.now())


def hold_failed(app: Application, received_study_pk: int, reason: str, generation: int | None = None) -> None:
    """A study that could not be processed for a reason of ours waits for a person.

    Only while it waits to be processed as the `generation` that failed (None: any): one that more instances opened since is not of this
    job, and has one of its own to come.
    """
    with app.database.transaction() as session:
        study = locked_received_study(session, received_study_pk)
        if study.state != ReceivedState.COMPLETE or generation not in (None, study.generation):
            return
        study.state = ReceivedState.QUARANTINED
        session.add(study)
        hold(
            session,
            hospital_id=study.hospital_id,
            received_study_pk=received_study_pk,
            reason_code=reason,
            element_tag=None,
            detail="",
            instance_count=study.instance_count,
            actor=ACTOR,
            now=app.now(),
        )


def _is_quiet(last_at: datetime, quiet_seconds: float, now: datetime) -> bool:
    return now - last_at >= timedelta(seconds=quiet_seconds)

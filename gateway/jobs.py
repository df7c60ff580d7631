"""Study-level jobs as durable workflows on DBOS: after a crash each goes on where it stopped. The only file that imports dbos.

Conditions under which DBOS is used here
- Arguments and results are row keys, in JSON: nothing identifying, and nothing that could run when read back.
- `application_version` is pinned: a deploy must not strand work that an older process began.
- `executor_id` is configured and stable: a restarted process recovers its own work.
- The system database is our own engine with WAL and full synchronisation.
- DBOS keeps the text of every error that leaves a step, and logs it: what leaves one says its kind and its constant reason, never more.
- Instances never pass through it, and every step may run twice.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
import time
from collections.abc import Callable, Collection
from typing import ParamSpec, Protocol, TypeVar

import structlog
from dbos import DBOS, DBOSConfig, DBOSConfiguredInstance, DBOSPortableJSONSerializer, PortableWorkflowError, SetWorkflowID
from sqlalchemy import Engine, create_engine, event

from compliance.database import log_ahead
from crypto.errors import Conflict, NotAllowed, ReadgateError, RefusedContent, TemporarilyUnable
from gateway.config import JobSettings

log = structlog.get_logger()

#: Raised by hand when a workflow's steps change in a way that older recorded ones cannot follow.
APPLICATION_VERSION = "1"
STUDIES = "studies"
_STUDY_POLL_SECONDS = 0.15
DELIVERIES = "deliveries"
_STEP_ATTEMPTS = 5
#: A delivery that was amid this many deaths of its process counts as a failed attempt. Of studies study_attempts.py counts the deaths.
_DELIVERY_RECOVERIES_MAX = 10
#: How long `stop` waits for a step to come to its end; what does not goes on in the next process.
_STOP_SECONDS = 5
#: What `archive` returns of a study that is not to be worked on now: its job ends, and the worker asks again under another name.
PUT_OFF = -1
_NAMES_PER_QUERY = 500
_OVER = {"SUCCESS", "ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "CANCELLED"}
#: Kind of the error that ended a study's job -> reason under which the study is held; any other is PROCESSING_FAILED.
_HOLD_REASONS = {
    "IntegrityFailure": "INTEGRITY_FAILURE",
    "TemporarilyUnable": "RESOURCES_EXHAUSTED",
    # What DBOS raises in its place when the last attempt at a step was temporarily unable too.
    "DBOSMaxStepRetriesExceeded": "RESOURCES_EXHAUSTED",
}
#: Received study, its generation, and how often it was put off.
StudyJob = tuple[int, int, int]
_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_DEAD = {"ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "CANCELLED"}


class ProcessStopping(BaseException):
    """The process was asked to stop in the middle of a step. No `except Exception` takes it for a failure of the study: the workflow stays
    pending and goes on in the next process.
    """


class StepFailed(Exception):
    """A step ended with an error that is none of ours; its only text is that error's kind."""


class StudyWork(Protocol):
    """What the workflows do; gateway/worker.py in the product."""

    def archive(self, received_study_pk: int) -> int: ...
    def deidentify(self, received_study_pk: int) -> str: ...
    def route(self, study_instance_uid: str) -> str: ...
    def hold_failed(self, received_study_pk: int, reason: str, generation: int | None) -> None: ...
    def deliver(self, delivery_pk: int) -> str: ...


def _is_worth_retrying(error: BaseException) -> bool:
    return isinstance(error, TemporarilyUnable)


def _without_text(act: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
    """`act`, with errors of which only kind and constant reason are left; ProcessStopping passes as it is."""
    failure: Exception
    try:
        return act(*args, **kwargs)
    except (RefusedContent, NotAllowed, Conflict) as error:
        failure = type(error)(error.reason_code)
    except ReadgateError as error:
        failure = type(error)(type(error).__name__)
    except Exception as error:
        failure = StepFailed(type(error).__name__)
    # Outside of the handler, so that not even its context leads back to the text.
    raise failure


def _hold_reason(error: Exception) -> str:
    """After a crash an error comes back from DBOS's database as its name alone."""
    kind = error.name if isinstance(error, PortableWorkflowError) else type(error).__name__
    return _HOLD_REASONS.get(kind, "PROCESSING_FAILED")


@DBOS.dbos_class()
class Jobs(DBOSConfiguredInstance):
    """The workflows over one `StudyWork`. DBOS is one per process; so is this."""

    def __init__(self) -> None:
        self._work: StudyWork
        super().__init__(config_name="jobs")

    def work_on(self, work: StudyWork) -> None:
        """From here on the workflows do this work: DBOS knows the instance for the life of the process, runners come and go."""
        self._work = work

    @DBOS.workflow(max_recovery_attempts=None)
    def process_study(self, received_study_pk: int, generation: int | None = None) -> str:
        """Archive, de-identify, route. A study that fails for a reason of ours is held, never dropped.

        `generation`: the one this job was asked for; None in a job that was recorded before jobs knew theirs.
        """
        try:
            if self._archive(received_study_pk) == PUT_OFF:
                return ""
            study_instance_uid = self._deidentify(received_study_pk)
            return self._route(study_instance_uid) if study_instance_uid else ""
        except Exception as error:
            reason = _hold_reason(error)
            # Of a StepFailed the text is the kind of what failed, and nothing else.
            kind = str(error) if isinstance(error, StepFailed) else type(error).__name__
            log.error("study_processing_failed", received_study_pk=received_study_pk, reason=reason, error=kind)
            self._hold_failed(received_study_pk, reason, generation)
        return ""

    @DBOS.workflow(max_recovery_attempts=_DELIVERY_RECOVERIES_MAX)
    def deliver_report(self, delivery_pk: int) -> str:
        return self._deliver(delivery_pk)

    @DBOS.step(retries_allowed=True, max_attempts=_STEP_ATTEMPTS, should_retry=_is_worth_retrying)
    def _archive(self, received_study_pk: int) -> int:
        return _without_text(self._work.archive, received_study_pk)

    @DBOS.step(retries_allowed=True, max_attempts=_STEP_ATTEMPTS, should_retry=_is_worth_retrying)
    def _deidentify(self, received_study_pk: int) -> str:
        return _without_text(self._work.deidentify, received_study_pk)

    @DBOS.step(retries_allowed=True, max_attempts=_STEP_ATTEMPTS, should_retry=_is_worth_retrying)
    def _route(self, study_instance_uid: str) -> str:
        return _without_text(self._work.route, study_instance_uid)

    @DBOS.step(retries_allowed=True, max_attempts=_STEP_ATTEMPTS, should_retry=_is_worth_retrying)
    def _hold_failed(self, received_study_pk: int, reason: str, generation: int | None = None) -> None:
        _without_text(self._work.hold_failed, received_study_pk, reason, generation)

    @DBOS.step(retries_allowed=True, max_attempts=_STEP_ATTEMPTS, should_retry=_is_worth_retrying)
    def _deliver(self, delivery_pk: int) -> str:
        return _without_text(self._work.deliver, delivery_pk)


@functools.cache
def _jobs_of_process() -> Jobs:
    return Jobs()


class JobRunner:
    """DBOS for this process, from `start` to `stop`."""

    def __init__(self, url: str, settings: JobSettings, work: StudyWork) -> None:
        """`url`: DBOS's system database, SQLite or PostgreSQL."""
        engine = _system_engine(url)
        config: DBOSConfig = {
            "name": "readgate",
            "system_database_url": url,
            "system_database_engine": engine,
            "application_version": APPLICATION_VERSION,
            "executor_id": settings.executor_id,
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "enable_otlp": False,
            "notification_listener_polling_interval_sec": settings.poll_seconds,
        }
        self._settings = settings
        logging.getLogger("dbos").setLevel(logging.WARNING)
        DBOS(config=config)
        self._jobs = _jobs_of_process()
        self._jobs.work_on(work)

    def start(self) -> None:
        """Work of this executor that a crash cut short goes on from here."""
        DBOS.launch()
        poll = self._settings.poll_seconds
        # A reader waits for a study; for a delivery nobody does. Looking three times as often costs a worker 1 % of a core.
        for queue, workers, seconds in ((STUDIES, self._settings.workers, min(poll, _STUDY_POLL_SECONDS)), (DELIVERIES, 2, poll)):
            DBOS.register_queue(queue, worker_concurrency=workers, polling_interval_sec=seconds, on_conflict="always_update")

    def stop(self) -> None:
        # The registry stays: a second runner in this process finds its workflows there.
        DBOS.destroy(workflow_completion_timeout_sec=_STOP_SECONDS)

    def process_study(self, received_study_pk: int, generation: int, attempt: int = 0) -> None:
        """The study is processed once per generation and `attempt` (how often it was put off), however often this is called."""
        with SetWorkflowID(study_workflow_id(received_study_pk, generation, attempt)):
            DBOS.enqueue_workflow(STUDIES, self._jobs.process_study, received_study_pk, generation)

    def deliver_report(self, delivery_pk: int, attempt: int, queued_at: str) -> None:
        """One attempt; the next one has another number."""
        with SetWorkflowID(delivery_workflow_id(delivery_pk, attempt, queued_at)):
            DBOS.enqueue_workflow(DELIVERIES, self._jobs.deliver_report, delivery_pk)

    def known_studies(self, jobs: Collection[StudyJob]) -> set[StudyJob]:
        """Those of `jobs` that were asked for before, by whichever process; asked together."""
        return _found(jobs)

    def dead_studies(self, jobs: Collection[StudyJob]) -> set[StudyJob]:
        """Those of `jobs` that ended without bringing their study anywhere; asked together."""
        return _found(jobs, sorted(_DEAD))

    def is_over(self, received_study_pk: int, generation: int, attempt: int = 0) -> bool:
        """Whether the workflow of this generation does nothing any more, however it ended."""
        status = DBOS.get_workflow_status(study_workflow_id(received_study_pk, generation, attempt))
        return status is not None and status.status in _OVER

    def is_delivery_dead(self, delivery_pk: int, attempt: int, queued_at: str) -> bool:
        """Whether the workflow of this attempt ended without saying how the attempt went."""
        return _is_dead(delivery_workflow_id(delivery_pk, attempt, queued_at))


def study_workflow_id(received_study_pk: int, generation: int, attempt: int) -> str:
    return f"study-{received_study_pk}-{generation}-{attempt}"


def delivery_workflow_id(delivery_pk: int, attempt: int, queued_at: str) -> str:
    return f"deliver-{delivery_pk}-{queued_at}-{attempt}"


def _found(jobs: Collection[StudyJob], status: list[str] | None = None) -> set[StudyJob]:
    by_name = {study_workflow_id(*job): job for job in jobs}
    names = sorted(by_name)
    return {
        by_name[found.workflow_id]
        for start in range(0, len(names), _NAMES_PER_QUERY)
        for found in DBOS.list_workflows(
            workflow_ids=names[start : start + _NAMES_PER_QUERY], status=status, load_input=False, load_output=False
        )
    }


def _is_dead(workflow_id: str) -> bool:
    status = DBOS.get_workflow_status(workflow_id)
    return status is not None and status.status in _DEAD


def _system_engine(url: str) -> Engine:
    """DBOS begins its own transactions; what it does not set is WAL and full synchronisation."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"check_same_thread": False, "timeout": 30})

    def configure(dbapi_connection: sqlite3.Connection, _record: object) -> None:
        log_ahead(dbapi_connection)
        # From Python 3.12 on DBOS asks for the time with the modifier of SQLite 3.42, whatever library that Python was built with: an older
        # one (that of Debian 12) answers NULL, and DBOS does not start.
        if sqlite3.sqlite_version_info < (3, 42):
            dbapi_connection.create_function("unixepoch", 1, _unix_time)

    event.listen(engine, "connect", configure)
    return engine


def _unix_time(modifier: str) -> float | int | None:
    return {"subsec": time.time(), "now": int(time.time())}.get(modifier)

"""Originals move to the vault while their study is still coming in, so that less is left to do after its last byte.

Nothing depends on it: what is not moved here the study's job moves (archiving.py). One worker at a time is at a study, a batch at a time,
and rests in between: the senders need the processor and the disk more.
"""

from __future__ import annotations

import threading

import structlog
from sqlmodel import col, func, select

from gateway.application import Application
from gateway.archiving import archive_some
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy

log = structlog.get_logger()
_REST_SECONDS = 0.25
_FAILED_SECONDS = 5.0
#: A batch is worth its pack and its sync from here on; the rest of a study waits for its job.
BYTES_MIN = 16 * 1024 * 1024


class ArchiveAhead:
    """One thread of a worker."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="archive-ahead", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The batch under way has come to its end, and the thread with it."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=60)

    def look(self) -> int:
        """One batch of each study that has enough waiting was moved; how many instances. Raises: IntegrityFailure, TemporarilyUnable."""
        with self._app.database.reading() as session:
            worth_it = session.exec(
                select(ReceivedInstance.received_study_pk)
                .join(ReceivedStudy, col(ReceivedStudy.received_study_pk) == ReceivedInstance.received_study_pk)
                .where(
                    ReceivedStudy.state == ReceivedState.RECEIVING,
                    # One that was shredded and comes again is its job's to hold.
                    col(ReceivedStudy.study_key_id).is_(None) | col(ReceivedStudy.wrapped_dek).is_not(None),
                    col(ReceivedInstance.pack_name).is_(None),
                    col(ReceivedInstance.is_duplicate).is_(False),
                )
                .group_by(col(ReceivedInstance.received_study_pk))
                .having(func.sum(ReceivedInstance.payload_bytes) >= BYTES_MIN)
            ).all()
        return sum(archive_some(self._app, pk) for pk in worth_it if not self._stopping.is_set())

    def _run(self) -> None:
        while not self._stopping.wait(_REST_SECONDS):
            try:
                self.look()
            except Exception as error:
                # The study's own job meets the same and says whose fault it is. Of a foreign error only its kind is no identity.
                log.warning("archive_ahead_failed", error=type(error).__name__)
                self._stopping.wait(_FAILED_SECONDS)

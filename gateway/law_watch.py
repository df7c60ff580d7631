"""The law while a process runs: the files and the record are looked at, and a change asks every right again at once.

Every process of a deployment has its own watch: what one brings into force, the others follow within seconds.
"""

from __future__ import annotations

import threading

import structlog

from compliance.law_in_force import law_in_force, require_successor
from crypto.errors import BadInput, Conflict, ReadgateError
from gateway.application import Application
from gateway.law_files import bring_law, configured_law, kept_law, law_signature, refuse_law
from gateway.register_effects import take_effect

log = structlog.get_logger()
WATCH_SECONDS = 2.0


def refresh_law(app: Application) -> bool:
    """`app.law` follows the files and the record; whether it changed. A refusal is an alert once, not at every look."""
    with app.database.reading() as session:
        standing = law_in_force(session)
    try:
        offered = configured_law(app.settings.law)
        require_successor(standing, offered)
        app.law_refusal = None
    except (BadInput, Conflict) as problem:
        if str(problem) != app.law_refusal:
            app.law_refusal = str(problem)
            refuse_law(app.database, str(problem), now=app.now())
        if standing is None:
            return False
        offered = kept_law(app.data, standing)
    if offered.digest == app.law.digest:
        return False
    bring_law(app.database, app.data, app.settings.law, offered, now=app.now())
    app.law = offered
    take_effect(app)
    return True


class LawWatch:
    """Looks at the law every `every_seconds`, and at once when `wake` is called (SIGHUP)."""

    def __init__(self, app: Application, every_seconds: float = WATCH_SECONDS) -> None:
        self._app, self._every_seconds = app, every_seconds
        self._awake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="law", daemon=True)
        self._seen = law_signature(app.settings.law)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._awake.set()

    def stop(self) -> None:
        self._stopping.set()
        self._awake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            is_asked = self._awake.wait(self._every_seconds)
            self._awake.clear()
            if self._stopping.is_set():
                return
            try:
                self._look(is_asked)
            except ReadgateError as error:
                log.warning("law_not_looked_at", error=type(error).__name__)
            except Exception as error:
                # The watch must outlive what it meets; the law in force stays.
                log.error("law_watch_failed", error=type(error).__name__)

    def _look(self, is_asked: bool) -> None:
        signature = law_signature(self._app.settings.law)
        with self._app.database.reading() as session:
            standing = law_in_force(session)
        is_elsewhere = standing is not None and standing.law_digest != self._app.law.digest
        if not (is_asked or is_elsewhere or signature != self._seen):
            return
        if refresh_law(self._app):
            log.info("law_changed", version=self._app.law.version)
        self._seen = signature

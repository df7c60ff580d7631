"""The diagnostic log: one formatter for everything, constant event names, and an allow-list of keys.

Invariants
- A line holds only keys of `KEYS` and only scalar values: whatever else somebody logs is dropped, and raises under pytest.
- Event names are constants in past tense (`instance_sealed`): no text is ever built from values.
- Of other people's libraries only the fact is told (logger, level, where): their messages may quote what they were given.
- Times are UTC. The log is for diagnosis and may be shipped; what must be proved stands in the audit log.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

#: Every key a line may hold. Original UIDs, names and file names of the hospital are identifiers and never among them.
KEYS = frozenset(
    {
        # what the formatter itself writes
        "event", "level", "timestamp", "logger", "where", "keys_dropped",
        # who and where: pseudonymous or technical
        "hospital_id", "calling_ae_title", "called_ae_title", "peer_address", "is_tls", "port", "role", "path", "principal_id",
        # which: row keys and pseudonymous UIDs
        "received_study_pk", "study_pk", "study_instance_uid", "procedure_step_uid", "report_uid", "delivery_pk", "item_pk", "segment_id",
        "pack_name", "entry_index", "sop_class_uid", "transfer_syntax_uid", "tag", "duty", "kind", "sink", "receiver", "process_id",
        # how much
        "instances", "contexts", "contexts_refused", "committed", "failed", "ended", "cut", "count", "size", "attempt", "version",
        "duration_seconds", "bytes", "exit_code", "attempts", "eligible",
        # how it went
        "state", "status", "reason", "reject", "source", "how", "error", "error_class", "command_field", "outcome",
    }
)  # fmt: skip
_EVENT = re.compile(r"[a-z][a-z0-9_]*")
_TEXT_LENGTH_MAX = 200
#: Libraries whose lines are noise or quote identifiers: nothing below this level becomes a line, and no message ever does.
_LIBRARY_LEVELS = {
    # LOG_REQUEST_IDENTIFIERS is on by default in pynetdicom and prints names at INFO; it says nothing here at all.
    "pynetdicom": logging.CRITICAL + 1,
    "pydicom": logging.CRITICAL + 1,
    "pyhanko": logging.ERROR,
    "pyhanko_certvalidator": logging.ERROR,
    "uvicorn": logging.WARNING,
    "uvicorn.access": logging.CRITICAL + 1,
    "dbos": logging.WARNING,
    "sqlalchemy": logging.WARNING,
    "alembic": logging.WARNING,
    "PIL": logging.CRITICAL + 1,
    "fontTools": logging.CRITICAL + 1,
}


class ForbiddenLogKey(AssertionError):
    """A test logged a key or an event that is not on the list."""


def configure_logs(*, as_json: bool, level: int = logging.INFO, stream: TextIO | None = None, strict: bool | None = None) -> None:
    """Every line of this process goes through the one formatter, to `stream` (default: stderr). May be called again.

    `strict` raises `ForbiddenLogKey` instead of dropping; by default it is on under pytest.
    """
    target: Any = stream if stream is not None else _StandardError()
    is_strict = strict if strict is not None else "PYTEST_VERSION" in os.environ
    renderer: Any = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=target.isatty())
    chain: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        AllowList(is_strict=is_strict),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*chain, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=target),
        cache_logger_on_first_use=False,
    )
    handler = _LibraryHandler()
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name, library_level in _LIBRARY_LEVELS.items():
        logger = logging.getLogger(name)
        # With a handler of ours in place dbos adds none of its own.
        logger.handlers[:], logger.propagate = [handler], False
        logger.setLevel(library_level)


class _StandardError:
    """Whatever stderr is at the moment of writing: it may be replaced after the log was configured, and the old one closed."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


class AllowList:
    """Keeps what `KEYS` names, with scalar values of bounded length; drops the rest, or raises."""

    def __init__(self, *, is_strict: bool) -> None:
        self._is_strict = is_strict

    def __call__(self, _logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event = line.get("event")
        if not isinstance(event, str) or not _EVENT.fullmatch(event):
            if self._is_strict:
                raise ForbiddenLogKey("an event is a constant name in lower case")
            line["event"] = "unnamed_event"
        dropped = [key for key, value in line.items() if key not in KEYS or not isinstance(value, str | int | float | bool | None)]
        if dropped and self._is_strict:
            raise ForbiddenLogKey(f"not on the list of gateway/logs.py, or no scalar: {', '.join(sorted(dropped))}")
        for key in dropped:
            del line[key]
        for key, value in line.items():
            if isinstance(value, str) and len(value) > _TEXT_LENGTH_MAX:
                line[key] = value[:_TEXT_LENGTH_MAX]
        if dropped:
            line["keys_dropped"] = len(dropped)
        return line


class _LibraryHandler(logging.Handler):
    """Turns a line of another library into ours: that there was one, of which level, and where in its code."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger()
        facts = {"logger": record.name, "where": f"{record.module}:{record.lineno}"}
        if record.exc_info and record.exc_info[0] is not None:
            facts["error"] = record.exc_info[0].__name__
        if record.levelno >= logging.ERROR:
            log.error("library_failed", **facts)
        else:
            log.warning("library_warned", **facts)

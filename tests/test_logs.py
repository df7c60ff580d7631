"""The diagnostic log: what the sources log is on the list, what is not is dropped, and libraries' words never come through."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from gateway.logs import KEYS, ForbiddenLogKey, configure_logs

ROOT = Path(__file__).resolve().parents[1]
METHODS = {"debug", "info", "warning", "error", "exception", "critical", "bind"}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def calls() -> Iterator[tuple[str, ast.Call]]:
    for package in ("crypto", "compliance", "worklist", "reporting", "gateway"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr not in METHODS:
                    continue
                if ast.unparse(node.func.value) in ("log", "self._log", "structlog.get_logger()"):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_every_key_and_event_in_the_sources_is_on_the_list() -> None:
    found = 0
    for where, call in calls():
        found += 1
        assert {keyword.arg for keyword in call.keywords if keyword.arg is not None} <= KEYS, where
        if call.args and isinstance(call.args[0], ast.Constant):
            assert re.fullmatch(r"[a-z][a-z0-9_]*", str(call.args[0].value)), where
    assert found > 30


def test_other_keys_are_dropped_and_counted() -> None:
    stream = io.StringIO()
    configure_logs(as_json=True, stream=stream, strict=False)
    log = structlog.get_logger()
    log.info("instance_sealed", hospital_id="h1", patient_name="Mustermann", reason={"a": 1})
    log.info(f"sealed for {'Mustermann'}")
    assert "Mustermann" not in stream.getvalue()
    assert [(line["event"], line.get("keys_dropped")) for line in lines(stream)] == [("instance_sealed", 2), ("unnamed_event", None)]
    assert str(lines(stream)[0]["timestamp"]).endswith("Z")


def test_a_test_that_logs_another_key_fails() -> None:
    configure_logs(as_json=True, stream=io.StringIO())
    with pytest.raises(ForbiddenLogKey, match="patient_name"):
        structlog.get_logger().info("instance_sealed", patient_name="x")
    with pytest.raises(ForbiddenLogKey):
        structlog.get_logger().info("Instance sealed")


def test_of_libraries_only_the_fact_is_told() -> None:
    stream = io.StringIO()
    configure_logs(as_json=True, stream=stream)
    for name in ("pynetdicom.acse", "pyhanko.sign", "uvicorn.error", "dbos", "sqlalchemy.engine", "somebody.else"):
        logger = logging.getLogger(name)
        logger.info("C-STORE of Mustermann^Erika")
        logger.error("cannot send Mustermann^Erika")
    assert "Mustermann" not in stream.getvalue()
    assert {str(line["logger"]) for line in lines(stream)} == {
        "pyhanko.sign",
        "uvicorn.error",
        "dbos",
        "sqlalchemy.engine",
        "somebody.else",
    }
    assert {line["event"] for line in lines(stream)} == {"library_failed"}

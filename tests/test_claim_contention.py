"""Many who claim, route and hold at once: on both databases one holder, one step and no more than the limit."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import AuditEntry, EventType
from compliance.database import Database
from compliance.hospital import Hospital
from crypto.errors import Conflict, NotAllowed
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.reading_rows import HOSPITAL, ReadingRows, rows_at
from worklist.claim import OPEN_CLAIMS_MAX
from worklist.procedure_step import State
from worklist.routing import route

_CONTENDERS = 200


def _claims_at_once(rows: ReadingRows, url: str) -> None:
    readers = [f"r{number}" for number in range(1, _CONTENDERS + 1)]
    rows.add_site(*readers)
    step_uid = rows.routed()
    start, outcomes = threading.Barrier(_CONTENDERS), dict[str, str]()

    def want(reader_id: str) -> None:
        database = Database(url)
        try:
            with database.reading() as session:
                session.get(Hospital, HOSPITAL)
            start.wait(60)
            rows.claim(step_uid, reader_id, database)
            outcomes[reader_id] = "held"
        except Conflict as refused:
            outcomes[reader_id] = refused.reason_code
        finally:
            database.close()

    threads = [threading.Thread(target=want, args=(reader_id,)) for reader_id in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert Counter(outcomes.values()) == {"held": 1, "ALREADY_IN_PROGRESS": _CONTENDERS - 1}
    step = rows.step(step_uid)
    assert outcomes[step.claiming_reader_id or ""] == "held" and step.state == State.IN_PROGRESS
    with rows.database.reading() as session:
        claimed = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.CLAIM)).all()
    assert [(entry.actor, entry.outcome) for entry in claimed] == [(step.claiming_reader_id, "0")]
    verified = rows.verified_log()
    assert verified.is_sound, verified.findings


def test_200_concurrent_claims_leave_one_holder_on_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'readgate.sqlite3'}"
    with rows_at(url) as rows:
        _claims_at_once(rows, url)


@pytest.mark.interop
def test_200_concurrent_claims_leave_one_holder_on_postgresql(postgres_url: str) -> None:  # noqa: F811
    with rows_at(postgres_url) as rows:
        _claims_at_once(rows, postgres_url)


@pytest.mark.interop
def test_workers_that_route_one_study_at_once_make_one_step(postgres_url: str) -> None:  # noqa: F811
    with rows_at(postgres_url) as rows:
        rows.add_site("r1", "r2")
        study, start = rows.add_study(), threading.Barrier(8)
        made: list[bool] = []

        def work() -> None:
            database = Database(postgres_url)
            with database.reading() as session:
                session.get(Hospital, HOSPITAL)
            start.wait(60)
            with database.transaction() as session:
                made.append(route(session, rows.law, study, now=rows.at, new_uid=rows.new_uid).is_new)
            database.close()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(made) == [False] * 7 + [True]
        assert rows.verified_log().is_sound


@pytest.mark.interop
def test_claims_of_one_reader_at_once_do_not_pass_the_limit(postgres_url: str) -> None:  # noqa: F811
    with rows_at(postgres_url) as rows:
        rows.add_site("r1")
        steps = [rows.routed(patient=f"P{number}") for number in range(3 * OPEN_CLAIMS_MAX)]
        start, refused = threading.Barrier(len(steps)), list[str]()

        def want(step_uid: str) -> None:
            database = Database(postgres_url)
            with database.reading() as session:
                session.get(Hospital, HOSPITAL)
            start.wait(60)
            try:
                rows.claim(step_uid, "r1", database)
            except NotAllowed as error:
                refused.append(error.reason_code)
            database.close()

        threads = [threading.Thread(target=want, args=(step_uid,)) for step_uid in steps]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert refused == ["TOO_MANY_OPEN_CLAIMS"] * 2 * OPEN_CLAIMS_MAX
        assert sum(rows.step(step_uid).state == State.IN_PROGRESS for step_uid in steps) == OPEN_CLAIMS_MAX

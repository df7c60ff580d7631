"""What two do at once on PostgreSQL comes out as if one had come after the other, or one of them is asked to try again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlmodel import Session, select

from compliance import order as order_module
from compliance.crosswalk import PatientLink, ensure_patient
from compliance.database import Database
from compliance.order import Order, file_order
from crypto.errors import NotAllowed, TemporarilyUnable
from crypto.keys import FileKeyStore
from gateway.schema import migrate
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.reading_rows import HOSPITAL, ReadingRows
from worklist import claim as claim_module
from worklist.claim import OPEN_CLAIMS_MAX

pytestmark = pytest.mark.interop


@pytest.fixture
def rows(postgres_url: str) -> Iterator[ReadingRows]:  # noqa: F811
    database = Database(postgres_url)
    migrate(database)
    made = ReadingRows(database)
    made.add_site("r1", "r2")
    yield made
    database.close()


def _at_once(acts: list[Callable[[], object]]) -> list[object]:
    """What each came to: its result, or its error's class."""
    outcomes: list[object] = [None] * len(acts)

    def run(number: int) -> None:
        try:
            outcomes[number] = acts[number]()
        except Exception as error:
            outcomes[number] = type(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(acts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


@contextmanager
def _met_after(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, count: int) -> Iterator[None]:
    """Callers of `owner.name` wait for each other with its result in their hands, or go on alone after a moment."""
    real, barrier = getattr(owner, name), threading.Barrier(count)

    def waiting(*args: Any, **kwargs: Any) -> Any:
        result = real(*args, **kwargs)
        with suppress(threading.BrokenBarrierError):
            barrier.wait(2)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, waiting)
        yield


def test_new_patient_of_two_studies_at_once_has_one_pseudonym(
    rows: ReadingRows, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = FileKeyStore(tmp_path_factory.mktemp("keys"))
    keys.create_kek(HOSPITAL)
    from compliance import crosswalk

    def ensure() -> str:
        with rows.database.transaction() as session:
            return ensure_patient(session, keys, HOSPITAL, "PATIENT", "", now=rows.at)[0]

    with _met_after(monkeypatch, crosswalk, "canonical_json", 2):
        outcomes = _at_once([ensure, ensure])
    assert TemporarilyUnable in outcomes
    assert ensure() in outcomes and len(ensure()) == len("RG-") + 20
    with rows.database.reading() as session:
        assert len(session.exec(select(PatientLink)).all()) == 1


def test_same_order_twice_at_once_is_filed_once(
    rows: ReadingRows, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = FileKeyStore(tmp_path_factory.mktemp("keys"))
    keys.create_kek(HOSPITAL)

    def file() -> str:
        with rows.database.transaction() as session:
            return file_order(
                session, keys, HOSPITAL, "ACC-1", {"indication": "x"}, priority="HIGH", expected_instances=None, now=rows.at
            ).priority

    with _met_after(monkeypatch, order_module, "seal_small", 2), _met_after(monkeypatch, Session, "get", 2):
        outcomes = _at_once([file, file])
    assert sorted(map(str, outcomes)) == sorted(map(str, ["HIGH", TemporarilyUnable]))
    assert file() == "HIGH"
    with rows.database.reading() as session:
        assert len(session.exec(select(Order)).all()) == 1


def test_reader_who_claims_at_once_holds_no_more_than_the_limit(rows: ReadingRows, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [rows.routed(patient=f"P{number}") for number in range(OPEN_CLAIMS_MAX + 2)]
    with _met_after(monkeypatch, claim_module, "held_steps", len(steps)):
        outcomes = _at_once([lambda uid=uid: rows.claim(uid).procedure_step_uid for uid in steps])  # type: ignore[misc]
    assert outcomes.count(NotAllowed) == 2, outcomes
    assert sum(rows.step(uid).claiming_reader_id == "r1" for uid in steps) == OPEN_CLAIMS_MAX

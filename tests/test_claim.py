"""Exactly one reader holds a study: the states of PS3.4 CC, the lease, what ends it, and 200 who want the same one at once."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType
from compliance.credential import Consent, Credential, Evidence
from compliance.database import Database
from compliance.hospital import Hospital
from crypto.errors import Conflict, NotAllowed, NotFound
from gateway.schema import migrate
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.reading_rows import HOSPITAL, ReadingRows, login_of
from worklist.addendum import begin_addendum
from worklist.claim import LEASE_MINUTES, OPEN_CLAIMS_MAX, expire_leases, heartbeat, release, require_claim
from worklist.procedure_step import TRANSITION_TABLE, State, require_transition
from worklist.revocation import revoke_ended_rights
from worklist.routing import route
from worklist.view_grant import GRANT_MINUTES, standing_grants

# --- PS3.4 Table CC.1.1-2 -----------------------------------------------------------------------------------------------------

#: N-ACTION rows of the table that Readgate has (requests to cancel somebody else's step are none of its acts): requested state, whether
#: the request shows the right Transaction UID, and the cell under SCHEDULED, IN PROGRESS, COMPLETED, CANCELED.
_TABLE = """
IN PROGRESS | with    | to   | C302 | C300 | C300
IN PROGRESS | without | C301 | C301 | C301 | C301
SCHEDULED   | with    | C303 | C303 | C303 | C303
SCHEDULED   | without | C303 | C303 | C303 | C303
COMPLETED   | with    | C310 | to   | B306 | C300
COMPLETED   | without | C301 | C301 | C301 | C301
CANCELED    | with    | C310 | to   | C300 | B304
CANCELED    | without | C301 | C301 | C301 | C301
"""
_COLUMNS = ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")


def _cells() -> list[tuple[str, str, bool, str]]:
    cells = []
    for line in _TABLE.strip().splitlines():
        requested, shown, *row = (part.strip() for part in line.split("|"))
        cells += [(present, requested, shown == "with", cell) for present, cell in zip(_COLUMNS, row, strict=True)]
    return cells


@pytest.mark.parametrize(
    ("present", "requested", "is_right", "cell"), _cells(), ids=[f"{p}-to-{r}-{'right' if i else 'wrong'}-uid" for p, r, i, _ in _cells()]
)
def test_transition_is_that_of_table_cc_1_1_2(present: str, requested: str, is_right: bool, cell: str) -> None:
    transition = TRANSITION_TABLE[State(present), State(requested), is_right]
    assert transition.is_allowed == (cell == "to")
    assert transition.status == (0 if cell == "to" else int(cell, 16))
    if cell == "to":
        require_transition(State(present), State(requested), is_transaction_uid_right=is_right)
    else:
        with pytest.raises(Conflict) as refused:
            require_transition(State(present), State(requested), is_transaction_uid_right=is_right)
        assert refused.value.reason_code == transition.reason


def test_table_has_no_other_cells() -> None:
    assert len(TRANSITION_TABLE) == len(_cells()) == 32


# --- one holder ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a site with two readers, made once."""
    path = tmp_path_factory.mktemp("rows") / "readgate.sqlite3"
    with _rows(f"sqlite:///{path}") as made:
        made.add_site("r1", "r2")
    return path


@pytest.fixture
def rows(tmp_path: Path, site_file: Path) -> Iterator[ReadingRows]:
    shutil.copy(site_file, tmp_path / "readgate.sqlite3")
    database = Database(f"sqlite:///{tmp_path / 'readgate.sqlite3'}")
    yield ReadingRows(database)
    database.close()


@contextmanager
def _rows(url: str) -> Iterator[ReadingRows]:
    database = Database(url)
    migrate(database)
    try:
        yield ReadingRows(database)
    finally:
        database.close()


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
    with _rows(url) as rows:
        _claims_at_once(rows, url)


@pytest.mark.interop
def test_200_concurrent_claims_leave_one_holder_on_postgresql(postgres_url: str) -> None:  # noqa: F811
    with _rows(postgres_url) as rows:
        _claims_at_once(rows, postgres_url)


@pytest.mark.interop
def test_workers_that_route_one_study_at_once_make_one_step(postgres_url: str) -> None:  # noqa: F811
    with _rows(postgres_url) as rows:
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


def test_second_claim_is_refused_and_first_keeps_the_step(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    first = rows.claim(step_uid)
    before = rows.step(step_uid)
    with pytest.raises(Conflict):
        rows.claim(step_uid, "r2")
    assert rows.step(step_uid) == before and first.lease_expires_at == rows.at + timedelta(minutes=LEASE_MINUTES)


def test_refused_claim_is_on_record_and_leaves_the_step_on_the_list(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    _lapse_licence(rows)
    with pytest.raises(NotAllowed):
        rows.claim(step_uid)
    assert rows.step(step_uid).state == State.SCHEDULED
    with rows.database.reading() as session:
        entries = session.exec(select(AuditEntry).where(AuditEntry.actor == "r1").order_by(col(AuditEntry.entry_index))).all()
    assert [(entry.event_type, entry.outcome) for entry in entries[-2:]] == [
        (EventType.DECIDE, entries[-2].outcome),
        (EventType.CLAIM, "8"),
    ]
    assert entries[-1].detail["refused"]


def test_too_many_open_claims_are_refused(rows: ReadingRows) -> None:
    steps = [rows.routed(patient=f"P{number}") for number in range(OPEN_CLAIMS_MAX + 1)]
    for step_uid in steps[:-1]:
        rows.claim(step_uid)
    with pytest.raises(NotAllowed) as refused:
        rows.claim(steps[-1])
    assert refused.value.reason_code == "TOO_MANY_OPEN_CLAIMS"
    assert rows.step(steps[-1]).state == State.SCHEDULED


@pytest.mark.interop
def test_claims_of_one_reader_at_once_do_not_pass_the_limit(postgres_url: str) -> None:  # noqa: F811
    with _rows(postgres_url) as rows:
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


def test_claim_without_a_login_or_in_somebody_elses_is_refused(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    rows.observe(ended_at=rows.at)
    with pytest.raises(NotAllowed) as refused:
        rows.claim(step_uid)
    assert refused.value.reason_code == "SESSION_ENDED"
    with pytest.raises(NotFound):
        rows.claim("2.25.1")


def test_routing_twice_makes_one_step(rows: ReadingRows) -> None:
    study = rows.add_study()
    made = []
    for _ in range(2):
        with rows.database.transaction() as session:
            made.append(route(session, rows.law, study, now=rows.at, new_uid=rows.new_uid))
    assert made[0].procedure_step_uid == made[1].procedure_step_uid and [one.is_new for one in made] == [True, False]
    assert made[0].eligible == made[1].eligible == ["r1", "r2"]


# --- the lease ----------------------------------------------------------------------------------------------------------------


def test_heartbeat_carries_the_lease_on_and_never_beyond_the_login(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    rows.claim(step_uid)
    rows.forward(minutes=10)
    rows.observe()
    assert _beat(rows, step_uid) == rows.at + timedelta(minutes=LEASE_MINUTES)
    rows.observe(expires_at=rows.at + timedelta(minutes=3))
    assert _beat(rows, step_uid) == rows.at + timedelta(minutes=3)
    with pytest.raises(NotAllowed):
        _beat(rows, step_uid, "r2")


def test_lease_that_ran_out_makes_a_successor_with_the_old_deadline(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    rows.claim(step_uid)
    deadline = rows.step(step_uid).expected_completion_at
    rows.forward(minutes=LEASE_MINUTES - 1)
    rows.observe()
    assert expire_leases(rows.database, now=rows.at, new_uid=rows.new_uid) == []
    rows.forward(minutes=1)
    rows.observe()
    with pytest.raises(NotAllowed):
        _beat(rows, step_uid)
    assert expire_leases(rows.database, now=rows.at, new_uid=rows.new_uid) == [step_uid]
    ended, (successor,) = rows.step(step_uid), rows.successors(step_uid)
    assert (ended.state, ended.cancellation_reason, ended.ended_at) == (State.CANCELED, "LEASE_EXPIRED", rows.at)
    assert (successor.state, successor.expected_completion_at, successor.priority) == (State.SCHEDULED, deadline, ended.priority)
    assert expire_leases(rows.database, now=rows.at, new_uid=rows.new_uid) == []
    assert rows.claim(successor.procedure_step_uid, "r2").procedure_step_uid == successor.procedure_step_uid


def test_release_puts_a_successor_on_the_list(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    rows.claim(step_uid)
    deadline = rows.step(step_uid).expected_completion_at
    rows.forward(minutes=5)
    with pytest.raises(NotAllowed):
        _release(rows, step_uid, "r2")
    successor_uid = _release(rows, step_uid)
    assert rows.step(step_uid).cancellation_reason == "RELEASED_BY_READER"
    assert (rows.step(successor_uid).state, rows.step(successor_uid).expected_completion_at) == (State.SCHEDULED, deadline)
    with pytest.raises(NotAllowed):
        _release(rows, step_uid)
    assert rows.verified_log().is_sound


@pytest.mark.parametrize("how", ["logged out", "expired", "idle"])
def test_end_of_the_login_ends_the_claim(rows: ReadingRows, how: str) -> None:
    step_uid = rows.routed()
    rows.claim(step_uid)
    rows.open_view(step_uid)
    rows.forward(minutes=1)
    if how == "logged out":
        rows.observe(ended_at=rows.at)
    elif how == "expired":
        rows.observe(expires_at=rows.at)
    else:
        rows.observe(active_at=rows.at - timedelta(minutes=31))
    with rows.database.reading() as session:
        assert standing_grants(session, reader_id="r1", login_digest=login_of("r1"), now=rows.at) == []
    with pytest.raises(NotAllowed), rows.database.transaction() as session:
        require_claim(session, step_uid, "r1", login_of("r1"), now=rows.at)
    assert expire_leases(rows.database, now=rows.at, new_uid=rows.new_uid) == [step_uid]
    assert [step.state for step in rows.successors(step_uid)] == [State.SCHEDULED]


def test_claim_does_not_pass_to_another_login_of_the_same_reader(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    rows.claim(step_uid)
    with pytest.raises(NotAllowed), rows.database.transaction() as session:
        require_claim(session, step_uid, "r1", "another-login", now=rows.at)


# --- rights that end ----------------------------------------------------------------------------------------------------------


def _lapse_licence(rows: ReadingRows) -> None:
    with rows.database.transaction() as session:
        licence = session.exec(select(Credential).where(Credential.reader_id == "r1", Credential.kind == "LICENCE")).one()
        licence.expires_at = rows.at - timedelta(seconds=1)
        session.add(licence)


def _withdraw_evidence(rows: ReadingRows) -> None:
    with rows.database.transaction() as session:
        evidence = session.exec(select(Evidence)).one()
        evidence.withdrawn_at = rows.at
        session.add(evidence)


def _withdraw_consent(rows: ReadingRows) -> None:
    with rows.database.transaction() as session:
        session.add(
            Consent(
                hospital_id=HOSPITAL,
                patient_pseudonym="PSEUDONYM-1",
                status="WITHDRAWN",
                kind="SHARING",
                version=1,
                given_at=rows.at - timedelta(days=9),
                withdrawn_at=rows.at,
                recorded_at=rows.at,
            )
        )


@pytest.mark.parametrize("end_right", [_lapse_licence, _withdraw_evidence, _withdraw_consent])
def test_right_that_ended_ends_claim_and_grants(rows: ReadingRows, end_right: Callable[[ReadingRows], None]) -> None:
    step_uid = rows.routed()
    deadline = rows.step(step_uid).expected_completion_at
    rows.claim(step_uid)
    rows.open_view(step_uid)
    assert revoke_ended_rights(rows.database, rows.law, now=rows.at, new_uid=rows.new_uid) == {}
    rows.forward(seconds=30)
    rows.observe()
    end_right(rows)
    ended = revoke_ended_rights(rows.database, rows.law, now=rows.at, new_uid=rows.new_uid)
    assert set(ended) == {step_uid} and ended[step_uid]
    step, (successor,) = rows.step(step_uid), rows.successors(step_uid)
    assert (step.state, step.cancellation_reason) == (State.CANCELED, ended[step_uid])
    assert (successor.state, successor.expected_completion_at) == (State.SCHEDULED, deadline)
    with rows.database.reading() as session:
        assert standing_grants(session, reader_id="r1", login_digest=login_of("r1"), now=rows.at) == []
        entries = session.exec(select(AuditEntry.event_type).where(AuditEntry.actor == "readgate/revoke")).all()
    assert entries == [EventType.DECIDE, EventType.REVOKE]
    assert revoke_ended_rights(rows.database, rows.law, now=rows.at, new_uid=rows.new_uid) == {}
    with pytest.raises(NotAllowed):
        _beat(rows, step_uid)
    assert rows.verified_log().is_sound


def test_reader_whose_address_was_not_observed_lately_is_not_revoked(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    rows.claim(step_uid)
    rows.forward(minutes=LEASE_MINUTES - 1)
    assert revoke_ended_rights(rows.database, rows.law, now=rows.at, new_uid=rows.new_uid) == {}
    assert rows.step(step_uid).state == State.IN_PROGRESS


# --- view grants --------------------------------------------------------------------------------------------------------------


def test_grants_are_the_claimed_study_and_the_priors_that_were_decided(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    prior, other = rows.add_study(), rows.add_study(patient="PSEUDONYM-2")
    restricted = rows.add_study(modality="MG")
    with rows.database.transaction() as session:
        privilege = session.exec(select(Credential).where(Credential.reader_id == "r1", Credential.kind == "PRIVILEGE")).one()
        privilege.claim = {**privilege.claim, "modalities": ["CT"]}
        session.add(privilege)
    with pytest.raises(NotAllowed):
        rows.open_view(step_uid)
    rows.claim(step_uid)
    grants = rows.open_view(step_uid)
    assert [(grant.study_pk, grant.object_kind) for grant in grants] == [
        (rows.step(step_uid).study_pk, "CURRENT"),
        (prior.study_pk, "PRIOR"),
    ]
    with rows.database.reading() as session:
        standing = standing_grants(session, reader_id="r1", login_digest=login_of("r1"), now=rows.at)
        assert not standing_grants(session, reader_id="r2", login_digest=login_of("r2"), now=rows.at)
    assert {grant.study_pk for grant in standing} == {rows.step(step_uid).study_pk, prior.study_pk}
    assert not {other.study_pk, restricted.study_pk} & {grant.study_pk for grant in standing}


def test_grant_ends_with_its_time_and_is_decided_anew(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    rows.claim(step_uid)
    (grant,) = rows.open_view(step_uid)
    assert grant.valid_until <= rows.at + timedelta(minutes=GRANT_MINUTES)
    rows.forward(minutes=LEASE_MINUTES - 1)
    rows.observe()
    _beat(rows, step_uid)
    rows.at = grant.valid_until
    with rows.database.reading() as session:
        assert standing_grants(session, reader_id="r1", login_digest=login_of("r1"), now=rows.at) == []
    rows.observe()
    _lapse_licence(rows)
    with pytest.raises(NotAllowed):
        rows.open_view(step_uid)
    with rows.database.reading() as session:
        opened = session.exec(select(AuditEntry.outcome).where(AuditEntry.event_type == EventType.OPEN)).all()
    assert opened == ["0", "8"]


# --- addendum -----------------------------------------------------------------------------------------------------------------


def test_abandoned_addendum_leaves_no_successor_and_is_only_for_the_reader_of_the_report(rows: ReadingRows) -> None:
    step_uid = rows.routed()
    rows.claim(step_uid)
    with rows.database.transaction() as session:
        step = require_claim(session, step_uid, "r1", login_of("r1"), now=rows.at)
        step.state, step.ended_at = State.COMPLETED, rows.at
        session.add(step)

    def begin(reader_id: str) -> str:
        return begin_addendum(
            rows.database,
            rows.law,
            completed_step_uid=step_uid,
            reader_id=reader_id,
            login_digest=login_of(reader_id),
            transaction_uid_of=lambda uid: f"{uid}.1",
            now=rows.at,
            new_uid=rows.new_uid,
        ).procedure_step_uid

    with pytest.raises(NotAllowed):
        begin("r2")
    addendum_uid = begin("r1")
    addendum = rows.step(addendum_uid)
    assert (addendum.state, addendum.is_addendum, addendum.predecessor_uid) == (State.IN_PROGRESS, True, step_uid)
    with pytest.raises(Conflict):
        begin("r1")
    assert _release(rows, addendum_uid) == ""
    assert rows.successors(addendum_uid) == [] and rows.step(addendum_uid).state == State.CANCELED
    assert begin("r1") != addendum_uid


def _beat(rows: ReadingRows, step_uid: str, reader_id: str = "r1") -> object:
    return heartbeat(rows.database, procedure_step_uid=step_uid, reader_id=reader_id, login_digest=login_of(reader_id), now=rows.at)


def _release(rows: ReadingRows, step_uid: str, reader_id: str = "r1") -> str:
    return release(
        rows.database,
        procedure_step_uid=step_uid,
        reader_id=reader_id,
        login_digest=login_of(reader_id),
        now=rows.at,
        new_uid=rows.new_uid,
    )

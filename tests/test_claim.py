"""Exactly one reader holds a study: the states of PS3.4 CC, the lease, what ends it, and 200 who want the same one at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType
from compliance.credential import Consent, Credential, Evidence
from compliance.database import Database
from crypto.errors import Conflict, NotAllowed, NotFound
from tests.postgres_server import postgres_server, postgres_url  # noqa: F401 (fixtures)
from tests.reading_rows import HOSPITAL, ReadingRows, login_of, rows_at
from worklist.addendum import begin_addendum
from worklist.claim import LEASE_MINUTES, OPEN_CLAIMS_MAX, expire_leases, heartbeat, release, require_claim
from worklist.procedure_step import State
from worklist.revocation import revoke_ended_rights
from worklist.routing import route
from worklist.view_grant import GRANT_MINUTES, standing_grants

# --- one holder ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a site with two readers, made once."""
    path = tmp_path_factory.mktemp("rows") / "readgate.sqlite3"
    with rows_at(f"sqlite:///{path}") as made:
        made.add_site("r1", "r2")
    return path


@pytest.fixture
def rows(tmp_path: Path, site_file: Path) -> Iterator[ReadingRows]:
    shutil.copy(site_file, tmp_path / "readgate.sqlite3")
    database = Database(f"sqlite:///{tmp_path / 'readgate.sqlite3'}")
    yield ReadingRows(database)
    database.close()


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

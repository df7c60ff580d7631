"""A prior is shown only as long as its own right lasts; the reading goes on without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from compliance.audit import AuditEntry, EventType
from compliance.credential import Credential
from compliance.database import Database
from gateway.schema import migrate
from tests.reading_rows import ReadingRows, login_of
from worklist.procedure_step import State
from worklist.revocation import revoke_ended_rights
from worklist.view_grant import standing_grants


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[ReadingRows]:
    database = Database(f"sqlite:///{tmp_path / 'readgate.sqlite3'}")
    migrate(database)
    made = ReadingRows(database)
    made.add_site("r1", "r2")
    yield made
    database.close()


def _shown(rows: ReadingRows) -> set[int]:
    with rows.database.reading() as session:
        return {grant.study_pk for grant in standing_grants(session, reader_id="r1", login_digest=login_of("r1"), now=rows.at)}


def test_prior_whose_right_ended_is_closed_and_the_claim_stays(rows: ReadingRows) -> None:
    mammogram, earlier = rows.add_study(modality="MG"), rows.add_study()
    step_uid = rows.routed()
    rows.claim(step_uid)
    rows.open_view(step_uid)
    own = rows.step(step_uid).study_pk
    assert _shown(rows) == {own, mammogram.study_pk, earlier.study_pk}
    assert revoke_ended_rights(rows.database, rows.law, now=rows.at, new_uid=rows.new_uid) == {}
    assert _shown(rows) == {own, mammogram.study_pk, earlier.study_pk}
    rows.forward(seconds=10)
    rows.observe()
    with rows.database.transaction() as session:
        privilege = session.exec(select(Credential).where(Credential.reader_id == "r1", Credential.kind == "PRIVILEGE")).one()
        privilege.claim = {**privilege.claim, "modalities": ["CT"]}
        session.add(privilege)
    for _ in range(2):
        assert revoke_ended_rights(rows.database, rows.law, now=rows.at, new_uid=rows.new_uid) == {}
    assert _shown(rows) == {own, earlier.study_pk}
    assert rows.step(step_uid).state == State.IN_PROGRESS
    with rows.database.reading() as session:
        revoked = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.REVOKE)).all()
    assert [(entry.study_instance_uid, entry.detail["prior"]) for entry in revoked] == [(mammogram.study_instance_uid, True)]
    assert rows.verified_log().is_sound

"""What a reader writes when giving a study back stands on the step, for whoever takes it next, and not in the log."""

from __future__ import annotations

from pathlib import Path

from sqlmodel import select

from compliance.audit import AuditEntry, EventType
from compliance.database import Database
from gateway.schema import migrate
from tests.reading_rows import ReadingRows, login_of
from worklist.claim import release


def test_log_of_a_release_has_the_code_alone(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'readgate.sqlite3'}")
    migrate(database)
    rows = ReadingRows(database)
    rows.add_site("r1", "r2")
    step_uid, stated = rows.routed(), "RELEASED_BY_READER: I know Mrs Gruenwald"
    rows.claim(step_uid)
    release(
        database, procedure_step_uid=step_uid, reader_id="r1", login_digest=login_of("r1"), now=rows.at, new_uid=rows.new_uid, reason=stated
    )
    assert rows.step(step_uid).cancellation_reason == stated
    with database.reading() as session:
        (entry,) = session.exec(select(AuditEntry).where(AuditEntry.event_type == EventType.RELEASE)).all()
    assert entry.detail["reason"] == "RELEASED_BY_READER"
    assert rows.verified_log().is_sound
    database.close()

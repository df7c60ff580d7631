"""The recorded decisions of a period, as `readgate replay` and `readgate law simulate` take them. The reading is an entry of the log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from sqlmodel import col, select

from compliance.decision_log import DecisionRow
from gateway.console import actor, deployment
from gateway.register_note import note_export

_PER_READ = 1000


def decisions_of_period(data: Path, since: datetime | None, until: datetime | None) -> Iterator[tuple[str, str]]:
    """(digest, document) of each decision from `since` on and before `until`, in the order of their digests."""
    period = []
    if since is not None:
        period.append(col(DecisionRow.decided_at) >= since)
    if until is not None:
        period.append(col(DecisionRow.decided_at) < until)
    after, count = "", 0
    with deployment(data) as app:
        while True:
            with app.database.reading() as session:
                query = select(DecisionRow.digest, DecisionRow.document).where(col(DecisionRow.digest) > after, *period)
                rows = session.exec(query.order_by(col(DecisionRow.digest)).limit(_PER_READ)).all()
            if not rows:
                break
            yield from rows
            after, count = rows[-1][0], count + len(rows)
        with app.database.transaction() as session:
            note_export(session, app.now(), actor(), "decisions", count, None)

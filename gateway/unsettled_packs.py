"""Packs of the vault that no row names: about to be named, left by a crash, or given up. A duty of the worker deletes what stays that way.

Invariants
- A pack's row here is committed before the pack is put, and goes in the transaction that writes the rows that name the pack.
- A pack is deleted only after it was condemned, in a transaction of its own; rows cannot be settled on a condemned pack. So however long
  a job takes, either its rows name a pack that stays, or it finds the pack condemned and does its work again.
- What stands in no row here is never deleted: after a restore of the database from a backup it may be the only copy of something.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from sqlmodel import Field, Session, SQLModel, col, exists, select

from compliance import audit
from compliance.database import Database, UtcDateTime
from compliance.study import Instance, Series
from crypto.errors import TemporarilyUnable
from crypto.keys import StudyKey
from crypto.vault import SealedObject, Vault
from gateway.received import ReceivedInstance

if TYPE_CHECKING:
    from gateway.application import Application

log = structlog.get_logger()
#: Longer than any job, and than any reader's range read of a pack that was replaced.
GRACE = timedelta(hours=1)
ACTOR = "readgate/worker"


class UnsettledPack(SQLModel, table=True):
    """A pack that may exist and that no row names yet, or any more."""

    __tablename__ = "unsettled_pack"
    pack_name: str = Field(primary_key=True, max_length=64)
    since_at: datetime = Field(sa_type=UtcDateTime, index=True)
    #: It is being deleted: nothing may name it from here on.
    is_condemned: bool = False


def seal_unsettled(app: Application, study_key: StudyKey, items: Iterable[tuple[str, bytes]]) -> list[SealedObject]:
    """As `Vault.seal`; if we crash from here on, what was put is known and reclaimed. Raises: TemporarilyUnable."""

    def announce(pack_name: str) -> None:
        with app.database.transaction() as session:
            session.add(UnsettledPack(pack_name=pack_name, since_at=app.now()))

    return app.vault.seal(study_key, items, announce=announce)


def settle_packs(session: Session, places: Iterable[SealedObject]) -> None:
    """Rows written in this transaction name these packs. Raises: TemporarilyUnable for one that was condemned; nothing is written then."""
    for pack_name in {place.pack_name for place in places}:
        row = session.exec(select(UnsettledPack).where(UnsettledPack.pack_name == pack_name).with_for_update()).first()
        if row is None or row.is_condemned:
            raise TemporarilyUnable("a pack was reclaimed before its rows were written")
        session.delete(row)


def give_up_packs(session: Session, pack_names: Iterable[str], *, now: datetime) -> None:
    """Rows of this transaction no longer name these packs; other rows still may."""
    for pack_name in set(pack_names):
        if session.get(UnsettledPack, pack_name) is None:
            session.add(UnsettledPack(pack_name=pack_name, since_at=now))


def reclaim_packs(database: Database, vault: Vault, *, now: datetime) -> int:
    """Packs that stayed unsettled for `GRACE` are deleted, unless a row names them; how many. Raises: TemporarilyUnable.

    If we crash after the condemnation the next round deletes; after the deletion it finds nothing and strikes the row.
    """
    with database.transaction() as session:
        for row in session.exec(select(UnsettledPack).where(col(UnsettledPack.since_at) < now - GRACE).with_for_update()).all():
            if is_named(session, row.pack_name):
                # Given up by one series or instance, and holding another's still.
                session.delete(row)
            else:
                row.is_condemned = True
                session.add(row)
    with database.reading() as session:
        condemned = list(session.exec(select(UnsettledPack.pack_name).where(col(UnsettledPack.is_condemned))).all())
    for pack_name in condemned:
        vault.delete_pack(pack_name)
    if not condemned:
        return 0
    with database.transaction() as session:
        for row in session.exec(select(UnsettledPack).where(col(UnsettledPack.pack_name).in_(condemned)).with_for_update()).all():
            session.delete(row)
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.APPLICATION_ACTIVITY,
                event_type=audit.EventType.RESTRICTED_FUNCTION,
                action=audit.Action.DELETE,
                actor=ACTOR,
                detail={"repaired": "orphan_packs", "count": len(condemned), "first": sorted(condemned)[:50]},
            ),
            at=now,
        )
    log.info("orphan_packs_reclaimed", count=len(condemned))
    return len(condemned)


def is_named(session: Session, pack_name: str) -> bool:
    """Whether any row says that an object of it lies in this pack."""
    named = (
        exists().where(col(Instance.pack_name) == pack_name),
        exists().where(col(ReceivedInstance.pack_name) == pack_name),
        exists().where(col(Series.metadata_object)["pack_name"].as_string() == pack_name),
    )
    return any(session.exec(select(one)).one() for one in named)

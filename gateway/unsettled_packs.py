"""Packs of the vault that no row names: about to be named, left by a crash, or given up. A duty of the worker deletes what stays that way.

Invariants
- A pack's row here is committed before the pack is put, and goes in the transaction that writes the rows that name the pack.
- A pack is deleted only after it was condemned, in a transaction of its own; rows cannot be settled on a condemned pack. So however long
  a job takes, either its rows name a pack that stays, or it finds the pack condemned and does its work again.
- A job says again and again that it is still at it (`OwnPacks`): its packs are young as long as it goes on, and it may take a day.
- What stands in no row here is never deleted: after a restore of the database from a backup it may be the only copy of something.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from sqlmodel import Field, Session, SQLModel, col, exists, select, update

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
#: Longer than the work on any one instance, and than any reader's range read of a pack that was replaced.
GRACE = timedelta(hours=1)
_RENEWED_EVERY = GRACE / 12
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


class OwnPacks:
    """The packs that one job put and has not settled yet: they are not reclaimed while it goes on. Safe between threads."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._renewed_at = app.now()

    def seal(self, study_key: StudyKey, items: Iterable[tuple[str, bytes]]) -> list[SealedObject]:
        """As `seal_unsettled`. Raises: TemporarilyUnable."""
        sealed = seal_unsettled(self._app, study_key, items)
        with self._lock:
            self._names |= {place.pack_name for place in sealed}
        self.renew()
        return sealed

    def adopt(self, pack_names: Iterable[str]) -> None:
        """These are this job's from now on. Raises: TemporarilyUnable where one was reclaimed meanwhile."""
        with self._lock:
            self._names.update(pack_names)
            self._renewed_at = self._app.now() - _RENEWED_EVERY
        self.renew()

    @property
    def names(self) -> frozenset[str]:
        """All that were put or adopted."""
        return frozenset(self._names)

    def renew(self) -> None:
        """They are as young as if they were put now; to be called after each piece of work, it writes once in five minutes at most.

        Raises: TemporarilyUnable where one was reclaimed: its work has to be done again, and what comes after it would be in vain.
        """
        with self._lock:
            now = self._app.now()
            if not self._names or now - self._renewed_at < _RENEWED_EVERY:
                return
            with self._app.database.transaction() as session:
                own = col(UnsettledPack.pack_name).in_(self._names), col(UnsettledPack.is_condemned).is_(False)
                renewed = session.exec(update(UnsettledPack).where(*own).values(since_at=now)).rowcount
                if renewed < len(self._names):
                    raise TemporarilyUnable("a pack was reclaimed before its rows were written")
            self._renewed_at = now


def settle_packs(session: Session, places: Iterable[SealedObject]) -> None:
    """Rows written in this transaction name these packs. Raises: TemporarilyUnable for one that was condemned; nothing is written then."""
    for pack_name in sorted({place.pack_name for place in places}):
        row = session.exec(select(UnsettledPack).where(UnsettledPack.pack_name == pack_name).with_for_update()).first()
        if row is None or row.is_condemned:
            raise TemporarilyUnable("a pack was reclaimed before its rows were written")
        session.delete(row)


def condemn_packs(session: Session, places: Iterable[SealedObject]) -> None:
    """What this job put and no row will ever name goes with the next round."""
    for pack_name in sorted({place.pack_name for place in places}):
        row = session.exec(select(UnsettledPack).where(UnsettledPack.pack_name == pack_name).with_for_update()).first()
        if row is not None:
            row.is_condemned = True
            session.add(row)


def give_up_packs(session: Session, pack_names: Iterable[str], *, now: datetime) -> None:
    """Rows of this transaction no longer name these packs; other rows still may."""
    for pack_name in sorted(set(pack_names)):
        # Locked: a round that looks at an older entry now either still finds our rows and strikes it before we look, or waits for us.
        row = session.exec(select(UnsettledPack).where(UnsettledPack.pack_name == pack_name).with_for_update()).first()
        if row is None:
            session.add(UnsettledPack(pack_name=pack_name, since_at=now))
        elif not row.is_condemned:
            # From now on: a reader may be amid it.
            row.since_at = now
            session.add(row)


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

"""What a hospital may still send: room on the disk, its quota, its rates. Beyond them 0xA700 or a transient refusal, and nothing is kept.

- The first refusal of a kind and every one a minute later is an audit event and an error in the log, with the number of silent ones.
- Asking costs no query for an instance: usage and quota are read again every few seconds, and what this process took is added at once.
  Two receivers may together overshoot a quota by what both take in that time.
- Rates are counted in each process for itself.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog

from compliance import audit
from compliance.database import Database
from compliance.hospital import Hospital
from crypto.errors import ReadgateError, TemporarilyUnable
from gateway.received_usage import stored_bytes

log = structlog.get_logger()
ACTOR = "readgate/receive"
_REFRESH_SECONDS = 5.0
_AUDIT_SECONDS = 60.0
#: The disk is asked anew after so many bytes or seconds.
_SPACE_BYTES = 16 * 1024 * 1024
_SPACE_SECONDS = 1.0

SPACE_LOW = "free_space_below_floor"
QUOTA_REACHED = "quota_reached"
RATE_REACHED = "instance_rate_reached"
ASSOCIATION_RATE_REACHED = "association_rate_reached"


@dataclass(frozen=True, slots=True)
class HospitalRates:
    """How often a hospital may knock; None is without bound. A minute's worth may come at once."""

    instances_per_minute_max: int | None = None
    associations_per_minute_max: int | None = 1200


@dataclass
class _Bucket:
    left: float
    at: float

    def take(self, per_minute: int, now: float) -> bool:
        self.left = min(float(per_minute), self.left + (now - self.at) * per_minute / 60)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


@dataclass
class _Account:
    """What this process knows of a hospital."""

    quota_bytes: int | None = None
    used_bytes: int = 0
    read_at: float = float("-inf")
    buckets: dict[str, _Bucket] = field(default_factory=dict)
    audited_at: dict[str, float] = field(default_factory=dict)
    silent: dict[str, int] = field(default_factory=dict)


class IntakeLimits:
    """One for all associations and uploads of a process."""

    def __init__(
        self,
        database: Database,
        spool_path: Path,
        *,
        free_bytes_floor: int,
        now: Callable[[], datetime],
        rates: HospitalRates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._spool_path, self._floor, self._now, self._clock = database, spool_path, free_bytes_floor, now, clock
        self._rates = rates or HospitalRates()
        self._lock = threading.Lock()
        self._accounts: dict[str, _Account] = {}
        self._space_left = 0
        self._space_at = float("-inf")

    def may_associate(self, hospital_id: str) -> bool:
        """Count one more association (or upload request); False beyond the hospital's rate."""
        return self._within_rate(hospital_id, ASSOCIATION_RATE_REACHED, self._rates.associations_per_minute_max)

    def require_instance(self, hospital_id: str) -> None:
        """One more instance begins. Raises: TemporarilyUnable beyond the hospital's rate."""
        if not self._within_rate(hospital_id, RATE_REACHED, self._rates.instances_per_minute_max):
            raise TemporarilyUnable("out of resources: more instances a minute than agreed; retry later")

    def require_room(self, hospital_id: str, payload_bytes: int) -> None:
        """So many bytes may be kept, and are counted. Raises: TemporarilyUnable below the free-space floor and beyond the quota."""
        now = self._clock()
        account = self._account(hospital_id, now)
        with self._lock:
            is_tight = self._space_left < payload_bytes or now - self._space_at > _SPACE_SECONDS
            if is_tight:
                free = free_bytes(self._spool_path) - self._floor
                self._space_left, self._space_at = min(free, _SPACE_BYTES + payload_bytes), now
            has_space = self._space_left >= payload_bytes
            has_quota = account.quota_bytes is None or account.used_bytes + payload_bytes <= account.quota_bytes
            if has_space and has_quota:
                self._space_left -= payload_bytes
                account.used_bytes += payload_bytes
                return
        if not has_space:
            self._alert(hospital_id, SPACE_LOW)
            raise TemporarilyUnable("out of resources: the spool's disk is below its floor; retry later")
        self._alert(hospital_id, QUOTA_REACHED)
        raise TemporarilyUnable("out of resources: the hospital's quota is reached; retry when studies have been removed")

    def _within_rate(self, hospital_id: str, cause: str, per_minute: int | None) -> bool:
        if per_minute is None:
            return True
        now = self._clock()
        with self._lock:
            account = self._accounts.setdefault(hospital_id, _Account())
            is_within = account.buckets.setdefault(cause, _Bucket(float(per_minute), now)).take(per_minute, now)
        if not is_within:
            self._alert(hospital_id, cause)
        return is_within

    def _account(self, hospital_id: str, now: float) -> _Account:
        with self._lock:
            account = self._accounts.setdefault(hospital_id, _Account())
            if now - account.read_at < _REFRESH_SECONDS:
                return account
            # Set before the reading, so that one thread reads and the others go on with what is known.
            account.read_at = now
        try:
            with self._database.reading() as session:
                hospital = session.get(Hospital, hospital_id)
                quota_bytes, used = hospital.quota_bytes if hospital is not None else None, stored_bytes(session, hospital_id)
        except TemporarilyUnable:
            # The database being away is no reason to refuse an instance: the spool is the truth.
            return account
        with self._lock:
            # What has no row yet is left out, for the second it takes to get one.
            account.quota_bytes, account.used_bytes = quota_bytes, used
        return account

    def _alert(self, hospital_id: str, cause: str) -> None:
        now = self._clock()
        with self._lock:
            account = self._accounts.setdefault(hospital_id, _Account())
            if now - account.audited_at.get(cause, float("-inf")) < _AUDIT_SECONDS:
                account.silent[cause] = account.silent.get(cause, 0) + 1
                return
            account.audited_at[cause] = now
            silent = account.silent.pop(cause, 0)
        log.error("intake_refused_for_resources", hospital_id=hospital_id, reason=cause)
        try:
            with self._database.transaction() as session:
                audit.append(
                    session,
                    audit.AuditEvent(
                        event_id=audit.EventId.SECURITY_ALERT,
                        event_type=audit.EventType.REFUSED,
                        action=audit.Action.CREATE,
                        actor=ACTOR,
                        hospital_id=hospital_id,
                        outcome=audit.Outcome.SERIOUS_FAILURE,
                        detail={"reason": cause, "not_audited_before": silent},
                    ),
                    at=self._now(),
                )
        except ReadgateError:
            # On a full disk the log cannot grow either; the error above stands, and the refusal must not become another.
            log.error("intake_refusal_not_audited", hospital_id=hospital_id, reason=cause)


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize

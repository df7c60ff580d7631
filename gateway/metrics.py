"""What /metrics says: how much work stands where, counted from the rows at the moment of asking, so that every process answers the same.

Labels are states and hospital identifiers. Nothing of a patient, a study or a reader is a label or a value.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlmodel import Session, func, select

from compliance.audit import tree_head
from compliance.privacy_review import overdue_reader_ids
from compliance.quarantine import QuarantineItem
from compliance.reminders import THRESHOLD_DAYS, unseen_reminders
from gateway.application import Application
from gateway.intake import free_bytes
from gateway.received import ReceivedStudy
from reporting.delivery_decision import count_long_denied
from reporting.delivery_queue import Delivery
from worklist.workitem import ProcedureStep


class WorkCollector(Collector):
    """Gauges over the rows of one deployment."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def collect(self) -> Iterator[GaugeMetricFamily]:
        by_hospital: tuple[tuple[str, str, Any], ...] = (
            ("readgate_received_studies", "Received studies by state", ReceivedStudy),
            ("readgate_quarantine_items", "Quarantine items by state", QuarantineItem),
            ("readgate_procedure_steps", "Procedure steps by state", ProcedureStep),
            ("readgate_deliveries", "Report deliveries by state", Delivery),
        )
        with self._app.database.reading() as session:
            for name, text, row in by_hospital:
                gauge = GaugeMetricFamily(name, text, labels=("hospital", "state"))
                for hospital_id, state, count in session.exec(
                    select(row.hospital_id, row.state, func.count()).group_by(row.hospital_id, row.state)
                ).all():
                    gauge.add_metric((hospital_id, state), count)
                yield gauge
            yield _reminders(session, self._app.now())
            held = GaugeMetricFamily(
                "readgate_deliveries_long_denied", "Deliveries that the law has held back for more than a day", labels=("hospital",)
            )
            for hospital_id, count in count_long_denied(session, now=self._app.now()).items():
                held.add_metric((hospital_id,), count)
            yield held
            overdue = overdue_reader_ids(session, now=self._app.now())
            yield GaugeMetricFamily("readgate_readers_blocked_by_reviews", "Readers who wait for an overdue review", value=len(overdue))
            yield GaugeMetricFamily("readgate_audit_entries", "Entries of the audit log", value=tree_head(session).size)
        yield GaugeMetricFamily("readgate_spool_segments", "Segments of the spool", value=len(self._app.spool.segments()))
        yield GaugeMetricFamily("readgate_spool_free_bytes", "Free space on the spool's disk", value=free_bytes(self._app.data / "spool"))


def _reminders(session: Session, now: datetime) -> GaugeMetricFamily:
    """Papers and credentials that end soon and that nobody acknowledged, by the threshold that was reached."""
    gauge = GaugeMetricFamily("readgate_reminders_unseen", "Unacknowledged reminders of ends, by days before", labels=("days",))
    counts = Counter(row.threshold_days for row in unseen_reminders(session, now=now))
    for days in THRESHOLD_DAYS:
        gauge.add_metric((str(days),), counts[days])
    return gauge


def metrics_text(app: Application) -> bytes:
    """The exposition of this process and of the deployment's work."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(WorkCollector(app))
    return generate_latest(registry)


def is_metrics_reader(app: Application, address: str) -> bool:
    """Whether somebody at `address` may ask."""
    try:
        asking = ipaddress.ip_address(address)
        return any(asking in ipaddress.ip_network(network) for network in app.settings.http.metrics_networks)
    except ValueError:
        return False

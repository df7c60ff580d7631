"""The schema of all packages' rows, brought to its newest version by alembic: the same migrations on SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlmodel import SQLModel

# Every module that owns rows: importing it is what registers them.
import compliance.audit
import compliance.counters
import compliance.credential
import compliance.crosswalk
import compliance.decision_clock
import compliance.decision_log
import compliance.emergency_access
import compliance.evidence_document
import compliance.hospital
import compliance.law_in_force
import compliance.order
import compliance.patient_status
import compliance.pixel_review
import compliance.principal
import compliance.privacy_review
import compliance.quarantine
import compliance.reminders
import compliance.study
import gateway.audit_syslog
import gateway.intake_rows
import gateway.received
import gateway.register_cursor
import gateway.register_token
import gateway.study_attempts
import gateway.unsettled_packs
import reporting.delivery_queue
import reporting.report
import reporting.report_copy
import worklist.routed_reader
import worklist.view_grant
import worklist.workitem
from compliance.audit import ensure_head
from compliance.database import Database

METADATA = SQLModel.metadata
_OWNERS = (
    compliance.audit,
    compliance.counters,
    compliance.credential,
    compliance.crosswalk,
    compliance.decision_clock,
    compliance.decision_log,
    compliance.emergency_access,
    compliance.evidence_document,
    compliance.hospital,
    compliance.law_in_force,
    compliance.order,
    compliance.patient_status,
    compliance.pixel_review,
    compliance.principal,
    compliance.privacy_review,
    compliance.quarantine,
    compliance.reminders,
    compliance.study,
    gateway.audit_syslog,
    gateway.intake_rows,
    gateway.received,
    gateway.register_cursor,
    gateway.register_token,
    gateway.study_attempts,
    gateway.unsettled_packs,
    reporting.delivery_queue,
    reporting.report,
    reporting.report_copy,
    worklist.routed_reader,
    worklist.view_grant,
    worklist.workitem,
)


def alembic_config(database: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = database.engine
    return config


def migrate(database: Database) -> None:
    """The database has the newest schema; running it twice, or from two processes at once, is one migration."""
    command.upgrade(alembic_config(database), "head")
    ensure_head(database)

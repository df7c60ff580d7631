"""Writing: each autosave is a new draft, sealed, durable, and audited; nothing a reader typed is lost with a browser or a lease."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session

from compliance import audit
from compliance.database import Database
from compliance.study import open_study_key, study_by_pk
from crypto.errors import Conflict, RefusedContent
from crypto.keys import KeyStore
from reporting.content import SECTION_CHARACTERS_MAX, SECTIONS
from reporting.report import ReportDraft, newest_draft, newest_draft_of_reader, open_draft, seal_draft
from reporting.text_rules import CONTROL_CHARACTER, TOO_LONG, tidy_text
from worklist.claim import require_claim
from worklist.workitem import ProcedureStep

#: What a draft holds beside the sections of the report: the kind it is to become, and the critical result ("yes" or "" for its mark).
DRAFT_FIELDS = ("kind", "is_critical", "critical_statement", "critical_communicated_to", "critical_communicated_at")
FIELDS = (*SECTIONS, *DRAFT_FIELDS)


@dataclass(frozen=True)
class Draft:
    version: int
    sections: dict[str, Any]
    saved_at: datetime | None


def save_draft(
    database: Database,
    keys: KeyStore,
    *,
    procedure_step_uid: str,
    reader_id: str,
    login_digest: str,
    base_version: int,
    sections: Mapping[str, str],
    now: datetime,
) -> Draft:
    """Draft `base_version` + 1 is durable.

    A draft is kept in tidy form (`tidy_text`) but otherwise as it was typed: what no report may hold is refused at signing, where a
    person sees why, and not while the text is being saved.

    Raises: NotFound, NotAllowed (no claim); Conflict when another window saved after `base_version`; RefusedContent for a text that is
    too long or no Unicode.
    """
    text = _checked(sections)
    with database.transaction() as session:
        step = require_claim(session, procedure_step_uid, reader_id, login_digest, now=now)
        study = study_by_pk(session, step.study_pk)
        newest = newest_draft(session, procedure_step_uid)
        standing_version = newest.version if newest is not None else 0
        if standing_version != base_version:
            raise Conflict("DRAFT_MOVED_ON", f"version {standing_version} was saved meanwhile")
        study_key = open_study_key(keys, study)
        draft = ReportDraft(
            study_pk=step.study_pk,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader_id,
            version=base_version + 1,
            sealed=seal_draft(study_key, procedure_step_uid, base_version + 1, text),
            saved_at=now,
        )
        session.add(draft)
        session.flush()
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.PROCEDURE_RECORD,
                event_type=audit.EventType.DRAFT,
                action=audit.Action.UPDATE,
                actor=reader_id,
                hospital_id=step.hospital_id,
                study_instance_uid=study.study_instance_uid,
                object_id=procedure_step_uid,
                detail={"version": draft.version},
            ),
            at=now,
        )
        return Draft(draft.version, text, now)


def load_draft(session: Session, keys: KeyStore, step: ProcedureStep, reader_id: str) -> Draft:
    """What the reader last wrote: in this step, or before it in an earlier one of the same study; else an empty draft, version 0.

    Raises: NotFound (shredded), IntegrityFailure.
    """
    study_key = open_study_key(keys, study_by_pk(session, step.study_pk))
    newest = newest_draft(session, step.procedure_step_uid)
    if newest is not None:
        return Draft(newest.version, open_draft(study_key, newest), newest.saved_at)
    earlier = newest_draft_of_reader(session, step.study_pk, reader_id)
    sections = open_draft(study_key, earlier) if earlier is not None else dict.fromkeys(FIELDS, "")
    return Draft(0, sections, earlier.saved_at if earlier is not None else None)


def _checked(sections: Mapping[str, str]) -> dict[str, Any]:
    text = {name: tidy_text(sections.get(name, "")) for name in FIELDS}
    for name, value in text.items():
        if len(value) > SECTION_CHARACTERS_MAX:
            raise RefusedContent(TOO_LONG, name)
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise RefusedContent(CONTROL_CHARACTER, name)
    return text

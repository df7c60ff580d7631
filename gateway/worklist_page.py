"""The worklist as one reader sees it: rows, filters, paging, and for each row whether it may be claimed and why not.

The law is asked for the rows of one page only, however long the list is. What another hospital's study is called is seen only by readers
whom the routing found eligible; the others meet it under the filter "Not mine to read": urgency, modality and the reasons, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal
from urllib.parse import urlencode

import sqlalchemy
from sqlmodel import Session, col, select

from compliance.credential import require_reader
from compliance.decision import decide
from compliance.facts import gather_facts
from compliance.hospital import Hospital
from compliance.principal import LoginSession, Principal
from compliance.study import Study, priors_of, study_by_pk
from gateway.application import Application
from gateway.login import Visitor
from gateway.obligation_words import OBLIGATION_SENTENCES
from gateway.reason_words import reason_sentence
from gateway.refused_studies import refused_studies, told_of
from gateway.web.contexts import Choice, Paging, Reason, Shell, Tone, WorklistFilters, WorklistPage, WorklistRow
from reporting.report import newest_draft_of_reader
from worklist.procedure_step import State
from worklist.routed_reader import ELIGIBLE, RoutedReader, is_eligible, outcome_of
from worklist.workitem import ProcedureStep, require_step

ROWS_PER_PAGE = 25
_PRIORITY_WORDS = {"HIGH": "Urgent", "MEDIUM": "Routine", "LOW": "Low"}
_PRIORITY_ORDER = {"HIGH": 0, "MEDIUM": 1, "LOW": 2}
STATES = (
    Choice("", "Mine and free"),
    Choice("free", "Free"),
    Choice("mine", "Held by me"),
    Choice("done", "Reported by me"),
    Choice("refused", "Not mine to read"),
)
SORTS = (
    Choice("urgency", "Urgency, then due"),
    Choice("due", "Due first"),
    Choice("newest", "Newest first"),
    Choice("oldest", "Longest waiting"),
    Choice("modality", "Modality, then due"),
    Choice("body_part", "Body part, then due"),
    Choice("largest", "Most images first"),
)
_LIMITS = (("PRELIMINARY_ONLY", "Preliminary only"), ("VIEW_ONLY", "View only"))


def filters_of(query: Mapping[str, str]) -> WorklistFilters:
    return WorklistFilters(
        **{
            name: query.get(name, default)[:64]
            for name, default in (("q", ""), ("modality", ""), ("hospital", ""), ("state", ""), ("priority", ""), ("sort", "urgency"))
        }
    )


def worklist_page(app: Application, reader: Visitor, filters: WorklistFilters, *, page: int, shell: Shell) -> WorklistPage:
    with app.database.reading() as session:
        listed = _matching(session, reader, filters)
        start = (page - 1) * ROWS_PER_PAGE
        rows = tuple(
            row_of(session, app, reader, require_step(session, line.procedure_step_uid)) for line in listed[start : start + ROWS_PER_PAGE]
        )
        modalities = sorted({line.modality for line in listed})
        # Only an empty list is explained: that takes a look at every step that waits.
        refused = refused_studies(session, app.law, reader.principal_id) if not listed and filters.state != "refused" else None
        hospitals = session.exec(select(Hospital.hospital_id, Hospital.name).order_by(Hospital.name)).all()
    return WorklistPage(
        shell=shell,
        rows=rows,
        filters=filters,
        now=app.now(),
        self_href=_href(filters, page),
        paging=Paging(
            first=start + 1 if rows else 0,
            last=start + len(rows),
            total=len(listed),
            previous_href=_href(filters, page - 1) if page > 1 else None,
            next_href=_href(filters, page + 1) if start + ROWS_PER_PAGE < len(listed) else None,
        ),
        modalities=(Choice("", "All modalities"), *(Choice(name, name) for name in modalities)),
        hospitals=(Choice("", "All hospitals"), *(Choice(hospital_id, name) for hospital_id, name in hospitals)),
        states=STATES,
        priorities=(Choice("", "Any priority"), *(Choice(value, word) for value, word in _PRIORITY_WORDS.items())),
        sorts=SORTS,
        counts=_counts(listed, reader, app.now()),
        refused=refused,
    )


def _counts(listed: Sequence[_Line], reader: Visitor, now: datetime) -> tuple[Choice, ...]:
    """How much of the list is what, for the line above it."""
    waiting = [line for line in listed if line.state == State.SCHEDULED]
    found = (
        (len(waiting), "free"),
        (sum(line.state == State.IN_PROGRESS and line.claiming_reader_id == reader.principal_id for line in listed), "held by you"),
        (sum(line.priority == "HIGH" for line in waiting), "urgent"),
        (sum(line.expected_completion_at < now for line in waiting), "overdue"),
    )
    return tuple(Choice(str(count), word) for count, word in found if count)


def row_of(session: Session, app: Application, reader: Visitor, step: ProcedureStep, *, is_told: bool | None = None) -> WorklistRow:
    """The row of `step` as this reader sees it now; without `is_told` the routing and the law say what it tells."""
    study, hospital = study_by_pk(session, step.study_pk), session.get(Hospital, step.hospital_id)
    is_mine = step.claiming_reader_id == reader.principal_id
    can_open = is_mine and (step.state == State.COMPLETED or (step.state == State.IN_PROGRESS and step.login_digest == reader.login_digest))
    reasons: tuple[Reason, ...] = ()
    decision_digest, can_claim = "", False
    obligations: Sequence[str] = step.obligations
    if step.state == State.SCHEDULED:
        profile = require_reader(session, reader.principal_id)
        facts = gather_facts(
            session,
            action="VIEW",
            study=study,
            reader=profile,
            login=session.get(LoginSession, reader.login_digest),
            at=app.now(),
            keys=app.keys,
        )
        decision = decide(facts, app.law)
        outcome, against = outcome_of(app.law, study, facts, decision, app.now())
        can_claim, decision_digest = outcome == ELIGIBLE, decision.digest
        obligations = decision.obligations
        if not can_claim:
            reasons = tuple(Reason(code=code, text=reason_sentence(code)) for code in against)
    status, tone = _status(session, reader, step, study, can_claim)
    if is_told is None:
        may_be_told = is_mine or is_eligible(session, step.study_pk, reader.principal_id)
        is_told = may_be_told and (step.state != State.SCHEDULED or can_claim)
    if not is_told:
        return _untold_row(step, study, status, tone, reasons)
    return WorklistRow(
        procedure_step_uid=step.procedure_step_uid,
        priority=_priority(step.priority),
        priority_word=_PRIORITY_WORDS.get(step.priority, step.priority),
        due_at=step.expected_completion_at if step.state in (State.SCHEDULED, State.IN_PROGRESS) else None,
        modality=study.modality,
        procedure=study.description or step.label or study.modality,
        body_part=study.body_part or "",
        instance_count=study.instance_count,
        prior_count=len(priors_of(session, study)),
        pseudonym=study.patient_pseudonym,
        accession_pseudonym=study.accession_pseudonym,
        hospital_name=hospital.name if hospital is not None else step.hospital_id,
        origin=hospital.jurisdiction if hospital is not None else "",
        destination=reader.login.declared_country,
        status=status,
        tone=tone,
        lease_expires_at=step.lease_expires_at if can_open and step.state == State.IN_PROGRESS else None,
        can_claim=can_claim,
        can_open=can_open,
        reasons=reasons,
        decision_digest=decision_digest,
        study_on=_day(study.study_date),
        patient=_patient(study),
        limits=_limits(step, obligations) if step.state in (State.SCHEDULED, State.IN_PROGRESS) else (),
    )


def _limits(step: ProcedureStep, obligations: Sequence[str]) -> tuple[Reason, ...]:
    """What a reader wants to know before they claim: that they may not sign finally, that files are not handed out, that images changed."""
    found = [
        Reason(name, OBLIGATION_SENTENCES[name], word) for name, word in _LIMITS if any(own.split("(")[0] == name for own in obligations)
    ]
    if step.is_final_required:
        found.append(Reason("FINAL_REQUIRED", "A preliminary report stands; this step is for the final one.", "Final needed"))
    return tuple(found)


def _patient(study: Study) -> str:
    """ "F 61 y": what the de-identification profile left of sex and age."""
    age = study.patient_age
    years = f"{int(age[:-1])} {age[-1].lower()}" if age[:-1].isdigit() and age[-1:] in ("D", "W", "M", "Y") else ""
    return " ".join(part for part in (study.patient_sex, years) if part)


def _day(value: str) -> date | None:
    """A DA value (PS3.5 6.2); None for anything else."""
    try:
        return datetime.strptime(value[:8], "%Y%m%d").date()
    except ValueError:
        return None


def _untold_row(step: ProcedureStep, study: Study, status: str, tone: Tone, reasons: tuple[Reason, ...]) -> WorklistRow:
    """That there is such a study, and why it is not this reader's: urgency, modality and reasons."""
    return WorklistRow(
        procedure_step_uid=step.procedure_step_uid,
        priority=_priority(step.priority),
        priority_word=_PRIORITY_WORDS.get(step.priority, step.priority),
        due_at=None,
        modality=study.modality,
        procedure="Not shown",
        body_part="",
        instance_count=None,
        prior_count=0,
        pseudonym="",
        accession_pseudonym="",
        hospital_name="",
        origin="",
        destination="",
        status=status,
        tone=tone,
        # What concerns the patient or the hospital is told by its kind alone, as above an empty list.
        reasons=tuple(Reason(code=code, text=reason_sentence(code)) for code in dict.fromkeys(told_of(own.code) for own in reasons)),
    )


def _may_be_told(line: _Line, reader: Visitor) -> bool:
    """Whether the routing found this reader eligible, or the step is theirs: others learn nothing of patient and hospital."""
    return line.claiming_reader_id == reader.principal_id or line.routed == ELIGIBLE


@dataclass(frozen=True)
class _Line:
    """What listing, filtering and ordering need of a step: read as columns, because a list may be ten thousand steps long."""

    procedure_step_uid: str
    hospital_id: str
    state: str
    priority: str
    scheduled_at: datetime
    expected_completion_at: datetime
    claiming_reader_id: str | None
    is_addendum: bool
    modality: str
    description: str
    body_part: str | None
    patient_pseudonym: str
    accession_pseudonym: str
    instance_count: int
    #: What routing decided about this reader; None where nobody was asked about them.
    routed: str | None


def _matching(session: Session, reader: Visitor, filters: WorklistFilters) -> list[_Line]:
    states = {"": [State.SCHEDULED, State.IN_PROGRESS], "mine": [State.IN_PROGRESS], "done": [State.COMPLETED]}.get(
        filters.state, [State.SCHEDULED]
    )
    columns: list[Any] = [getattr(ProcedureStep, name) for name in _STEP_COLUMNS]
    columns += [getattr(Study, name) for name in _STUDY_COLUMNS]
    columns.append(RoutedReader.outcome)
    query = (
        sqlalchemy.select(*columns)
        .join(Study, col(Study.study_pk) == ProcedureStep.study_pk)
        # What was routed to this reader, and nothing of what was to others.
        .outerjoin(
            RoutedReader, (col(RoutedReader.study_pk) == ProcedureStep.study_pk) & (col(RoutedReader.reader_id) == reader.principal_id)
        )
        .where(col(ProcedureStep.state).in_(states))
        .where(_is_listed(reader, filters.state))
    )
    if filters.state in ("mine", "done"):
        query = query.where(col(ProcedureStep.claiming_reader_id) == reader.principal_id)
    for column, value in (
        (Study.modality, filters.modality),
        (ProcedureStep.priority, filters.priority),
    ):
        if value:
            query = query.where(col(column) == value)
    text = filters.q.strip().casefold()
    listed = []
    for row in session.connection().execute(query):
        line = _Line(*row)
        told = (line.description, line.body_part or "", line.patient_pseudonym, line.accession_pseudonym)
        # A search must not tell what the row does not: without being told, nothing matches and nothing is filtered by hospital.
        if _may_be_told(line, reader):
            is_found = (not text or text in " ".join(told).casefold()) and filters.hospital in ("", line.hospital_id)
        else:
            is_found = not text and not filters.hospital
        if is_found:
            listed.append(line)
    order: Callable[[_Line], Any] = {
        "due": lambda line: line.expected_completion_at,
        "newest": lambda line: -line.scheduled_at.timestamp(),
        "oldest": lambda line: line.scheduled_at,
        "modality": lambda line: (line.modality, line.expected_completion_at),
        "body_part": lambda line: (line.body_part or "~", line.expected_completion_at),
        # How many images there are is told only of what is the reader's: the others stand last.
        "largest": lambda line: (-line.instance_count if _may_be_told(line, reader) else 0, line.expected_completion_at),
    }.get(filters.sort, lambda line: (_PRIORITY_ORDER.get(line.priority, 1), line.expected_completion_at))
    return sorted(listed, key=order)


_STEP_COLUMNS = (
    "procedure_step_uid",
    "hospital_id",
    "state",
    "priority",
    "scheduled_at",
    "expected_completion_at",
    "claiming_reader_id",
    "is_addendum",
)
_STUDY_COLUMNS = ("modality", "description", "body_part", "patient_pseudonym", "accession_pseudonym", "instance_count")


def _is_listed(reader: Visitor, state: str) -> sqlalchemy.ColumnElement[bool]:
    """What is the reader's own, and what waits and was routed to them; under "refused" what waits and was not."""
    outcome = col(RoutedReader.outcome)
    is_routed = outcome.is_distinct_from(ELIGIBLE) if state == "refused" else outcome == ELIGIBLE
    is_waiting = (col(ProcedureStep.state) == State.SCHEDULED) & col(ProcedureStep.is_addendum).is_(False)
    return (col(ProcedureStep.claiming_reader_id) == reader.principal_id) | (is_waiting & is_routed)


def _status(session: Session, reader: Visitor, step: ProcedureStep, study: Study, can_claim: bool) -> tuple[str, Tone]:
    if step.state == State.COMPLETED:
        return "Reported", "good"
    if step.state == State.IN_PROGRESS:
        if step.claiming_reader_id == reader.principal_id:
            return ("Held by you", "mine") if step.login_digest == reader.login_digest else ("Held by your other login", "held")
        holder = session.get(Principal, step.claiming_reader_id or "")
        return f"Held by {holder.display_name}" if holder is not None else "Held", "held"
    if step.state == State.CANCELED:
        return "Ended", "neutral"
    assert study.study_pk is not None
    if newest_draft_of_reader(session, study.study_pk, reader.principal_id) is not None:
        return "Free, with your draft", "neutral"
    return ("Free", "good") if can_claim else ("Not yours to read", "neutral")


def _priority(value: str) -> Literal["HIGH", "MEDIUM", "LOW"]:
    return "HIGH" if value == "HIGH" else "LOW" if value == "LOW" else "MEDIUM"


def _href(filters: WorklistFilters, page: int) -> str:
    query = {name: value for name, value in vars(filters).items() if value and (name, value) != ("sort", "urgency")}
    if page > 1:
        query["page"] = str(page)
    return "/worklist" + (f"?{urlencode(query)}" if query else "")


def relative_interval(earlier: datetime, later: datetime) -> str:
    """ "14 months earlier": dates are shifted, intervals are not."""
    days = (later - earlier).days
    if abs(days) < 60:
        count, unit = abs(days), "day"
    elif abs(days) < 730:
        count, unit = round(abs(days) / 30.44), "month"
    else:
        count, unit = round(abs(days) / 365.25), "year"
    return f"{count} {unit}{'' if count == 1 else 's'} {'earlier' if days >= 0 else 'later'}"

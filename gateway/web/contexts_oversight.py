"""What the pages of hospitals, privacy officers and operators are given; the rules of contexts.py hold here too.

Only the classes under "Edge" carry a patient's identity; they are for staff of that patient's hospital alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from gateway.web.contexts import Choice, Link, Paging, Reason, Shell, Tone

# --- Edge: these alone carry a patient's identity ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LifeStep:
    """One of the nine steps of a study's life."""

    name: str
    at: datetime | None
    state: Literal["done", "now", "waiting", "failed"]
    detail: str = ""


@dataclass(frozen=True)
class DeliveryRow:
    """One document on its way to one destination. No identity: the operator sees these too."""

    delivery_id: str
    document: str  # "Final report 1"
    channel: str  # "Encapsulated PDF to H1_PACS by C-STORE"
    status: str  # "Delivered", "Next try", "Dead letter", "Released"
    tone: Tone
    attempts: int
    last_error: str = ""  # constant code and clause, never the peer's own text
    reasons: tuple[Reason, ...] = ()  # what the law has against letting it leave
    decision_digest: str = ""  # the newest decision on letting it leave
    next_attempt_at: datetime | None = None
    receipt: str = ""  # "0000H Success, 2026-11-22 10:31 UTC"
    pseudonym: str = ""
    hospital_name: str = ""
    may_release: bool = False


@dataclass(frozen=True)
class WhyUnclaimed:
    """Why nobody has claimed a study, in one glance: counts of readers, none of whom is named."""

    headline: str
    waiting_since: datetime
    is_open: bool  # shown without a click: nobody could claim it now
    held_up: tuple[str, ...] = ()  # "2 eligible readers are not logged in"
    nearest: tuple[str, ...] = ()  # "1 reader could read it but for this: ..."
    refused: tuple[Reason, ...] = ()  # reasons with the number of readers they stop


@dataclass(frozen=True)
class HospitalStudy:
    """A study at its own hospital, under the patient's name."""

    study_key: str  # row key in URLs; nothing of the patient
    patient_name: str
    patient_id: str
    birth_on: date | None
    sex: str
    accession_number: str
    modality: str
    description: str
    study_on: date | None
    received_at: datetime
    instance_count: int
    status: str
    tone: Tone
    due_at: datetime | None
    steps: tuple[LifeStep, ...]
    unclaimed: WhyUnclaimed | None = None  # None once claimed
    quarantine_href: str | None = None  # where a person decides about it
    deliveries: tuple[DeliveryRow, ...] = ()
    report_href: str | None = None
    report_label: str = ""
    deid_href: str | None = None  # what was stated about its de-identification
    shows_face: bool = False  # a face could be reconstructed from its slices, and was not removed
    is_arriving: bool = False  # more may come: the hospital may say how many
    expected_count: int | None = None  # what it said


@dataclass(frozen=True)
class HospitalStudiesPage:
    """studies.html.j2; GET /studies?state=, or POST /studies/search (form: csrf_token, q, state, page): no name in an address.

    POST /deliveries/{delivery_id}/release (form: csrf_token, reason). POST /studies/{study_key}/expected (form: csrf_token, expected).
    """

    shell: Shell
    studies: tuple[HospitalStudy, ...]
    paging: Paging
    now: datetime
    q: str = ""
    state: str = ""
    states: tuple[Choice, ...] = ()
    previous_page: int | None = None  # of a search, whose pages have no address
    next_page: int | None = None


# --- Oversight -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeliveriesPage:
    """deliveries.html.j2; GET /deliveries?state=. Pseudonyms only."""

    shell: Shell
    rows: tuple[DeliveryRow, ...]
    paging: Paging
    state: str = ""
    states: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class QuarantineRow:
    quarantine_id: str
    received_at: datetime
    hospital_name: str
    calling_ae_title: str
    reason: Reason
    tag: str  # "(gggg,eeee)", or ""
    keyword: str  # "BurnedInAnnotation", or ""
    modality: str
    instance_count: int
    status: str
    tone: Tone


@dataclass(frozen=True)
class QuarantinePage:
    """quarantine.html.j2; GET /quarantine?state=&reason="""

    shell: Shell
    rows: tuple[QuarantineRow, ...]
    paging: Paging
    state: str = ""
    states: tuple[Choice, ...] = ()
    reason: str = ""
    reasons: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class QuarantineItemPage:
    """quarantine_item.html.j2; GET /quarantine/{quarantine_id}.

    POST .../release, .../reject, .../repair (form: csrf_token, reason, and for repair: repair = one of `repairs`).
    """

    shell: Shell
    row: QuarantineRow
    what_happened: str  # which instances, which rule, which clause; never the value found
    what_to_do: str
    facts: tuple[tuple[str, str], ...] = ()
    may_release: bool = False
    may_reject: bool = False
    repairs: tuple[Choice, ...] = ()
    study_href: str = ""
    history: tuple[LifeStep, ...] = ()


@dataclass(frozen=True)
class AuditEntry:
    index: int
    at: datetime
    event: str  # "Instances accessed"
    outcome: Literal["success", "refused", "failure"]
    principal: str
    role: str
    pseudonym: str
    subject: str  # the object acted on
    route: str = ""  # "DE → CH"
    decision_digest: str = ""
    reason_code: str = ""
    reason_text: str = ""


@dataclass(frozen=True)
class TreeHead:
    """`verification` is what the last run of the verifier found, not a wish."""

    size: int
    root: str
    origin: str
    signed_at: datetime | None
    verification: str  # "Verified: every entry stands under this head", "Not verified yet", "Broken at entry 311"
    tone: Tone
    verified_at: datetime | None = None


@dataclass(frozen=True)
class PrivacyPage:
    """privacy.html.j2; GET /privacy?q=&event=&outcome=&since=&until="""

    shell: Shell
    entries: tuple[AuditEntry, ...]
    tree_head: TreeHead
    paging: Paging
    q: str = ""
    event: str = ""
    events: tuple[Choice, ...] = ()
    outcome: str = ""
    since: str = ""
    until: str = ""


@dataclass(frozen=True)
class DecisionRow:
    digest: str
    at: datetime
    action: str
    principal: str
    pseudonym: str
    route: str
    outcome: Literal["ALLOW", "ALLOW_WITH_OBLIGATIONS", "REFER", "DENY"]
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class DecisionsPage:
    """decisions.html.j2; GET /privacy/decisions?q=&outcome="""

    shell: Shell
    rows: tuple[DecisionRow, ...]
    paging: Paging
    q: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class GateResult:
    gate: str  # "G2"
    name: str  # "Transfer mechanism"
    outcome: str
    tone: Tone
    reasons: tuple[str, ...] = ()  # "CRED_LICENCE_EXPIRED:ES"
    rules: tuple[str, ...] = ()  # "eu.adequacy.ch: Decision 2000/518/EC"
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class OtherReader:
    """What was decided about another reader when the same study was offered."""

    reader_id: str
    name: str
    outcome: Literal["ALLOW", "ALLOW_WITH_OBLIGATIONS", "REFER", "DENY"]
    reasons: tuple[Reason, ...] = ()
    decision_digest: str = ""


@dataclass(frozen=True)
class ObligationRow:
    """What a decision asked in return, whether it was met, and what shows it."""

    code: str
    asked: str
    state: str  # "Met", "Not met", "Waiting", "Not due"
    tone: Tone
    evidence: str


@dataclass(frozen=True)
class FollowingEntry:
    """An entry of the log about something done under a decision."""

    index: int
    at: datetime
    event: str


@dataclass(frozen=True)
class DecisionPage:
    """decision.html.j2; GET /privacy/decisions/{digest}: one page to print that answers why this was shown, there, then.

    `?format=json` gives the same for programs. `today` is another question with the old facts, and the page says so.
    """

    shell: Shell
    decision: DecisionRow
    question: str  # "May M. Weber in CH open study 7KQ2… of St. Anna, DE?"
    gates: tuple[GateResult, ...]
    facts: tuple[tuple[str, str, str], ...]  # name, value, source
    obligations: tuple[ObligationRow, ...]
    valid_until: datetime | None
    law_digest: str
    replay: str  # "Came out byte for byte on 2026-11-22 10:40 UTC", "Not replayed"
    log_index: int | None = None
    log_proof: tuple[str, ...] = ()
    tree_root: str = ""
    log_size: int | None = None
    today: str = ""  # "DENY: CRED_LICENCE_EXPIRED:ES (asked 2026-11-22 10:40 UTC, with the facts of then, under the same law)"
    today_reasons: tuple[Reason, ...] = ()
    about: tuple[tuple[str, str], ...] = ()  # who, what, where, when: name and words
    followed: tuple[FollowingEntry, ...] = ()
    study_href: str | None = None  # everything the log holds about the study
    others: tuple[OtherReader, ...] = ()
    deid_href: str | None = None  # what the edge stated about the study's de-identification


# --- Registers: readers, credentials, evidence, consents, hospitals ------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    text: str
    tone: Tone | None = None
    href: str | None = None
    is_code: bool = False


@dataclass(frozen=True)
class RowAction:
    """A form of one button; `asks_reason` adds a required field named reason, `asks_file` one named document."""

    href: str
    label: str
    asks_reason: bool = False
    is_grave: bool = False
    asks_file: bool = False


@dataclass(frozen=True)
class RegisterRow:
    cells: tuple[Cell, ...]
    actions: tuple[RowAction, ...] = ()


@dataclass(frozen=True)
class FormField:
    name: str
    label: str
    kind: Literal["text", "date", "select", "textarea", "file"] = "text"
    choices: tuple[Choice, ...] = ()
    is_required: bool = True
    hint: str = ""


@dataclass(frozen=True)
class RegisterPage:
    """register.html.j2: /readers, /credentials, /evidence, /consents, /hospitals. `add_href` takes csrf_token and `fields`."""

    shell: Shell
    heading: str
    intro: str
    columns: tuple[str, ...]
    rows: tuple[RegisterRow, ...]
    paging: Paging
    q: str = ""
    add_href: str | None = None
    add_label: str = ""
    fields: tuple[FormField, ...] = ()
    empty_text: str = "Nothing is registered yet."
    has_file: bool = False  # whether the form is posted as multipart/form-data
    links: tuple[Link, ...] = ()

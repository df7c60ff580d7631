"""What each page is given: one frozen dataclass per template, filled by the routers, read by templates/*.html.j2.

Pages decide nothing. Whatever a person may do arrives as a fact here (`can_claim`, `may_release`, a choice that is in the list or is
not), and whatever may not be shown is not passed in. Instants are aware UTC; the browser shows them in its own zone beside UTC.
This file holds what every page shares and what readers see; contexts_oversight.py what hospitals, privacy officers and operators see.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

Role = Literal["reader", "hospital_staff", "privacy_officer", "operator"]
#: How a thing stands, for colour and sign; the word beside it always says the same.
Tone = Literal["neutral", "good", "warning", "bad", "mine", "held"]


@dataclass(frozen=True)
class Choice:
    value: str
    label: str


@dataclass(frozen=True)
class Link:
    label: str
    href: str


@dataclass(frozen=True)
class Reason:
    """Why something is refused or asks for a person: the gate, the constant code, and a sentence for people."""

    code: str
    text: str
    gate: str = ""


@dataclass(frozen=True)
class NavigationEntry:
    href: str
    label: str
    count: int | None = None
    is_current: bool = False


@dataclass(frozen=True)
class Notice:
    """One sentence on top of a page about what has just happened."""

    text: str
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Shell:
    """What surrounds every page of a person who is logged in.

    GET /events is a stream (text/event-stream) of `worklist` (its data is ignored: the list is asked for again) and `announcement`
    (one sentence for screen readers; its data is markup, so it is sent escaped). Neither ever names a study.
    """

    title: str
    principal_name: str
    role: Role
    csrf_token: str
    navigation: tuple[NavigationEntry, ...] = ()
    hospital_name: str | None = None
    declared_country: str | None = None
    session_expires_at: datetime | None = None
    notices: tuple[Notice, ...] = ()
    has_events: bool = True  # whether the page listens to /events


@dataclass(frozen=True)
class Paging:
    """Hrefs keep every filter; None where there is no such page."""

    first: int
    last: int
    total: int
    previous_href: str | None = None
    next_href: str | None = None


# --- Everybody -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoginPage:
    """login.html.j2. POST /login: csrf_token, user_name, password, code, declared_country, next (trusted only if a path of ours)."""

    csrf_token: str
    countries: tuple[Choice, ...]
    user_name: str = ""
    declared_country: str = ""
    next_href: str = ""
    refusal: str = ""  # one sentence, the same for every cause, so that it tells nobody whether the name exists
    instance_name: str = "Readgate"


@dataclass(frozen=True)
class ErrorPage:
    """error.html.j2 and viewer_missing.html.j2; no shell, since the login may be what failed."""

    title: str
    message: str
    what_to_do: str
    status: int
    reference: str = ""  # constant code or request id, to quote when asking for help
    home_href: str = "/"


@dataclass(frozen=True)
class Tile:
    title: str
    href: str
    count: int | None
    text: str
    tone: Tone = "neutral"


@dataclass(frozen=True)
class HomePage:
    """home.html.j2: what waits for this role, most urgent first."""

    shell: Shell
    tiles: tuple[Tile, ...]


# --- Reader --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WorklistRow:
    """One procedure step as this reader sees it. `status` says who holds it; `reasons` why this reader may not claim."""

    procedure_step_uid: str
    priority: Literal["HIGH", "MEDIUM", "LOW"]  # PS3.3 (0074,1200)
    priority_word: str  # the hospital's word: "STAT", "Urgent", "Routine"
    due_at: datetime | None
    modality: str
    procedure: str
    body_part: str
    instance_count: int | None  # None: not for this reader
    prior_count: int
    pseudonym: str
    accession_pseudonym: str
    hospital_name: str
    origin: str  # jurisdiction the study comes from, "DE" or "US-TX"
    destination: str  # where this reader is
    status: str  # "Free", "Held by you", "Held by Dr Ruiz", "Your draft", "Preliminary", "Final", "Not yours to read"
    tone: Tone
    lease_expires_at: datetime | None = None
    can_claim: bool = False
    can_open: bool = False
    is_clock_stopped: bool = False
    reasons: tuple[Reason, ...] = ()
    decision_digest: str = ""
    study_on: date | None = None  # shifted with every other date of the patient
    patient: str = ""  # "F 61 y", as far as the de-identification profile kept it
    limits: tuple[Reason, ...] = ()  # what the law asks in return: "Preliminary only", with why


@dataclass(frozen=True)
class WorklistFilters:
    """As they stand in the URL: /worklist?q=&modality=&hospital=&state=&priority=&sort=&page="""

    q: str = ""
    modality: str = ""
    hospital: str = ""
    state: str = ""
    priority: str = ""
    sort: str = "urgency"


@dataclass(frozen=True)
class WorklistPage:
    """worklist.html.j2; GET /worklist. Refreshed in place (#rows) when /events sends `worklist`."""

    shell: Shell
    rows: tuple[WorklistRow, ...]
    filters: WorklistFilters
    paging: Paging
    now: datetime
    self_href: str  # /worklist with the filters and page as they stand
    modalities: tuple[Choice, ...] = ()
    hospitals: tuple[Choice, ...] = ()
    states: tuple[Choice, ...] = ()
    priorities: tuple[Choice, ...] = ()
    sorts: tuple[Choice, ...] = ()
    counts: tuple[Choice, ...] = ()  # ("12", "free"), over the whole list as it is filtered
    refused: RefusedStudies | None = None  # why a list is empty


@dataclass(frozen=True)
class RefusedStudies:
    """Open studies that are not for this reader: how many, and each reason with the number of studies it stands before. No more of them."""

    studies: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class WorklistRowPart:
    """worklist_row.html.j2: the answer to a claim made from the list (request header HX-Request), in place of the row."""

    row: WorklistRow
    csrf_token: str
    now: datetime
    refusal: str = ""


@dataclass(frozen=True)
class ReportText:
    """The sections of a report as plain text; the indication comes from the order and is not the reader's to change."""

    indication: str = ""
    technique: str = ""
    comparison: str = ""
    findings: str = ""
    impression: str = ""


@dataclass(frozen=True)
class CriticalResult:
    is_critical: bool = False
    statement: str = ""
    communicated_to: str = ""  # a role or a person at the hospital, never the patient
    communicated_at: datetime | None = None


@dataclass(frozen=True)
class SignedReport:
    """A signed document of this study, the newest first; its predecessors stay and are shown."""

    kind: str  # "FINAL"; shown as a word
    reader_name: str
    signed_at: datetime
    digest: str
    text: ReportText
    critical: CriticalResult = field(default_factory=CriticalResult)
    is_superseded: bool = False
    delivery: str = ""  # "Delivered", "Waiting for the PACS", "Dead letter"
    delivery_tone: Tone = "neutral"


@dataclass(frozen=True)
class Prior:
    """An earlier study that this claim grants; `interval` is relative ("14 months earlier"), since its dates are shifted."""

    title: str
    interval: str
    instance_count: int
    viewer_href: str
    report: ReportText | None = None


@dataclass(frozen=True)
class ReadPage:
    """read.html.j2; GET /read/{procedure_step_uid}.

    POST .../draft (JSON {version, kind, sections{technique,comparison,findings,impression}, critical{is_critical, statement,
    communicated_to, communicated_at: instant in UTC or ""}}) -> {version, saved_at}; 409 if another window saved a newer draft.
    POST .../heartbeat (JSON {idle_seconds}) -> {lease_expires_at, session_expires_at, decision_digest}.
    GET .../sign -> sign_preview.html.j2. POST .../sign (form: csrf_token, passphrase and what was shown: draft_version, report_digest,
    manifest_digest, order_digest) -> header HX-Redirect, or 422 with refusal.html.j2. POST .../release (form: csrf_token,
    reason). POST .../addendum (form: csrf_token, kind) opens a new draft.
    A refusal in JSON is {reason_code, detail}: 401 login ended, 403 decision withdrawn, 409 claim lost or draft conflict.
    """

    shell: Shell
    row: WorklistRow
    viewer_href: str | None  # /ohif/viewer?StudyInstanceUIDs=...; None while nothing may be shown
    watermark: str  # reader, time, decision: "M. Weber · 2026-11-22 10:04 UTC · 3f9ac1"
    now: datetime
    text: ReportText
    critical: CriticalResult
    draft_version: int
    kind: str
    kinds: tuple[Choice, ...]  # what the decision lets this reader sign; PRELIMINARY_ONLY leaves one
    obligations: tuple[str, ...] = ()
    can_write: bool = True  # False: signed or not claimed; the report column shows `signed` alone
    can_sign: bool = True
    can_release: bool = True
    can_add: bool = False  # an addendum or correction may be begun
    saved_at: datetime | None = None
    lease_expires_at: datetime | None = None
    heartbeat_seconds: int = 60
    priors: tuple[Prior, ...] = ()
    signed: tuple[SignedReport, ...] = ()
    patient_summary: str = ""  # what a reader needs and may know: "Female, 61 years, 1.68 m, 70 kg"
    deid_words: str = ""  # under what the images were de-identified, and by which statement
    deid_href: str | None = None  # the statement itself


@dataclass(frozen=True)
class SignPreview:
    """sign_preview.html.j2: exactly what the signature will cover, read back from the store, not from the page."""

    procedure_step_uid: str
    csrf_token: str
    kind: str
    text: ReportText
    critical: CriticalResult
    draft_version: int
    report_digest: str
    manifest_digest: str
    order_digest: str  # of the order's text, whose indication is signed too
    instance_count: int
    reader_name: str
    warnings: tuple[str, ...] = ()
    can_sign: bool = True


@dataclass(frozen=True)
class Refusal:
    """refusal.html.j2: a sentence swapped into the place that asked (status 422)."""

    text: str
    reference: str = ""

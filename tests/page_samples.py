"""One plausible context for every page, and pages at their edges: empty, refused, long words, markup in text."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.web import contexts as c

if TYPE_CHECKING:
    pass

NOW = datetime(2026, 11, 22, 10, 4, tzinfo=UTC)
DIGEST = "sha256:3f9ac18e2d7745b0a1c2f0e6b4d8893b7712aa90cc51e3d2f6478b9a0c1d2e3f"
STUDY_UID = "2.25.190245871265409187234650912873465"
#: Appears as text wherever a sample puts it; as an element nowhere.
MARKUP = "<img src=x onerror=alert(1)>"


def shell(title: str, role: c.Role, *, current: str = "", has_events: bool = False, notices: tuple[c.Notice, ...] = ()) -> c.Shell:
    entries: dict[str, list[tuple[str, str, int | None]]] = {
        "reader": [("/worklist", "Worklist", 14), ("/readings", "My reports", None)],
        "hospital_staff": [("/studies", "Studies", None), ("/quarantine", "Quarantine", 2)],
        "privacy_officer": [("/privacy", "Log", None), ("/privacy/decisions", "Decisions", None), ("/consents", "Consents", None)],
        "operator": [("/deliveries", "Deliveries", 1), ("/readers", "Readers", None), ("/evidence", "Evidence", None)],
    }
    return c.Shell(
        title=title,
        principal_name={"reader": "M. Weber", "hospital_staff": "A. Klein", "privacy_officer": "S. Roth", "operator": "J. Ott"}[role],
        role=role,
        csrf_token="token-for-the-sample",
        navigation=tuple(c.NavigationEntry(href, label, count, href == current) for href, label, count in entries[role]),
        hospital_name="St. Anna" if role == "hospital_staff" else None,
        declared_country="Switzerland" if role == "reader" else None,
        session_expires_at=None,
        notices=notices,
        has_events=has_events,
    )


def worklist_rows() -> tuple[c.WorklistRow, ...]:
    licence = c.Reason("LICENCE_MISSING", "You hold no licence for Texas, where the patient is.", "G4")
    cover = c.Reason("COVER_MISSING", "Your malpractice cover does not reach the United States.", "G4")

    def row(number: int, priority: str, word: str, due: int, modality: str, procedure: str, part: str, **other: object) -> c.WorklistRow:
        facts: dict[str, object] = {
            "procedure_step_uid": f"2.25.30{number}",
            "priority": priority,
            "priority_word": word,
            "due_at": NOW + timedelta(minutes=due),
            "modality": modality,
            "procedure": procedure,
            "body_part": part,
            "instance_count": 174,
            "prior_count": 0,
            "pseudonym": f"RG-7KQ2-{number:04d}",
            "accession_pseudonym": f"A{88120 + number}",
            "hospital_name": "St. Anna",
            "origin": "DE",
            "destination": "CH",
            "status": "Free",
            "tone": "neutral",
            "can_claim": True,
            "study_on": NOW.date(),
            "patient": "F 61 y",
        }
        return c.WorklistRow(**{**facts, **other})  # type: ignore[arg-type]

    limit = c.Reason("PRELIMINARY_ONLY", "You may sign a preliminary report; the final one is for another reader.", "Preliminary only")
    held = {"status": "Held by Dr Ruiz", "tone": "held", "can_claim": False, "lease_expires_at": NOW + timedelta(minutes=21)}
    mine = {"status": "Your draft", "tone": "mine", "can_claim": False, "can_open": True, "lease_expires_at": NOW + timedelta(minutes=9)}
    denied = {"status": "Not yours to read", "can_claim": False, "reasons": (licence, cover), "decision_digest": DIGEST, "origin": "US-TX"}
    return (
        row(1, "HIGH", "STAT", -4, "CT", "CT head without contrast", "Head", prior_count=2),
        row(2, "HIGH", "STAT", 18, "CT", "CT angiography of the pulmonary arteries", "Chest", **mine),
        row(3, "HIGH", "STAT", 26, "CT", "CT polytrauma", "Whole body", hospital_name="Lone Star Regional", **denied),
        row(4, "MEDIUM", "Urgent", 64, "US", "Ultrasound of the abdomen", "Abdomen", instance_count=31, **held),
        row(5, "MEDIUM", "Urgent", 92, "MR", "MR lumbar spine", "Spine", is_clock_stopped=True, instance_count=384, prior_count=1),
        row(6, "LOW", "Routine", 400, "CR", "Chest, two views", "Chest", instance_count=2, limits=(limit,)),
        row(7, "LOW", "Routine", 3200, "MG", "Mammography, screening, with a long name of the procedure", "Breast", instance_count=4),
        row(
            8, "LOW", "Routine", 3300, "CT", f"CT of the sinuses {MARKUP}", "", status="Final", tone="good", can_claim=False, can_open=True
        ),
    )


def worklist_of_nobody() -> c.WorklistPage:
    """A list without a study, for a reader who may read none of those that wait."""
    reason = c.Reason("CRED_LICENCE_EXPIRED:ES", "3 studies: The licence has expired (ES).")
    page = worklist(is_empty=True)
    return dataclasses.replace(page, filters=c.WorklistFilters(), refused=c.RefusedStudies(3, (reason,)), counts=())


def worklist(*, is_empty: bool = False) -> c.WorklistPage:
    return c.WorklistPage(
        shell=shell("Worklist", "reader", current="/worklist", has_events=True),
        rows=() if is_empty else worklist_rows(),
        filters=c.WorklistFilters(modality="" if not is_empty else "MR"),
        paging=c.Paging(0, 0, 0) if is_empty else c.Paging(1, 8, 61, next_href="/worklist?page=2"),
        now=NOW,
        self_href="/worklist",
        modalities=(c.Choice("CT", "CT"), c.Choice("MR", "MR")),
        hospitals=(c.Choice("h1", "St. Anna"), c.Choice("h2", "Lone Star Regional")),
        states=(c.Choice("free", "Free"), c.Choice("mine", "Mine")),
        priorities=(c.Choice("HIGH", "STAT"), c.Choice("LOW", "Routine")),
        sorts=(c.Choice("urgency", "Most urgent first"), c.Choice("received", "Newest first")),
        counts=(c.Choice("6", "free"), c.Choice("3", "urgent")),
    )


def report_text() -> c.ReportText:
    return c.ReportText(
        indication="Sudden headache, worst of life, three hours ago. Anticoagulated. Bleeding?",
        technique="Unenhanced helical CT of the head, 1 mm.",
        comparison="CT head, 14 months earlier.",
        findings="Hyperdense crescent along the left convexity, up to 9 mm.\nMidline shift of 4 mm to the right.\n"
        "Basal cisterns open. No fracture.",
        impression="1. Acute left subdural haematoma, 9 mm, with 4 mm midline shift.\n2. New since the prior study.",
    )


def critical() -> c.CriticalResult:
    return c.CriticalResult(True, "Acute subdural haematoma.", "Emergency physician on duty", NOW)


def read(*, is_signed: bool = False, has_images: bool = True) -> c.ReadPage:
    signed = (
        c.SignedReport(
            "ADDENDUM", "M. Weber", NOW, DIGEST, c.ReportText(findings="The shift is 5 mm on the coronal plane."), delivery="Waiting"
        ),
        c.SignedReport("FINAL", "M. Weber", NOW - timedelta(hours=2), DIGEST, report_text(), critical(), False, "Delivered", "good"),
    )
    return c.ReadPage(
        shell=shell("Reading", "reader"),
        row=worklist_rows()[1],
        viewer_href=f"/ohif/viewer?StudyInstanceUIDs={STUDY_UID}" if has_images else None,
        watermark="M. Weber · 2026-11-22 10:04 UTC · 3f9ac18e2d77",
        now=NOW,
        text=report_text(),
        critical=critical(),
        draft_version=7,
        kind="FINAL",
        kinds=(c.Choice("PRELIMINARY", "Preliminary"), c.Choice("FINAL", "Final")),
        obligations=("You may sign a preliminary report only: a reader in the United States signs the final one.",),
        can_write=not is_signed,
        can_release=not is_signed,
        can_add=is_signed,
        saved_at=NOW,
        lease_expires_at=NOW + timedelta(minutes=15),
        priors=(c.Prior("CT head", "14 months earlier", 160, f"/ohif/viewer?StudyInstanceUIDs={STUDY_UID}1", report_text()),),
        signed=signed if is_signed else (),
        patient_summary="Female, 61 years, 1.68 m, 70 kg",
    )


def sign_preview() -> c.SignPreview:
    return c.SignPreview(
        procedure_step_uid="2.25.302",
        csrf_token="token-for-the-sample",
        kind="FINAL",
        text=report_text(),
        critical=critical(),
        draft_version=7,
        report_digest=DIGEST,
        manifest_digest=DIGEST,
        order_digest=DIGEST,
        instance_count=174,
        reader_name="M. Weber",
        warnings=("The findings say left, the indication says right.",),
    )


def home(role: c.Role = "operator") -> c.HomePage:
    return c.HomePage(
        shell("Good morning", role),
        (
            c.Tile("Dead letters", "/deliveries?state=dead", 1, "Reports that no hospital has received", "bad"),
            c.Tile("Quarantine", "/quarantine", 2, "Waiting for a person", "warning"),
            c.Tile("Readers", "/readers", None, "Register readers and their credentials"),
        ),
    )


def login(refusal: str = "") -> c.LoginPage:
    return c.LoginPage("token", (c.Choice("CH", "Switzerland"), c.Choice("DE", "Germany")), "m.weber" if refusal else "", refusal=refusal)


def error() -> c.ErrorPage:
    return c.ErrorPage(
        "Not yours to see", "This study is held by another reader.", "Go back to the worklist and take another.", 403, "CLAIM_HELD"
    )

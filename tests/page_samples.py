"""One plausible context for every page, and pages at their edges: empty, refused, long words, markup in text."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.web import contexts as c
from gateway.web import contexts_oversight as o

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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
        csrf_token="token-for-the-sample",  # noqa: S106
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
        }
        return c.WorklistRow(**{**facts, **other})  # type: ignore[arg-type]

    held = {"status": "Held by Dr Ruiz", "tone": "held", "can_claim": False, "lease_expires_at": NOW + timedelta(minutes=21)}
    mine = {"status": "Your draft", "tone": "mine", "can_claim": False, "can_open": True, "lease_expires_at": NOW + timedelta(minutes=9)}
    denied = {"status": "Not yours to read", "can_claim": False, "reasons": (licence, cover), "decision_digest": DIGEST, "origin": "US-TX"}
    return (
        row(1, "HIGH", "STAT", -4, "CT", "CT head without contrast", "Head", prior_count=2),
        row(2, "HIGH", "STAT", 18, "CT", "CT angiography of the pulmonary arteries", "Chest", **mine),
        row(3, "HIGH", "STAT", 26, "CT", "CT polytrauma", "Whole body", hospital_name="Lone Star Regional", **denied),
        row(4, "MEDIUM", "Urgent", 64, "US", "Ultrasound of the abdomen", "Abdomen", instance_count=31, **held),
        row(5, "MEDIUM", "Urgent", 92, "MR", "MR lumbar spine", "Spine", is_clock_stopped=True, instance_count=384, prior_count=1),
        row(6, "LOW", "Routine", 400, "CR", "Chest, two views", "Chest", instance_count=2),
        row(7, "LOW", "Routine", 3200, "MG", "Mammography, screening, with a long name of the procedure", "Breast", instance_count=4),
        row(8, "LOW", "Routine", 3300, "CT", f"CT of the sinuses {MARKUP}", "", status="Final", tone="good", can_claim=False, can_open=True),
    )


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
    return c.CriticalResult(True, "Acute subdural haematoma", "Emergency physician on duty", "2026-11-22T10:15", True)


def read(*, is_signed: bool = False, has_images: bool = True) -> c.ReadPage:
    signed = (
        c.SignedReport("addendum", "M. Weber", NOW, DIGEST, c.ReportText(findings="The shift is 5 mm on the coronal plane."), delivery="Waiting"),
        c.SignedReport(
            "final", "M. Weber", NOW - timedelta(hours=2), DIGEST, report_text(), critical(), True, "Delivered", "good"
        ),
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
        kind="final",
        kinds=(c.Choice("preliminary", "Preliminary"), c.Choice("final", "Final")),
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
        csrf_token="token-for-the-sample",  # noqa: S106
        kind="final",
        text=report_text(),
        critical=critical(),
        draft_version=7,
        report_digest=DIGEST,
        manifest_digest=DIGEST,
        instance_count=174,
        reader_name="M. Weber",
        warnings=("The findings say left, the indication says right.",),
    )


def deliveries() -> tuple[o.DeliveryRow, ...]:
    pdf, oru = "Encapsulated PDF to H1_PACS by C-STORE", "ORU^R01 by MLLP"
    return (
        o.DeliveryRow("d1", "Final report 1", pdf, "Delivered", "good", 1, receipt="0000H Success, 10:31 UTC", pseudonym="RG-7KQ2-0001", hospital_name="St. Anna"),
        o.DeliveryRow("d2", "Final report 1", oru, "Next try", "warning", 3, "connection refused", NOW + timedelta(minutes=4), pseudonym="RG-7KQ2-0001", hospital_name="St. Anna"),
        o.DeliveryRow("d3", "Addendum 1", oru, "Dead letter", "bad", 12, "AE 207: application error", pseudonym="RG-7KQ2-0004", hospital_name="St. Anna", may_release=True),
    )


def hospital_studies() -> o.HospitalStudiesPage:
    names = ("Received", "De-identified", "Sealed", "Routed", "Claimed", "Viewed", "Reported", "Signed", "Delivered")

    def life(done: int, *, failed: bool = False) -> tuple[o.LifeStep, ...]:
        return tuple(
            o.LifeStep(
                name,
                NOW + timedelta(minutes=number) if number < done else None,
                "done" if number < done else ("failed" if failed else "now") if number == done else "waiting",
            )
            for number, name in enumerate(names)
        )

    nobody = (
        c.Reason("LICENCE_MISSING", "3 readers hold no licence for this state.", "G4"),
        c.Reason("EVIDENCE_EXPIRED", "1 reader: the transfer contract of the reading firm ran out on 2026-11-01.", "G2"),
    )
    return o.HospitalStudiesPage(
        shell=shell("Studies", "hospital_staff", current="/studies"),
        studies=(
            o.HospitalStudy(
                "k1", "Müller, Johanna", "4711", date(1965, 3, 2), "F", "ACC-2026-0091", "CT", "CT head", date(2026, 11, 22), NOW, 174,
                "Report delivered", "good", None, life(9), deliveries=deliveries(), report_href="/studies/k1/report.pdf", report_label="Final report (PDF)",
            ),
            o.HospitalStudy(
                "k2", f"Li {MARKUP}", "4712", None, "M", "", "MR", "MR lumbar spine", None, NOW, 384,
                "Waiting for a reader", "warning", NOW + timedelta(minutes=20), life(4), 0, nobody,
            ),
            o.HospitalStudy(
                "k3", "Okafor, Ada", "4713", date(1990, 1, 9), "F", "ACC-2026-0093", "US", "Abdomen", date(2026, 11, 22), NOW, 31,
                "In quarantine", "bad", None, life(1, failed=True),
            ),
        ),
        paging=c.Paging(1, 3, 3),
        now=NOW,
        states=(c.Choice("waiting", "Waiting for a reader"),),
    )


def quarantine_row() -> o.QuarantineRow:
    reason = c.Reason("BURNED_IN_TEXT", "Text in the image could not be proved free of identity")
    return o.QuarantineRow("q1", NOW, "St. Anna", "H1_PACS", reason, "(7FE0,0010)", "PixelData", "US", 31, "Waiting for you", "warning")


def quarantine_item(*, is_open: bool = True) -> o.QuarantineItemPage:
    return o.QuarantineItemPage(
        shell=shell("Quarantine", "hospital_staff", current="/quarantine"),
        row=quarantine_row(),
        what_happened="Frames 1 to 31 of one instance hold text in the region x 0 to 410, y 0 to 38. No mask is known for this device.",
        what_to_do="Send the study again without the name in the image, or mask the region.",
        facts=(("Manufacturer's model", "known, no mask"),),
        may_release=is_open,
        may_reject=is_open,
        repairs=(c.Choice("mask", "Mask the region that was found"),) if is_open else (),
        history=(o.LifeStep("Received", NOW, "done"), o.LifeStep("Held", NOW, "failed", "BURNED_IN_TEXT")),
    )


def privacy() -> o.PrivacyPage:
    return o.PrivacyPage(
        shell=shell("Privacy log", "privacy_officer", current="/privacy"),
        entries=(
            o.AuditEntry(311, NOW, "Instances accessed", "success", "M. Weber", "reader", "RG-7KQ2-0001", "Study 2.25.1902…", "DE → CH", DIGEST),
            o.AuditEntry(310, NOW, "Claim", "refused", "P. Ruiz", "reader", "RG-7KQ2-0003", "Procedure step", "US-TX → ES", DIGEST, "LICENCE_MISSING"),
            o.AuditEntry(309, NOW, "Association", "failure", "H9_PACS", "peer", "", "Association", "", "", "AE_UNKNOWN"),
        ),
        tree_head=o.TreeHead(312, "kq3v0pK1l2u8D0cXcXr0eJ7s1J2Yk8h4QmJm0b2b1yY=", "readgate.example/log", NOW, "Verified: every entry stands under this head", "good", NOW),
        paging=c.Paging(1, 3, 312, next_href="/privacy?page=2"),
        events=(c.Choice("access", "Instances accessed"),),
    )


def decision_row() -> o.DecisionRow:
    reason = c.Reason("LICENCE_MISSING", "No licence for the state where the patient is (US-TX).", "G4")
    return o.DecisionRow(DIGEST, NOW, "CLAIM", "P. Ruiz", "RG-7KQ2-0003", "US-TX → ES", "DENY", (reason,))


def decision() -> o.DecisionPage:
    return o.DecisionPage(
        shell=shell("Decision", "privacy_officer", current="/privacy/decisions"),
        decision=decision_row(),
        question="May P. Ruiz, in Spain, claim study RG-7KQ2-0003 of Lone Star Regional, Texas?",
        gates=(
            o.GateResult("G1", "Prohibitions", "Nothing prohibits", "good", ("us.dsp.country-of-concern: 28 CFR 202.601",)),
            o.GateResult("G4", "Credentials", "Denied", "bad", ("us.licence.patient-state: Tex. Occ. Code 151.056",), ("none",)),
        ),
        facts=(("reader.location", "ES", "declared at login, 09:58 UTC"), ("study.origin", "US-TX", "hospital register")),
        obligations=("VIEW_ONLY",),
        valid_until=NOW + timedelta(minutes=15),
        law_digest=DIGEST,
        replay="Came out byte for byte on 2026-11-22 10:40 UTC",
        log_index=310,
        log_proof=("aa" * 32, "bb" * 32),
        tree_root="kq3v0pK1l2u8D0cXcXr0eJ7s1J2Yk8h4QmJm0b2b1yY=",
    )


def register(*, is_empty: bool = False) -> o.RegisterPage:
    rows = (
        o.RegisterRow(
            (c_cell("M. Weber"), c_cell("Licence"), c_cell("CH"), c_cell("2027-03-31"), o.Cell("Valid", "good")),
            (o.RowAction("/credentials/1/withdraw", "Withdraw", True, True),),
        ),
        o.RegisterRow(
            (c_cell("P. Ruiz"), c_cell("Licence"), c_cell("ES"), c_cell("2026-11-01"), o.Cell("Lapsed", "bad")),
            (o.RowAction("/credentials/2/check", "Check again"),),
        ),
    )
    return o.RegisterPage(
        shell=shell("Credentials", "operator", notices=(c.Notice("The licence of M. Weber was registered.", "good"),)),
        heading="Credentials",
        intro="What each reader may show for the law to look at. Each change is an entry in the log.",
        columns=("Reader", "Kind", "Jurisdiction", "Expires", "State"),
        rows=() if is_empty else rows,
        paging=c.Paging(0, 0, 0) if is_empty else c.Paging(1, 2, 2),
        add_href="/credentials",
        add_label="Register a credential",
        fields=(
            o.FormField("reader", "Reader", "select", (c.Choice("weber", "M. Weber"),)),
            o.FormField("expires", "Expires", "date", hint="The last day on which it holds."),
            o.FormField("note", "Source", "textarea", is_required=False),
        ),
    )


def c_cell(text: str) -> o.Cell:
    return o.Cell(text)


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
    return c.ErrorPage("Not yours to see", "This study is held by another reader.", "Go back to the worklist and take another.", 403, "CLAIM_HELD")


def pages() -> dict[str, tuple[str, DataclassInstance]]:
    """Every whole page: a name of the sample, its template and its context."""
    return {
        "login": ("login.html.j2", login()),
        "login-refused": ("login.html.j2", login("The name, password or code is not right.")),
        "home": ("home.html.j2", home()),
        "worklist": ("worklist.html.j2", worklist()),
        "worklist-empty": ("worklist.html.j2", worklist(is_empty=True)),
        "read": ("read.html.j2", read()),
        "read-signed": ("read.html.j2", read(is_signed=True, has_images=False)),
        "studies": ("studies.html.j2", hospital_studies()),
        "deliveries": ("deliveries.html.j2", o.DeliveriesPage(shell("Deliveries", "operator", current="/deliveries"), deliveries(), c.Paging(1, 3, 3), states=(c.Choice("dead", "Dead letter"),))),
        "quarantine": ("quarantine.html.j2", o.QuarantinePage(shell("Quarantine", "hospital_staff", current="/quarantine"), (quarantine_row(),), c.Paging(1, 1, 1))),
        "quarantine-item": ("quarantine_item.html.j2", quarantine_item()),
        "quarantine-item-closed": ("quarantine_item.html.j2", quarantine_item(is_open=False)),
        "privacy": ("privacy.html.j2", privacy()),
        "decisions": ("decisions.html.j2", o.DecisionsPage(shell("Decisions", "privacy_officer", current="/privacy/decisions"), (decision_row(),), c.Paging(1, 1, 1))),
        "decision": ("decision.html.j2", decision()),
        "register": ("register.html.j2", register()),
        "register-empty": ("register.html.j2", register(is_empty=True)),
        "error": ("error.html.j2", error()),
        "viewer-missing": ("viewer_missing.html.j2", error()),
    }


def parts() -> dict[str, tuple[str, DataclassInstance]]:
    """Every part that is swapped into a page."""
    return {
        "worklist-row": ("worklist_row.html.j2", c.WorklistRowPart(worklist_rows()[1], "token", NOW)),
        "worklist-row-refused": ("worklist_row.html.j2", c.WorklistRowPart(worklist_rows()[3], "token", NOW, "Dr Ruiz was faster.")),
        "sign-preview": ("sign_preview.html.j2", sign_preview()),
        "refusal": ("refusal.html.j2", c.Refusal("The passphrase is not right.", "PASSPHRASE_WRONG")),
    }

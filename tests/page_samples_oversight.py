"""Sample contexts of the pages for hospitals, privacy officers and operators."""

from __future__ import annotations

from datetime import date, timedelta

from gateway.web import contexts as c
from gateway.web import contexts_oversight as o
from gateway.web.contexts_registers import ConsentPage, LogEntryPage, Term
from tests.page_samples import DIGEST, MARKUP, NOW, shell


def deliveries() -> tuple[o.DeliveryRow, ...]:
    pdf, oru = "Encapsulated PDF to H1_PACS by C-STORE", "ORU^R01 by MLLP"
    return (
        o.DeliveryRow(
            "d1",
            "Final report 1",
            pdf,
            "Delivered",
            "good",
            1,
            receipt="0000H Success, 10:31 UTC",
            pseudonym="RG-7KQ2-0001",
            hospital_name="St. Anna",
        ),
        o.DeliveryRow(
            "d2",
            "Final report 1",
            oru,
            "Next try",
            "warning",
            3,
            "connection refused",
            next_attempt_at=NOW + timedelta(minutes=4),
            pseudonym="RG-7KQ2-0001",
            hospital_name="St. Anna",
        ),
        o.DeliveryRow(
            "d3",
            "Addendum 1",
            oru,
            "Dead letter",
            "bad",
            12,
            "AE 207: application error",
            pseudonym="RG-7KQ2-0004",
            hospital_name="St. Anna",
            may_release=True,
        ),
        o.DeliveryRow(
            "d4",
            "Final report 1",
            pdf,
            "Held back by the law",
            "bad",
            0,
            reasons=(c.Reason("HOUSE_POLICY_COC", "A rule of the law on file stands in the way: HOUSE_POLICY_COC."),),
            next_attempt_at=NOW + timedelta(minutes=15),
            pseudonym="RG-7KQ2-0005",
            hospital_name="St. Anna",
        ),
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
                "k1",
                "Müller, Johanna",
                "4711",
                date(1965, 3, 2),
                "F",
                "ACC-2026-0091",
                "CT",
                "CT head",
                date(2026, 11, 22),
                NOW,
                174,
                "Report delivered",
                "good",
                None,
                life(9),
                deliveries=deliveries(),
                report_href="/studies/k1/report.pdf",
                report_label="Final report (PDF)",
            ),
            o.HospitalStudy(
                "k2",
                f"Li {MARKUP}",
                "4712",
                None,
                "M",
                "",
                "MR",
                "MR lumbar spine",
                None,
                NOW,
                384,
                "Waiting for a reader",
                "warning",
                NOW + timedelta(minutes=20),
                life(4),
                unclaimed=o.WhyUnclaimed(
                    headline="No reader may read it: the law stops all 4 who are registered.",
                    waiting_since=NOW - timedelta(minutes=40),
                    is_open=True,
                    held_up=("2 eligible readers are not logged in",),
                    nearest=("1 reader could read it but for this: The licence has expired (ES).",),
                    refused=nobody,
                ),
            ),
            o.HospitalStudy(
                "k0",
                "Not identified yet",
                "",
                None,
                "",
                "",
                "",
                "",
                None,
                NOW,
                212,
                "Being received",
                "neutral",
                None,
                life(0),
                is_arriving=True,
                expected_count=400,
            ),
            o.HospitalStudy(
                "k3",
                "Okafor, Ada",
                "4713",
                date(1990, 1, 9),
                "F",
                "ACC-2026-0093",
                "US",
                "Abdomen",
                date(2026, 11, 22),
                NOW,
                31,
                "In quarantine",
                "bad",
                None,
                life(1, failed=True),
            ),
        ),
        paging=c.Paging(1, 4, 4),
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
            o.AuditEntry(
                311, NOW, "Instances accessed", "success", "M. Weber", "reader", "RG-7KQ2-0001", "Study 2.25.1902…", "DE → CH", DIGEST
            ),
            o.AuditEntry(
                310, NOW, "Claim", "refused", "P. Ruiz", "reader", "RG-7KQ2-0003", "Procedure step", "US-TX → ES", DIGEST, "LICENCE_MISSING"
            ),
            o.AuditEntry(309, NOW, "Association", "failure", "H9_PACS", "peer", "", "Association", "", "", "AE_UNKNOWN"),
        ),
        tree_head=o.TreeHead(
            312,
            "kq3v0pK1l2u8D0cXcXr0eJ7s1J2Yk8h4QmJm0b2b1yY=",
            "readgate.example/log",
            NOW,
            "Verified: every entry stands under this head",
            "good",
            NOW,
        ),
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
            o.GateResult("G1", "Prohibitions", "Nothing prohibits", "good", (), ("us.dsp.country-of-concern: 28 CFR 202.601",)),
            o.GateResult(
                "G4",
                "Credentials",
                "Denied",
                "bad",
                ("CRED_COVER_MISSING:US-TX", "CRED_LICENCE_MISSING:US-TX", "HOUSE_COVER", "US_LICENCE_PATIENT_STATE"),
                ("us.licence.patient-state: Tex. Occ. Code 151.056",),
                ("none",),
            ),
        ),
        facts=(("reader.location", "ES", "declared at login, 09:58 UTC"), ("study.origin", "US-TX", "hospital register")),
        obligations=(
            o.ObligationRow("VIEW_ONLY", "For viewing only.", "Met", "good", "1 right to look was given under it."),
            o.ObligationRow("REVIEW_72H", "This access is reviewed within 72 hours.", "Waiting", "warning", "Review 4 is due."),
        ),
        about=(("Who", "P. Ruiz (r2), e1 in ES"), ("What", "claim: CT HEAD, patient RG-7KQ2-0003"), ("Where", "established in ES")),
        followed=(o.FollowingEntry(311, NOW, "Images opened"),),
        today="It would be denied. Asked 2026-11-22 10:40 UTC, with the facts of then, under the same law.",
        today_reasons=(c.Reason("CRED_LICENCE_EXPIRED:ES", "The licence has expired (ES)."),),
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
            (o.Cell("M. Weber"), o.Cell("Licence"), o.Cell("CH"), o.Cell("2027-03-31"), o.Cell("Valid", "good")),
            (o.RowAction("/credentials/1/withdraw", "Withdraw", True, True),),
        ),
        o.RegisterRow(
            (o.Cell("P. Ruiz"), o.Cell("Licence"), o.Cell("ES"), o.Cell("2026-11-01"), o.Cell("Lapsed", "bad")),
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


def log_entry(*, is_open: bool = False) -> LogEntryPage:
    return LogEntryPage(
        shell=shell("Entry 311", "privacy_officer", current="/privacy"),
        index=311,
        event="Person or credential changed",
        outcome="Success",
        tone="good",
        at=NOW,
        who="Aoife Brannigan (po)",
        address="192.0.2.7",
        hospital_id="h1",
        pseudonym="RG-7KQ2-0003",
        study_instance_uid="2.25.301",
        about="quarantine item 7",
        object_id="quarantine/7",
        details=(("Credential", "LICENCE"), ("Status", "SUSPENDED")),
        links=(("Everything about this study", "/privacy?q=2.25.301"),),
        decision_digest=DIGEST,
        leaf_hash="ab" * 32,
        is_sealed=True,
        text=f"Letter of the chamber {MARKUP}" if is_open else None,
    )


def consent() -> ConsentPage:
    return ConsentPage(
        shell=shell("Consent", "privacy_officer", current="/consents"),
        consent_key="3",
        pseudonym="RG-7KQ2-0003",
        hospital_name="St. Anna",
        kind="Sharing",
        status="Active",
        tone="good",
        version=2,
        is_newest=True,
        given_at=NOW,
        withdrawn_at=None,
        expires_at=NOW + timedelta(days=90),
        recorded_at=NOW,
        document_digest=DIGEST,
        terms=(Term(0, "Permitted: every read."), Term(1, "Denied: reads in US."), Term(2, "Permitted: reads by reader r1.")),
    )

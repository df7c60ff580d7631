"""Every page and every part of a page, with a template and a sample context each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.web import contexts as c
from gateway.web import contexts_oversight as o
from gateway.web.contexts_emergency import BreakGlassPage
from gateway.web.contexts_registers import ConsentImportPage
from tests import page_samples as samples
from tests import page_samples_manifest as manifest
from tests import page_samples_oversight as oversight
from tests import page_samples_pixels as pixels

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def pages() -> dict[str, tuple[str, DataclassInstance]]:
    """Every whole page: a name of the sample, its template and its context."""
    return {
        "login": ("login.html.j2", samples.login()),
        "login-refused": ("login.html.j2", samples.login("The name, password or code is not right.")),
        "home": ("home.html.j2", samples.home()),
        "worklist": ("worklist.html.j2", samples.worklist()),
        "break-glass": (
            "break_glass.html.j2",
            BreakGlassPage(
                shell=samples.shell("Emergency access", "reader", current="/worklist"),
                procedure_step_uid="2.25.1",
                study="CT Head RG-7A1B2C3D4E",
                reasons=(c.Choice("UNCONSCIOUS", "The patient cannot be asked and cannot wait"),),
                left=2,
                refusal="The code is wrong or was used before. Wait for the next one.",
            ),
        ),
        "deid-manifest": ("deid_manifest.html.j2", manifest.standing()),
        "deid-manifest-broken": ("deid_manifest.html.j2", manifest.broken()),
        "pixel-review": ("pixel_review.html.j2", pixels.review()),
        "pixel-review-closed": ("pixel_review.html.j2", pixels.review(is_open=False)),
        "pixel-queue": ("pixel_queue.html.j2", pixels.queue()),
        "pixel-queue-empty": ("pixel_queue.html.j2", pixels.queue(is_empty=True)),
        "pixel-masks": ("pixel_masks.html.j2", pixels.masks()),
        "worklist-empty": ("worklist.html.j2", samples.worklist(is_empty=True)),
        "worklist-of-nobody": ("worklist.html.j2", samples.worklist_of_nobody()),
        "read": ("read.html.j2", samples.read()),
        "read-signed": ("read.html.j2", samples.read(is_signed=True, has_images=False)),
        "studies": ("studies.html.j2", oversight.hospital_studies()),
        "deliveries": (
            "deliveries.html.j2",
            o.DeliveriesPage(
                samples.shell("Deliveries", "operator", current="/deliveries"),
                oversight.deliveries(),
                c.Paging(1, 4, 4),
                states=(c.Choice("dead", "Dead letter"),),
            ),
        ),
        "quarantine": (
            "quarantine.html.j2",
            o.QuarantinePage(
                samples.shell("Quarantine", "hospital_staff", current="/quarantine"), (oversight.quarantine_row(),), c.Paging(1, 1, 1)
            ),
        ),
        "quarantine-item": ("quarantine_item.html.j2", oversight.quarantine_item()),
        "quarantine-item-closed": ("quarantine_item.html.j2", oversight.quarantine_item(is_open=False)),
        "privacy": ("privacy.html.j2", oversight.privacy()),
        "log-entry": ("log_entry.html.j2", oversight.log_entry()),
        "log-entry-opened": ("log_entry.html.j2", oversight.log_entry(is_open=True)),
        "consent": ("consent.html.j2", oversight.consent()),
        "consent-import": (
            "consent_import.html.j2",
            ConsentImportPage(samples.shell("Import a consent", "privacy_officer", current="/consents")),
        ),
        "decisions": (
            "decisions.html.j2",
            o.DecisionsPage(
                samples.shell("Decisions", "privacy_officer", current="/privacy/decisions"), (oversight.decision_row(),), c.Paging(1, 1, 1)
            ),
        ),
        "decision": ("decision.html.j2", oversight.decision()),
        "register": ("register.html.j2", oversight.register()),
        "register-empty": ("register.html.j2", oversight.register(is_empty=True)),
        "error": ("error.html.j2", samples.error()),
        "viewer-missing": ("viewer_missing.html.j2", samples.error()),
    }


def parts() -> dict[str, tuple[str, DataclassInstance]]:
    """Every part that is swapped into a page."""
    return {
        "worklist-row": ("worklist_row.html.j2", c.WorklistRowPart(samples.worklist_rows()[1], "token", samples.NOW)),
        "worklist-row-refused": (
            "worklist_row.html.j2",
            c.WorklistRowPart(samples.worklist_rows()[3], "token", samples.NOW, "Dr Ruiz was faster."),
        ),
        "sign-preview": ("sign_preview.html.j2", samples.sign_preview()),
        "refusal": ("refusal.html.j2", c.Refusal("The passphrase is not right.", "PASSPHRASE_WRONG")),
    }

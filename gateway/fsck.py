"""`readgate fsck`: rows, packs, spool, keys and the audit log held against each other; what is wrong and what to do about it.

Reads only, may run beside a working deployment, and opens nothing but what it checks. It finds; `repair` deletes orphan packs and packs
of shredded studies and nothing else, because everything else that looks superfluous may be the only copy of something.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from compliance import audit
from compliance.audit_checkpoint import verify_log
from crypto.errors import ReadgateError

if TYPE_CHECKING:
    from gateway.application import Application

#: What an operator does about each kind of finding. docs/OPERATIONS.md carries this table; a test holds the two together.
ADVICE = {
    "orphan_pack": "no row and no job knows it, though the worker reclaims what a crash leaves: after a restore of the database "
    "look there first, then delete it with readgate fsck --repair",
    "pack_of_shredded_study": "ciphertext without a key: delete it with readgate fsck --repair",
    "missing_pack": "restore the pack from a backup of the vault; without one ask the hospital to send the study again",
    "payload_missing": "the pack is shorter than its rows say: restore it from a backup of the vault",
    "payload_damaged": "the stored bytes are not those that were sealed: restore the pack from a backup of the vault",
    "pack_damaged": "the pack's framing is broken: restore it from a backup of the vault",
    "frame_missing": "an acknowledged instance stands nowhere: ask the hospital to send the study again, and find out what removed it",
    "frame_without_row": "start a worker: it writes the row from the spool",
    "spool_segment_damaged": "acknowledged bytes are damaged: look after the spool's disk, and ask the hospital to send the study again",
    "study_without_shred_key": "the study cannot be opened: restore the key store, or finish its shredding with readgate keys shred",
    "wrapped_key_damaged": "the study's wrapped key does not open: restore the row, or the key-encryption key it names",
    "shredded_study_has_key": "a restored key store brought the key back: repeat readgate keys shred",
    "shred_key_without_study": "what a crash left; nothing is sealed under it, it may stay",
    "hospital_without_kek": "the hospital cannot receive and its studies do not open: restore the key store",
    "manifest_mismatch": "instances were added, removed or changed behind the program: restore the database; do not deliver reports on it",
    "audit_log_broken": "stop, keep the database as it is, and compare with the checkpoints of your witnesses",
    "delivered_without_copy": "the hospital's copy of a delivered report is gone: restore the database",
    "report_copy_damaged": "the hospital's copy does not open or is another one: restore the database",
    "signature_invalid": "the signed report does not verify: restore the database and tell the hospital and the reader",
    "decision_missing": "the decision a report stands on is gone: restore the database",
    "two_steps_in_progress": "two readers hold one study: end one claim; this must not happen, report it",
    "step_contradicts_itself": "the step's state and its holder or report do not agree: restore the database, report it",
    "row_points_nowhere": "a row refers to one that is gone: restore the database",
}
#: A pack younger than this is not deleted: whoever put it, and did not announce it, may be about to name it.
ORPHAN_AGE = timedelta(hours=1)


@dataclass(frozen=True)
class Finding:
    """One thing that does not agree; `what` holds row keys, pseudonymous UIDs and random names only."""

    kind: str
    what: str

    @property
    def advice(self) -> str:
        return ADVICE[self.kind]

    def document(self) -> dict[str, str]:
        return {"kind": self.kind, "what": self.what, "do": self.advice}


@dataclass
class FsckReport:
    """What was looked at, how often, and what was found; clean when `findings` is empty."""

    findings: list[Finding] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)
    repaired: list[str] = field(default_factory=list)

    def add(self, kind: str, what: str) -> None:
        finding = Finding(kind, what)
        if finding not in self.findings:
            self.findings.append(finding)

    def document(self) -> dict[str, Any]:
        return {
            "clean": not self.findings,
            "findings": [finding.document() for finding in self.findings],
            "checked": dict(sorted(self.checked.items())),
            "repaired": self.repaired,
        }


class Fsck:
    """One run over one deployment."""

    def __init__(self, app: Application, *, is_alone: bool = False, step: Callable[[], None] = lambda: None) -> None:
        """`is_alone`: nothing else runs, so nothing young is on its way. `step` is called after each object, for a progress bar."""
        self.app, self.is_alone, self.step = app, is_alone, step
        self.report = FsckReport()

    def run(self, *, deep: bool = False) -> FsckReport:
        """The findings; `deep` also opens every payload and compares it with its digest.

        Raises: TemporarilyUnable where database, vault or disk cannot be read at all.
        """
        from gateway.fsck_bytes import check_keys, check_packs, check_spool
        from gateway.fsck_rows import check_reports, check_steps, check_studies

        for check in (check_keys, check_spool, check_packs):
            check(self, deep)
        for check in (check_studies, check_steps, check_reports):
            check(self, deep)
        self._check_audit_log()
        return self.report

    def repair(self) -> list[str]:
        """The orphan packs and packs of shredded studies that `run` found, and that are old enough, are deleted; their names."""
        for finding in list(self.report.findings):
            if finding.kind not in ("orphan_pack", "pack_of_shredded_study"):
                continue
            name = finding.what.split()[0]
            if finding.kind == "orphan_pack" and not self.is_old(name):
                continue
            self.app.vault.delete_pack(name)
            self.report.findings.remove(finding)
            self.report.repaired.append(name)
        return self.report.repaired

    def is_old(self, pack_name: str) -> bool:
        """Whether no running job can still be about to name the pack."""
        if self.is_alone:
            return True
        try:
            return self.app.now() - self.app.vault.pack_written_at(pack_name) > ORPHAN_AGE
        except ReadgateError:
            return False

    @contextmanager
    def expecting(self, kind: str, what: str, *errors: type[ReadgateError]) -> Iterator[None]:
        """One of `errors` within is a finding."""
        try:
            yield
        except errors:
            self.report.add(kind, what)

    def _check_audit_log(self) -> None:
        with self.app.database.reading() as session:
            verification = verify_log(session, self.app.log_signer.public_key)
        self.report.checked["audit_entries"] = verification.size
        for finding in verification.findings:
            self.report.add("audit_log_broken", finding)


def note_repair(app: Application, actor: str, repaired: list[str]) -> None:
    """The audit entry of a repair."""
    with app.database.transaction() as session:
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.SECURITY_ALERT,
                event_type=audit.EventType.RESTRICTED_FUNCTION,
                action=audit.Action.DELETE,
                actor=actor,
                detail={"repaired": "orphan_packs", "count": len(repaired), "first": sorted(repaired)[:50]},
            ),
            at=app.now(),
        )

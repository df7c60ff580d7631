"""A reader at a site, by the functions themselves: claim, write, sign, add to it; time is the site's."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType
from compliance.audit_checkpoint import keep_checkpoint, verify_log
from compliance.credential import Credential, Employer, Evidence, Reader
from compliance.hospital import Hospital
from compliance.principal import LoginSession
from compliance.study import study_by_pk
from reporting.authoring import Draft, load_draft, save_draft
from reporting.content import ReportKind
from reporting.delivery_queue import Delivery
from reporting.report import Report, reports_of_study
from reporting.signing import sign
from tests.gateway_site import GatewaySite
from worklist.addendum import begin_addendum
from worklist.claim import claim, release
from worklist.procedure_step import State
from worklist.workitem import ProcedureStep, require_step

SECTIONS = {"technique": "", "comparison": "", "findings": "No bleeding.", "impression": "Normal."}


@dataclass
class Desk:
    """One reader, logged in."""

    site: GatewaySite
    reader_id: str = "r1"

    @property
    def login_digest(self) -> str:
        self.site.client(self.reader_id)
        with self.site.app.database.transaction() as session:
            login = session.exec(
                select(LoginSession).where(LoginSession.principal_id == self.reader_id, col(LoginSession.ended_at).is_(None))
            ).one()
            # A browser that is used is heard of all the time.
            login.observed_at = login.active_at = self.site.clock.at
            session.add(login)
            return login.token_digest

    def transaction_uid(self, step_uid: str) -> str:
        return f"{step_uid}.1"

    def claim(self, step_uid: str) -> str:
        claim(
            self.site.app.database,
            self.site.app.law,
            procedure_step_uid=step_uid,
            reader_id=self.reader_id,
            login_digest=self.login_digest,
            transaction_uid=self.transaction_uid(step_uid),
            now=self.site.clock.at,
        )
        return step_uid

    def release(self, step_uid: str) -> str:
        return release(
            self.site.app.database,
            procedure_step_uid=step_uid,
            reader_id=self.reader_id,
            login_digest=self.login_digest,
            now=self.site.clock.at,
            new_uid=self.site.app.new_uid,
        )

    def save(self, step_uid: str, base_version: int = 0, **sections: str) -> Draft:
        return save_draft(
            self.site.app.database,
            self.site.app.keys,
            procedure_step_uid=step_uid,
            reader_id=self.reader_id,
            login_digest=self.login_digest,
            base_version=base_version,
            sections={**SECTIONS, **sections},
            now=self.site.clock.at,
        )

    def load(self, step_uid: str) -> Draft:
        with self.site.app.database.reading() as session:
            return load_draft(session, self.site.app.keys, require_step(session, step_uid), self.reader_id)

    def sign(
        self,
        step_uid: str,
        version: int = 1,
        kind: ReportKind = ReportKind.FINAL,
        *,
        passphrase: str | None = None,
        transaction_uid: str | None = None,
        manifest_digest: str | None = None,
    ) -> Report:
        app = self.site.app
        with app.database.reading() as session:
            shown = study_by_pk(session, require_step(session, step_uid).study_pk).manifest_digest
        return sign(
            app.database,
            app.keys,
            app.law,
            procedure_step_uid=step_uid,
            reader_id=self.reader_id,
            login_digest=self.login_digest,
            transaction_uid=transaction_uid or self.transaction_uid(step_uid),
            kind=kind,
            draft_version=version,
            manifest_digest=manifest_digest if manifest_digest is not None else shown,
            passphrase=passphrase if passphrase is not None else self.site.logins[self.reader_id].passphrase,
            now=self.site.clock.at,
            new_uid=app.new_uid,
        )

    def begin_addendum(self, completed_step_uid: str) -> str:
        return begin_addendum(
            self.site.app.database,
            self.site.app.law,
            completed_step_uid=completed_step_uid,
            reader_id=self.reader_id,
            login_digest=self.login_digest,
            transaction_uid_of=self.transaction_uid,
            now=self.site.clock.at,
            new_uid=self.site.app.new_uid,
        ).procedure_step_uid

    def report(self, **sections: str) -> Report:
        """The final report on the site's study, claimed, written and signed."""
        step_uid = self.claim(self.site.step_uid)
        self.save(step_uid, 0, **sections)
        return self.sign(step_uid)


def step_of(site: GatewaySite, step_uid: str) -> ProcedureStep:
    with site.app.database.reading() as session:
        return require_step(session, step_uid)


def steps_of(site: GatewaySite) -> list[ProcedureStep]:
    with site.app.database.reading() as session:
        return list(session.exec(select(ProcedureStep).order_by(col(ProcedureStep.procedure_step_uid))).all())


def chain_of(site: GatewaySite) -> list[Report]:
    with site.app.database.reading() as session:
        return reports_of_study(session, site.study)


def deliveries_of(site: GatewaySite) -> list[Delivery]:
    with site.app.database.reading() as session:
        return list(session.exec(select(Delivery).order_by(col(Delivery.delivery_pk))).all())


def entries_of(site: GatewaySite, event_type: EventType) -> list[AuditEntry]:
    with site.app.database.reading() as session:
        return list(session.exec(select(AuditEntry).where(AuditEntry.event_type == event_type).order_by(col(AuditEntry.entry_index))).all())


def is_log_sound(site: GatewaySite) -> bool:
    app = site.app
    keep_checkpoint(app.database, app.log_signer, now=app.now())
    with app.database.reading() as session:
        return verify_log(session, app.log_signer.public_key).is_sound


def let_read_preliminarily(site: GatewaySite, reader_id: str = "r5") -> None:
    """The reader sits in India with an Ohio licence, and patients of h2 are Medicare's: looks and reports preliminarily, never finally
    (42 U.S.C. 1395y(a)(4)).
    """
    at = site.clock.at
    with site.app.database.transaction() as session:
        hospital, reader = session.get(Hospital, "h2"), session.get(Reader, reader_id)
        assert hospital is not None and reader is not None
        employer = session.get(Employer, reader.employer_id)
        assert employer is not None
        hospital.payer_kind, employer.country = "MEDICARE", "IN"
        reader.establishment = reader.residence = "IN"
        session.add_all([hospital, reader, employer])
        papers: dict[str, list[dict[str, Any]]] = {
            "LICENCE": [{"jurisdiction": "US-OH"}, {"jurisdiction": "IN"}],
            "COVER": [{"territory": ["ANY"]}],
        }
        for kind, claims in papers.items():
            for claim_ in claims:
                session.add(
                    Credential(
                        reader_id=reader_id,
                        kind=kind,
                        claim=claim_,
                        issued_at=at - timedelta(days=900),
                        expires_at=at + timedelta(days=300),
                        verified_at=at - timedelta(days=30),
                        recorded_at=at,
                    )
                )
        for evidence_type in ("BAA", "PROXY_AGREEMENT"):
            session.add(
                Evidence(
                    evidence_id=f"{evidence_type}-{reader_id}",
                    evidence_type=evidence_type,
                    parties=["h2", employer.employer_id],
                    issued_at=at - timedelta(days=200),
                    expires_at=at + timedelta(days=500),
                    verified_by="po",
                    recorded_at=at,
                )
            )
    site.client(reader_id)
    with site.app.database.transaction() as session:
        login = session.exec(select(LoginSession).where(LoginSession.principal_id == reader_id)).one()
        login.declared_country = login.ip_country = "IN"
        session.add(login)


def nothing_signed(site: GatewaySite, step_uid: str, state: State = State.IN_PROGRESS) -> None:
    assert (chain_of(site), deliveries_of(site), entries_of(site, EventType.SIGN)) == ([], [], [])
    assert step_of(site, step_uid).state == state
    assert is_log_sound(site)

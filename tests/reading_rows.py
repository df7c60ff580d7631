"""A hospital, readers and routed studies as rows only: for tests of the worklist that need no keys, no bytes and no network."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlmodel import select

from compliance.audit_checkpoint import LogVerification, keep_checkpoint, verify_log
from compliance.credential import Credential, Employer, Evidence, Reader
from compliance.database import Database
from compliance.deid_manifest import EdgeKey, sign_statement, statement_of
from compliance.deid_profile import TELEREAD
from compliance.hospital import Hospital
from compliance.lawbook import LawBundle, load_law
from compliance.principal import LoginSession, Principal, Role
from compliance.study import Study
from crypto.checkpoint import LogSigner
from crypto.ed25519 import ed25519_key_of_seed, ed25519_public_pem
from gateway.schema import migrate
from worklist.claim import Claim, claim
from worklist.routing import route
from worklist.view_grant import ViewGrant, open_view
from worklist.workitem import ProcedureStep

HOSPITAL = "h1"
_PRIVATE = ed25519_key_of_seed(bytes(range(32)))
#: The hospital's edge, whose manifest makes a study a pseudonymised one.
EDGE_KEY = EdgeKey(_PRIVATE, ed25519_public_pem(_PRIVATE))
_SIGNER = LogSigner("readgate.test", bytes(range(32)))


@functools.cache
def _law() -> LawBundle:
    return load_law()


@dataclass
class ReadingRows:
    """One hospital in Germany and readers in Spain who may read for it; time stands still unless moved."""

    database: Database
    law: LawBundle = field(default_factory=_law)
    at: datetime = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def new_uid(self) -> str:
        return f"2.25.{10**30 + next(self._numbers)}"

    def forward(self, **by: float) -> datetime:
        self.at += timedelta(**by)
        return self.at

    def add_site(self, *readers: str) -> None:
        """The hospital with its agreement, and these readers, each logged in under the digest `login_of`."""
        with self.database.transaction() as session:
            session.add(
                Hospital(
                    hospital_id=HOSPITAL,
                    name="Hospital 1",
                    jurisdiction="DE",
                    storage_country="DE",
                    edge_public_key=EDGE_KEY.public_pem,
                    created_at=self.at,
                )
            )
            session.add(Employer(employer_id="e1", name="Reading firm", country="ES"))
            session.flush()
            session.add(
                Evidence(
                    evidence_id="dpa-1",
                    evidence_type="DPA",
                    parties=[HOSPITAL, "e1"],
                    issued_at=self.at - timedelta(days=200),
                    expires_at=self.at + timedelta(days=500),
                    verified_by="po",
                    recorded_at=self.at,
                )
            )
            for reader_id in readers:
                session.add(
                    Principal(
                        principal_id=reader_id,
                        role=Role.READER,
                        display_name=reader_id,
                        password_hash="",
                        totp_sealed=b"",
                        created_at=self.at,
                    )
                )
            session.flush()
            for reader_id in readers:
                session.add(
                    Reader(
                        reader_id=reader_id,
                        employer_id="e1",
                        establishment="ES",
                        residence="ES",
                        citizenship="ES",
                        public_key_pem="",
                        wrapped_signing_key=b"",
                    )
                )
            session.flush()
            for reader_id in readers:
                session.add_all(self._credentials(reader_id))
                session.add(self._login(reader_id))

    def _credentials(self, reader_id: str) -> list[Credential]:
        claims: dict[str, dict[str, Any]] = {
            "LICENCE": {"jurisdiction": "ES"},
            "SPECIALTY": {"value": "RADIOLOGY"},
            "PRIVILEGE": {"hospital": HOSPITAL, "modalities": ["ANY"], "by_proxy": False},
            "COVER": {"territory": ["ANY"]},
        }
        return [
            Credential(
                reader_id=reader_id,
                kind=kind,
                claim=claim_,
                issued_at=self.at - timedelta(days=900),
                expires_at=self.at + timedelta(days=300),
                verified_at=self.at - timedelta(days=30),
                recorded_at=self.at,
            )
            for kind, claim_ in claims.items()
        ]

    def _login(self, reader_id: str) -> LoginSession:
        return LoginSession(
            token_digest=login_of(reader_id),
            principal_id=reader_id,
            csrf_token="",
            started_at=self.at,
            expires_at=self.at + timedelta(hours=8),
            observed_at=self.at,
            active_at=self.at,
            is_mfa=True,
            is_device_attested=True,
            declared_country="ES",
            address="192.0.2.1",
            ip_country="ES",
            ip_kind="BUSINESS",
        )

    def add_study(self, *, patient: str = "PSEUDONYM-1", modality: str = "CT", hospital_id: str = HOSPITAL) -> Study:
        """A study that is available and not routed yet."""
        uid = self.new_uid()
        study = Study(
            study_instance_uid=uid,
            hospital_id=hospital_id,
            patient_pseudonym=patient,
            accession_pseudonym="",
            study_key_id=uid,
            wrapped_dek=b"",
            modality=modality,
            body_part="HEAD",
            manifest_digest="",
            instance_count=1,
            completed_at=self.at,
            available_at=self.at,
        )
        study.deid_manifest = sign_statement(statement_of(study, profile=TELEREAD, actions={}, made_at=self.at), EDGE_KEY)
        with self.database.transaction() as session:
            session.add(study)
        return study

    def routed(self, **of: str) -> str:
        """The procedure step of a new study."""
        study = self.add_study(**of)
        with self.database.transaction() as session:
            return route(session, self.law, study, now=self.at, new_uid=self.new_uid).procedure_step_uid

    def claim(self, procedure_step_uid: str, reader_id: str = "r1", database: Database | None = None) -> Claim:
        return claim(
            database or self.database,
            self.law,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader_id,
            login_digest=login_of(reader_id),
            transaction_uid=f"2.25.77{reader_id.removeprefix('r')}",
            now=self.at,
        )

    def open_view(self, procedure_step_uid: str, reader_id: str = "r1") -> list[ViewGrant]:
        return open_view(
            self.database,
            self.law,
            procedure_step_uid=procedure_step_uid,
            reader_id=reader_id,
            login_digest=login_of(reader_id),
            now=self.at,
        )

    def observe(self, reader_id: str = "r1", **changes: object) -> None:
        """The reader's browser was heard of just now; `changes` are set on the login session."""
        with self.database.transaction() as session:
            login = session.get(LoginSession, login_of(reader_id))
            assert login is not None
            login.observed_at = login.active_at = self.at
            for name, value in changes.items():
                setattr(login, name, value)
            session.add(login)

    def step(self, procedure_step_uid: str) -> ProcedureStep:
        with self.database.reading() as session:
            found = session.get(ProcedureStep, procedure_step_uid)
        assert found is not None
        return found

    def successors(self, procedure_step_uid: str) -> list[ProcedureStep]:
        with self.database.reading() as session:
            return list(session.exec(select(ProcedureStep).where(ProcedureStep.predecessor_uid == procedure_step_uid)).all())

    def verified_log(self) -> LogVerification:
        """The audit log against a checkpoint made now."""
        keep_checkpoint(self.database, _SIGNER, now=self.at)
        with self.database.reading() as session:
            return verify_log(session, _SIGNER.public_key)


def login_of(reader_id: str) -> str:
    """The digest under which the reader is logged in."""
    return f"login-of-{reader_id}"


@contextmanager
def rows_at(url: str) -> Iterator[ReadingRows]:
    """Rows in a new database at `url`."""
    database = Database(url)
    migrate(database)
    try:
        yield ReadingRows(database)
    finally:
        database.close()

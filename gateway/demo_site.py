"""The people, hospitals and papers of the demonstration: all invented, all registered through the functions an operator uses.

Passwords and passphrases are made at the first start and kept in `demo-logins.json` in the data folder (0600): a demonstration's logins are
printed on purpose; a deployment's are not.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from compliance.credential import Credential, Employer, Evidence
from compliance.hospital import Hospital, ReportTarget, TargetKind
from compliance.principal import RegisteredNetwork, Role
from gateway.application import Application
from gateway.enrolment import add_hospital, add_network, add_principal, add_reader, add_sender, add_target
from gateway.register_entries import add_credential, add_evidence
from gateway.samples.people import INSTITUTIONS

LOGINS_NAME = "demo-logins.json"
ACTOR = "readgate/demo"
_NETWORK = "127.0.0.0/8"
#: Every play and every private window is a new device: a demonstration must not run out of them by being looked at.
DEVICE_SLOTS = 100


@dataclass(frozen=True)
class DemoLogin:
    """What a person of the demonstration types."""

    principal_id: str
    role: str
    who: str
    password: str
    totp_secret: str
    country: str
    passphrase: str = ""


@dataclass(frozen=True)
class HospitalPorts:
    """Where the demonstration's hospitals listen for reports: their archive and their information system."""

    dicom: Mapping[str, int]
    mllp: Mapping[str, int]


@dataclass(frozen=True)
class _ReaderPlan:
    principal_id: str
    name: str
    qualification: str
    country: str
    employer: Employer
    credentials: tuple[tuple[str, dict[str, Any], int], ...]


def _credentials(
    country: str, *, licence_days: int = 700, hospitals: tuple[str, ...] = ("h1", "h2"), cover: bool = True
) -> tuple[tuple[str, dict[str, Any], int], ...]:
    """(kind, claim, days until it expires)"""
    rows: list[tuple[str, dict[str, Any], int]] = [
        ("LICENCE", {"jurisdiction": country}, licence_days),
        ("SPECIALTY", {"value": "RADIOLOGY"}, 700),
    ]
    rows += [("PRIVILEGE", {"hospital": hospital, "modalities": ["ANY"], "by_proxy": False}, 400) for hospital in hospitals]
    if cover:
        rows.append(("COVER", {"territory": ["ANY"]}, 300))
    return tuple(rows)


_FIRM = Employer(employer_id="e1", name="Lectura Norte SL", country="ES")
_FIRM_US = Employer(employer_id="e2", name="Redwood Radiology PC", country="US")
READERS = (
    _ReaderPlan("r1", "Dra. Inés Valverde Ortiz", "Facultativa especialista en radiodiagnóstico", "ES", _FIRM, _credentials("ES")),
    _ReaderPlan(
        "r2",
        "Raghav Nandakumar, MD",
        "Board-certified, diagnostic radiology",
        "US-CA",
        _FIRM_US,
        (*_credentials("US-OH"), ("LICENCE", {"jurisdiction": "US-CA"}, 700)),
    ),
    _ReaderPlan(
        "r3", "Dr. Tomás Echarri Lasa", "Facultativo especialista en radiodiagnóstico", "ES", _FIRM, _credentials("ES", licence_days=-3)
    ),
    _ReaderPlan(
        "r4", "Dra. Noelia Quiroga Sanz", "Facultativa especialista en radiodiagnóstico", "ES", _FIRM, _credentials("ES", hospitals=())
    ),
    _ReaderPlan(
        "r5",
        "Dr. Anselm Berghofer",
        "Facharzt für Radiologie",
        "AT",
        Employer(employer_id="e3", name="Fernbefund Tirol GmbH", country="AT"),
        _credentials("AT", cover=False),
    ),
)
_WHO = {
    "r1": "reader, eligible",
    "r2": "reader in another country: eligible for h2, for h1 no transfer mechanism is on file",
    "r3": "reader, licence lapsed",
    "r4": "reader, no privileges",
    "r5": "reader, no cover",
    "po": "privacy officer",
    "op": "operator",
    "h1": "staff of hospital h1",
    "h2": "staff of hospital h2",
}
#: Hospital -> (jurisdiction, country of storage, payer).
_PLACES = {"h1": ("DE", "DE", "PUBLIC"), "h2": ("US-OH", "US", "COMMERCIAL")}


def populate(app: Application, ports: HospitalPorts, *, quiet_seconds: float = 2.0) -> list[DemoLogin]:
    """Everything of the demonstration is registered; a second start finds it there and returns the same logins."""
    path = app.data / LOGINS_NAME
    if path.exists():
        return [DemoLogin(**entry) for entry in json.loads(path.read_text())]
    now = app.now()
    for hospital_id, (jurisdiction, storage, payer) in _PLACES.items():
        add_hospital(
            app,
            ACTOR,
            Hospital(
                hospital_id=hospital_id,
                name=INSTITUTIONS[hospital_id].name,
                address=INSTITUTIONS[hospital_id].address,
                jurisdiction=jurisdiction,
                payer_kind=payer,
                storage_country=storage,
                quiet_seconds=quiet_seconds,
                created_at=now,
            ),
        )
        ae_title = f"{hospital_id.upper()}_PACS"
        certificate = app.certificates.enrol_client(ae_title).certificate_pem
        add_sender(app, ACTOR, hospital_id=hospital_id, ae_title=ae_title, certificate_pem=certificate, is_plaintext_allowed=True)
        add_target(
            app,
            ACTOR,
            ReportTarget(
                hospital_id=hospital_id,
                kind=TargetKind.DICOM,
                host="127.0.0.1",
                port=ports.dicom[hospital_id],
                ae_title=f"{hospital_id.upper()}_ARCHIVE",
            ),
        )
        add_target(app, ACTOR, ReportTarget(hospital_id=hospital_id, kind=TargetKind.MLLP, host="127.0.0.1", port=ports.mllp[hospital_id]))
    add_network(app, ACTOR, RegisteredNetwork(cidr=_NETWORK, country="DE", kind="BUSINESS"))
    logins = [
        _principal(app, "po", Role.PRIVACY_OFFICER, "Aoife Brannigan", "DE"),
        _principal(app, "op", Role.OPERATOR, "Declan Moyles", "DE"),
        _principal(app, "h1", Role.HOSPITAL_STAFF, "Swantje Harms", "DE", "h1"),
        _principal(app, "h2", Role.HOSPITAL_STAFF, "Darlene Whitcomb", "DE", "h2"),
    ]
    logins += [_reader(app, plan, now) for plan in READERS]
    for evidence_id, evidence_type, parties in (
        ("dpa-1", "DPA", ["h1", "e1"]),
        ("dpa-2", "DPA", ["h1", "e3"]),
        ("baa-1", "BAA", ["h2", "e2"]),
        ("proxy-1", "PROXY_AGREEMENT", ["h2", "e2"]),
    ):
        add_evidence(
            app,
            ACTOR,
            Evidence(
                evidence_id=evidence_id,
                evidence_type=evidence_type,
                parties=parties,
                issued_at=now - timedelta(days=200),
                expires_at=now + timedelta(days=500),
                verified_by="po",
                recorded_at=now,
            ),
        )
    _write_private(path, json.dumps([asdict(login) for login in logins], indent=1))
    return logins


def _principal(
    app: Application, principal_id: str, role: Role, name: str, country: str, hospital_id: str | None = None, passphrase: str = ""
) -> DemoLogin:
    password = "-".join(secrets.token_hex(2) for _ in range(4))
    made = add_principal(
        app,
        ACTOR,
        principal_id=principal_id,
        role=role,
        display_name=name,
        password=password,
        hospital_id=hospital_id,
        device_slots=DEVICE_SLOTS,
    )
    return DemoLogin(principal_id, role, _WHO[principal_id], password, made.totp_secret, country, passphrase)


def _reader(app: Application, plan: _ReaderPlan, now: datetime) -> DemoLogin:
    passphrase = " ".join(secrets.token_hex(2) for _ in range(4))
    login = _principal(app, plan.principal_id, Role.READER, plan.name, plan.country[:2], passphrase=passphrase)
    # The operator vouches for where this reader's loopback "office" is; a deployment registers the office's own network.
    add_network(app, ACTOR, RegisteredNetwork(principal_id=plan.principal_id, cidr=_NETWORK, country=plan.country[:2], kind="BUSINESS"))
    add_reader(
        app,
        ACTOR,
        reader_id=plan.principal_id,
        employer=Employer(**plan.employer.model_dump()),
        establishment=plan.country,
        residence=plan.country[:2],
        citizenship=plan.country[:2],
        qualification=plan.qualification,
        passphrase=passphrase,
    )
    for kind, claim, days in plan.credentials:
        add_credential(
            app,
            ACTOR,
            Credential(
                reader_id=plan.principal_id,
                kind=kind,
                claim=claim,
                issued_at=now - timedelta(days=1200),
                expires_at=now + timedelta(days=days),
                verified_at=now - timedelta(days=60),
                verification_method="register of the issuing body",
                verified_by="op",
                recorded_at=now,
            ),
        )
    return login


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)

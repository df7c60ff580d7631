"""Administration: hospitals, senders, destinations, people, credentials, evidence, consents; every change is audited in its transaction."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from sqlmodel import col, select

from compliance import audit
from compliance.credential import (
    Employer,
    Reader,
)
from compliance.hospital import PLAINTEXT_ALLOWED, DicomPeer, Hospital, ReportTarget, may_leave_in_plaintext
from compliance.principal import LoginSession, Principal, RegisteredNetwork, Role
from compliance.second_factor import seal_totp
from crypto.certificates import fingerprint
from crypto.errors import BadInput, Conflict, NotFound
from crypto.passwords import hash_password, totp_new_secret
from crypto.signing_key import create_reader_key
from gateway.application import Application
from gateway.register_note import note, seal_reason


@dataclass(frozen=True)
class NewPrincipal:
    """What a new person is told once: the TOTP secret is shown nowhere else."""

    principal_id: str
    totp_secret: str


def add_hospital(app: Application, actor: str, hospital: Hospital) -> None:
    """The hospital exists with its own KEK and its own seal. Raises: Conflict."""
    # Keys first: a hospital without keys could not receive. Keys without a hospital are found again by the next attempt.
    app.keys.create_kek(hospital.hospital_id)
    app.certificates.enrol_document_signer(hospital.hospital_id, hospital.name)
    with app.database.transaction() as session:
        if session.get(Hospital, hospital.hospital_id) is not None:
            raise Conflict("HOSPITAL_EXISTS", hospital.hospital_id)
        session.add(hospital)
        session.flush()
        note(session, app.now(), actor, audit.EventType.SECURITY_CONFIGURATION, hospital.hospital_id, {"hospital": hospital.hospital_id})


def add_sender(
    app: Application, actor: str, *, hospital_id: str, ae_title: str, certificate_pem: bytes | None, is_plaintext_allowed: bool
) -> None:
    """Associations from `ae_title` belong to the hospital, under this certificate. Raises: Conflict, BadInput."""
    if not ae_title or len(ae_title) > 16 or ae_title != ae_title.strip():
        raise BadInput("an AE title has 1 to 16 characters without blanks around them (PS3.5 6.2)")
    digest = fingerprint(certificate_pem) if certificate_pem is not None else None
    with app.database.transaction() as session:
        standing = session.get(DicomPeer, ae_title)
        if standing is not None and standing.hospital_id != hospital_id:
            raise Conflict("AE_TITLE_TAKEN", ae_title)
        peer = standing or DicomPeer(calling_ae_title=ae_title, hospital_id=hospital_id)
        peer.certificate_sha256, peer.is_plaintext_allowed = digest, is_plaintext_allowed
        session.add(peer)
        note(
            session,
            app.now(),
            actor,
            audit.EventType.NETWORK_CONFIGURATION,
            hospital_id,
            {"ae_title": ae_title, "certificate": digest or "", "plaintext": is_plaintext_allowed},
        )


def add_target(app: Application, actor: str, target: ReportTarget) -> int:
    """Reports of the hospital go there too, from the next one on; the target's key.

    Raises: BadInput for a target beyond loopback without TLS, unless its settings say that plaintext may go there.
    """
    if not target.is_tls and not may_leave_in_plaintext(target):
        raise BadInput(
            f"{target.host} is beyond loopback and reports name the patient: use TLS, "
            f"or allow plaintext aloud ({PLAINTEXT_ALLOWED}) if a tunnel protects it"
        )
    with app.database.transaction() as session:
        session.add(target)
        session.flush()
        note(
            session,
            app.now(),
            actor,
            audit.EventType.NETWORK_CONFIGURATION,
            target.hospital_id,
            {
                "target": target.kind,
                "host": target.host,
                "port": target.port,
                "ae_title": target.ae_title or "",
                "tls": target.is_tls,
                "plaintext_beyond_loopback": target.settings.get(PLAINTEXT_ALLOWED) is True,
            },
        )
        assert target.target_pk is not None
        return target.target_pk


def add_principal(
    app: Application,
    actor: str,
    *,
    principal_id: str,
    role: Role,
    display_name: str,
    password: str,
    hospital_id: str | None = None,
    device_slots: int = 2,
) -> NewPrincipal:
    """The person can log in with password and code, and enrol `device_slots` devices by doing so. Raises: Conflict, BadInput."""
    if (role == Role.HOSPITAL_STAFF) != (hospital_id is not None):
        raise BadInput("hospital staff, and nobody else, belong to a hospital")
    if len(password) < 12:
        raise BadInput("a password has at least 12 characters")
    secret = totp_new_secret()
    with app.database.transaction() as session:
        if session.get(Principal, principal_id) is not None:
            raise Conflict("PRINCIPAL_EXISTS", principal_id)
        session.add(
            Principal(
                principal_id=principal_id,
                role=role,
                display_name=display_name,
                hospital_id=hospital_id,
                password_hash=hash_password(password),
                totp_sealed=seal_totp(app.keys, principal_id, secret),
                device_slots=device_slots,
                created_at=app.now(),
            )
        )
        session.flush()
        note(session, app.now(), actor, audit.EventType.USER_SECURITY_CHANGED, hospital_id, {"principal": principal_id, "role": role})
    return NewPrincipal(principal_id, secret)


def add_network(app: Application, actor: str, network: RegisteredNetwork) -> None:
    """Whoever comes from there sits in that country: the operator's word, on record. Raises: BadInput."""
    try:
        ipaddress.ip_network(network.cidr, strict=True)
    except ValueError:
        raise BadInput("a network is an address and a prefix without host bits, as in 192.0.2.0/24") from None
    with app.database.transaction() as session:
        session.add(network)
        note(
            session,
            app.now(),
            actor,
            audit.EventType.SECURITY_CONFIGURATION,
            None,
            {"network": network.cidr, "country": network.country, "principal": network.principal_id or ""},
        )


def add_reader(
    app: Application,
    actor: str,
    *,
    reader_id: str,
    employer: Employer,
    establishment: str,
    residence: str,
    citizenship: str,
    qualification: str,
    passphrase: str,
) -> None:
    """The principal is a reader with a signing key that only the passphrase opens. Raises: NotFound, Conflict."""
    key = create_reader_key(passphrase)
    with app.database.transaction() as session:
        principal = session.get(Principal, reader_id)
        if principal is None or principal.role != Role.READER:
            raise NotFound(f"no principal {reader_id} in the role of a reader")
        if session.get(Reader, reader_id) is not None:
            raise Conflict("READER_EXISTS", reader_id)
        if session.get(Employer, employer.employer_id) is None:
            session.add(employer)
            session.flush()
        session.add(
            Reader(
                reader_id=reader_id,
                employer_id=employer.employer_id,
                establishment=establishment,
                residence=residence,
                citizenship=citizenship,
                qualification=qualification,
                public_key_pem=_text(key.public_pem),
                wrapped_signing_key=key.wrapped,
            )
        )
        session.flush()
        note(
            session, app.now(), actor, audit.EventType.USER_SECURITY_CHANGED, None, {"reader": reader_id, "employer": employer.employer_id}
        )


def end_access(app: Application, actor: str, principal_id: str, *, reason: str = "") -> None:
    """The person can no longer log in, and every session of theirs is over. Raises: NotFound."""
    now = app.now()
    with app.database.transaction() as session:
        principal = session.get(Principal, principal_id)
        if principal is None:
            raise NotFound(f"no principal {principal_id}")
        principal.is_active = False
        session.add(principal)
        for login in session.exec(
            select(LoginSession).where(LoginSession.principal_id == principal_id, col(LoginSession.ended_at).is_(None))
        ).all():
            login.ended_at = now
            session.add(login)
        note(
            session,
            now,
            actor,
            audit.EventType.USER_SECURITY_CHANGED,
            principal.hospital_id,
            {"principal": principal_id, "active": False},
            sealed=seal_reason(app.keys, principal.hospital_id, reason),
        )


def _text(pem: bytes | str) -> str:
    return pem.decode() if isinstance(pem, bytes) else pem

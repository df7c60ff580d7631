"""What goes into the registers of credentials, evidence and consents, and out of them; every change is audited in its transaction.

Nothing here takes effect on open claims by itself: pages and programs call register_effects.py, a worker follows the log.
"""

from __future__ import annotations

import re
from datetime import datetime

from sqlmodel import Session

from compliance import audit
from compliance.credential import Consent, Credential, Employer, Evidence, newest_consent, require_reader
from compliance.evidence_document import keep_document
from compliance.facts import evidence_facts
from compliance.facts_schema import read_facts
from compliance.facts_vocabulary import CONSENT_KINDS, CONSENT_STATUSES
from compliance.hospital import Hospital
from crypto.errors import BadInput, Conflict, NotFound
from crypto.keys import KeyStore
from gateway.application import Application
from gateway.credential_rules import require_consistent, require_readable, same_subject
from gateway.register_note import note, seal_reason

#: It stands in addresses and commands.
_EVIDENCE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_SHA256 = re.compile(r"(sha256:)?[0-9a-fA-F]{64}")
#: An entry of the log names them all.
_PARTIES_MAX = 50


def add_credential(app: Application, actor: str, credential: Credential) -> int:
    """The credential counts from now on, in every decision; its key.

    Raises: BadInput where the engine could not use it, or it contradicts what is on file; NotFound.
    """
    with app.database.transaction() as session:
        return file_credential(session, actor, credential, now=app.now())


def file_credential(session: Session, actor: str, credential: Credential, *, now: datetime) -> int:
    """`add_credential` within the caller's transaction."""
    require_reader(session, credential.reader_id)
    session.add(credential)
    session.flush()
    require_consistent(session, credential, now=now)
    note(
        session,
        now,
        actor,
        audit.EventType.USER_SECURITY_CHANGED,
        None,
        {"reader": credential.reader_id, "credential": credential.kind, "status": credential.status},
    )
    assert credential.credential_pk is not None
    return credential.credential_pk


def require_change(session: Session, credential_pk: int, status: str) -> Credential:
    """The standing credential, which a person may bring to `status` by hand.

    Raises: NotFound; an expired or revoked credential is not brought back: the issuer's new word is a new credential.
    """
    standing = session.get(Credential, credential_pk)
    before = {"SUSPENDED": ("ACTIVE",), "ACTIVE": ("SUSPENDED",), "REVOKED": ("ACTIVE", "SUSPENDED")}.get(status, ())
    if standing is None or standing.superseded_at is not None or standing.status not in before:
        raise NotFound("no such credential")
    return standing


def change_credential_status(app: Application, actor: str, credential_pk: int, status: str, *, reason: str = "") -> str:
    """The credential has another status from now on; the old row stays for yesterday's decisions. The reader's id.

    Raises: NotFound; BadInput where that contradicts what else is on file.
    """
    with app.database.transaction() as session:
        before = session.get(Credential, credential_pk)
        if before is None or before.superseded_at is not None:
            raise NotFound(f"no standing credential {credential_pk}")
        # A renewal that overlaps speaks of the same right: it is suspended and reinstated with it.
        alike = [other for other in same_subject(session, before) if other.status == before.status]
        for standing in (before, *alike):
            standing.superseded_at = app.now()
            after = Credential(
                **standing.model_dump(exclude={"credential_pk", "status", "recorded_at", "superseded_at", "claim"}),
                claim=dict(standing.claim),
                status=status,
                recorded_at=app.now(),
            )
            session.add_all([standing, after])
        session.flush()
        require_readable(session, after)
        note(
            session,
            app.now(),
            actor,
            audit.EventType.USER_SECURITY_CHANGED,
            None,
            {"reader": before.reader_id, "credential": before.kind, "status": status, "rows": 1 + len(alike)},
            sealed=seal_reason(app.keys, None, reason),
        )
        return before.reader_id


def add_evidence(app: Application, actor: str, evidence: Evidence, *, document: bytes | None = None) -> None:
    """The paper is on file, and with `document` its sealed copy too. Raises: Conflict; BadInput where the engine could not use it."""
    with app.database.transaction() as session:
        file_evidence(session, app.keys, actor, evidence, document=document, now=app.now())


def file_evidence(
    session: Session, keys: KeyStore, actor: str, evidence: Evidence, *, document: bytes | None = None, now: datetime
) -> None:
    """`add_evidence` within the caller's transaction."""
    if not _EVIDENCE_ID.fullmatch(evidence.evidence_id):
        raise BadInput("id: letters, digits and . _ : - , at most 64, beginning with a letter or digit")
    if len(evidence.parties) > _PARTIES_MAX or len(set(evidence.parties)) != len(evidence.parties):
        raise BadInput(f"parties: each once, at most {_PARTIES_MAX}")
    if evidence.document_digest is not None and not _SHA256.fullmatch(str(evidence.document_digest)):
        raise BadInput("sha256: 64 hexadecimal digits")
    read = read_facts({"evidence": [evidence_facts(evidence)]})
    if any(one.gaps for papers in read.evidence.values() for one in papers):
        raise BadInput("evidence needs a type, parties, times, and who verified it")
    if evidence.expires_at <= evidence.issued_at:
        raise BadInput("expires: lies before issued")
    for party in evidence.parties:
        if session.get(Hospital, party) is None and session.get(Employer, party) is None:
            raise BadInput("parties: one of them is no registered hospital or employer")
    if session.get(Evidence, evidence.evidence_id) is not None:
        raise Conflict("EVIDENCE_EXISTS", evidence.evidence_id)
    session.add(evidence)
    session.flush()
    note(
        session,
        now,
        actor,
        audit.EventType.SECURITY_CONFIGURATION,
        None,
        {"evidence": evidence.evidence_id, "type": evidence.evidence_type, "parties": list(evidence.parties)},
    )
    if document is not None:
        keep_document(session, keys, evidence.evidence_id, document, actor=actor, now=now)


def withdraw_evidence(app: Application, actor: str, evidence_id: str, *, reason: str = "") -> list[str]:
    """The document counts no longer; its parties. Raises: NotFound."""
    with app.database.transaction() as session:
        evidence = session.get(Evidence, evidence_id)
        if evidence is None or evidence.withdrawn_at is not None:
            raise NotFound(f"no standing evidence {evidence_id}")
        evidence.withdrawn_at = app.now()
        session.add(evidence)
        note(
            session,
            app.now(),
            actor,
            audit.EventType.SECURITY_CONFIGURATION,
            None,
            {"evidence": evidence_id, "withdrawn": True, "parties": list(evidence.parties)},
            sealed=seal_reason(app.keys, None, reason),
        )
        return list(evidence.parties)


def record_consent(
    app: Application,
    actor: str,
    *,
    hospital_id: str,
    patient_pseudonym: str,
    status: str,
    kind: str,
    given_at: datetime | None,
    reason: str = "",
) -> int:
    """A new version of the patient's consent of this kind counts from now on; its number.

    Raises: BadInput; Conflict where what is on file was said later: an older yes does not undo a newer no.
    """
    if status not in CONSENT_STATUSES or kind not in CONSENT_KINDS:
        raise BadInput(f"a consent is one of {', '.join(CONSENT_STATUSES)}, of kind {', '.join(CONSENT_KINDS)}")
    now = app.now()
    if given_at is not None and given_at > now:
        raise BadInput("given: lies in the future")
    with app.database.transaction() as session:
        before = newest_consent(session, hospital_id, patient_pseudonym, kind)
        if status == "ACTIVE":
            require_newer_word(before, given_at or now)
        version = before.version + 1 if before is not None else 1
        session.add(
            Consent(
                hospital_id=hospital_id,
                patient_pseudonym=patient_pseudonym,
                status=status,
                kind=kind,
                version=version,
                given_at=given_at or (before.given_at if before is not None else None),
                withdrawn_at=now if status == "WITHDRAWN" else None,
                recorded_at=now,
            )
        )
        note(
            session,
            now,
            actor,
            audit.EventType.SECURITY_CONFIGURATION,
            hospital_id,
            {"consent": status, "kind": kind, "version": version, "patient": patient_pseudonym},
            sealed=seal_reason(app.keys, hospital_id, reason),
        )
        return version


def require_newer_word(before: Consent | None, said_at: datetime) -> None:
    """Raises: Conflict where what the patient said `before` was said later than `said_at`."""
    said_before = (before.withdrawn_at or before.given_at) if before is not None else None
    if said_before is not None and said_at < said_before:
        raise Conflict("OLDER_CONSENT", "what is on file was said later; an older word does not replace it")

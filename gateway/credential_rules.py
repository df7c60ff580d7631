"""What a credential must be before it goes on file: readable by the engine, possible in itself, and no contradiction of what is there.

One row that the engine cannot read would stop every decision about its reader, so the register refuses it; each refusal names the field.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlmodel import Session

from compliance.credential import Credential, standing_credentials
from compliance.facts import credential_facts
from compliance.facts_schema import read_facts
from compliance.facts_vocabulary import CREDENTIAL_SUBJECT
from compliance.hospital import Hospital
from compliance.jurisdiction import is_known
from crypto.errors import BadInput

#: Clocks of registers and of ours differ by this much at most.
_CLOCK_SLACK = timedelta(minutes=5)


def require_consistent(session: Session, credential: Credential, *, now: datetime) -> None:
    """The credential, already in the session, may stay on file.

    Raises: BadInput naming the field and what is wrong with it.
    """
    if credential.expires_at <= credential.issued_at:
        raise BadInput("expires: lies before issued, so the credential never held")
    if credential.verified_at > now + _CLOCK_SLACK:
        raise BadInput("psv_at: it was verified in the future")
    require_readable(session, credential)
    jurisdiction = credential.claim.get("jurisdiction")
    if jurisdiction is not None and not is_known(jurisdiction):
        raise BadInput("jurisdiction: is not one of ISO 3166")
    if credential.kind == "COVER" and any(place != "ANY" and not is_known(place) for place in credential.claim.get("territory", [])):
        raise BadInput("territory: is neither ANY nor places of ISO 3166")
    if credential.kind == "PRIVILEGE" and session.get(Hospital, credential.claim["hospital"]) is None:
        raise BadInput("hospital: no such hospital is registered")
    _require_one_number(session, credential)


def require_readable(session: Session, credential: Credential) -> None:
    """What the register holds of this reader, this credential among it, is something the engine can decide on."""
    read_facts({"reader": {"credentials": [credential_facts(row) for row in standing_credentials(session, credential.reader_id)]}})
    own = read_facts({"reader": {"credentials": [credential_facts(credential)]}}).credentials[0]
    lacking = [*own.gaps, *(name for name, value in credential.claim.items() if value in ("", []))]
    if lacking:
        raise BadInput(f"a {credential.kind} needs {', '.join(lacking)}")


def same_subject(session: Session, credential: Credential) -> list[Credential]:
    """The other standing credentials of this reader that speak of the same thing at the same time, a renewal for one.

    The engine refuses facts in which such two differ in status, so what is suspended is suspended in all of them.
    """
    subject = _subject(credential)
    return [
        other
        for other in standing_credentials(session, credential.reader_id)
        if other.credential_pk != credential.credential_pk
        and (other.kind, _subject(other)) == (credential.kind, subject)
        and other.issued_at < credential.expires_at
        and credential.issued_at < other.expires_at
    ]


def _subject(credential: Credential) -> dict[str, Any]:
    claim = {name: credential.claim[name] for name in CREDENTIAL_SUBJECT if name in credential.claim}
    return {name: sorted(value) if isinstance(value, list) else value for name, value in claim.items()}


def _require_one_number(session: Session, credential: Credential) -> None:
    """One issuer gives one person one licence number at a time: two that hold on the same day are a mistake, or somebody else's."""
    number = credential.claim.get("number")
    if credential.kind == "LICENCE" and number is not None:
        others = {other.claim.get("number") for other in same_subject(session, credential)} - {None, number}
        if others:
            raise BadInput("number: another licence of the same jurisdiction with another number holds at the same time")

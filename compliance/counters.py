"""How many different persons of a hospital have been disclosed to whom: the numbers that bulk rules ask for.

Invariants
- A person is counted once per (hospital, counterparty, kind), by a keyed digest of the pseudonym: the rows say how many, and without the
  key store's secret not who.
- What a decision is told is the number of OTHER persons: a rule that allows 10,000 refuses the 10,001st and still lets the first be
  read again.
- Whoever decides on a count and then adds to it holds the hospital's row locked from before the counting until the commit, so that two
  claims at once never both see the last free place.

US persons: distinct per (hospital, counterparty) in the twelve months up to now, "at any point in the preceding 12 months" (28 CFR
202.205). Sensitive persons: distinct per hospital, to whomever abroad, since 1 January in China (Provisions of 2024-03-22, art. 5 and 8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from typing import Any

from sqlalchemy import Index, func
from sqlmodel import Field, Session, SQLModel, col, select

from compliance.database import UtcDateTime
from compliance.hospital import Hospital
from compliance.jurisdiction import country_of
from crypto.canonical import keyed_digest
from crypto.keys import KeyStore

#: The one law that counts by calendar years is China's, which has one time zone.
YEAR_ZONE = timezone(timedelta(hours=8))
#: 42 CFR 411.9: what US rules take for the United States.
US_PLACES = frozenset({"US", "PR", "VI", "GU", "AS", "MP"})
_OBLIGATION = "COUNT("


class CountedKind(StrEnum):
    """What is counted, as the obligation COUNT(...) names it."""

    US_PERSONS = "us_persons"
    SENSITIVE_PERSONS = "sensitive_persons"


class CountedPerson(SQLModel, table=True):
    """Somebody of this hospital was disclosed to this counterparty, last at `last_at`."""

    __tablename__ = "counted_person"
    __table_args__ = (Index("ix_counted_person_scope", "hospital_id", "kind", "employer_id", "last_at"),)
    hospital_id: str = Field(primary_key=True, foreign_key="hospital.hospital_id")
    employer_id: str = Field(primary_key=True, foreign_key="employer.employer_id")
    kind: str = Field(primary_key=True)
    #: HMAC-SHA-256 of the pseudonym under the hospital's counting secret, hex.
    person_digest: str = Field(primary_key=True)
    first_at: datetime = Field(sa_type=UtcDateTime)
    last_at: datetime = Field(sa_type=UtcDateTime)


def lock_counters(session: Session, hospital_id: str) -> None:
    """Nobody else counts for this hospital until the caller's transaction ends (SQLite's write lock does it there).

    FOR NO KEY UPDATE: rows that refer to the hospital may still be written meanwhile.
    """
    session.exec(select(Hospital.hospital_id).where(Hospital.hospital_id == hospital_id).with_for_update(key_share=True)).one()


def count_facts(
    session: Session, keys: KeyStore, *, hospital_id: str, employer_id: str, patient_pseudonym: str, at: datetime
) -> dict[str, int]:
    """The `counters` of the facts document: how many other persons are counted already."""
    person = person_digest(keys, hospital_id, patient_pseudonym)
    us_persons = (
        select(func.count())
        .select_from(CountedPerson)
        .where(
            CountedPerson.hospital_id == hospital_id,
            CountedPerson.kind == CountedKind.US_PERSONS,
            CountedPerson.employer_id == employer_id,
            col(CountedPerson.last_at) > twelve_months_before(at),
            CountedPerson.person_digest != person,
        )
    )
    sensitive = select(func.count(func.distinct(CountedPerson.person_digest))).where(
        CountedPerson.hospital_id == hospital_id,
        CountedPerson.kind == CountedKind.SENSITIVE_PERSONS,
        col(CountedPerson.last_at) >= year_start(at),
        CountedPerson.person_digest != person,
    )
    return {
        "us_persons_12_months": session.exec(us_persons).one(),
        "sensitive_persons_this_year": session.exec(sensitive).one(),
    }


def count_disclosure(
    session: Session, keys: KeyStore, facts: Mapping[str, Any], obligations: Sequence[str], *, patient_pseudonym: str, at: datetime
) -> list[str]:
    """The disclosure that `facts` describe is counted where it has to be; the kinds it was counted under. The caller holds the lock."""
    kinds = counted_kinds(facts, obligations)
    hospital_id, employer_id = facts["origin"]["hospital"], facts["reader"]["employer"]["id"]
    person = person_digest(keys, hospital_id, patient_pseudonym) if kinds else ""
    for kind in kinds:
        row = session.get(CountedPerson, (hospital_id, employer_id, kind, person))
        if row is None:
            row = CountedPerson(hospital_id=hospital_id, employer_id=employer_id, kind=kind, person_digest=person, first_at=at, last_at=at)
        row.last_at = max(row.last_at, at)
        session.add(row)
    if kinds:
        session.flush()
    return kinds


def counted_kinds(facts: Mapping[str, Any], obligations: Sequence[str]) -> list[str]:
    """What this disclosure adds to: what the decision obliges to count, and US persons whenever the counterparty is a foreign one.

    The second does not wait for a rule: what a later rule asks about the past twelve months has to be known by then.
    """
    kinds = {text[len(_OBLIGATION) : -1] for text in obligations if text.startswith(_OBLIGATION)} & set(CountedKind)
    reader = facts["reader"]
    places = {country_of(place) for place in (reader["establishment"], reader["residence"], reader["employer"]["country"]) if place}
    is_foreign = bool(places - US_PLACES) or reader["employer"]["coc_ownership_pct"] >= 50
    if facts["patient"].get("us_person") and is_foreign:
        kinds.add(CountedKind.US_PERSONS)
    return sorted(str(kind) for kind in kinds)


def person_digest(keys: KeyStore, hospital_id: str, patient_pseudonym: str) -> str:
    return keyed_digest(keys.secret(f"counter/{hospital_id}"), "person", patient_pseudonym)


def twelve_months_before(at: datetime) -> datetime:
    """The same day and time a year earlier; 29 February becomes the 28th, which counts a day more and never one less."""
    try:
        return at.replace(year=at.year - 1)
    except ValueError:
        return at.replace(year=at.year - 1, day=28)


def year_start(at: datetime) -> datetime:
    local = at.astimezone(YEAR_ZONE)
    return local.replace(month=1, day=1, hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)

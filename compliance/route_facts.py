"""The facts of one study for many readers: what `gather_facts` gathers for each, with the study's half and every firm's papers read once.

Documents share the objects they have in common, so that `decide_many` reads those once too. Nobody may change one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from compliance.counters import count_facts
from compliance.credential import Credential, Employer, Reader, standing_consents, standing_evidence
from compliance.facts import (
    consent_facts,
    counters_source,
    evidence_facts,
    evidence_source,
    gather_facts,
    reader_facts,
    sop_classes_of,
)
from compliance.hospital import require_hospital
from compliance.study import Study
from crypto.errors import IntegrityFailure
from crypto.keys import KeyStore

_READERS_PER_QUERY = 500


def gather_route_facts(
    session: Session, study: Study, readers: Sequence[Reader], *, at: datetime, keys: KeyStore | None = None
) -> list[dict[str, Any]]:
    """The facts document for routing `study` to each of `readers`, in their order.

    Raises: IntegrityFailure.
    """
    if not readers:
        return []
    base = gather_facts(session, action="ROUTE", study=study, reader=readers[0], login=None, at=at, keys=keys)
    hospital = require_hospital(session, study.hospital_id)
    employers = {row.employer_id: row for row in session.exec(select(Employer)).all()}
    credentials = _credentials_of(session, [reader.reader_id for reader in readers])
    evidence = standing_evidence(session, None)
    consents = standing_consents(session, hospital.hospital_id, study.patient_pseudonym)
    classes = sop_classes_of(session, study)() if any(row.terms is not None for row in consents) else frozenset()
    has_terms = any(row.terms is not None for row in consents)
    papers: dict[str, list[dict[str, Any]]] = {}
    counters: dict[str, dict[str, Any]] = {}
    documents = []
    for reader in readers:
        employer = employers.get(reader.employer_id)
        if employer is None:
            raise IntegrityFailure(f"employer {reader.employer_id} is referred to and not there")
        if employer.employer_id not in papers:
            parties = {hospital.hospital_id, employer.employer_id}
            papers[employer.employer_id] = [evidence_facts(row) for row in evidence if set(row.parties) <= parties]
            counters[employer.employer_id] = base["counters"]
            if keys is not None:
                counters[employer.employer_id] = count_facts(
                    session,
                    keys,
                    hospital_id=hospital.hospital_id,
                    employer_id=employer.employer_id,
                    patient_pseudonym=study.patient_pseudonym,
                    at=at,
                )
        sources = dict(base["sources"])
        facts = {**base, "sources": sources, "evidence": papers[employer.employer_id], "counters": counters[employer.employer_id]}
        facts["reader"] = reader_facts(reader, employer, credentials.get(reader.reader_id, ()), sources)
        sources["evidence"] = evidence_source(hospital, employer)
        if keys is not None:
            sources["counters"] = counters_source(hospital, employer)
        if has_terms:
            facts["consent"] = consent_facts(consents, hospital, employer, study, reader, base["purpose"], lambda: classes, at, sources)
        documents.append(facts)
    return documents


def _credentials_of(session: Session, reader_ids: Sequence[str]) -> dict[str, list[Credential]]:
    """`standing_credentials` of each, in a few queries."""
    found: dict[str, list[Credential]] = {}
    for start in range(0, len(reader_ids), _READERS_PER_QUERY):
        rows = session.exec(
            select(Credential)
            .where(col(Credential.reader_id).in_(reader_ids[start : start + _READERS_PER_QUERY]), col(Credential.superseded_at).is_(None))
            .order_by(col(Credential.credential_pk))
        ).all()
        for row in rows:
            found.setdefault(row.reader_id, []).append(row)
    return found

"""May this study be kept where this deployment keeps things? Asked before its rows are written, and recorded.

1. The vault stands where the hospital's storage was agreed to be (setting vault.country against the hospital's own row).
2. The law is asked for the action STORE with that country: prohibitions, mechanisms and evidence for a place, of no reader.
3. What it obliges to (STORE_REGION, COPY_IN, KEYS_IN) holds there.

A study that may not be kept here is held in quarantine with STORE_DENIED; nothing of it is offered to anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compliance.decision_log import decide_and_record
from compliance.deid_manifest import LAW_CLASS
from compliance.facts import gather_storage_facts
from compliance.hospital import require_hospital
from compliance.jurisdiction import country_of
from compliance.obligation import unmet_obligation
from crypto.errors import RefusedContent
from gateway.application import Application

ACTOR = "readgate/store"
STORE_DENIED = "STORE_DENIED"


@dataclass(frozen=True)
class StoragePlace:
    """Where ciphertext and keys are written (ISO 3166-1)."""

    storage_country: str
    keys_country: str


def require_storage(
    app: Application,
    *,
    hospital_id: str,
    study_instance_uid: str,
    patient_pseudonym: str,
    modality: str,
    body_part: str | None,
    payer_kind: str | None,
) -> StoragePlace:
    """The place, once the law allows it. Raises: RefusedContent(STORE_DENIED) with the reasons, after they were recorded."""
    vault, now = app.settings.vault, app.now()
    with app.database.transaction() as session:
        hospital = require_hospital(session, hospital_id)
        country = vault.country or hospital.storage_country
        place = StoragePlace(country, vault.keys_country or country)
        object_facts: dict[str, Any] = {
            "study": study_instance_uid,
            "kind": "CURRENT",
            "provenance": "HOSPITAL",
            "modality": modality,
            "body_part": body_part,
            "id_class": LAW_CLASS,
        }
        facts = gather_storage_facts(
            session,
            hospital=hospital,
            object_facts=object_facts,
            country=country,
            payer_kind=payer_kind,
            patient_pseudonym=patient_pseudonym,
            at=now,
        )
        decision = decide_and_record(session, app.law, facts, study_instance_uid=study_instance_uid, actor=ACTOR, at=now)
    reasons = list(decision.reasons) if decision.outcome != "ALLOW" else []
    if country_of(country) != country_of(hospital.storage_country):
        reasons.insert(0, f"STORAGE_ELSEWHERE:{country}")
    unmet = unmet_obligation(decision.obligations, app.law, storage_country=place.storage_country, keys_country=place.keys_country, at=now)
    if unmet is not None:
        reasons.append(unmet)
    if reasons:
        raise RefusedContent(STORE_DENIED, ", ".join(reasons)[:300])
    return place

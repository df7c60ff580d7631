"""The manifest says what was done to a study, names no patient, holds only as signed, and is what makes a study a pseudonymised one."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from compliance.deid_manifest import (
    EdgeKey,
    held_back_words,
    id_class_of,
    manifest_facts,
    sign_statement,
    standing_statement,
    statement_of,
)
from compliance.deid_profile import TELEREAD
from compliance.hospital import Hospital
from compliance.study import Study
from crypto.ed25519 import ed25519_key_of_seed, ed25519_public_pem
from crypto.errors import BadInput, IntegrityFailure

AT = dt.datetime(2026, 3, 15, 8, tzinfo=dt.UTC)
MANIFEST = "sha256:" + "5" * 64


def key_of(seed: int) -> EdgeKey:
    private = ed25519_key_of_seed(bytes([seed]) * 32)
    return EdgeKey(private, ed25519_public_pem(private))


def hospital(seed: int = 1) -> Hospital:
    return Hospital(
        hospital_id="h1", name="H", jurisdiction="DE", storage_country="DE", edge_public_key=key_of(seed).public_pem, created_at=AT
    )


def study(**changed: Any) -> Study:
    fields: dict[str, Any] = {
        "study_instance_uid": "2.25.7", "hospital_id": "h1", "patient_pseudonym": "P", "accession_pseudonym": "", "study_key_id": "k",
        "wrapped_dek": b"", "modality": "CT", "manifest_digest": MANIFEST, "instance_count": 3, "held_instances": 1, "completed_at": AT,
        "available_at": AT,
    }  # fmt: skip
    row = Study(**fields | changed)
    statement = statement_of(row, profile=TELEREAD, actions={"X": 4, "C": 1}, held={"BURNED_IN_TEXT": 1}, made_at=AT)
    row.deid_manifest = sign_statement(statement, key_of(1))
    return row


def test_manifest_states_profile_edition_counts_and_law_class() -> None:
    statement = standing_statement(hospital(), study())
    assert statement["law_class"] == "PSEUDONYMISED"
    assert (statement["table"]["edition"], statement["table"]["rows"]) == ("2026c", 656)
    assert statement["profile"]["name"] == "teleread" and statement["actions"] == {"C": 1, "X": 4}
    assert (statement["held"], statement["made_at"]) == ({"BURNED_IN_TEXT": 1}, "2026-03-15T08:00:00Z")
    assert (statement["instances"], statement["study_manifest"]) == (3, MANIFEST)


@pytest.mark.parametrize("field", ["law_class", "hospital_id", "actions", "study_manifest", "held"])
def test_a_changed_manifest_does_not_hold(field: str) -> None:
    row = study()
    row.deid_manifest["statement"][field] = "ANONYMOUS"
    with pytest.raises(IntegrityFailure):
        standing_statement(hospital(), row)
    assert id_class_of(hospital(), row) == "IDENTIFIED"


@pytest.mark.parametrize(
    ("row", "of"),
    [
        (study(), hospital(seed=2)),
        (study(), Hospital(hospital_id="h1", name="H", jurisdiction="DE", storage_country="DE", created_at=AT)),
    ],
    ids=["another edge's key", "no key enrolled"],
)
def test_only_the_edge_that_signed_makes_it_pseudonymised(row: Study, of: Hospital) -> None:
    assert id_class_of(hospital(), row) == "PSEUDONYMISED"
    assert id_class_of(of, row) == "IDENTIFIED"
    assert not manifest_facts(of, row).is_standing


@pytest.mark.parametrize("changed", [{"manifest_digest": "sha256:0"}, {"study_instance_uid": "2.25.8"}, {"deid_manifest": {}}])
def test_a_manifest_about_anything_else_makes_the_study_identified(changed: dict[str, Any]) -> None:
    row = study()
    for name, value in changed.items():
        setattr(row, name, value)
    assert id_class_of(hospital(), row) == "IDENTIFIED"


def test_an_identified_row_stays_identified_whatever_is_signed() -> None:
    row = study(id_class="IDENTIFIED")
    assert id_class_of(hospital(), row) == "IDENTIFIED"


def test_pages_are_given_the_facts_and_the_words() -> None:
    facts = manifest_facts(hospital(), study())
    assert facts.is_standing and facts.held == (("BURNED_IN_TEXT", 1),) and facts.key_id == key_of(1).key_id
    assert held_back_words(study()) == "1 image held back by the hospital's edge"
    assert held_back_words(study(held_instances=2, left_out_instances=1)).endswith("; 1 image left out by the hospital")
    assert held_back_words(study(held_instances=0)) == ""


def test_a_seed_of_another_length_is_no_key() -> None:
    with pytest.raises(BadInput):
        ed25519_key_of_seed(b"short")

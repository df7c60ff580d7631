"""The manifest says what was done to a study, names no patient, and holds only as signed."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
from typing import Any

import pytest

from compliance.deid_manifest import sign_manifest, study_manifest, verify_manifest
from compliance.deid_profile import TELEREAD
from compliance.deidentify import deidentify
from compliance.identity_terms import collect_identity
from crypto.errors import IntegrityFailure
from tests.builders import make_ct_study
from tests.deid_samples import clean_screen, instance_of, names_for

AT = dt.datetime(2026, 3, 15, 8, tzinfo=dt.UTC)


def sign(message: bytes) -> bytes:
    return hmac.digest(b"edge", message, "sha256")


def verify(message: bytes, signature: bytes) -> bool:
    return hmac.compare_digest(sign(message), signature)


def signed() -> dict[str, Any]:
    sources = [instance_of(one) for one in make_ct_study(2)]
    under = names_for(collect_identity(sources))
    made = [deidentify(one, under, screen=clean_screen) for one in sources]
    statement = study_manifest(made, hospital_id="h1", profile=TELEREAD, held={"BURNED_IN_TEXT": 1}, made_at=AT)
    assert [entry["payload_digest"] for entry in statement["instances"]] == [
        "sha256:" + hashlib.sha256(one.payload).hexdigest() for one in sorted(made, key=lambda one: one.sop_instance_uid)
    ]
    return sign_manifest(statement, sign, "edge-1")


def test_manifest_states_profile_edition_counts_and_law_class() -> None:
    statement = verify_manifest(signed(), verify)
    assert statement["law_class"] == "PSEUDONYMISED"
    assert (statement["table"]["edition"], statement["table"]["rows"]) == ("2026c", 656)
    assert statement["profile"]["name"] == "teleread" and statement["actions"]["X"] > 0
    assert (statement["held"], statement["made_at"]) == ({"BURNED_IN_TEXT": 1}, "2026-03-15T08:00:00Z")
    assert "Gr\u00fcnwald" not in str(statement)


@pytest.mark.parametrize("field", ["law_class", "hospital_id", "actions"])
def test_a_changed_manifest_does_not_hold(field: str) -> None:
    document = signed()
    document["statement"][field] = "ANONYMOUS"
    with pytest.raises(IntegrityFailure):
        verify_manifest(document, verify)

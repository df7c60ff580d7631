"""What a patient said of one kind of consent is not unsaid by what they say of another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.credential import require_reader, standing_consents
from compliance.decision import decide
from compliance.facts import gather_facts
from gateway.register_entries import record_consent
from gateway.register_rows import consent_rows
from tests.gateway_site import GatewaySite, gateway_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site") as made:
        yield made


def _say(site: GatewaySite, status: str, kind: str) -> int:
    site.clock.forward(seconds=1)
    return record_consent(
        site.app,
        "po",
        hospital_id="h1",
        patient_pseudonym=site.study.patient_pseudonym,
        status=status,
        kind=kind,
        given_at=site.clock.at,
    )


def _outcome(site: GatewaySite) -> str:
    """The consent's own word in the decision on r1: "" where it stands in nobody's way."""
    with site.app.database.reading() as session:
        facts = gather_facts(
            session,
            action="ROUTE",
            study=site.study,
            reader=require_reader(session, "r1"),
            login=None,
            at=site.clock.at,
            keys=site.app.keys,
        )
        return next((reason for reason in decide(facts, site.app.law).reasons if reason.startswith("CONSENT_")), "")


@pytest.mark.parametrize("said", ["REFUSED", "WITHDRAWN"])
def test_refusal_of_one_kind_stands_until_that_kind_is_given_again(site: GatewaySite, said: str) -> None:
    assert _say(site, said, "TRANSFER") == 1
    assert _outcome(site) == f"CONSENT_{said}"
    assert _say(site, "ACTIVE", "SHARING") == 1, "each kind has versions of its own"
    assert _say(site, "ACTIVE", "SEPARATE") == 1
    assert _outcome(site) == f"CONSENT_{said}"
    assert _say(site, "ACTIVE", "TRANSFER") == 2
    assert _outcome(site) == ""
    assert _say(site, "UNKNOWN", "SEPARATE") == 2, "entered in error: nobody consented or refused"
    assert _outcome(site) == ""


def test_consent_is_withdrawn_by_its_own_row_and_the_others_stay(site: GatewaySite) -> None:
    for kind in ("SHARING", "TRANSFER"):
        _say(site, "ACTIVE", kind)
    with site.app.database.reading() as session:
        before = {row.kind: row for row in standing_consents(session, "h1", site.study.patient_pseudonym)}
        assert [row.cells[2].text for row in consent_rows(session)] == ["Transfer", "Sharing"]
    site.clock.forward(seconds=1)
    assert site.post("po", f"/consents/{before['SHARING'].consent_pk}/withdraw", reason="by letter").status_code == 303
    with site.app.database.reading() as session:
        after = {row.kind: row.status for row in standing_consents(session, "h1", site.study.patient_pseudonym)}
    assert after == {"SHARING": "WITHDRAWN", "TRANSFER": "ACTIVE"}
    assert _outcome(site) == "CONSENT_WITHDRAWN"

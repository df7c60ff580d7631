"""The quarantine by command: five kinds of bad studies listed, explained, released, repaired and rejected."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlmodel import select
from typer.testing import CliRunner

from compliance.quarantine import QuarantineItem
from gateway import reason_words
from gateway.cli import app
from gateway.received import ReceivedState, ReceivedStudy
from gateway.study_holds import OF_THE_WHOLE_STUDY
from tests.builders import make_ct_study
from tests.gateway_site import GatewaySite, gateway_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    folder = tmp_path_factory.mktemp("quarantine") / "site"
    with gateway_site(folder, has_study=False) as made:
        (folder / "readgate.toml").write_text("[law]\ndemo_confirmations = true\n")
        yield made


@pytest.fixture(scope="module")
def held(site: GatewaySite) -> dict[str, int]:
    """Reason -> the number of the item that holds a study for it."""
    patients = make_ct_study(instances=2, number=961)
    patients[1].PatientID = "SOMEBODY-ELSE"
    persons = make_ct_study(instances=2, number=962)
    persons[1].PatientBirthDate = "19010101"
    nobody = make_ct_study(instances=1, number=963)
    nobody[0].PatientID = ""
    twice = make_ct_study(instances=2, number=964)
    other = copy.deepcopy(twice[0])
    other.ImageComments = "Another one."
    ordered = make_ct_study(instances=1, number=965)
    for datasets, order in ((patients, None), (persons, None), (nobody, None), ([*twice, other], None), (ordered, {"patient_id": "OTHER"})):
        assert site.process(site.receive(datasets, order=order)) == ""
    with site.app.database.reading() as session:
        return {item.reason_code: item.item_pk or 0 for item in session.exec(select(QuarantineItem)).all()}


def run(site: GatewaySite, *words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["quarantine", *words, "--data", str(site.app.data)])
    assert result.exit_code == code, result.output
    return result.output


def state_of(site: GatewaySite, number: int) -> tuple[str, str]:
    with site.app.database.reading() as session:
        item = session.get(QuarantineItem, number)
        assert item is not None
        study = session.get(ReceivedStudy, item.received_study_pk)
    assert study is not None
    return item.state, study.state


def test_every_kind_is_listed_with_its_reason(site: GatewaySite, held: dict[str, int]) -> None:
    assert set(held) == {
        "SEVERAL_PATIENT_IDS",
        "SEVERAL_PATIENTS",
        "PATIENT_ID_MISSING",
        "DUPLICATE_UID_DIFFERENT_CONTENT",
        "ORDER_OF_ANOTHER_PATIENT",
    }
    listed = json.loads(run(site, "list", "--json"))
    assert {row["reason"] for row in listed} == set(held) and {row["state"] for row in listed} == {"HELD"}


def test_each_is_explained_in_words_of_its_own_and_no_value_is_shown(site: GatewaySite, held: dict[str, int]) -> None:
    said = set()
    for reason, number in held.items():
        document = json.loads(run(site, "show", str(number), "--json"))
        assert document["reason"] == reason
        said.add((document["what_happened"], document["what_to_do"]))
        assert document["repairs"] == ("KEEP_FIRST, KEEP_LAST" if reason == "DUPLICATE_UID_DIFFERENT_CONTENT" else "")
        assert "SOMEBODY" not in json.dumps(document) and "OTHER" not in json.dumps(document).replace("ANOTHER", "")
    assert len(said) == len(held)


@pytest.mark.parametrize(
    "reason", sorted({*OF_THE_WHOLE_STUDY, "PROCESSING_FAILED", "INTEGRITY_FAILURE", "RESOURCES_EXHAUSTED", "REJECTED_STUDY_CAME_AGAIN"})
)
def test_every_reason_that_holds_a_whole_study_has_words_of_its_own(reason: str) -> None:
    assert reason_words.held_words(reason) not in (reason_words._HELD_OTHER, reason_words._HELD_PIXELS)


def test_conflict_is_repaired_and_only_as_it_can_be(site: GatewaySite, held: dict[str, int]) -> None:
    number = held["DUPLICATE_UID_DIFFERENT_CONTENT"]
    run(site, "repair", str(number), "--choose", "KEEP_BOTH", "--note", "both", code=2)
    run(site, "repair", str(held["SEVERAL_PATIENT_IDS"]), "--choose", "KEEP_LAST", "--note", "last", code=2)
    run(site, "repair", str(number), "--choose", "KEEP_LAST", "--note", "sent again")
    assert state_of(site, number) == ("RELEASED", ReceivedState.COMPLETE)


def test_release_tries_again_and_holds_again(site: GatewaySite, held: dict[str, int]) -> None:
    number = held["PATIENT_ID_MISSING"]
    run(site, "release", str(number), "--note", "once more")
    assert state_of(site, number) == ("RELEASED", ReceivedState.COMPLETE)
    with site.app.database.reading() as session:
        item = session.get(QuarantineItem, number)
    assert item is not None and site.process(item.received_study_pk) == ""
    again = [row for row in json.loads(run(site, "list", "--json")) if row["reason"] == "PATIENT_ID_MISSING"]
    assert len(again) == 1 and again[0]["number"] != number


def test_reject_is_for_good(site: GatewaySite, held: dict[str, int]) -> None:
    number = held["ORDER_OF_ANOTHER_PATIENT"]
    run(site, "reject", str(number), "--note", "wrong order")
    assert state_of(site, number) == ("REJECTED", ReceivedState.REJECTED)
    run(site, "release", str(number), "--note", "after all", code=2)
    document = json.loads(run(site, "show", str(number), "--json"))
    assert document["decision_note"] == "wrong order" and document["repairs"] == ""

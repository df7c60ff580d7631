"""The law in force: on record, never backwards, the last good one stays, a change takes rights at once, and clocks do not run back."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from click.testing import Result
from sqlmodel import col, select
from typer.testing import CliRunner

from compliance.audit import AuditEntry
from compliance.decision_clock import TOLERANCE, DecisionClock, move_clock, require_forward_clock, set_clock_back
from compliance.decision_log import DecisionRow
from compliance.law_confirmation import confirmation_document, sign_manifest
from compliance.law_in_force import LawInForce, bring_into_force, law_in_force, laws_of_the_past
from compliance.lawbook import SHIPPED_LAW, load_packs
from crypto.ed25519 import create_ed25519_key, ed25519_public_pem
from crypto.errors import BadInput, Conflict
from gateway.config import LawSettings
from gateway.law_commands import mount
from gateway.law_files import configured_law, kept_law, law_at_start
from gateway.law_watch import LawWatch, refresh_law
from tests.gateway_site import PAGE, GatewaySite, gateway_site

AT = datetime(2026, 11, 22, 10, tzinfo=UTC)
SIGNERS = {role: create_ed25519_key() for role in ("PRIVACY_OFFICER", "COUNSEL")}
TRUSTED = {role: ed25519_public_pem(key) for role, key in SIGNERS.items()}


def confirm(folder: Path) -> None:
    """The packs in `folder` are confirmed, all of them, by the two of SIGNERS."""
    manifest = load_packs(folder).manifest
    names = {"PRIVACY_OFFICER": "P. One", "COUNSEL": "C. Two"}
    signatures = [sign_manifest(manifest, "test", frozenset(), role, names[role], AT, key) for role, key in SIGNERS.items()]
    (folder / "confirmations.json").write_text(json.dumps(confirmation_document(manifest, "test", frozenset(), signatures)))


def change(folder: Path, old: str, new: str, name: str = "bundle.yaml") -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    folder = tmp_path / "packs"
    shutil.copytree(SHIPPED_LAW, folder, ignore=shutil.ignore_patterns("*.json"))
    change(folder, f"version: {load_packs().version}", "version: 5")
    confirm(folder)
    return folder


@pytest.fixture
def site(tmp_path: Path, packs: Path) -> Iterator[GatewaySite]:
    """A site whose law was changed from the demonstration's to `packs`, confirmed by keys it trusts."""
    with gateway_site(tmp_path / "data") as made:
        made.app.settings.law = settings_of(packs)
        assert refresh_law(made.app)
        yield made


def settings_of(packs: Path) -> LawSettings:
    return LawSettings(directory=packs, confirmations=packs / "confirmations.json", trusted_keys=TRUSTED)


def refusals(site: GatewaySite) -> list[str]:
    with site.app.database.reading() as session:
        rows = session.exec(select(AuditEntry).where(AuditEntry.event_type == "RG_REFUSED")).all()
    return [row.detail["law_refused"] for row in rows if "law_refused" in row.detail]


def test_change_of_law_is_on_record_and_in_the_log(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        newest, first = laws_of_the_past(session)
        entries = session.exec(select(AuditEntry).where(AuditEntry.object_id == f"law/{newest.law_digest}")).all()
    assert newest.law_digest == site.app.law.digest != first.law_digest
    assert newest.confirmed_by == ["PRIVACY_OFFICER: P. One", "COUNSEL: C. Two"]
    assert len(entries) == 1 and entries[0].detail["before"] == first.law_digest
    assert not refresh_law(site.app)


def test_every_law_of_the_past_is_kept_for_replay(site: GatewaySite) -> None:
    with site.app.database.reading() as session:
        for law in laws_of_the_past(session):
            assert kept_law(site.app.data, law).digest == law.law_digest


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (lambda folder: change(folder, "version: 5", "version: 4"), "rolled back"),
        (lambda folder: (change(folder, "version: 5", "version: 4"), confirm(folder)), "LAW_ROLLED_BACK"),
        (lambda folder: (change(folder, "code: FR", "code: FX"), confirm(folder)), "FX is no known jurisdiction"),
        (
            lambda folder: (
                change(folder, "- {code: FR, since: 2018-05-25}", "- {code: FR, since: 2018-05-25, until: 2019-01-01}"),
                confirm(folder),
            ),
            "LAW_VERSION_REUSED",
        ),
        (
            lambda folder: change(folder, "- {code: FR, since: 2018-05-25}", "- {code: FR, since: 2018-05-25, until: 2019-01-01}"),
            "unsigned",
        ),
        (lambda folder: (change(folder, "bundle: readgate-reference", "bundle: other"), confirm(folder)), "LAW_OTHER_BUNDLE"),
        (lambda folder: (folder / "eu.yaml").write_text("rules: ["), "is not YAML"),
        (lambda folder: (folder / "confirmations.json").unlink(), "cannot be read"),
    ],
    ids=["older", "older-confirmed", "malformed-set", "same-version", "unsigned", "other-bundle", "no-yaml", "no-confirmations"],
)
def test_bad_bundle_leaves_the_good_one_in_force(site: GatewaySite, packs: Path, how: object, reason: str) -> None:
    before = site.app.law.digest
    assert callable(how)
    with contextlib.suppress(BadInput):  # what cannot be read cannot be confirmed either; it is offered as it is
        how(packs)
    assert not refresh_law(site.app) and site.app.law.digest == before
    assert not refresh_law(site.app)
    (refusal,) = refusals(site)
    assert reason in refusal
    # A process that starts now takes the last good one from where it was kept.
    started = law_at_start(site.app.database, site.app.data, settings_of(packs), now=site.clock.at)
    assert started.digest == before


def test_signature_of_a_stranger_is_refused(packs: Path) -> None:
    stranger = ed25519_public_pem(create_ed25519_key())
    with pytest.raises(BadInput, match="not the one this deployment trusts"):
        configured_law(settings_of(packs).model_copy(update={"trusted_keys": {**TRUSTED, "COUNSEL": stranger}}))


def test_nothing_unconfirmed_starts_a_deployment() -> None:
    with pytest.raises(BadInput, match=r"law\.confirmations"):
        configured_law(LawSettings())


def test_changed_rule_takes_the_open_study_within_seconds(site: GatewaySite, packs: Path) -> None:
    step_uid = site.claim("r1")
    assert site.client("r1").get(f"/read/{step_uid}", headers=PAGE).status_code == 200
    watch = LawWatch(site.app, every_seconds=0.1)
    watch.start()
    try:
        # Spain leaves the set: nothing lets images go there any more.
        change(packs, "    - {code: ES, since: 2018-05-25}\n", "    - {code: ES, since: 2018-05-25, until: 2018-05-26}\n")
        change(packs, "version: 5", "version: 6")
        confirm(packs)
        deadline = time.monotonic() + 15
        while site.client("r1").get(f"/read/{step_uid}", headers=PAGE).status_code != 303 and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        watch.stop()
    answer = site.client("r1").get(f"/read/{step_uid}", headers=PAGE)
    assert answer.status_code == 303 and site.app.law.version == 6
    with site.app.database.reading() as session:
        standing = law_in_force(session)
    assert standing is not None and standing.version == 6


def test_unsigned_law_does_not_follow_a_signed_one(site: GatewaySite, packs: Path) -> None:
    with site.app.database.transaction() as session, pytest.raises(Conflict) as refused:
        bring_into_force(session, load_packs(packs), actor="test", now=site.clock.at)
    assert refused.value.reason_code == "LAW_UNSIGNED"
    with site.app.database.reading() as session:
        assert len(session.exec(select(LawInForce)).all()) == 2


def test_clock_that_runs_backwards_decides_nothing(site: GatewaySite) -> None:
    step_uid = site.step_uid
    site.client("r1")
    with site.app.database.transaction() as session:
        move_clock(session, site.clock.at + TOLERANCE * 2)
    assert site.post("r1", f"/worklist/{step_uid}/claim").headers["location"] == "/worklist"
    with site.app.database.transaction() as session:
        set_clock_back(session, reason="the time server was wrong", actor="op", now=site.clock.at)
    assert site.post("r1", f"/worklist/{step_uid}/claim").headers["location"] == f"/read/{step_uid}"


def test_clock_moves_forward_only_and_small_steps_back_are_tolerated(site: GatewaySite) -> None:
    at = site.clock.at
    with site.app.database.transaction() as session:
        move_clock(session, at)
        move_clock(session, at - TOLERANCE)
        clock = session.get(DecisionClock, 1)
        assert clock is not None and clock.decided_at == at
        require_forward_clock(session, at - TOLERANCE)
        with pytest.raises(Conflict):
            require_forward_clock(session, at - TOLERANCE * 1.01)


def test_decisions_of_a_period_are_simulated_from_the_data_folder(site: GatewaySite, packs: Path) -> None:
    """What a privacy officer does before bringing a bundle into force; that somebody read the decisions is in the log."""
    change(packs, "version: 5", "version: 6")
    change(packs, "rules:\n", "rules:\n  - {id: TEST_STOP, kind: PROHIBIT, source: {text: A test, section: '1'}}\n", "eu.yaml")
    command = typer.Typer()
    mount(command)
    with site.app.database.reading() as session:
        recorded = session.exec(select(DecisionRow)).all()
    at = min(row.decided_at for row in recorded)

    def simulated(*period: str) -> Result:
        arguments = ["law", "simulate", "--data", str(site.app.data), "--law", str(packs), "--confirmations", str(demo), *period, "--json"]
        return CliRunner().invoke(command, arguments)

    demo = packs.parent / "both.json"
    manifest = load_packs(packs).manifest
    signed = [sign_manifest(manifest, "both", frozenset(), role, role.title(), AT, key) for role, key in SIGNERS.items()]
    demo.write_text(json.dumps(confirmation_document(manifest, "both", frozenset(), signed)))
    found = simulated("--since", at.isoformat())
    assert found.exit_code == 0 and f"of {len(recorded)} decisions" in found.stderr, found.output
    changed = [json.loads(line) for line in found.stdout.splitlines()]
    assert {row["digest"] for row in changed if row["outcome"] == "ALLOW"} == {row.digest for row in recorded if row.outcome == "ALLOW"}
    assert all("TEST_STOP" in row["new_reasons"] for row in changed)
    assert "0 of 0 decisions" in simulated("--until", at.isoformat()).stderr
    with site.app.database.reading() as session:
        entries = session.exec(select(AuditEntry).order_by(col(AuditEntry.entry_index).desc()).limit(2)).all()
    assert any("decisions" in str(entry.detail) for entry in entries)

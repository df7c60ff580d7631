"""Law packs, confirmations and their commands: what is taken, what is refused and why, and that the last good bundle stays."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from compliance.decision import decide
from compliance.law_change import diff, redecide, simulate
from compliance.law_confirmation import confirmation_document, sign_manifest
from compliance.lawbook import SHIPPED_LAW, LawBundle, load_law, load_packs, refuse_rollback, reload_law
from crypto.ed25519 import create_ed25519_key, ed25519_public_pem, ed25519_sign, ed25519_verify
from crypto.errors import BadInput, Conflict
from gateway.law_commands import mount
from tests.decision_cases import base_facts, decision_cases, facts_of

NOW = datetime(2026, 11, 22, tzinfo=UTC)
#: The version of the packs that ship.
SHIPPED = load_packs().version


@pytest.fixture(scope="module")
def command() -> typer.Typer:
    app = typer.Typer()
    mount(app)
    return app


@pytest.fixture
def packs(tmp_path: Path) -> Path:
    """A copy of the shipped packs with the shipped confirmations."""
    folder = tmp_path / "law"
    shutil.copytree(SHIPPED_LAW, folder)
    return folder


def _add(packs: Path, **rule: Any) -> None:
    full = {"id": "TEST_RULE", "valid_from": "2020-01-01", "known_from": "2020-01-01", "source": {"text": "A test", "section": "1"}, **rule}
    (packs / "added.yaml").write_text(yaml.safe_dump({"pack": "added", "title": "Added", "rules": [full]}))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _confirm(packs: Path, into: Path, without: frozenset[str] = frozenset(), keys: tuple[bytes, bytes] | None = None) -> Path:
    manifest = load_packs(packs).manifest
    first, second = keys or (create_ed25519_key(), create_ed25519_key())
    signatures = [
        sign_manifest(manifest, "test", without, "PRIVACY_OFFICER", "P. Officer", NOW, first),
        sign_manifest(manifest, "test", without, "COUNSEL", "C. Counsel", NOW, second),
    ]
    into.write_text(json.dumps(confirmation_document(manifest, "test", without, signatures)))
    return into


def test_shipped_packs_are_confirmed_but_for_the_saudi_transfer_rule() -> None:
    law = load_law()
    assert [rule.id for rule in law.rules.values() if not rule.is_confirmed] == ["SA_PDPL_29"]
    assert law.confirmations is not None and law.confirmations.set_id == "readgate-demo"


def test_every_shipped_rule_names_source_and_every_regime_has_mechanism_and_licence_rule() -> None:
    law = load_law()
    for rule_id, text in law.texts.items():
        assert text.source.text and text.source.section, rule_id
    for regime in law.regimes:
        assert any(rule.regime == regime and rule.kind == "PERMIT" for rule in law.rules.values()), regime
    western = ("IE", "GB", "CH", "US-TX", "PR", "CA-ON", "BR", "AU-NSW", "NZ", "ZA")
    for origin in (*western, "AE-DU", "SA", "CN", "IN", "SG", "TH", "PH", "JP", "KR", "IL"):
        licences = [rule for rule in law.rules_for(origin) if any(need.name == "LICENCE" for need in rule.needs)]
        assert licences, origin


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"kind": "FORBID", "origin": ["IE"]}, "kind"),
        ({"kind": "PROHIBIT"}, "origin"),
        ({"kind": "PROHIBIT", "origin": ["XX"]}, "'XX' is no jurisdiction"),
        ({"kind": "PROHIBIT", "origin": ["@NOWHERE"]}, "@NOWHERE is not defined"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "actions": ["LOOK"]}, "actions are of"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "surprise": 1}, "surprise"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "when": [{"fact": "reader.citizenship", "within": ["CN"]}]}, "reader.citizenship"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "when": [{"fact": "object.weather", "in": ["RAIN"]}]}, "object.weather"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "when": [{"fact": "payer.kind", "in": ["GOLD"]}]}, "payer.kind can only be"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "when": [{"fact": "payer.kind", "at_least": 3}]}, "cannot be tested that way"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "when": [{"flag": "NO_SUCH"}]}, "unknown flag"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "when": [{"flag": "NHS", "no_flag": "NHS"}]}, "exactly one form"),
        ({"kind": "REQUIRE", "origin": ["IE"], "needs": [{"evidence": "DPA"}]}, "names its gate"),
        ({"kind": "REQUIRE", "gate": "G4", "origin": ["IE"], "needs": [{"credential": "LICENCE"}]}, "a licence is asked for"),
        ({"kind": "PERMIT", "regime": "EU", "mechanism": "MAGIC", "origin": ["IE"]}, "known mechanism"),
        ({"kind": "PERMIT", "regime": "MARS", "mechanism": "INTRA", "origin": ["IE"]}, "regime MARS"),
        ({"kind": "OBLIGE", "origin": ["IE"], "obligations": ["SING"]}, "unknown obligation SING"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "valid_to": "2019-01-01"}, "valid_to is not after"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "status": "CONFIRMED"}, "status"),
        ({"kind": "PROHIBIT", "origin": ["IE"], "id": "EU_INTRA"}, "used twice"),
    ],
)
def test_a_malformed_rule_is_refused_with_file_rule_and_reason(
    rule: dict[str, Any], reason: str, packs: Path, command: typer.Typer
) -> None:
    _add(packs, **rule)
    (packs / "added.yaml").rename(packs / "zz-added.yaml")
    result = CliRunner().invoke(command, ["law", "validate", "--law", str(packs)])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "zz-added.yaml" in result.stderr and f"rule {rule.get('id', 'TEST_RULE')}" in result.stderr and reason in result.stderr


@pytest.mark.parametrize("text", ["rules: [", "- a\n- b", "rules: {}", "pack: x\nrules: [1]", "!!python/object:os.system {}", "\x00"])
def test_a_pack_that_is_none_is_refused_by_file(text: str, packs: Path) -> None:
    (packs / "zz.yaml").write_text(text)
    with pytest.raises(BadInput, match=re.escape("zz.yaml")):
        load_law(packs)


_BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 8)}]\n" for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "pack: x\ntitle: X\nrules:\n  - {id: A, origin: [IE], kind: PROHIBIT, origin: [DE]}\n",
            "a name stands twice in one object (line 4)",
        ),
        (_BOMB, "unfolds to more than"),
    ],
    ids=["a-name-twice", "aliases-that-multiply"],
)
def test_a_pack_that_says_two_things_or_never_ends_is_refused(text: str, reason: str, packs: Path) -> None:
    (packs / "zz.yaml").write_text(text)
    with pytest.raises(BadInput, match=re.escape(reason)):
        load_law(packs)


def test_a_folder_without_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"bundle\.yaml"):
        load_law(tmp_path)


def test_an_added_prohibition_holds_at_once_as_a_draft(packs: Path) -> None:
    _add(packs, kind="PROHIBIT", origin=["IE"])
    law = load_law(packs)
    assert not law.rules["TEST_RULE"].is_confirmed
    assert decide(base_facts(), law).reasons == ("TEST_RULE",)


def test_an_added_permit_is_a_draft_and_refers() -> None:
    facts = facts_of("S17b")
    assert decide(facts, load_law()).outcome == "REFER"


def test_a_rule_changed_or_taken_away_after_confirmation_unsigns_the_bundle(packs: Path) -> None:
    _replace(packs / "us.yaml", "at_least: 10000", "at_least: 99999")
    with pytest.raises(BadInput, match="US_DSP_BULK_RESTRICTED differs"):
        load_law(packs)
    shutil.copy(SHIPPED_LAW / "us.yaml", packs / "us.yaml")
    (packs / "house.yaml").unlink()
    with pytest.raises(BadInput, match="HOUSE_COVER is missing"):
        load_law(packs)
    shutil.copy(SHIPPED_LAW / "house.yaml", packs / "house.yaml")
    _replace(packs / "bundle.yaml", "IN_RESTRICTED: []", "IN_RESTRICTED: [{code: PH}]")
    with pytest.raises(BadInput, match="set:IN_RESTRICTED differs"):
        load_law(packs)


def test_an_older_version_than_confirmed_is_rolled_back(packs: Path, tmp_path: Path) -> None:
    _replace(packs / "bundle.yaml", f"version: {SHIPPED}", f"version: {SHIPPED + 1}")
    (packs / "demo-confirmations.json").unlink()
    confirmed = _confirm(packs, tmp_path / "c.json")
    assert load_law(packs, confirmed).version == SHIPPED + 1
    _replace(packs / "bundle.yaml", f"version: {SHIPPED + 1}", f"version: {SHIPPED}")
    with pytest.raises(BadInput, match="rolled back"):
        load_law(packs, confirmed)


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda d: d["signatures"].pop(), "unsigned"),
        (lambda d: d["signatures"].append(d["signatures"][0]), "unsigned"),
        (lambda d: d["signatures"].__setitem__(1, {**d["signatures"][0], "role": "PRIVACY_OFFICER"}), "one person or one key"),
        (lambda d: d["unconfirmed"].clear(), "does not verify"),
        (lambda d: d.__setitem__("set", "other"), "does not verify"),
        (lambda d: d["manifest"]["rules"].pop("EU_INTRA"), "does not verify"),
        (lambda d: d["manifest"].__setitem__("version", 0), "does not verify"),
        (lambda d: d["signatures"][0].__setitem__("name", "Somebody"), "does not verify"),
        (lambda d: d["signatures"][0].__setitem__("signature", "AAAA"), "does not verify"),
        (lambda d: d["signatures"][0].__setitem__("signature", "*"), "incomplete"),
        (lambda d: d["signatures"][0].pop("signature"), "incomplete"),
        (lambda d: d.pop("manifest"), "incomplete"),
        (lambda d: d.__setitem__("format", "x"), "not a law confirmation"),
    ],
)
def test_tampered_confirmations_are_refused_by_reason(tamper: Any, reason: str, packs: Path) -> None:
    path = packs / "demo-confirmations.json"
    document = json.loads(path.read_text())
    tamper(document)
    path.write_text(json.dumps(document))
    with pytest.raises(BadInput, match=reason):
        load_law(packs)


def test_one_key_cannot_hold_both_roles(packs: Path, tmp_path: Path) -> None:
    key = create_ed25519_key()
    with pytest.raises(BadInput, match="one person or one key"):
        load_law(packs, _confirm(packs, tmp_path / "c.json", keys=(key, key)))


def test_a_deployment_trusts_its_own_keys_only(packs: Path, tmp_path: Path) -> None:
    officer, counsel = create_ed25519_key(), create_ed25519_key()
    path = _confirm(packs, tmp_path / "c.json", keys=(officer, counsel))
    trusted = {"PRIVACY_OFFICER": ed25519_public_pem(officer), "COUNSEL": ed25519_public_pem(counsel)}
    assert load_law(packs, path, trusted).confirmations is not None
    with pytest.raises(BadInput, match="not the one this deployment trusts"):
        load_law(packs, None, trusted)


def test_the_last_good_bundle_stays_in_force(packs: Path, tmp_path: Path) -> None:
    good = load_law(packs)
    _replace(packs / "bundle.yaml", f"version: {SHIPPED}", f"version: {SHIPPED + 1}")
    (packs / "demo-confirmations.json").unlink()
    in_force, problem = reload_law(good, packs, None)
    assert in_force is good and "unsigned" in (problem or "")
    newer, problem = reload_law(good, packs, _confirm(packs, tmp_path / "c.json"))
    assert newer.version == SHIPPED + 1 and problem is None
    in_force, problem = reload_law(newer, SHIPPED_LAW, None)
    assert in_force is newer and "LAW_ROLLED_BACK" in (problem or "")
    (packs / "eu.yaml").write_text("rules: [")
    in_force, problem = reload_law(newer, packs, None)
    assert in_force is newer and "eu.yaml" in (problem or "")


def test_rollback_and_reuse_of_a_version_are_refused(packs: Path) -> None:
    shipped = load_law()
    refuse_rollback(shipped, shipped)
    _add(packs, kind="PROHIBIT", origin=["IE"])
    with pytest.raises(Conflict, match="LAW_VERSION_REUSED"):
        refuse_rollback(shipped, load_law(packs))
    _replace(packs / "bundle.yaml", "bundle: readgate-reference", "bundle: another")
    (packs / "demo-confirmations.json").unlink()
    with pytest.raises(Conflict, match="LAW_OTHER_BUNDLE"):
        refuse_rollback(shipped, load_law(packs))


def test_diff_names_what_a_change_does(packs: Path) -> None:
    _add(packs, kind="PROHIBIT", origin=["IE"])
    _replace(packs / "uk.yaml", "max_age_days: 365", "max_age_days: 180")
    (packs / "demo-confirmations.json").unlink()
    found = diff(load_law(), load_law(packs))
    assert found.added == ("TEST_RULE",) and found.removed == () and found.changed == {"UK_IDTA": ("needs",)}
    assert "EU_INTRA" in found.unconfirmed and diff(load_law(), load_law()).is_empty


def test_simulate_lists_the_decisions_that_would_change(packs: Path) -> None:
    law = load_law()
    documents = [decide(case.facts, law).document() for case in decision_cases()]
    assert list(simulate(documents, law)) == []
    _add(packs, kind="PROHIBIT", origin=["BR"])
    changed = list(simulate(documents, load_law(packs)))
    assert {change.new_outcome for change in changed} == {"DENY"}
    allowed = next(change for change in changed if change.outcome == "ALLOW")
    assert allowed.new_reasons == ("TEST_RULE",) and allowed.digest in {document["digest"] for document in documents}
    with pytest.raises(BadInput):
        redecide({"format": "other"}, law)


def test_law_commands_end_to_end(packs: Path, tmp_path: Path, command: typer.Typer, law_decisions: Path) -> None:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(command, ["law", *arguments])

    _add(packs, kind="PROHIBIT", origin=["IE"])
    _replace(packs / "bundle.yaml", f"version: {SHIPPED}", f"version: {SHIPPED + 1}")
    (packs / "demo-confirmations.json").unlink()
    for name in ("officer", "counsel"):
        assert "PUBLIC KEY" in run("key", str(tmp_path / name)).stdout
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert run("key", str(tmp_path / "officer")).exit_code == 2
    into = packs / "confirmations.json"
    confirm = ["--law", str(packs), "--into", str(into), "--set", "ours", "--without", "SA_PDPL_29"]
    assert run("confirm", "--role", "PRIVACY_OFFICER", "--name", "A", "--key", str(tmp_path / "officer"), *confirm).exit_code == 0
    assert "unsigned" in run("validate", "--law", str(packs)).stderr
    assert run("confirm", "--role", "COUNSEL", "--name", "B", "--key", str(tmp_path / "counsel"), *confirm).exit_code == 0
    validated = run("validate", "--law", str(packs), "--after", str(SHIPPED_LAW), "--json")
    assert validated.exit_code == 0 and json.loads(validated.stdout)["drafts"] == ["SA_PDPL_29"]
    assert run("validate", "--after", str(packs)).exit_code == 2
    assert run("diff", str(SHIPPED_LAW), str(packs)).exit_code == 1
    assert run("diff", str(packs), str(packs)).exit_code == 0
    shown = run("show", "TEST_RULE", "--law", str(packs), "--json")
    assert json.loads(shown.stdout)["status"] == "CONFIRMED"
    assert "AU_MHR_S77" in run("show", "--origin", "AU-NSW").stdout and "EU_INTRA" not in run("show", "--origin", "AU-NSW").stdout
    assert run("show", "NO_SUCH").exit_code == 2
    simulated = run("simulate", str(law_decisions), "--law", str(packs), "--json")
    assert simulated.exit_code == 0 and "TEST_RULE" in simulated.stdout
    for wrong in ([], [str(law_decisions), "--data", str(tmp_path)], [str(law_decisions), "--since", "2026-01-01"]):
        assert run("simulate", *wrong, "--law", str(packs)).exit_code == 2


def test_a_rule_of_today_is_tried_on_decisions_of_before_and_one_of_tomorrow_is_named(
    packs: Path, command: typer.Typer, law_decisions: Path
) -> None:
    _add(packs, kind="PROHIBIT", origin=["IE"], known_from="2026-11-22T10:30:00Z")
    (packs / "demo-confirmations.json").unlink()
    try_out = ["law", "simulate", str(law_decisions), "--law", str(packs)]
    assert "TEST_RULE" in CliRunner().invoke(command, try_out).stdout
    assert "TEST_RULE" not in CliRunner().invoke(command, [*try_out, "--as-known-then"]).stdout
    _add(packs, kind="PROHIBIT", origin=["IE"], valid_from="2031-01-01")
    simulated = CliRunner().invoke(command, try_out)
    assert "TEST_RULE" not in simulated.stdout and "TEST_RULE" in simulated.stderr.splitlines()[-1]


@pytest.fixture
def law_decisions(tmp_path: Path) -> Path:
    """The acceptance decisions as JSON Lines."""
    law: LawBundle = load_law()
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b"\n".join(decide(case.facts, law).document_bytes() for case in decision_cases()) + b"\n")
    return path


def test_the_law_guide_names_every_kind_gate_form_and_command() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "LAW.md").read_text()
    words = "PROHIBIT REQUIRE PERMIT OBLIGE G0 G1 G2 G3 G4 G5 G6 valid_from valid_to known_from unless needs when any_of located_outside"
    words += " reader_outside no_direct_privilege report_when_met unmet_reason validate show diff confirm simulate replay"
    for word in words.split():
        assert word in guide, word


def test_ed25519_signs_and_refuses_what_is_no_key() -> None:
    key = create_ed25519_key()
    signature = ed25519_sign(key, b"m")
    assert ed25519_verify(ed25519_public_pem(key), b"m", signature)
    assert not ed25519_verify(ed25519_public_pem(key), b"n", signature)
    assert not ed25519_verify("no key", b"m", signature)
    with pytest.raises(BadInput):
        ed25519_sign(b"no key", b"m")


def test_ed25519_gives_the_vector_of_rfc_8032() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")  # RFC 8032 7.1, test 2
    pem = Ed25519PrivateKey.from_private_bytes(secret).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    expected = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert ed25519_sign(pem, bytes.fromhex("72")).hex() == expected

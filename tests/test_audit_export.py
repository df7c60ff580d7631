"""An exported audit bundle, checked by the standalone verifier: sound as it is, and never after anybody touched it."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlmodel import select

from compliance import audit
from compliance.audit import AuditEntry
from compliance.audit_checkpoint import keep_checkpoint
from crypto.canonical import canonical_json
from crypto.checkpoint import LogSigner
from gateway.audit_export import Exported, Selection, export_bundle
from tests.gateway_site import GatewaySite, gateway_site

VERIFIER = Path(__file__).resolve().parents[1] / "docs" / "verify_audit.py"
STEPS = 24


def load_verifier() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_audit", VERIFIER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


verifier = load_verifier()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path_factory.mktemp("audit") / "site", has_study=False) as opened:
        grow(opened, STEPS)
        yield opened


def grow(site: GatewaySite, steps: int) -> None:
    """Entries of every shape, with a checkpoint now and then."""
    for number in range(steps):
        with site.app.database.transaction() as session:
            event = audit.AuditEvent(
                event_id=audit.EventId.QUERY,
                event_type=audit.EventType.OPEN,
                action=audit.Action.READ,
                actor=f"r{number % 5}",
                hospital_id=("h1", "h2", None)[number % 3],
                study_instance_uid=f"2.25.{number}" if number % 2 else None,
                detail={"n": number, "ratio": number / 7, "list": ["é", "\u2028", '"'], "none": None, "yes": True},
                sealed_body=b"sealed" if number % 10 == 0 else None,
            )
            audit.append(session, event, at=site.clock.forward(seconds=1.25))
        if number % 17 == 0:
            keep_checkpoint(site.app.database, site.app.log_signer, now=site.clock.at)


def export(site: GatewaySite, selection: Selection | None = None) -> tuple[bytes, Exported]:
    parts: list[bytes] = []
    exported = export_bundle(site.app, parts.append, selection or Selection(), actor="po")
    return b"".join(parts), exported


def findings(data: bytes, key: str | None = None, kept: list[str] | None = None) -> list[str]:
    return list(verifier.Bundle(data, key, kept or []).findings)


@pytest.fixture(scope="module")
def whole(site: GatewaySite) -> tuple[bytes, Exported]:
    return export(site)


def test_the_whole_log_is_sound_for_who_has_key_and_checkpoint(site: GatewaySite, whole: tuple[bytes, Exported]) -> None:
    data, exported = whole
    assert findings(data, site.app.log_signer.verifier_key, [exported.checkpoint]) == []
    last = json.loads(data.splitlines()[-3])["entry"]
    assert (last["event_id"], last["event_type"]) == (audit.EventId.AUDIT_LOG_USED, audit.EventType.LOG_READ)


def test_a_part_of_the_log_is_proved_entry_by_entry(site: GatewaySite) -> None:
    data, exported = export(site, Selection(hospital_id="h2"))
    assert findings(data, site.app.log_signer.verifier_key, [exported.checkpoint]) == []
    shown = [json.loads(line)["entry"] for line in data.splitlines() if b'"entry"' in line[:10]]
    assert {entry["hospital_id"] for entry in shown} == {"h2"}
    assert len(shown) == exported.entries < exported.size


def test_the_verifier_runs_alone_and_tells_by_its_exit_code(site: GatewaySite, whole: tuple[bytes, Exported], tmp_path: Path) -> None:
    bundle, note = tmp_path / "bundle.jsonl", tmp_path / "note"
    bundle.write_bytes(whole[0])
    note.write_text(whole[1].checkpoint)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        # -I: nothing of this checkout can be imported, which is the point.
        command = [sys.executable, "-I", str(VERIFIER), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    done = run(str(bundle), "--key", site.app.log_signer.verifier_key, "--checkpoint", str(note))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("SOUND")
    bundle.write_bytes(whole[0].replace(b'"actor":"r1"', b'"actor":"r2"', 1))
    assert run(str(bundle)).returncode == 1
    assert run(str(tmp_path / "missing")).returncode == 2


def test_the_verifier_is_short_and_needs_the_standard_library_only() -> None:
    text = VERIFIER.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    imported = {line.split()[1].split(".")[0] for line in text.splitlines() if line.startswith(("import ", "from "))}
    assert imported <= set(sys.stdlib_module_names) | {"__future__"}


def tampered(data: bytes, random_: random.Random) -> bytes:
    """One change somebody might make who has the file and not the key."""
    lines = data.splitlines(keepends=True)
    entries = [number for number, line in enumerate(lines) if line.startswith(b'{"entry"')]
    at, other = random_.sample(entries, 2)
    kind = random_.randrange(9)
    if kind == 0:  # a bit anywhere
        position = random_.randrange(len(data))
        return data[:position] + bytes([data[position] ^ 1 << random_.randrange(8)]) + data[position + 1 :]
    if kind == 1:  # an entry dropped
        del lines[at]
    elif kind == 2:  # two swapped
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == 3:  # one repeated
        lines.insert(at, lines[other])
    elif kind == 4:  # cut off
        return data[: random_.randrange(len(data))]
    elif kind == 5:  # a field rewritten, spelled as it must be
        lines[at] = edited(lines[at], random_, "actor", "outcome", "hospital_id", "study_instance_uid", "event_type", "detail")
    elif kind == 6:  # backdated
        lines[at] = edited(lines[at], random_, "at")
    elif kind == 7:  # dropped at the end, counts and root adjusted
        del lines[entries[-1]]
        lines[-1] = readjusted(lines)
    else:  # a byte inserted
        position = random_.randrange(len(data))
        return data[:position] + bytes([random_.randrange(256)]) + data[position:]
    return b"".join(lines)


def edited(line: bytes, random_: random.Random, *fields: str) -> bytes:
    record = json.loads(line)
    field = random_.choice(fields)
    record["entry"][field] = {"n": -1} if field == "detail" else f"{random_.random()}"
    return canonical_json(record) + b"\n"


def readjusted(lines: list[bytes]) -> bytes:
    tree = verifier.Tree()
    for line in lines:
        if line.startswith(b'{"entry"'):
            tree.append(verifier.leaf_hash(verifier.leaf_of(json.loads(line)["entry"])))
    end = json.loads(lines[-1])
    end["end"].update(size=tree.size, root=tree.root().hex(), entries=tree.size)
    return canonical_json(end) + b"\n"


def try_tamperings(site: GatewaySite, count: int, seed: int) -> None:
    key = site.app.log_signer.verifier_key
    bundles = [export(site)[0], export(site, Selection(hospital_id="h1"))[0]]
    random_ = random.Random(seed)
    for number in range(count):
        data = bundles[number % 2]
        changed = tampered(data, random_)
        if changed != data:
            assert findings(changed, key), f"tampering {number} of seed {seed} was not found"


def test_a_thousand_random_tamperings_are_all_found(site: GatewaySite, monkeypatch: pytest.MonkeyPatch) -> None:
    # Checking one signature takes 5 ms in plain Python; the same answer for the same words is remembered.
    remembered: dict[tuple[bytes, ...], bool] = {}
    slow = verifier.is_signed

    def is_signed(*words: bytes) -> bool:
        if words not in remembered:
            remembered[words] = slow(*words)
        return remembered[words]

    monkeypatch.setattr(verifier, "is_signed", is_signed)
    try_tamperings(site, 1000, seed=7)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(10))
def test_ten_thousand_random_tamperings_are_all_found(site: GatewaySite, seed: int) -> None:
    try_tamperings(site, 1000, seed=100 + seed)


def forged(data: bytes, signer: LogSigner, keep: int) -> bytes:
    """The bundle with entry `keep` rewritten and everything after it made to fit, signed anew with the log's own key."""
    tree, lines, checkpoints = verifier.Tree(), [], 0
    for line in data.splitlines():
        record = json.loads(line)
        if "entry" in record:
            if record["entry"]["index"] == keep:
                record["entry"]["actor"] = "somebody-else"
            tree.append(verifier.leaf_hash(verifier.leaf_of(record["entry"])))
        elif "checkpoint" in record:
            record["checkpoint"] = signer.sign_checkpoint(tree.size, tree.root())
            checkpoints += 1
        elif "end" in record:
            record["end"].update(root=tree.root().hex())
        lines.append(canonical_json(record) + b"\n")
    return b"".join(lines)


def test_a_log_rewritten_with_its_own_key_is_told_by_the_checkpoint_somebody_kept(site: GatewaySite, whole: tuple[bytes, Exported]) -> None:
    data, exported = whole
    key = site.app.log_signer.verifier_key
    fork = forged(data, site.app.log_signer, keep=5)
    assert findings(fork, key) == []  # whoever holds the key can make a log that agrees with itself
    assert any("rewritten" in finding for finding in findings(fork, key, [exported.checkpoint]))
    older = next(json.loads(line)["checkpoint"] for line in data.splitlines() if line.startswith(b'{"checkpoint"'))
    assert any("rewritten" in finding for finding in findings(forged(data, site.app.log_signer, keep=1), key, [older]))


def test_a_log_cut_short_is_told_by_the_checkpoint_somebody_kept(site: GatewaySite) -> None:
    before, _ = export(site)
    _, later = export(site)
    assert any("missing at its end" in finding for finding in findings(before, None, [later.checkpoint]))


def test_another_key_is_told(site: GatewaySite, whole: tuple[bytes, Exported]) -> None:
    stranger = LogSigner("readgate.audit", bytes(range(32)))
    assert findings(forged(whole[0], stranger, keep=5), site.app.log_signer.verifier_key)
    assert findings(whole[0], stranger.verifier_key)


def test_exporting_finds_a_gap_instead_of_hiding_it(tmp_path: Path) -> None:
    from crypto.errors import IntegrityFailure

    with gateway_site(tmp_path / "site") as site:
        with site.app.database.transaction() as session:
            session.delete(session.exec(select(AuditEntry).where(AuditEntry.entry_index == 3)).one())
        with pytest.raises(IntegrityFailure):
            export(site)


@settings(max_examples=60)
@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53) + 1, 2**53 - 1) | st.text())
def test_the_verifiers_canonical_form_is_the_products(value: Any) -> None:
    try:
        expected = canonical_json([value, {"k": value}]).decode()
    except Exception:
        return
    assert verifier.canonical([value, {"k": value}]) == expected


@pytest.mark.parametrize("value", [0.0, -0.0, 1e21, 1e20, 123456789012345680000.0, 1e-6, 1e-7, 5e-324, 1.7976931348623157e308, -1.5, 100.0])
def test_numbers_are_written_as_ecmascript_does(value: float) -> None:
    assert verifier.canonical(value) == canonical_json(value).decode()
    assert math.isclose(float(verifier.canonical(value)), value)


def test_ed25519_agrees_with_another_implementation() -> None:
    random_ = random.Random(3)
    for _ in range(8):
        key = Ed25519PrivateKey.from_private_bytes(random_.randbytes(32))
        public, message = key.public_key().public_bytes_raw(), random_.randbytes(40)
        signature = key.sign(message)
        assert verifier.is_signed(public, message, signature)
        position = random_.randrange(64)
        broken = signature[:position] + bytes([signature[position] ^ 1]) + signature[position + 1 :]
        assert not verifier.is_signed(public, message, broken)
        assert not verifier.is_signed(public, message + b"x", signature)
        # A second signature for the same message, by adding the group's order, must not be taken (RFC 8032 5.1.7).
        scalar = int.from_bytes(signature[32:], "little") + verifier.L
        assert not verifier.is_signed(public, message, signature[:32] + scalar.to_bytes(32, "little"))


def test_times_in_the_bundle_are_utc(whole: tuple[bytes, Exported]) -> None:
    first = json.loads(whole[0].splitlines()[1])["entry"]
    assert datetime.now(UTC) - datetime.fromisoformat(first["at"]) < timedelta(days=1)

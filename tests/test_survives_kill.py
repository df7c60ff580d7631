"""kill -9 at random moments, again and again, amid four associations: what was acknowledged is kept, and every study comes out once.

Sometimes one process is the whole site, sometimes receiver and worker are processes of their own and one or both are killed; mostly within
half a second of being up, sometimes amid the start, sometimes well into the work. READGATE_KILLS sets how often (default 100; the torture
run kills 1,000 times).

Senders send so many instances for each kill and no more, and now and then the site is left alone for some seconds: else studies pile
up by the thousand while nobody gets on with them, each start reads all of them again, and the last of a thousand kills takes minutes.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlmodel import col, select

from compliance.audit import AuditEntry, EventType
from compliance.audit_checkpoint import keep_checkpoint, verify_log
from compliance.crosswalk import lookup_secret, study_lookup
from compliance.quarantine import QuarantineItem, QuarantineState
from compliance.study import Study
from crypto.canonical import keyed_digest
from gateway.application import Application, open_application
from gateway.config import Settings
from gateway.fsck import Fsck
from gateway.processing import original_of, study_key_of
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy, instances_by_lookup
from tests.site_nursery import SiteFork, SiteNursery
from tests.site_process import SiteProcess
from worklist.procedure_step import State
from worklist.workitem import ProcedureStep

_SENDERS = 4
_QUIET_SECONDS = 0.8
_SETTLE_SECONDS = 240.0
_KILLS_PER_LAYOUT = 12
_INSTANCES_PER_KILL = 2
_ALONE_SECONDS = 4.0
_FINISHED = {ReceivedState.AVAILABLE, ReceivedState.QUARANTINED}


@dataclass
class Ruin:
    """A site that was killed often, started once more, left to finish, and stopped; and what its senders were told."""

    app: Application
    acknowledged: list[tuple[str, str, str]]
    kills: int


def _kills(default: int) -> int:
    return int(os.environ.get("READGATE_KILLS", str(default)))


@pytest.fixture(
    scope="module",
    params=[pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(1200)]), pytest.param(1000, marks=pytest.mark.torture)],
    ids=["hundred", "thousand"],
)
def ruin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ruin]:
    top = tmp_path_factory.mktemp("kills")
    kills = _kills(request.param)
    acknowledged = _run_and_kill(top, kills, random.Random(kills))
    print(f"{kills} kills, {len(acknowledged)} instances acknowledged")
    app = open_application(top / "data", settings=Settings.model_validate({"law": {"demo_confirmations": True}}))
    yield Ruin(app, acknowledged, kills)
    app.close()


def _run_and_kill(top: Path, kills: int, rng: random.Random) -> list[tuple[str, str, str]]:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    whole, stop = SiteProcess(top / "data", top / "log", plaintext_port=port, quiet_seconds=_QUIET_SECONDS), top / "stop"
    allowed = top / "allowed"
    _allow(allowed, 1)
    whole.start()
    whole.wait_ready()
    ledgers = [top / f"ledger-{number}" for number in range(_SENDERS)]
    senders = [
        subprocess.Popen([sys.executable, "-m", "tests.kill_sender", str(number + 1), str(port), str(ledger), str(stop), str(allowed)])
        for number, ledger in enumerate(ledgers)
    ]
    nursery = SiteNursery(top / "data", top / "log")
    running: dict[str, SiteFork] = {}
    try:
        time.sleep(1.0)
        whole.kill()
        began = time.monotonic()
        _kill_again_and_again(nursery, running, port, kills - 1, rng, allowed)
        print(f"{60 * (kills - 1) / (time.monotonic() - began):.0f} kills a minute")
        whole.start()
        whole.wait_ready()
        stop.touch()
        for sender in senders:
            assert sender.wait(700) == 0, "a sender was not served to the end"
        _settle(top / "data", _SETTLE_SECONDS + kills)
        assert whole.stop() == 0
    finally:
        for sender in senders:
            if sender.poll() is None:
                sender.kill()
                sender.wait()
        for fork in running.values():
            if fork.is_running:
                fork.kill()
        nursery.close()
        if whole.is_running:
            whole.kill()
    lines = [line.split() for ledger in ledgers for line in ledger.read_text().splitlines()]
    return [(study, instance, digest) for study, instance, digest in lines]


def _allow(allowed: Path, kills: int) -> None:
    """Senders may have sent what belongs to so many kills."""
    next_one = allowed.with_name("allowed-next")
    next_one.write_text(str(_INSTANCES_PER_KILL * kills))
    next_one.replace(allowed)


def _kill_again_and_again(
    nursery: SiteNursery, running: dict[str, SiteFork], port: int, kills: int, rng: random.Random, allowed: Path
) -> None:
    layout: tuple[str, ...] = ("all",)

    def start() -> None:
        for role in layout:
            if role not in running:
                running[role] = nursery.start({"role": role, "plaintext_port": port})

    for number in range(kills):
        _allow(allowed, number + 2)
        if number % _KILLS_PER_LAYOUT == 0:
            if number:
                start()
                for fork in running.values():
                    fork.wait_ready()
                time.sleep(_ALONE_SECONDS)
            for fork in running.values():
                fork.kill()
            running.clear()
            layout = rng.choice([("all",), ("receiver", "worker")])
        start()
        # Mostly as soon as it works, sometimes amid the start with its recovery, sometimes well into the work.
        moment = rng.random()
        if moment < 0.85:
            for fork in running.values():
                fork.wait_ready()
        time.sleep(rng.uniform(0.05, 0.4) if moment < 0.75 or moment >= 0.85 else rng.uniform(0.5, 2.5))
        victims = rng.choice([("receiver",), ("worker",), layout]) if len(layout) > 1 else layout
        for role in victims:
            assert running[role].is_running, "the site ended by itself"
            running.pop(role).kill()
    for fork in running.values():
        fork.kill()
    running.clear()


def _settle(folder: Path, seconds: float) -> None:
    """Until every received study is on the worklist or in quarantine, and stays so."""
    app = open_application(folder, settings=Settings.model_validate({"law": {"demo_confirmations": True}}))
    until, calm = time.monotonic() + seconds, 0
    states: list[str] = []
    try:
        while calm < 3:
            assert time.monotonic() < until, Counter(states)
            time.sleep(0.7)
            with app.database.reading() as session:
                states = list(session.exec(select(ReceivedStudy.state)).all())
                routed = set(session.exec(select(ProcedureStep.study_pk)).all())
                known = set(session.exec(select(Study.study_pk)).all())
            calm = calm + 1 if set(states) <= _FINISHED and routed == known else 0
    finally:
        app.close()


def test_every_acknowledged_instance_is_there_bit_exact(ruin: Ruin) -> None:
    assert len(ruin.acknowledged) > 2 * ruin.kills
    key = lookup_secret(ruin.app.keys, "h1")
    lost, changed = [], []
    for _study, sop_instance_uid, digest in ruin.acknowledged:
        with ruin.app.database.reading() as session:
            rows = instances_by_lookup(session, "h1", keyed_digest(key, "instance", sop_instance_uid))
        kept = [row for row in rows if not row.is_duplicate]
        if len(kept) != 1:
            lost.append((sop_instance_uid, len(rows), len(kept)))
            continue
        payload = original_of(ruin.app, study_key_of(ruin.app, kept[0].received_study_pk), kept[0]).payload
        if hashlib.sha256(payload).hexdigest() != digest:
            changed.append(sop_instance_uid)
    assert (lost, changed) == ([], [])


def test_every_study_came_out_once_on_the_worklist_or_in_quarantine(ruin: Ruin) -> None:
    lookups = {study_lookup(ruin.app.keys, "h1", study): study for study, _, _ in ruin.acknowledged}
    with ruin.app.database.reading() as session:
        received = session.exec(select(ReceivedStudy)).all()
        steps = session.exec(select(ProcedureStep)).all()
        studies = session.exec(select(Study)).all()
        held = session.exec(select(QuarantineItem).where(QuarantineItem.state == QuarantineState.HELD)).all()
        routed = session.exec(select(AuditEntry.object_id).where(AuditEntry.event_type == EventType.ROUTE)).all()
    assert {row.study_lookup for row in received} >= set(lookups) and len(received) == len({row.study_lookup for row in received})
    assert {row.state for row in received} <= _FINISHED
    available = [row for row in received if row.state == ReceivedState.AVAILABLE]
    assert available, "some came through"
    assert sorted(row.study_instance_uid or "" for row in available) == sorted(study.study_instance_uid for study in studies)
    assert Counter(step.study_pk for step in steps) == {study.study_pk: 1 for study in studies}
    assert {step.state for step in steps} == {State.SCHEDULED}
    assert sorted(map(str, routed)) == sorted(step.procedure_step_uid for step in steps)
    quarantined = {row.received_study_pk for row in received if row.state == ReceivedState.QUARANTINED}
    assert Counter(item.received_study_pk for item in held) == dict.fromkeys(quarantined, 1)
    assert [item.reason_code for item in held] == [], "no study is to blame for a kill"


def test_studies_on_the_worklist_have_all_their_instances(ruin: Ruin) -> None:
    sent = Counter(study_lookup(ruin.app.keys, "h1", study) for study, _, _ in ruin.acknowledged)
    with ruin.app.database.reading() as session:
        for row in session.exec(select(ReceivedStudy).where(ReceivedStudy.state == ReceivedState.AVAILABLE)).all():
            study = session.exec(select(Study).where(Study.study_instance_uid == row.study_instance_uid)).one()
            rows = session.exec(
                select(ReceivedInstance).where(
                    ReceivedInstance.received_study_pk == row.received_study_pk, col(ReceivedInstance.is_duplicate).is_(False)
                )
            ).all()
            # One that arrived when the answer was lost may be there without being in the ledger; it was sent again.
            assert study.instance_count == row.instance_count == len(rows) >= sent[row.study_lookup] > 0


def test_audit_log_verifies(ruin: Ruin) -> None:
    keep_checkpoint(ruin.app.database, ruin.app.log_signer, now=ruin.app.now())
    with ruin.app.database.reading() as session:
        verified = verify_log(session, ruin.app.log_signer.public_key)
    assert verified.is_sound and verified.size > 100, verified.findings


def test_fsck_finds_no_damage(ruin: Ruin) -> None:
    report = Fsck(ruin.app, is_alone=True).run(deep=True)
    findings = [one for one in report.findings if one.kind not in _LEFT_BY_A_CRASH]
    assert findings == []


#: What fsck names after a crash and what may stay: keys that nothing was sealed under.
_LEFT_BY_A_CRASH = {"shred_key_without_study"}

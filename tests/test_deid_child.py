"""De-identification in a process that may die: the same bytes, no key in it, no network, and a death or a bomb that harms nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compliance import child_wire
from compliance.deid_child import ChildLimits, DeidChild, DeidChildren
from compliance.deid_serve import identity_json, identity_of_json
from compliance.deidentify import deidentify
from compliance.identified import DeidentifiedDataset, IdentifiedDataset
from compliance.identity_terms import collect_identity
from compliance.quarantine import QuarantineItem
from compliance.study import require_study
from crypto.errors import RefusedContent
from gateway.processing import archive_originals, deidentify_study
from tests.builders import make_ct_study
from tests.canary import canary_study
from tests.deid_children import asked, has_landlock, told_by_wire
from tests.deid_samples import SECRET, clean_screen, instance_of, names_for
from tests.gateway_site import gateway_site
from tests.test_partial_hold import items, study_of

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def child() -> Iterator[DeidChild]:
    with DeidChild(ChildLimits(seconds_per_instance=120)) as running:
        yield running


def test_a_child_makes_what_the_parent_would_have_made(child: DeidChild) -> None:
    datasets, _ = canary_study()
    sources = [instance_of(one) for one in [*make_ct_study(2), *datasets] if "PixelData" not in one or one.Modality == "CT"]
    assert len(sources) > 2
    for source in sources:
        under = names_for(collect_identity([source]))
        made, here = asked(child, source, under), deidentify(source, replace(under), screen=clean_screen)
        assert (made.payload, made.dicom_json, made.frame_table) == (here.payload, here.dicom_json, here.frame_table)
        assert (made.attributes, made.action_counts, made.flags) == (here.attributes, here.action_counts, here.flags)
        assert (made.pixel_digest, made.payload_digest) == (here.pixel_digest, here.payload_digest)


def test_identity_goes_to_the_child_and_comes_back_the_same() -> None:
    identity = collect_identity([instance_of(one) for one in canary_study()[0]])
    assert identity_of_json(identity_json(identity)) == identity and identity.dates


def test_no_key_is_told_to_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_by_wire(monkeypatch)
    with DeidChild() as fresh:
        asked(fresh, instance_of(make_ct_study(1)[0]))
    everything = b"".join(told)
    assert b"RG-PSEUDONYM" in everything and b"2.25." in everything
    assert SECRET not in everything and SECRET.hex().encode() not in everything


def test_the_child_says_what_holds_of_it_and_stands_nowhere_with_nothing(child: DeidChild) -> None:
    asked(child, instance_of(make_ct_study(1)[0]))
    assert child.confinement.has_no_files == (has_landlock() > 0)
    assert {"memory", "cpu", *(["files"] if has_landlock() else [])} <= set(child.confinement.held().split())
    own = Path(f"/proc/{child.pid}")
    if os.access(own / "environ", os.R_OK) and os.getuid() == 0:
        assert os.readlink(own / "cwd") == "/"
        names = {one.partition(b"=")[0] for one in (own / "environ").read_bytes().split(b"\0") if one}
        assert names <= {b"PYTHONPATH", b"PYTHONSAFEPATH", b"PYTHONDONTWRITEBYTECODE", b"OMP_NUM_THREADS", b"OPENBLAS_NUM_THREADS"}


class MortalChild(DeidChild):
    """Dies of the instances of these UIDs, as often as it is said."""

    def __init__(self, deadly: set[str], deaths: int) -> None:
        super().__init__()
        self.deadly, self.deaths = deadly, deaths

    def _asked(self, source: IdentifiedDataset, *others: Any) -> DeidentifiedDataset:
        if source.sop_instance_uid in self.deadly and self.deaths:
            self.deaths -= 1
            os.kill(self._started().pid, signal.SIGKILL)
        return super()._asked(source, *others)


def test_a_death_is_tried_again_and_the_second_refuses_the_instance_alone() -> None:
    first, second = (instance_of(one) for one in make_ct_study(2))
    under = names_for(collect_identity([first, second]))
    with MortalChild({first.sop_instance_uid}, deaths=1) as once:
        assert asked(once, first, under).sop_instance_uid
    with MortalChild({first.sop_instance_uid}, deaths=9) as always:
        with pytest.raises(RefusedContent, match="WORKER_DIED"):
            asked(always, first, under)
        assert asked(always, second, under).sop_instance_uid


def test_a_late_child_is_replaced() -> None:
    with DeidChild(ChildLimits(seconds_per_instance=0.0001)) as slow, pytest.raises(RefusedContent, match="WORKER_LATE"):
        asked(slow, instance_of(make_ct_study(1)[0]))


def test_the_instance_that_kills_is_held_and_the_study_goes_on(tmp_path: Path) -> None:
    datasets = study_of(4, 71)
    children = DeidChildren(1)
    children._idle.get()
    children._idle.put(MortalChild({datasets[2].SOPInstanceUID}, deaths=9))
    with gateway_site(tmp_path / "data", has_study=False) as site:
        received_pk = site.receive(datasets)
        archive_originals(site.app, received_pk)
        uid = deidentify_study(site.app, received_pk, children)
        children._idle.get().close()
        item: QuarantineItem
        (item,) = items(site)
        assert (item.reason_code, item.instance_count, item.is_partial) == ("WORKER_DIED", 1, True)
        with site.app.database.reading() as session:
            assert require_study(session, uid).instance_count == 3


def test_a_lying_child_makes_no_identity_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    source = instance_of(make_ct_study(1)[0])
    under = names_for(collect_identity([source]))
    receive = child_wire.receive

    def lie(*arguments: Any) -> tuple[dict[str, Any], bytes]:
        words, payload = receive(*arguments)
        return words, source.payload if "made" in words else payload

    monkeypatch.setattr(child_wire, "receive", lie)
    with DeidChild() as liar, pytest.raises(RefusedContent) as refused:
        asked(liar, source, under)
    assert refused.value.reason_code in ("RESIDUAL_IDENTITY", "TABLE_NOT_HELD", "WORKER_DIED") and liar.pid is None

"""What a frame says of its instance does not depend on what the association sent before it."""

from __future__ import annotations

import itertools
from pathlib import Path

from gateway.header_scan import HeaderFacts
from gateway.intake_port import InstanceHead
from tests.intake_site import EXPLICIT, intake_site

CT = "1.2.840.10008.5.1.4.1.1.2"


def facts(study: str, accession_number: bytes) -> HeaderFacts:
    return HeaderFacts(CT, "1.2.3", study, "1.2.4", b"P1", b"", b"", accession_number)


def test_lookups_follow_study_and_accession_number(tmp_path: Path) -> None:
    head = InstanceHead(CT, "1.2.3", EXPLICIT, 1)
    wanted = [facts(study, number) for study, number in itertools.product(("1.2.5", "1.2.6"), (b"", b"A1", b"A2", b"\xff1"))]
    with intake_site(tmp_path) as site:
        alone = [site.intake.frame_header(site.session(), head, each, 10, "d") for each in wanted]
        association = site.session()
        for first, second in itertools.product(range(len(wanted)), repeat=2):
            for number in (first, second, second):
                assert site.intake.frame_header(association, head, wanted[number], 10, "d") == alone[number]
    assert len({(each["study_lookup"], each.get("order_lookup")) for each in alone}) == 6

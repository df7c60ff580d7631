"""The conformance statement says what the code does: its tables are compared with the tables the code works by."""

from __future__ import annotations

import re
from pathlib import Path

from compliance.character_sets import _CODECS
from compliance.deid_profile import METHOD_CODES, TELEREAD
from gateway.association_limits import AssociationLimits
from gateway.dicom_uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, STORAGE_COMMITMENT_PUSH_MODEL, VERIFICATION
from gateway.negotiation import Negotiator

STATEMENT = (Path(__file__).resolve().parents[1] / "docs" / "CONFORMANCE.md").read_text(encoding="utf-8")
CT = "1.2.840.10008.5.1.4.1.1.2"


def section(title: str) -> str:
    return re.split(r"\n## ", STATEMENT.partition(f"\n## {title}")[2])[0]


def uids(text: str) -> list[str]:
    """The last column of a table whose last column is a UID."""
    return re.findall(r"\| ([0-9.]+) \|$", text, re.MULTILINE)


def test_annex_a_lists_the_storage_classes_that_are_negotiated() -> None:
    offered = set(Negotiator()._syntaxes) - {VERIFICATION, STORAGE_COMMITMENT_PUSH_MODEL}
    listed = uids(section("Annex A"))
    assert set(listed) == offered and len(listed) == len(offered)


def test_annex_b_lists_the_transfer_syntaxes_in_their_order() -> None:
    assert uids(section("Annex B")) == [str(uid) for uid in Negotiator()._syntaxes[CT]]


def test_character_sets_are_those_that_are_decoded() -> None:
    listed = set(re.findall(r"ISO_IR \d+|ISO 2022 IR \d+|GB18030|GBK", " ".join(section("4.").split())))
    assert listed == {term for term in _CODECS if term}


def test_deidentification_codes_are_those_that_are_written() -> None:
    rows = re.findall(r"^\| (\d{6}) \| ([^|]+) \| (yes|no) \|$", section("5."), re.MULTILINE)
    expected = {
        (code, meaning, "yes" if option is None or option in TELEREAD.options else "no") for option, (code, meaning) in METHOD_CODES.items()
    }
    assert set(rows) == expected


def test_association_policies_are_those_of_the_code() -> None:
    assert IMPLEMENTATION_CLASS_UID in STATEMENT and IMPLEMENTATION_VERSION_NAME in STATEMENT
    limits = AssociationLimits()
    said = " ".join(STATEMENT.split())
    assert f"{limits.acse_seconds_max:.0f} seconds to the association, {limits.idle_seconds_max:.0f} seconds of silence" in said

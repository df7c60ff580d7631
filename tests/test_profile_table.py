"""Every row of PS3.15 Table E.1-1, under every option, at three depths: the oracle is the table."""

from __future__ import annotations

import datetime as dt
import re
from functools import cache
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from compliance.deid_profile import BASIC, COLUMNS, TELEREAD, DeidProfile, Option
from compliance.profile_table import ProfileRow, effective_action, load_table, resolve, standard_data
from crypto.errors import BadInput
from tests.deid_samples import OFFSET, bare_instance, output_of

TABLE = load_table()
PROFILES = [BASIC, TELEREAD, *(DeidProfile(option.value, frozenset({option})) for option in Option if option in COLUMNS)]
#: Sequences that the table does not name, to nest in.
NESTS = ((), (0x52009229,), (0x52009229, 0x00209116, 0x00289110))
ORIGINAL_DAY = dt.date(2019, 5, 17)
MOVED_DAY = f"{ORIGINAL_DAY + dt.timedelta(days=OFFSET):%Y%m%d}"
PATTERNS = {"(50XX,XXXX)": 0x50003000, "(60XX,4000)": 0x60004000, "(60XX,3000)": 0x60003000}
#: Needed to be an instance at all, so its value is the sample's.
GIVEN = {0x00080018, 0x0020000D, 0x0020000E, 0x00100010, 0x00100020}
#: Nobody's text can be proved clean inside it: the instance is refused.
REFUSED = {0x00420011}


def tag_of_row(row: ProfileRow) -> int:
    if row.pattern.startswith("(GGGG"):
        return 0x00091001
    return PATTERNS.get(row.pattern) or int(row.pattern[1:5] + row.pattern[6:10], 16)


def vr_of(tag: int) -> str:
    try:
        vr = dictionary_VR(Tag(tag))
    except KeyError:
        return "LO"
    return "OB" if " or " in vr else vr


def value_for(tag: int, vr: str) -> Any:
    token = f"K{tag:08x}"
    if tag == 0x00100030:
        return "19480203"
    if vr == "SQ":
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-1", "99T", "Zorvathine knee"
        return Sequence([item])
    values: dict[str, Any] = {
        "DA": f"{ORIGINAL_DAY:%Y%m%d}", "DT": f"{ORIGINAL_DAY:%Y%m%d}101112.5+0100", "TM": "101112.5", "UI": f"1.2.826.0.1.3680043.8.{tag}",
        "DS": "61.5", "IS": "7", "CS": "M", "AS": "041Y", "US": 3, "UL": 3, "SS": 3, "SL": 3, "FD": 1.5, "FL": 1.5,
        "PN": f"Nn{tag:08x}^Given",
        "OB": b"\x07\x08\x09\x0a", "OW": b"\x07\x08\x09\x0a", "UN": b"\x07\x08\x09\x0a", "AE": token, "UR": f"http://h/{token}",
    }  # fmt: skip
    is_cleaned = "cleanDescOpt" in options_of(tag) or "rtnPatCharsOpt" in options_of(tag)
    return values.get(vr, "knee Zorvathine" if is_cleaned else token)


def options_of(tag: int) -> dict[str, str]:
    row = TABLE.row(tag)
    return dict(row.options) if row else {}


def put(dataset: Dataset, tag: int) -> None:
    vr = vr_of(tag)
    if tag >> 16 & 1:
        dataset.add_new(Tag(tag >> 16, 0x10), "LO", "ACME PRIVATE")
    dataset[Tag(tag)] = DataElement(BaseTag(tag), vr, value_for(tag, vr))


def full_dataset(nest: tuple[int, ...]) -> Dataset:
    """An instance with an element for each row of the table, within the sequences of `nest`."""
    dataset = bare_instance()
    inner = dataset
    for tag in nest:
        item = Dataset()
        inner[Tag(tag)] = DataElement(BaseTag(tag), "SQ", Sequence([item]))
        inner = item
    for row in TABLE.rows:
        tag = tag_of_row(row)
        if not (tag in REFUSED or (not nest and tag in GIVEN)):
            put(inner, tag)
    return dataset


@cache
def treated(profile_index: int, nest: tuple[int, ...]) -> Dataset:
    output = output_of(full_dataset(nest), PROFILES[profile_index])
    for tag in nest:
        output = output[Tag(tag)].value[0]
    return output


def check(row: ProfileRow, action: str, tag: int, output: Dataset) -> None:
    present = Tag(tag) in output
    if tag >> 16 < 0x0008:
        assert not present, "files, directories and commands are no part of a dataset"
        return
    vr = vr_of(tag)
    element = output[Tag(tag)] if present else None
    if action == "X" or element is None:
        assert not present, "X: it must be absent"
        assert action in "XC", f"{action}: it must be present"
        assert action == "X" or vr in ("OB", "OW", "UN") or tag >> 24 in (0x50, 0x60) or tag == 0x00091001
        return
    if tag in (0x00100010, 0x00100020):
        assert str(element.value) == "RG-PSEUDONYM"
    elif action == "Z":
        assert element.is_empty or str(element.value) == "RG-ACCESSION"
    elif vr == "SQ":
        assert "Zorvathine" not in str(element)
        assert action != "D" or "T-1" not in str(element)
    elif action == "D":
        assert not element.is_empty
        assert element.value != value_for(tag, vr)
    elif action == "U":
        assert str(element.value).startswith("2.25.")
    elif action == "K":
        assert str(element.value) == str(value_for(tag, vr)).replace("Zorvathine", "[-]")
    else:
        check_cleaned(tag, vr, str(element.value))


def check_cleaned(tag: int, vr: str, value: str) -> None:
    if vr in ("DA", "DT"):
        assert value == str(value_for(tag, vr)).replace(f"{ORIGINAL_DAY:%Y%m%d}", MOVED_DAY)
    elif vr == "TM":
        assert value == "101112.5"
    else:
        assert "Zorvathine" not in value
        if "knee" in str(value_for(tag, vr)):
            assert "knee" in value


@pytest.mark.parametrize("row", TABLE.rows, ids=[row.pattern.strip("()") for row in TABLE.rows])
def test_row_is_treated_as_the_table_says(row: ProfileRow) -> None:
    """Under each option alone, none and all of teleread; at the top, one and three sequences deep."""
    tag = tag_of_row(row)
    for index, profile in enumerate(PROFILES):
        cell = effective_action(row, profile)
        for nest in NESTS:
            if tag in REFUSED or (not nest and tag in GIVEN):
                continue
            action = resolve(cell, tag, "1.2.840.10008.5.1.4.1.1.2", nest[-1] if nest else None)
            try:
                check(row, action, tag, treated(index, nest))
            except AssertionError as wrong:
                raise AssertionError(f"{row.pattern} under {profile.name} at depth {len(nest)}: {wrong}") from None


def test_table_is_whole_and_says_where_it_is_from() -> None:
    data = standard_data("e1-1.json")
    assert (TABLE.edition, len(TABLE.rows)) == ("2026c", 656)
    assert data["sources"] and "2024b" in data["provenance"]
    assert len({row.pattern for row in TABLE.rows}) == 656
    counts = {column: sum(column in row.options for row in TABLE.rows) for column in data["columns"][1:]}
    assert counts == {
        "rtnSafePrivOpt": 1, "rtnUIDsOpt": 59, "rtnDevIdOpt": 57, "rtnInstIdOpt": 10, "rtnPatCharsOpt": 13, "rtnLongFullDatesOpt": 165,
        "rtnLongModifDatesOpt": 165, "cleanDescOpt": 125, "cleanStructContOpt": 3, "cleanGraphOpt": 4,
    }  # fmt: skip


@pytest.mark.parametrize("row", TABLE.rows, ids=[row.pattern.strip("()") for row in TABLE.rows])
def test_every_cell_resolves_to_one_action(row: ProfileRow) -> None:
    for profile in PROFILES:
        for sop_class in ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11"):
            assert resolve(effective_action(row, profile), tag_of_row(row), sop_class) in set("XZDUKC")
    assert re.fullmatch(r"[XZDU]|X/Z|X/D|Z/D|X/Z/D|X/Z/U\*", row.basic)


def test_full_and_modified_dates_exclude_each_other() -> None:
    with pytest.raises(BadInput):
        DeidProfile("both", frozenset({Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES}))

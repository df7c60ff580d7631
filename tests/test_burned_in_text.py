"""What a recognised line is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.burned_in_text import TextKind, identity_forms, text_kind

IDENTITY = identity_forms(["KOWALSKA^ANNA MARIA", "Müller^Jörg", "0048213377", "19610203", "St. Elsewhere"])


@pytest.mark.parametrize(
    "line",
    [
        "KOWALSKA ANNA",
        "K0WAL5KA",
        "KOWALSKAANNAMARIA",
        "kowa1ska, anna",
        "MULLER",
        "Mueler",
        "ANNA 120 kV",
        "48213377",
        "0048213378",
        "03.02.1961",
        "1961-02-03",
        "02/03/1961",
        "3 FEB 1961",
        "Doe, Jane",
        "SMITH^JOHN",
        "Patient: unreadable",
        "MRN 55",
        "DOB",
        "11/24/98",
        "19.11.202615:21",
        "Acc 7654321",
        "St Elsewhere",
    ],
)
def test_line_that_could_name_the_patient_is_identifying(line: str) -> None:
    assert text_kind(line, IDENTITY) is TextKind.IDENTIFYING


@pytest.mark.parametrize(
    "line",
    [
        "R LAT",
        "RLAT",
        "LMLO",
        "RMLO",
        "RMLC",
        "LMLD",
        "rIs 0.4",
        "120 kV",
        "80kVp 5 mAs",
        "MI 1.1",
        "TIS<0.4 MI=0.8",
        "28Hz",
        "Asc Ao Diam 3.3 cm",
        "Asc Ao Index",
        "+ Cist Mag",
        "LVOT VTI",
        "HPen",
        "Philips Healthcare",
        "Exam Information",
        "Scan Label",
        "Total DLP",
        "Gn 60",
        "12.5 cm",
        "A 12.3 mm",
        "PORTABLE",
        "Im 1/20",
        "10:22:31",
        "2D",
    ],
)
def test_clinical_mark_stays(line: str) -> None:
    assert text_kind(line, IDENTITY) is TextKind.CLINICAL


@pytest.mark.parametrize("line", ["", "L", "R", ".", "|", "阁"])
def test_single_sign_is_noise(line: str) -> None:
    assert text_kind(line, IDENTITY) is TextKind.NOISE


@pytest.mark.parametrize("line", ["Parkinson", "HXyn", "Zoltan", "1987"])
def test_word_on_no_list_is_unknown(line: str) -> None:
    assert text_kind(line, IDENTITY) is TextKind.UNKNOWN


def test_short_name_that_is_also_a_mark_does_not_take_the_mark_away() -> None:
    assert text_kind("AP", identity_forms(["Ap^X"])) is TextKind.CLINICAL
    assert text_kind("LI 4", identity_forms(["Li^Wei"])) is TextKind.CLINICAL
    assert text_kind("LI WEI", identity_forms(["Li^Wei"])) is TextKind.IDENTIFYING


def test_letter_misread_inside_a_pair_that_looks_like_one_letter() -> None:
    assert text_kind("AA0VAAA", identity_forms(["AAVVAAA"])) is TextKind.IDENTIFYING
    assert text_kind("BAUWERNE", identity_forms(["BAUVVEME"])) is TextKind.IDENTIFYING


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ABCDEFGHIKMNOPRSTUVW", min_size=7, max_size=12), st.data())
def test_name_of_seven_letters_is_found_with_one_letter_misread(name: str, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(name) - 1))
    misread = name[:position] + data.draw(st.sampled_from("0158XYZ")) + name[position + 1 :]
    assert text_kind(misread, identity_forms([name])) is TextKind.IDENTIFYING

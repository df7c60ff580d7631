# ruff: noqa: E501 - lists of texts
"""Free text loses this study's people and what looks like identity, and keeps its clinical words."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance.free_text import TextCleaner
from compliance.identity_terms import IdentityTerms

IDENTITY = IdentityTerms(
    patient_names=frozenset({"Müller-Quendt^Zorvath^Xaver^Dr.=毛^沢東=モウ^タクトウ", "Yilmazer^Ayşegül"}),
    staff_names=frozenset({"Referrerin^Qwendolyn", "Hodgkin^Thaddeus"}),
    institutions=frozenset({"Zweifelsberg Klinikum", "Mercyvale Hospital"}),
    places=frozenset({"Kastanienstieg 12, 99887 Zwullingen"}),
    contacts=frozenset({"+49 361 7788990", "zq@kastanie.example"}),
    identifiers=frozenset({"ACC-778812"}),
    patient_ids=frozenset({"MRN0012345"}),
    dates=frozenset({dt.date(2019, 3, 14)}),
    birth_dates=frozenset({dt.date(1951, 2, 3)}),
)
CLEANER = TextCleaner(IDENTITY)

DAY = [
    "2019-03-14", "2019/03/14", "20190314", "2019.03.14", "14.03.2019", "14/03/2019", "03/14/2019", "14-03-2019", "14.3.19", "3/14/19", "14 Mar 2019",
    "14-MAR-2019", "14MAR2019", "March 14, 2019", "Mar 14 2019", "14th of March 2019", "14 mars 2019", "14. März 2019", "14 de marzo de 2019", "2019年3月14日",
    "190314", "140319", "March 2019", "03/2019", "14 March", "20190314101500",
]  # fmt: skip
NAMES = [
    "Zorvath Müller-Quendt", "Müller-Quendt, Zorvath", "MUELLER QUENDT ZORVATH", "muller quendt", "Quendt^Zorvath", "Z. Quendt", "Quendt, Z.", "ZorvathQuendt",
    "zorvathquendt1951", "zquendt", "Zorvath's", "Zorvaht", "Quenndt", "Z o r v a t h", "Zor-\nvath", "QUENDT_ZORVATH", "Aysegul Yilmazer", "AYŞEGÜL", "毛沢東",
    "毛 沢東", "沢東", "タクトウ", "Dr. Referrerin", "Qwendolyn", "Z.M.",
]  # fmt: skip
NUMBERS = [
    "MRN0012345", "mrn 0012345", "MRN-001-2345", "0012345", "ACC-778812", "acc 778812", "acc_778812", "+49 361 7788990", "0361 / 7788990", "(361) 778-8990",
    "zq@kastanie.example", "a.b@hospital.org", "https://pacs.example/x?y=1", "www.example.org", "10.1.2.33", "123-45-6789", "MRN: A77812", "ID#: 4471-A",
    "1.2.826.0.1.3680043.2.1.77", "00:1b:44:11:3a:b7", "AB1234567", "93 year old", "P.O. Box 1234",
]  # fmt: skip
PLACES = [
    "Zweifelsberg Klinikum", "ZWEIFELSBERG", "Mercyvale Hospital", "Kastanienstieg 12", "Zwullingen", "12 Wexcombe Street", "Saint Orlan Hospital",
    "Universitätsklinikum Brennach", "Springvale, IL 62704", "Brennerstraße 7",
]  # fmt: skip
PERSONS = [
    "Dr. Smithers",
    "Dr Okonkwo-Brandt",
    "Mrs. Pattershall",
    "Herr Kowalczyk",
    "patient name: kovalenko",
    "reported by Osterbauer",
    "Wexlow, MD",
    "田中様",
]

CLINICAL = [
    "Parkinson disease", "May be benign", "Hodgkin lymphoma", "non-Hodgkin lymphoma", "Morbus Crohn", "left", "right upper lobe", "3.2 cm", "12 x 14 x 20 mm",
    "in May, 3 mm nodule", "L4/5 disc", "T2 tse", "C5/6", "t2_tse_dark-fluid_tra_p2", "CHEST AP PORTABLE", "MR Brain w/o contrast", "Head^HeadRoutine (Adult)",
    "ep2d_diff_b0_1000", "3.00 B30f", "White matter lesions", "1.5T", "120 kVp 250 mAs", "BI-RADS 4a", "Lung-RADS 2", "Grade II", "Th12", "5 year follow-up",
    "Gd-DTPA 0.1 mmol/kg", "Pat. upright", "rule out stroke", "1/3", "10:15:33", "LAO 30 / CRAN 20", "DR CHEST", "AX T1 FLAIR +C", "s/p CABG", "EF 55 %",
]  # fmt: skip


@pytest.mark.parametrize("identity", DAY + NAMES + NUMBERS + PLACES + PERSONS)
@pytest.mark.parametrize("frame", ["{}", "CT chest, {}; stable nodule", "see {} below"])
def test_identity_goes_and_its_frame_stays(identity: str, frame: str) -> None:
    cleaned = CLEANER.clean(frame.format(identity))
    assert cleaned.is_doubtful or cleaned.removed
    left = "".join(character for character in cleaned.text.casefold() if character.isalnum())
    for part in identity.casefold().replace("^", " ").split():
        squeezed = "".join(character for character in part if character.isalnum())
        if len(squeezed) > 4 and squeezed not in ("march", "patient", "street", "hospital", "klinikum", "reported"):
            assert squeezed not in left
    if frame.startswith("CT"):
        assert cleaned.text.startswith("CT chest") and cleaned.text.endswith("stable nodule")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("done 2-MAR-2020 / 3.2 cm nodule", "done [-] / 3.2 cm nodule"),
        ("DOB 03/02/1951 / may be benign", "DOB [-] / may be benign"),
        ("seen by Dr. Smithers\nL4/5 disc", "seen by Dr. [-]\nL4/5 disc"),
        ("Brennerstraße 7\nParkinson disease", "[-]\nParkinson disease"),
        ("CT chest Wexlow^Ada stable", "CT chest [-] stable"),
        ("Zorvath; 5 mm", "[-]; 5 mm"),
        ("Mercyvale Klinikum\nParkinson disease", "[-]\nParkinson disease"),
    ],
)
def test_what_stands_beside_identity_stays(text: str, expected: str) -> None:
    assert CLEANER.clean(text).text == expected


@pytest.mark.parametrize("text", CLINICAL)
def test_clinical_words_stay(text: str) -> None:
    for whole in (text, f"Findings: {text}.", f"{text}; no change"):
        cleaned = CLEANER.clean(whole)
        assert (cleaned.text, cleaned.is_doubtful) == (whole, False)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("May^White", "White matter lesions, may be MS", "White matter lesions, may be MS"),
        ("May^White", "seen with May White today", "seen with [-] today"),
        ("May^White", "Patient May reports pain", "Patient [-] reports pain"),
        ("Parkinson^Ann", "Parkinson disease", "Parkinson disease"),
        ("Parkinson^Ann", "Ann Parkinson: tremor", "[-]: tremor"),
        ("Head^Phantom", "CT Head", "CT Head"),
        ("Li^Xu", "Liver and Li-Xu", "Liver and [-]"),
    ],
)
def test_names_that_are_clinical_words_go_only_as_names(name: str, text: str, expected: str) -> None:
    assert TextCleaner(IdentityTerms(patient_names=frozenset({name}))).clean(text).text == expected


@pytest.mark.parametrize("text", ["discussed further, John Smithson agrees", "Smithson, John"])
def test_a_stranger_who_cannot_be_proved_is_held(text: str) -> None:
    cleaned = CLEANER.clean(text)
    assert cleaned.is_doubtful or "Smithson" not in cleaned.text


def test_texts_of_kept_elements_lose_the_study_s_people_only() -> None:
    text = "syngo CT VB20A 2019-11-02 Zorvath"
    assert CLEANER.clean(text, generic=False).text == "syngo CT VB20A 2019-11-02 [-]"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["Zorvath", "ZORVATH", "Qwendolyn", "MRN0012345"]))
def test_whatever_stands_around_it_a_known_word_goes(before: str, after: str, word: str) -> None:
    cleaned = CLEANER.clean(f"{before} {word} {after}")
    assert word.lower() not in cleaned.text.lower()

#!/usr/bin/env python3
# ruff: noqa: E501 - lists of texts
"""Seeds identities into generated instances, de-identifies them and counts what is left.

usage: python -m bench.deid_score [--patients 10] [--json]

Each patient gets a persona of unique tokens. One carrier instance holds every row of PS3.15 Table E.1-1 at the top level, one holds them
in nested sequences, one is a structured report, one holds free text in many forms, one private elements, one is an image. The answer key
is the table's cell; a leak is a seeded token found in the output's bytes in any spelling, and counts under its HIPAA letter.
Held instances count as no leak and as a failure of every retention check they carried: holding back all is not a good score.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from compliance.deid_profile import TELEREAD
from compliance.deidentify import deidentify
from compliance.identity_terms import collect_identity
from compliance.part10 import file_of
from compliance.profile_table import effective_action, load_table, resolve
from crypto.errors import RefusedContent
from tests.builders import make_ct_study
from tests.deid_samples import CT, bare_instance, clean_screen, instance_of, names_for, read_back
from tests.test_profile_table import GIVEN, NESTS, REFUSED, check, full_dataset, tag_of_row, vr_of

_SYLLABLES = "zor vath quil lan dre mik osh tar nev bru xel gan pho rik sul wem jad kro".split()
_KEPT_TEXTS = (
    "left knee",
    "3.2 cm nodule",
    "Parkinson disease",
    "may be benign",
    "T2 tse",
    "L4/5 disc",
    "no change since baseline",
    "CHEST AP",
)


@dataclass
class Persona:
    """Unique values by HIPAA letter (45 CFR 164.514(b)(2)(i))."""

    family: str
    given: str
    mrn: str
    accession: str
    phone: str
    mail: str
    staff: str
    hospital: str
    street: str
    serial: str

    @classmethod
    def draw(cls, rng: random.Random) -> Persona:
        def name(count: int) -> str:
            return "".join(rng.choices(_SYLLABLES, k=count)).capitalize()

        return cls(
            name(3), name(2) + "ix", f"MR{rng.randrange(10**8, 10**9)}", f"AC{rng.randrange(10**7, 10**8)}", f"+49 361 {rng.randrange(10**6, 10**7)}",
            f"{name(2).lower()}@{name(2).lower()}.example", name(3) + "ek", name(3) + "stein Klinikum", f"{name(3)}weg {rng.randrange(10, 99)}",
            f"SN{rng.randrange(10**7, 10**8)}",
        )  # fmt: skip

    def tokens(self) -> dict[str, list[str]]:
        """What must not be found, by letter."""
        return {
            "A names": [self.family, self.given, self.staff],
            "B places": [self.hospital.split()[0], self.street.split()[0]],
            "C dates": ["20200302", "2020-03-02", "02.03.2020", "19510203"],
            "D phone": [self.phone[-7:]],
            "F e-mail": [self.mail],
            "H MRN": [self.mrn, self.mrn[2:]],
            "J account": [self.accession],
            "M device": [self.serial],
        }


@dataclass
class Score:
    leaks: Counter[str] = field(default_factory=Counter)
    leaks_by_slot: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    to_keep: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    structure_errors: int = 0
    examples: list[str] = field(default_factory=list)


def identified(person: Persona, number: int) -> Dataset:
    dataset = bare_instance(number)
    dataset.PatientName, dataset.PatientID = f"{person.family}^{person.given}", person.mrn
    dataset.AccessionNumber, dataset.PatientTelephoneNumbers = person.accession, person.phone
    dataset.ReferringPhysicianName, dataset.InstitutionName = f"{person.staff}^Ada", person.hospital
    dataset.InstitutionAddress, dataset.DeviceSerialNumber = person.street, person.serial
    dataset.StudyDate, dataset.PatientBirthDate = "20200302", "19510203"
    dataset.PatientTelecomInformation = person.mail
    return dataset


def sentences(person: Persona, rng: random.Random) -> list[str]:
    family, given, mrn = person.family, person.given, person.mrn
    forms = [
        f"{given} {family}", f"{family}, {given}", f"{family}^{given}", f"{given[0]}. {family}", f"{family.upper()}", f"{given.lower()}{family.lower()}",
        f"{family[:-2]}{family[-1]}{family[-2]}", f"Dr. {person.staff}", f"MRN {mrn}", f"{mrn[:5]}-{mrn[5:]}", person.accession, person.phone, person.mail,
        person.hospital, person.street, "02.03.2020", "March 2, 2020", "20200302", "2-MAR-2020", "DOB 03/02/1951", f"{family[:3]}-\n{family[3:]}",
    ]  # fmt: skip
    return [f"{rng.choice(_KEPT_TEXTS)}; {form}" for form in forms]


def structured_report(person: Persona, rng: random.Random) -> Dataset:
    report = identified(person, 3)
    report.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    items = []
    for text in sentences(person, rng):
        concept, item = Dataset(), Dataset()
        concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = "121071", "DCM", "Finding"
        item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", text
        item.ConceptNameCodeSequence = Sequence([concept])
        items.append(item)
    report.ContentSequence = Sequence(items)
    return report


def free_text(person: Persona, rng: random.Random) -> Dataset:
    dataset = identified(person, 4)
    texts = sentences(person, rng)
    dataset.StudyDescription, dataset.SeriesDescription, dataset.ProtocolName = texts[0][:64], texts[1][:64], texts[2][:64]
    dataset.ImageComments, dataset.PatientComments = "\n".join(texts), " / ".join(texts)
    dataset.AdditionalPatientHistory, dataset.RequestedProcedureComments = "; ".join(texts[:9]), "; ".join(texts[9:])
    return dataset


def private(person: Persona) -> Dataset:
    dataset = identified(person, 5)
    for group, creator in (
        (0x0019, "SIEMENS MR HEADER"),
        (0x0029, "SIEMENS CSA HEADER"),
        (0x0033, f"{person.family} PRIVATE"),
        (0x0009, "GEMS_IDEN_01"),
    ):
        dataset.add_new(Tag(group, 0x0010), "LO", creator)
        dataset.add_new(Tag(group, 0x1033), "LO", f"{person.family} {person.mrn}")
        dataset.add_new(Tag(group, 0x1034), "OB", (f"{person.family}\0{person.mrn}").encode("utf-16-le"))
        dataset.add_new(Tag(group, 0x1035), "UN", base64.b64encode(f"x{person.family} {person.mrn}".encode()))
    dataset.add_new(0x0019100C, "IS", "1000")
    return dataset


def image(person: Persona) -> Dataset:
    dataset = make_ct_study(1)[0]
    for element in identified(person, 6):
        dataset[element.tag] = element
    dataset.SOPInstanceUID, dataset.SOPClassUID = "1.2.826.0.1.3680043.2.1.6", CT
    return dataset


def spellings(token: str) -> set[bytes]:
    forms = set()
    for one in {token, token.lower(), token.upper()}:
        forms |= {one.encode(), one.encode("utf-16-le"), one.encode("utf-16-be")}
        for lead in range(3):
            coded = base64.b64encode(bytes(lead) + one.encode())[(lead * 8 + 5) // 6 : (lead + len(one)) * 8 // 6]
            forms |= {coded} if len(coded) >= 8 else set()
    return forms


def one_patient(score: Score, rng: random.Random) -> None:
    person = Persona.draw(rng)
    carriers: dict[str, Dataset] = {
        "structured": structured_report(person, rng),
        "text": free_text(person, rng),
        "private": private(person),
    }
    carriers["image"] = image(person)
    for depth, nest in zip(("standard", "nested 1", "nested 3"), NESTS, strict=True):
        dataset = full_dataset(nest)
        dataset.PatientID, dataset.PatientName = person.mrn, f"Zorvathine^{person.family}"
        carriers[depth] = dataset
    for slot, dataset in carriers.items():
        source = instance_of(dataset)
        under = names_for(collect_identity([source]))
        score.checks[f"{slot}: carried"] += 1
        try:
            made = deidentify(source, under, screen=clean_screen)
        except RefusedContent as refused:
            score.held[f"{slot}: {refused.reason_code} {refused.tag or ''}"] += 1
            _retained(score, slot, dataset, None)
            continue
        score.passed[f"{slot}: carried"] += 1
        output = read_back(made)
        _leaks(score, slot, person, file_of(made))
        _retained(score, slot, dataset, output)
        if slot in ("standard", "nested 1", "nested 3"):
            _rows(score, slot, output, NESTS[("standard", "nested 1", "nested 3").index(slot)])


def _leaks(score: Score, slot: str, person: Persona, data: bytes) -> None:
    for letter, tokens in person.tokens().items():
        for token in tokens:
            score.checks[f"{slot}: removed"] += 1
            if any(form in data for form in spellings(token)):
                score.leaks[letter] += 1
                score.leaks_by_slot[slot] += 1
                score.examples.append(f"{slot}: {letter}")
            else:
                score.passed[f"{slot}: removed"] += 1


def _rows(score: Score, slot: str, output: Dataset, nest: tuple[int, ...]) -> None:
    for tag in nest:
        output = output[Tag(tag)].value[0]
    for row in load_table().rows:
        tag = tag_of_row(row)
        if tag in REFUSED or (not nest and tag in GIVEN):
            continue
        score.checks[f"{slot}: row of E.1-1"] += 1
        try:
            check(row, resolve(effective_action(row, TELEREAD), tag, CT, nest[-1] if nest else None), tag, output)
            score.passed[f"{slot}: row of E.1-1"] += 1
        except AssertionError:
            score.examples.append(f"{slot}: {row.pattern} {vr_of(tag)}")


def _retained(score: Score, slot: str, before: Dataset, after: Dataset | None) -> None:
    if slot in ("text", "structured"):
        text = str(before) if slot == "text" else "\n".join(item.TextValue for item in before.ContentSequence)
        left = "" if after is None else str(after)
        for element in ("ImageComments", "PatientComments") if slot == "text" else ():
            text, left = before[element].value, "" if after is None else str(after.get(element, ""))
            for kept in _KEPT_TEXTS:
                score.to_keep[slot] += text.count(kept)
                score.kept[slot] += min(text.count(kept), left.count(kept))
        if slot == "structured":
            left = "" if after is None else "\n".join(str(item.get("TextValue", "")) for item in after.ContentSequence)
            for kept in _KEPT_TEXTS:
                score.to_keep[slot] += text.count(kept)
                score.kept[slot] += min(text.count(kept), left.count(kept))
    elif slot == "image":
        for keyword in (
            "Rows",
            "PixelSpacing",
            "ImagePositionPatient",
            "RescaleSlope",
            "WindowCenter",
            "SliceThickness",
            "KVP",
            "Modality",
        ):
            score.to_keep[slot] += 1
            score.kept[slot] += after is not None and str(before[keyword].value) == str(after.get(keyword, ""))
        score.to_keep["pixels"] += 1
        score.kept["pixels"] += after is not None and bool(np.array_equal(before.pixel_array, after.pixel_array))
    elif slot == "private":
        score.to_keep["safe private"] += 1
        score.kept["safe private"] += after is not None and Tag(0x0019100C) in after


def report(score: Score, patients: int) -> dict[str, Any]:
    total, passed = sum(score.checks.values()), sum(score.passed.values())
    to_keep, kept = sum(score.to_keep.values()), sum(score.kept.values())
    return {
        "patients": patients,
        "leaks": {letter: score.leaks[letter] for letter in Persona.draw(random.Random(0)).tokens()},
        "leaks_by_slot": dict(score.leaks_by_slot),
        "passed": passed,
        "total": total,
        "percent": round(100 * passed / total, 4),
        "retained": kept,
        "to_retain": to_keep,
        "retained_percent": round(100 * kept / to_keep, 4),
        "retained_by_slot": {slot: f"{score.kept[slot]}/{count}" for slot, count in score.to_keep.items()},
        "checks_by_slot": {name: f"{score.passed[name]}/{count}" for name, count in sorted(score.checks.items())},
        "held": dict(score.held),
        "failures": sorted(set(score.examples))[:20],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    score, rng = Score(), random.Random(20261122)
    for _ in range(arguments.patients):
        one_patient(score, rng)
    result = report(score, arguments.patients)
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        for name, value in result.items():
            if isinstance(value, dict):
                print(f"{name}:")
                for key, count in value.items():
                    print(f"    {key:32s} {count}")
            else:
                print(f"{name}: {value}")
    return 1 if any(result["leaks"].values()) or result["passed"] < result["total"] * 0.9995 else 0


if __name__ == "__main__":
    sys.exit(main())

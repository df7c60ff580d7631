"""Invented people and hospitals for the sample studies. Any likeness to a living person is chance; the details only look real."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Person:
    """A patient with everything a hospital writes into its headers; `name` is a DICOM PN value, character set as given."""

    name: str
    patient_id: str
    born_on: date
    sex: str
    address: str
    telephone: str
    mother_birth_name: str
    occupation: str
    insurance_number: str
    character_set: str | tuple[str, ...] = "ISO_IR 192"
    height_metres: float = 1.7
    weight_kilograms: float = 72.0

    @property
    def family_name(self) -> str:
        return self.name.partition("=")[0].split("^")[0]

    @property
    def given_name(self) -> str:
        return self.name.partition("=")[0].partition("^")[2].partition("^")[0]

    def age_on(self, day: date) -> int:
        """Whole years on `day`."""
        return day.year - self.born_on.year - ((day.month, day.day) < (self.born_on.month, self.born_on.day))


@dataclass(frozen=True)
class Institution:
    """The hospital as its own headers name it."""

    hospital_id: str
    name: str
    address: str
    department: str
    issuer_of_patient_id: str
    referring_physician: str
    reading_physician: str
    operator: str
    station_prefix: str


INSTITUTIONS: Mapping[str, Institution] = {
    "h1": Institution(
        hospital_id="h1",
        name="Klinikum Lindenau",
        address="Am Mühlgraben 4, 04179 Lindenau, Deutschland",
        department="Radiologie",
        issuer_of_patient_id="LINDENAU-KIS",
        referring_physician="Baumgärtner^Friederike^^Dr. med.",
        reading_physician="Ostermann^Ulf^^Dr. med.",
        operator="Krahl^Svenja",
        station_prefix="LIN",
    ),
    "h2": Institution(
        hospital_id="h2",
        name="Marlow Creek Hospital",
        address="2100 Quarry Road, Marlow Creek, OH 44999, USA",
        department="Diagnostic Imaging",
        issuer_of_patient_id="MARLOW-EHR",
        referring_physician="Penhallow^Gideon^^Dr.",
        reading_physician="Ashdown^Corinne^^Dr.",
        operator="Tillery^Rosalind",
        station_prefix="MCH",
    ),
}

KAETHE_GRUENWALD = Person(
    name="Grünwald^Käthe^Margarete",
    patient_id="LN-4471902",
    born_on=date(1951, 4, 17),
    sex="F",
    address="Fährstraße 12, 04179 Lindenau",
    telephone="+49 341 5550142",
    mother_birth_name="Löwenstein",
    occupation="Orgelbauerin",
    insurance_number="K451904171",
    character_set="ISO_IR 100",
    height_metres=1.64,
    weight_kilograms=61.0,
)
JOZEF_WISNIOWSKI = Person(
    name="Wiśniowski^Józef",
    patient_id="LN-4480017",
    born_on=date(1968, 11, 2),
    sex="M",
    address="Lützner Straße 203, 04179 Lindenau",
    telephone="+49 341 5550178",
    mother_birth_name="Żuławska",
    occupation="Gleisbauer",
    insurance_number="J681102558",
    height_metres=1.81,
    weight_kilograms=93.5,
)
ELENI_PAPADIMOU = Person(
    name="Papadimou^Eleni=Παπαδήμου^Ελένη",
    patient_id="LN-4479360",
    born_on=date(1979, 7, 30),
    sex="F",
    address="Karl-Heine-Ufer 8, 04179 Lindenau",
    telephone="+49 341 5550190",
    mother_birth_name="Stavridou",
    occupation="Übersetzerin",
    insurance_number="E790730114",
    height_metres=1.7,
    weight_kilograms=66.0,
)
LEMUEL_HARGROVE = Person(
    name="Hargrove^Lemuel^Otis^^Jr",
    patient_id="MC0093118",
    born_on=date(1944, 2, 9),
    sex="M",
    address="77 Tannery Lane, Marlow Creek, OH 44999",
    telephone="+1 440 555 0117",
    mother_birth_name="Whitlock",
    occupation="Machinist",
    insurance_number="4HX9-TE5-MK72",
    character_set="ISO_IR 100",
    height_metres=1.77,
    weight_kilograms=84.0,
)
HARUKA_MIZUSHIMA = Person(
    name="Mizushima^Haruka=水島^遥=みずしま^はるか",
    patient_id="MC0101442",
    born_on=date(1987, 9, 23),
    sex="F",
    address="5 Orchard Terrace, Marlow Creek, OH 44999",
    telephone="+1 440 555 0163",
    mother_birth_name="Kirishima",
    occupation="Cellist",
    insurance_number="7QF3-WD1-PC40",
    character_set=("", "ISO 2022 IR 87"),
    height_metres=1.6,
    weight_kilograms=52.0,
)

"""Sample studies made by code, under invented names: what `readgate demo` sends, and what tests take for a hospital's work.

Nothing here was ever part of a living person. Same arguments, same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from pydicom.dataset import Dataset

from crypto.errors import BadInput
from gateway.samples.chest_cr import make_chest_cr
from gateway.samples.head_ct import make_head_ct
from gateway.samples.head_phantom import OLD_BLEED
from gateway.samples.orders import make_order
from gateway.samples.people import (
    ELENI_PAPADIMOU,
    HARUKA_MIZUSHIMA,
    INSTITUTIONS,
    JOZEF_WISNIOWSKI,
    KAETHE_GRUENWALD,
    LEMUEL_HARGROVE,
    Institution,
    Person,
)
from gateway.samples.ultrasound import make_ultrasound_clip

__all__ = [
    "INSTITUTIONS",
    "Expectation",
    "Institution",
    "Person",
    "SampleStudy",
    "make_chest_cr",
    "make_head_ct",
    "make_order",
    "make_ultrasound_clip",
    "sample_studies",
]

_PRIOR_BEFORE = timedelta(days=112)


class Expectation(StrEnum):
    """What must become of a study."""

    WORKLIST = "WORKLIST"
    NEVER_SHOWN_AS_SENT = "NEVER_SHOWN_AS_SENT"  # quarantined, or cleaned of the text in its pixels


@dataclass(frozen=True)
class SampleStudy:
    """One study as a hospital sends it, with the order that goes before it."""

    name: str
    hospital_id: str
    person: Person
    datasets: Sequence[Dataset]
    order_message: bytes
    expectation: Expectation


def sample_studies(hospital_id: str, *, today: date = date(2026, 11, 20), head_slices: int = 64) -> list[SampleStudy]:
    """The studies of hospital "h1" or "h2", oldest first; of "h1" the head CT and its follow-up are the same patient's.

    h1: head CT with a fresh bleed, follow-up head CT, chest CR, ultrasound clip with the name burned in. h2: head CT, chest CR.
    `head_slices` is for who needs the studies but not their size.

    Raises:
        BadInput: the hospital has no sample studies.
    """
    made: list[tuple[str, Person, list[Dataset]]]
    if hospital_id == "h1":
        earlier = today - _PRIOR_BEFORE
        made = [
            ("head-ct", KAETHE_GRUENWALD, make_head_ct(KAETHE_GRUENWALD, slices=head_slices, seed=11, study_on=earlier, number=101)),
            (
                "head-ct-follow-up",
                KAETHE_GRUENWALD,
                make_head_ct(
                    KAETHE_GRUENWALD,
                    slices=head_slices,
                    seed=12,
                    study_on=today,
                    number=102,
                    lesions=(OLD_BLEED,),
                    indication="Verlaufskontrolle bei Frau Grünwald nach Blutung links parietal, Käthe ist beschwerdefrei.",
                ),
            ),
            ("chest-cr", JOZEF_WISNIOWSKI, make_chest_cr(JOZEF_WISNIOWSKI, seed=13, study_on=today, number=201)),
            ("ultrasound", ELENI_PAPADIMOU, make_ultrasound_clip(ELENI_PAPADIMOU, seed=14, study_on=today, number=301)),
        ]
    elif hospital_id == "h2":
        made = [
            (
                "head-ct",
                LEMUEL_HARGROVE,
                make_head_ct(LEMUEL_HARGROVE, slices=head_slices, seed=21, study_on=today, hospital_id="h2", number=103),
            ),
            (
                "chest-cr",
                HARUKA_MIZUSHIMA,
                make_chest_cr(HARUKA_MIZUSHIMA, seed=22, study_on=today, hospital_id="h2", number=202, nodule=False),
            ),
        ]
    else:
        raise BadInput(f"there are no sample studies of hospital {hospital_id}; there are for h1 and h2")
    return [
        SampleStudy(
            name=name,
            hospital_id=hospital_id,
            person=person,
            datasets=datasets,
            order_message=make_order(person, datasets, hospital_id=hospital_id),
            expectation=Expectation.NEVER_SHOWN_AS_SENT if name == "ultrasound" else Expectation.WORKLIST,
        )
        for name, person, datasets in made
    ]

"""Which of the options of PS3.15 Annex E are in force, and the profile Readgate uses unless a hospital chooses another.

An option stands for one column of Table E.1-1 or, where it has none, for an act on pixels. CID 7050 gives each its code, which the
output carries in (0012,0064).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from crypto.errors import BadInput


class Option(StrEnum):
    """An option of PS3.15 E.3; the value is its name on the command line."""

    RETAIN_SAFE_PRIVATE = "retain-safe-private"
    RETAIN_UIDS = "retain-uids"
    RETAIN_DEVICE = "retain-device-identity"
    RETAIN_INSTITUTION = "retain-institution-identity"
    RETAIN_PATIENT_CHARACTERISTICS = "retain-patient-characteristics"
    RETAIN_FULL_DATES = "retain-full-dates"
    RETAIN_MODIFIED_DATES = "retain-modified-dates"
    CLEAN_DESCRIPTORS = "clean-descriptors"
    CLEAN_STRUCTURED_CONTENT = "clean-structured-content"
    CLEAN_GRAPHICS = "clean-graphics"
    CLEAN_PIXEL_DATA = "clean-pixel-data"
    CLEAN_VISUAL_FEATURES = "clean-recognizable-visual-features"


#: Column of Table E.1-1 (names as in compliance/standard/e1-1.json) per option; the two pixel options have none.
COLUMNS: dict[Option, str] = {
    Option.RETAIN_SAFE_PRIVATE: "rtnSafePrivOpt",
    Option.RETAIN_UIDS: "rtnUIDsOpt",
    Option.RETAIN_DEVICE: "rtnDevIdOpt",
    Option.RETAIN_INSTITUTION: "rtnInstIdOpt",
    Option.RETAIN_PATIENT_CHARACTERISTICS: "rtnPatCharsOpt",
    Option.RETAIN_FULL_DATES: "rtnLongFullDatesOpt",
    Option.RETAIN_MODIFIED_DATES: "rtnLongModifDatesOpt",
    Option.CLEAN_DESCRIPTORS: "cleanDescOpt",
    Option.CLEAN_STRUCTURED_CONTENT: "cleanStructContOpt",
    Option.CLEAN_GRAPHICS: "cleanGraphOpt",
}

#: PS3.16 CID 7050, scheme DCM.
METHOD_CODES: dict[Option | None, tuple[str, str]] = {
    None: ("113100", "Basic Application Confidentiality Profile"),
    Option.CLEAN_PIXEL_DATA: ("113101", "Clean Pixel Data Option"),
    Option.CLEAN_VISUAL_FEATURES: ("113102", "Clean Recognizable Visual Features Option"),
    Option.CLEAN_GRAPHICS: ("113103", "Clean Graphics Option"),
    Option.CLEAN_STRUCTURED_CONTENT: ("113104", "Clean Structured Content Option"),
    Option.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
    Option.RETAIN_FULL_DATES: ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    Option.RETAIN_MODIFIED_DATES: ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    Option.RETAIN_PATIENT_CHARACTERISTICS: ("113108", "Retain Patient Characteristics Option"),
    Option.RETAIN_DEVICE: ("113109", "Retain Device Identity Option"),
    Option.RETAIN_UIDS: ("113110", "Retain UIDs Option"),
    Option.RETAIN_SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
    Option.RETAIN_INSTITUTION: ("113112", "Retain Institution Identity Option"),
}


@dataclass(frozen=True)
class DeidProfile:
    """The Basic Profile plus a set of options; `name` is what pages and manifests show."""

    name: str
    options: frozenset[Option]

    def __post_init__(self) -> None:
        if Option.RETAIN_FULL_DATES in self.options and Option.RETAIN_MODIFIED_DATES in self.options:
            raise BadInput("retain-full-dates and retain-modified-dates exclude each other (PS3.15 E.3.6); choose one")

    def has(self, option: Option) -> bool:
        return option in self.options

    def columns(self) -> frozenset[str]:
        """Names of the option columns of Table E.1-1 that are in force."""
        return frozenset(COLUMNS[option] for option in self.options if option in COLUMNS)

    def method_codes(self) -> list[tuple[str, str]]:
        """(code value, code meaning) of CID 7050 in order of code value, the Basic Profile first."""
        return sorted([METHOD_CODES[None], *(METHOD_CODES[option] for option in self.options)])

    def longitudinal_information(self) -> str:
        """Value of (0028,0303): UNMODIFIED, MODIFIED or REMOVED."""
        if self.has(Option.RETAIN_FULL_DATES):
            return "UNMODIFIED"
        return "MODIFIED" if self.has(Option.RETAIN_MODIFIED_DATES) else "REMOVED"


BASIC = DeidProfile("basic", frozenset())

#: What a remote reader needs to compare with priors and to judge, and nothing that says who the patient is.
TELEREAD = DeidProfile(
    "teleread",
    frozenset(
        {
            Option.RETAIN_PATIENT_CHARACTERISTICS,
            Option.RETAIN_MODIFIED_DATES,
            Option.CLEAN_DESCRIPTORS,
            Option.CLEAN_STRUCTURED_CONTENT,
            Option.CLEAN_GRAPHICS,
            Option.CLEAN_PIXEL_DATA,
            Option.RETAIN_SAFE_PRIVATE,
        }
    ),
)


def profile_of(names: Iterable[str]) -> DeidProfile:
    """The profile with exactly these options by name; none at all means `teleread`, the single name "basic" means no option.

    Raises:
        BadInput: a name is unknown, or two options exclude each other.
    """
    wanted = list(names)
    if not wanted or wanted == [TELEREAD.name]:
        return TELEREAD
    if wanted == [BASIC.name]:
        return BASIC
    known = {option.value: option for option in Option}
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise BadInput(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(known))}, or one of basic, teleread")
    options = frozenset(known[name] for name in wanted)
    return TELEREAD if options == TELEREAD.options else DeidProfile("+".join(sorted(options)), options)

# ruff: noqa: E501 - alphabets
"""Invented people: every identifying value of one patient, none of which is a word of any language or a value of another patient.

A name is drawn in the alphabet of a character set of PS3.3 C.12.1.1.2, so that a run over all of `ALPHABETS` meets every one, escapes
included. The same random state gives the same person.
"""

from __future__ import annotations

import datetime as dt
import random
from dataclasses import dataclass

_SYLLABLES = "zor vath quil lan dre mik osh tar nev bru xel gan pho rik sul wem jad kro vuz yel".split()


@dataclass(frozen=True)
class Alphabet:
    """`letters` for names in character set `terms` (values of (0008,0005)); which groups of PN the native form fills."""

    terms: tuple[str, ...]
    letters: str
    groups: str = "alphabetic"
    phonetic: str = ""


_KANJI = "鷹柳橘榊霧島葵椿楠桐蓮菱嵐雫渚鶴亀鮎藤萩荻茜碧皐"
_HIRAGANA = "あきすてのふむよらるれわせそつぬ"
_KATAKANA = "アキステノフムヨラルレワセソツヌ"
_HALFWIDTH = "ｱｷｽﾃﾉﾌﾑﾖﾗﾙﾚﾜｾｿﾂﾇ"
_HANGUL = "뷁꽃솔별샘달빛찬움결늘봄겨울곬"
_HANZI = "鸿鹏蕾薇嫣翊骞懿璇瑾昀晟"

#: One entry per character set of PS3.3 Tables C.12-2 to C.12-5, but ISO_IR 203, which pydicom does not write.
ALPHABETS = (
    Alphabet(("ISO_IR 6",), ""),
    Alphabet(("ISO_IR 100",), "äöüßéèçñø"),
    Alphabet(("ISO_IR 101",), "łżśćřčěů"),
    Alphabet(("ISO_IR 109",), "ĉĝĥĵŝŭ"),
    Alphabet(("ISO_IR 110",), "āēģķļņš"),
    Alphabet(("ISO_IR 144",), "жщюякфвлндр"),
    Alphabet(("ISO_IR 127",), "بتثجحخدذرزسشصض"),
    Alphabet(("ISO_IR 126",), "αβγδζθλξφψ"),
    Alphabet(("ISO_IR 138",), "אבגדהוזחטיכל"),
    Alphabet(("ISO_IR 148",), "ğşıçöü"),
    Alphabet(("ISO_IR 166",), "กขคงจชซดตนบปผพมยรลวสหอ"),
    Alphabet(("ISO_IR 13",), _HALFWIDTH),
    Alphabet(("", "ISO 2022 IR 87"), _KANJI, "ideographic", _HIRAGANA),
    Alphabet(("ISO 2022 IR 13", "ISO 2022 IR 87"), _KANJI, "ideographic", _HIRAGANA),
    Alphabet(("", "ISO 2022 IR 87", "ISO 2022 IR 159"), "鷗丿侔俠倞", "ideographic", _KATAKANA),
    Alphabet(("", "ISO 2022 IR 149"), _HANGUL[:4] + "솔별샘달빛찬움결", "ideographic", "솔별샘달빛찬움결"),
    Alphabet(("", "ISO 2022 IR 58"), "张鹏蕾薇晟骏涛", "ideographic", ""),
    Alphabet(("GB18030",), _HANZI, "ideographic", ""),
    Alphabet(("GBK",), _HANZI, "ideographic", ""),
    Alphabet(("ISO_IR 192",), "ñłžøअआ", "alphabetic"),
    Alphabet(("ISO 2022 IR 6", "ISO 2022 IR 100"), "äöüé"),
    Alphabet(("", "ISO 2022 IR 144"), "жщюякфвлн"),
    Alphabet(("", "ISO 2022 IR 126"), "αβγδζθλξ"),
)  # fmt: skip


@dataclass(frozen=True)
class Persona:
    """One patient. Telephone, mail and the like in the forms of their country; dates as days."""

    number: int
    terms: tuple[str, ...]
    family: str
    given: str
    middle: str
    native: str
    phonetic: str
    maiden: str
    mother: str
    mrn: str
    other_id: str
    ssn: str
    accession: str
    order: str
    insurance: str
    licence: str
    plate: str
    phone: str
    fax: str
    mail: str
    url: str
    address: str
    street: str
    city: str
    employer: str
    hospital: str
    department: str
    serial: str
    station: str
    born_on: dt.date
    study_on: dt.date
    prior_on: dt.date
    staff: tuple[str, ...]

    @property
    def name(self) -> str:
        """The PN value."""
        alphabetic = f"{self.family}^{self.given}^{self.middle}"
        if self.native and self.phonetic:
            return f"{alphabetic}={self.native}={self.phonetic}"
        return f"{alphabetic}={self.native}" if self.native else alphabetic

    def canaries(self) -> list[tuple[str, str]]:
        """(HIPAA letter, text) of what must be found nowhere; names word by word."""
        words = [self.family, self.given, self.middle, self.maiden, self.mother, *(name.split("^")[0] for name in self.staff)]
        words += [part for group in (self.native, self.phonetic) for part in group.split("^") if len(part) > 1]
        found = [("A", word) for word in words]
        found += [("B", self.street.split()[0]), ("B", self.city), ("B", self.hospital.split()[0]), ("B", self.employer.split()[0])]
        found += [("C", f"{self.born_on:{form}}") for form in ("%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y")]
        found += [("C", f"{day:{form}}") for day in (self.study_on, self.prior_on) for form in ("%Y-%m-%d", "%d.%m.%Y", "%d-%b-%Y")]
        found += [("D", self.phone), ("D", "".join(filter(str.isdigit, self.phone))[-7:]), ("E", self.fax), ("F", self.mail)]
        found += [("G", self.ssn), ("G", self.ssn.replace("-", "")), ("H", self.mrn), ("H", self.mrn[2:]), ("H", self.other_id)]
        found += [("I", self.insurance), ("J", self.accession), ("J", self.order), ("K", self.licence), ("L", self.plate)]
        found += [("M", self.serial), ("N", self.url), ("O", self.address), ("R", self.station)]
        return found


def draw(rng: random.Random, number: int, alphabet: Alphabet) -> Persona:
    """The `number`th patient of a set."""
    written = set()

    def word(count: int) -> str:
        while True:
            made = "".join(rng.choices(_SYLLABLES, k=count)).capitalize()
            if made not in written and len(made) >= 6:
                written.add(made)
                return made

    def digits(count: int) -> str:
        return str(rng.randrange(10 ** (count - 1), 10**count))

    def native(count: int) -> str:
        return "".join(rng.sample(alphabet.letters, min(count, len(alphabet.letters))))

    family, given = word(3), word(2) + "ix"
    ideographic, phonetic = "", ""
    if alphabet.groups == "ideographic":
        ideographic = f"{native(2)}^{native(2)}"
        letters = alphabet.phonetic
        phonetic = f"{''.join(rng.choices(letters, k=4))}^{''.join(rng.choices(letters, k=4))}" if letters else ""
    elif alphabet.letters and ord(alphabet.letters[0]) > 0x24F:
        family, given = native(6), native(5)[::-1]
    elif alphabet.letters:
        family = family[:3] + rng.choice(alphabet.letters) + family[3:]
    study_on = dt.date(2019, 1, 1) + dt.timedelta(days=rng.randrange(1500))
    mail_host = f"{word(2).lower()}.example"
    return Persona(
        number=number, terms=alphabet.terms, family=family, given=given, middle=word(2), native=ideographic, phonetic=phonetic,
        maiden=word(3), mother=word(3), mrn=f"MR{digits(9)}", other_id=f"OT{digits(8)}", ssn=f"{digits(3)}-{digits(2)}-{digits(4)}",
        accession=f"AC{digits(8)}", order=f"OR{digits(8)}", insurance=f"IN{digits(9)}", licence=f"LI{digits(8)}", plate=f"KF{digits(6)}",
        phone=rng.choice(["+49 361 {}", "(217) 55{}", "+33 1 42 {}", "0361 / {}", "+44 20 {}"]).format(digits(7)),
        fax=f"+49 89 {digits(8)}", mail=f"{word(2).lower()}@{mail_host}", url=f"https://{word(2).lower()}.example/p/{digits(6)}",
        address=f"10.{rng.randrange(10, 250)}.{rng.randrange(10, 250)}.{rng.randrange(10, 250)}",
        street=f"{word(3)}weg {rng.randrange(10, 99)}", city=word(3) + "ingen", employer=f"{word(3)} Werke", hospital=f"{word(3)}stein Klinikum",
        department=f"{word(2)} Radiologie", serial=f"SN{digits(8)}", station=f"ST{word(2).upper()[:6]}{digits(3)}",
        born_on=dt.date(1936, 1, 1) + dt.timedelta(days=rng.randrange(20000)), study_on=study_on,
        prior_on=study_on - dt.timedelta(days=rng.randrange(200, 900)),
        staff=tuple(f"{word(3)}ek^{word(2)}" for _ in range(6)),
    )  # fmt: skip

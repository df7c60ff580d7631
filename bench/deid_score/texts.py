# ruff: noqa: E501 - lists of texts
"""Free text as people write it: clinical words to be kept, and this patient's identity in every form we could think of.

`announced` forms are of people whom the study's own header names, or whom a title, label or pattern gives away: they must be gone.
`unannounced` ones are of people no header names: they must be gone, or a person must be asked.
"""

from __future__ import annotations

import datetime as dt
import random
import unicodedata

from bench.deid_score.persona import Persona

#: What must stay, word for word, whatever identity stands beside it.
CLINICAL = (
    "left knee", "3.2 cm nodule", "Parkinson disease", "may be benign", "T2 tse", "L4/5 disc", "no change since baseline", "CHEST AP", "Hodgkin lymphoma",
    "Baker cyst", "Graves disease", "Crohn disease", "non-Hodgkin lymphoma", "Morbus Crohn", "Colles fracture", "Chiari I malformation", "right upper lobe",
    "12 x 14 x 20 mm", "BI-RADS 4a", "White matter lesions", "Th12 compression fracture", "Schmorl node", "rule out stroke", "C5/6 stenosis", "EF 55 %",
    "Gleason 3+4", "Virchow node", "Lisfranc injury", "Kerley B lines", "Meckel diverticulum", "Wilms tumor", "Ewing sarcoma", "Paget disease",
    "Grade II", "1.5T", "120 kVp 250 mAs", "ep2d_diff_b0_1000", "t2_tse_dark-fluid_tra_p2", "s/p CABG", "AX T1 FLAIR +C", "Lung-RADS 2",
    "LAO 30 / CRAN 20", "Gd-DTPA 0.1 mmol/kg", "5 year follow-up", "10:15:33", "bilateral", "mild degenerative change", "PORTABLE SUPINE", "3.00 B30f",
    "2 of 5 lymph nodes", "4 mm slices", "MR Brain w/o contrast", "Head^HeadRoutine (Adult)", "US abdomen RUQ", "post contrast", "1st metatarsal",
    "Sella turcica normal", "Charcot joint", "Marfan syndrome", "Hounsfield units 45", "Monro foramen patent", "Bell's palsy", "Murphy sign negative",
)  # fmt: skip
#: Structured and imaging names a reader needs that look like names.
CODES = ("Siemens Healthineers", "GE MEDICAL SYSTEMS", "Philips", "Ingenia", "SOMATOM Force", "Optima CT660")

#: Surnames and given names of many countries that no header of the set holds.
STRANGERS = (
    ("Kowalska", "Anna"), ("Brown", "Peter"), ("Okonkwo", "Chinedu"), ("Schneider", "Ulrike"), ("Nguyen", "Thi"), ("García", "Lucía"),
    ("Rossi", "Matteo"), ("Ivanova", "Irina"), ("van der Berg", "Joost"), ("O'Connor", "Siobhan"), ("Yılmaz", "Emre"), ("Papadopoulos", "Nikos"),
    ("Andersson", "Linnea"), ("Fernández", "Ignacio"), ("Horvath", "Zsolt"), ("Dubois", "Camille"), ("Patel", "Vikram"), ("Takahashi", "Haruto"),
    ("Johansen", "Ingrid"), ("Silva", "Thiago"), ("Mueller", "Heinz"), ("Novak", "Jiri"), ("Haddad", "Layla"), ("Whitaker", "Dorothy"),
)  # fmt: skip

_MONTHS = {"de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember", "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
           "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre", "it": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre"}  # fmt: skip


def date_forms(day: dt.date) -> list[str]:
    """One day in 26 forms."""
    ordinal = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10 if day.day not in (11, 12, 13) else 0, "th")
    local = {language: names.split()[day.month - 1] for language, names in _MONTHS.items()}
    return [
        f"{day:%Y-%m-%d}", f"{day:%Y/%m/%d}", f"{day:%Y%m%d}", f"{day:%Y.%m.%d}", f"{day:%d.%m.%Y}", f"{day:%d/%m/%Y}", f"{day:%m/%d/%Y}", f"{day:%d-%m-%Y}",
        f"{day.day}.{day.month}.{day:%y}", f"{day.month}/{day.day}/{day:%y}", f"{day.day} {day:%b} {day.year}", f"{day:%d-%b-%Y}".upper(), f"{day:%d%b%Y}".upper(),
        f"{day:%B} {day.day}, {day.year}", f"{day:%b} {day.day} {day.year}", f"{day.day}{ordinal} of {day:%B} {day.year}", f"{day:%A}, {day.day} {day:%B} {day.year}",
        f"{day.day}. {local['de']} {day.year}", f"{day.day} {local['fr']} {day.year}", f"{day.day} de {local['es']} de {day.year}", f"{day.day} {local['it']} {day.year}",
        f"{day.year}年{day.month}月{day.day}日", f"{day.year}년 {day.month}월 {day.day}일", f"{day:%Y%m%d}101530", f"{day:%Y-%m-%d}T10:15:30Z", f"{day:%d %m %Y}", f"{day:%y%m%d}",
    ]  # fmt: skip


def name_forms(person: Persona) -> list[str]:
    """The patient's and the staff's names as they come in text."""
    family, given, middle = person.family, person.given, person.middle
    forms = [
        f"{given} {family}", f"{family}, {given}", f"{family}^{given}", f"{family} {given} {middle}", f"{given} {middle} {family}", f"{given[0]}. {family}",
        f"{family} {given[0]}.", f"{family}, {given[0]}", family.upper(), family.lower(), f"{given.lower()}{family.lower()}", f"{family}{given}", f"{family}_{given}",
        f"{family}-{given}", f"{given}.{family}", f"{given}'s mother", f"Mrs. {family}", f"Pat. {family}", f"Herr {family}", f"Familie {family}",
        f"{family}/{given}", f"née {person.maiden}", f"geb. {person.maiden}", f"mother {person.mother}", f"Ms {person.maiden}",
    ]  # fmt: skip
    if family.isascii() or unicodedata.normalize("NFKD", family)[0].isascii():
        folded = "".join(c for c in unicodedata.normalize("NFKD", family) if not unicodedata.combining(c))
        forms += [
            folded,
            folded.upper(),
            f"{family[: len(family) // 2]}-\n{family[len(family) // 2 :]}",
            f"{family[:-2]}{family[-1]}{family[-2]}",
            " ".join(family),
        ]
    for group in (person.native, person.phonetic):
        if group:
            one, two = [*group.split("^"), ""][:2]
            forms += [f"{one}{two}", f"{one} {two}", f"{one}　{two}", f"{one}{two}様"]
    for who in person.staff:
        last, first = who.split("^")
        forms += [f"Dr. {last}", f"{first} {last}", f"{last}, {first}", last.upper(), f"ref {last}", f"{first[0]}. {last}, MD"]
    return forms


def number_forms(person: Persona) -> list[tuple[str, str, str]]:
    """(HIPAA letter, the text, what of it must be found nowhere)."""
    digits = person.mrn[2:]
    phone = "".join(filter(str.isdigit, person.phone))
    made = [
        ("H", f"MRN {person.mrn}", digits), ("H", person.mrn.lower(), person.mrn), ("H", f"MRN: {digits[:3]}-{digits[3:6]}-{digits[6:]}", f"{digits[:3]}-{digits[3:6]}-{digits[6:]}"),
        ("H", f"{digits[:3]} {digits[3:6]} {digits[6:]}", f"{digits[:3]} {digits[3:6]} {digits[6:]}"), ("H", f"Pat-ID {person.mrn[:5]}.{person.mrn[5:]}", f"{person.mrn[:5]}.{person.mrn[5:]}"),
        ("H", f"({person.mrn})", person.mrn), ("H", f"#{digits}", digits), ("H", f"other id {person.other_id}", person.other_id),
        ("G", f"SSN {person.ssn}", person.ssn), ("G", person.ssn, person.ssn), ("G", f"SSN {person.ssn.replace('-', '')}", person.ssn.replace("-", "")), ("G", person.ssn.replace("-", " "), person.ssn.replace("-", " ")),
        ("J", f"Acc# {person.accession}", person.accession), ("J", f"acc {person.accession[:2]}-{person.accession[2:6]}-{person.accession[6:]}", f"{person.accession[2:6]}-{person.accession[6:]}"), ("J", f"order {person.order}", person.order),
        ("I", f"insurance no. {person.insurance}", person.insurance), ("I", f"policy {person.insurance[2:]}", person.insurance[2:]), ("K", f"licence {person.licence}", person.licence), ("L", f"plate {person.plate}", person.plate),
        ("D", person.phone, person.phone), ("D", f"tel {phone}", phone), ("D", f"call {person.phone} today", person.phone), ("E", f"Fax: {person.fax}", person.fax),
        ("F", person.mail, person.mail), ("F", person.mail.upper(), person.mail), ("F", f"<mailto:{person.mail}>", person.mail), ("N", person.url, person.url), ("N", person.url.removeprefix("https://"), person.url.removeprefix("https://")), ("O", person.address, person.address),
        ("O", f"from {person.address}:104", person.address), ("O", "sent by fe80::1ff:fe23:4567:890a", "fe80::1ff:fe23:4567:890a"),
        ("B", person.street, person.street), ("B", f"{person.street}, 99084 {person.city}", person.city), ("B", f"lives in {person.city}", person.city), ("B", person.hospital, person.hospital.split()[0]),
        ("B", f"works at {person.employer}", person.employer.split()[0]), ("M", f"S/N {person.serial}", person.serial), ("R", f"station {person.station}", person.station),
    ]  # fmt: skip
    for number in (
        "+1 212-555-0187", "(415) 555-0132", "020 7946 0958", "+44 (0)20 7946 0018", "+33 1 70 18 00 12", "01 70 18 00 34", "0049 30 12345-678", "089/3214-567", "+39 06 4567 8123", "+34 912 345 678",
        "+48 22 123 45 67", "+81-3-1234-5678", "+86 10 8888 1234", "+91 98765 43210", "+61 2 9374 4000", "+7 495 123-45-67", "+55 11 91234-5678", "+46 8 123 456 78", "+31 20 123 4567", "+41 44 668 18 00", "212.555.0199",
    ):  # fmt: skip
        made.append(("D", number, number))
    return made


def announced(person: Persona, rng: random.Random) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(slot, text, canaries) of one patient: each identity form once, the clinical words in turn beside it."""
    found: list[tuple[str, str, list[tuple[str, str]]]] = []
    for form in name_forms(person):
        plain = form.replace("\n", "").replace(" ", "")
        found.append(
            (
                "text: names",
                form,
                [("A", form)]
                if len(plain) > 4 and not form.startswith(("Mrs", "Pat", "Herr", "Fam", "mother", "geb", "née", "ref", "Dr", "Ms"))
                else [],
            )
        )
    for day in (person.born_on, person.study_on):
        # Spelled with six digits a day is also a number: the whole text is looked for elsewhere.
        found += [("text: dates", form, [("C", form)]) for form in date_forms(day)]
    found += [("text: numbers and places", form, [(letter, canary)]) for letter, form, canary in number_forms(person)]
    rng.shuffle(found)
    return found


#: S a surname, G a given name, T another surname; the surname must be gone or the instance be held.
UNANNOUNCED = (
    "CT HEAD for Mrs. {S} ref Dr {T}", "CT CHEST {G} {S}", "CT CHEST {S}, {G}", "CT CHEST {S} {G}", "{S}^{G} CT abdomen", "CT abdomen {S}", "{S}", "{S} knee left",
    "discussed with {S}", "discussed w/ {S} 10:15", "spoke with {G} {S}", "images to {S} by courier", "cc: {S}", "cc {S}", "{S}'s scan", "per {S}", "Fam. {S}", "family {S}", "seen with {S} and {T}",
    "surgeon {S}", "RN {S}", "Nurse {S}", "tech: {S}", "{G0}. {S}", "{S} {G0}.", "{S}, {G0}", "{S} wants a copy", "call {S} when done", "brother {G} {S}", "NOK {S}",
    "reviewed {S}/{T}", "{SU} CT HEAD", "CT HEAD {SU} {GU}", "{s} {g} ct head", "pt {S} unable to hold still", "Patient {S} moved", "Prof {S} asked for thin slices", "Compared by {S}", "PATIENT: {SU}",
    "operated by Dr. {G} {S}", "ref by {S}", "Referrer={S}", "Hausarzt {S}", "Überweiser: {S}", "Dra. {S}", "Mme {S}", "Sig.ra {S}", "Pani {S}", "Mevr. {S}", "{S}-san", "accompanied by {G}",
)  # fmt: skip


def unannounced(rng: random.Random) -> list[tuple[str, str]]:
    """(text, canary) of strangers, each form with another name."""
    found = []
    for index, form in enumerate(UNANNOUNCED):
        (surname, given), (other, _) = STRANGERS[index % len(STRANGERS)], STRANGERS[(index + 7) % len(STRANGERS)]
        text = form.format(
            S=surname, G=given, T=other, G0=given[0], SU=surname.upper(), GU=given.upper(), s=surname.lower(), g=given.lower()
        )
        canary = given if "{S" not in form and "{s" not in form else surname
        found.append((text, canary))
    return found

# ruff: noqa: E501 - tables of what is planted
"""What is planted into generated instances: every row of Table E.1-1, free text, private elements, containers, character sets."""

from __future__ import annotations

import base64
import gzip
import random
import struct
import zlib
from typing import Any

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from bench.deid_score import texts
from bench.deid_score.answer_key import Canary, Carrier, KeptValue, PlantedRow, PlantedText
from bench.deid_score.documents import text_item
from bench.deid_score.kinds import DOCUMENTS, KINDS
from bench.deid_score.persona import Persona
from bench.deid_score.study import Study, code
from bench.deid_score.table import rows

#: Sequences that Table E.1-1 does not name, to nest in: raw data's, RT's and plain ones.
NESTS = ((), (0x52009229,), (0x52009229, 0x00209116), (0x52009229, 0x00209116, 0x00289110))
#: What every instance needs of its own, and what makes a document of it.
_NOT_PLANTED = {0x00080018, 0x0020000D, 0x0020000E, 0x00100010, 0x00100020, 0x00420011}
_TEXTS_PER_INSTANCE = 12
_SR = "1.2.840.10008.5.1.4.1.1.88.11"
#: Values that must stay in every image: geometry, acquisition, what a reader compares by.
_MUST_STAY = (
    0x00080060, 0x00180050, 0x00180060, 0x00180080, 0x00180081, 0x00181210, 0x00200013, 0x00200032, 0x00200037, 0x00201041, 0x00280010, 0x00280011, 0x00280030,
    0x00280100, 0x00280101, 0x00281050, 0x00281051, 0x00281052, 0x00281053, 0x00281054, 0x00180015, 0x00185101, 0x00187050, 0x00180087, 0x00101010, 0x00101030,
    0x00101020, 0x00100040, 0x00541001, 0x3004000E, 0x30040002,
)  # fmt: skip


def clinical(rng: random.Random) -> str:
    """One of the texts that must stay."""
    return rng.choice(texts.CLINICAL)


def whole_study(person: Persona, rng: random.Random, number: int, size: int, only: frozenset[str] | None = None) -> list[Carrier]:
    """One instance of each kind, as one study; clinical words and identity in the descriptors of each."""
    study = Study(person, number)
    found = []
    for kind, make in KINDS.items():
        if only is not None and kind not in only:
            continue
        dataset = make(study, size)
        carrier = Carrier(f"kind: {kind}", kind, person, dataset, may_be_held=kind in DOCUMENTS)
        for keyword, tag in (
            ("StudyDescription", 0x00081030),
            ("SeriesDescription", 0x0008103E),
            ("ProtocolName", 0x00181030),
            ("ImageComments", 0x00204000),
            ("AdditionalPatientHistory", 0x001021B0),
        ):
            kept = clinical(rng)
            setattr(dataset, keyword, f"{kept} {person.given} {person.family}"[:64])
            carrier.texts.append(PlantedText("descriptors", (tag,), (kept,)))
        for tag in _MUST_STAY:
            if tag in dataset:
                carrier.kept.append(KeptValue("values", (tag,), str(dataset[Tag(tag)].value)))
        carrier.references = _references(dataset)
        found.append(carrier)
    return found


def _references(dataset: Dataset) -> list[tuple[tuple[int, ...], str]]:
    found: list[tuple[tuple[int, ...], str]] = []

    def walk(inner: Dataset, path: tuple[int, ...]) -> None:
        for element in inner:
            if element.VR == "SQ" and element.value:
                walk(element.value[0], (*path, int(element.tag)))
            elif element.tag in (0x00081155, 0x00081150) and element.tag == 0x00081155:
                found.append(((*path, int(element.tag)), str(element.value)))

    walk(dataset, ())
    return found


def plain(person: Persona, name: str, sop_class: str = "1.2.840.10008.5.1.4.1.1.2", modality: str = "CT") -> Dataset:
    """An instance without pixels, with this patient's header."""
    return Study(person, 0).instance(name, sop_class, modality)


# -- every row of the table


def row_carriers(person: Persona) -> list[Carrier]:
    """Four instances: each row at the top level and one to three sequences deep."""
    found = []
    for depth, nest in enumerate(NESTS):
        dataset = plain(person, f"rows {depth}")
        inner = dataset
        for tag in nest:
            item = Dataset()
            inner[Tag(tag)] = DataElement(BaseTag(tag), "SQ", Sequence([item]))
            inner = item
        carrier = Carrier(f"rows at depth {depth}", "rows", person, dataset)
        for row in rows():
            if row.tag in _NOT_PLANTED or (row.tag >> 16 == 0x0002):
                continue
            value, text = _value(person, row.tag, row.vr, depth, "cleanDescOpt" in row.cells or "rtnPatCharsOpt" in row.cells)
            inner[Tag(row.tag)] = DataElement(BaseTag(row.tag), row.vr, value)
            carrier.rows.append(PlantedRow((*nest, row.tag), row.vr, text))
            if (
                "cleanDescOpt" not in row.cells
                and "rtnPatCharsOpt" not in row.cells
                and row.vr in ("LO", "SH", "PN", "ST", "LT", "UT", "UC", "UR", "AE")
                and row.cells["basicProfile"] != "K"
            ):
                carrier.canaries.append(Canary("R", text.split("^")[0], carrier.slot))
        found.append(carrier)
    return found


def _value(person: Persona, tag: int, vr: str, depth: int, is_cleaned: bool) -> tuple[Any, str]:
    """(value, its text) for an element of the table; unique where nothing of it may stay."""
    unique = f"Qz{tag:08x}{depth}k"
    if vr == "SQ":
        item = code(f"C{tag:08x}", "99ZZ", f"left knee {person.family}"[:64])
        return Sequence([item]), f"left knee {person.family}"
    values: dict[str, Any] = {
        "DA": f"{person.study_on:%Y%m%d}", "DT": f"{person.study_on:%Y%m%d}101112.5+0100", "TM": "101112.5", "UI": f"1.2.826.0.1.3680043.9.7777.{tag}.{depth}",
        "DS": "61.5", "IS": "7", "CS": "M", "AS": "041Y", "US": 3, "UL": 3, "SS": 3, "SL": 3, "FD": 1.5, "FL": 1.5, "PN": f"Nq{tag:08x}z^Gq", "AE": unique, "UR": f"http://h/{unique}",
        "OB": b"\x07\x08\x09\x0a", "OW": b"\x07\x08\x09\x0a", "UN": b"\x07\x08\x09\x0a",
    }  # fmt: skip
    if tag == 0x00100030:
        return f"{person.born_on:%Y%m%d}", f"{person.born_on:%Y%m%d}"
    value = values.get(vr, f"left knee {person.family}"[: 16 if vr == "SH" else 64] if is_cleaned else unique)
    if vr == "SH" and is_cleaned:
        value = "left knee"
    return value, str(value)


# -- free text


def text_carriers(person: Persona, rng: random.Random) -> list[Carrier]:
    """Every announced form beside clinical words, in SR content, comments and descriptors, a dozen texts an instance."""
    planted = texts.announced(person, rng)
    found = []
    for start in range(0, len(planted), _TEXTS_PER_INSTANCE):
        some = planted[start : start + _TEXTS_PER_INSTANCE]
        dataset = plain(person, f"texts {start}", _SR, "SR")
        carrier = Carrier("free text", "text", person, dataset)
        items = []
        for index, (slot, form, canaries) in enumerate(some):
            one, two = clinical(rng), clinical(rng)
            between = rng.choice(["; ", " - ", "\n", " / ", ". ", " | "])
            whole = rng.choice(
                [f"{one}{between}{form}{between}{two}", f"{form}{between}{one}{between}{two}", f"{one}{between}{two}{between}{form}"]
            )
            items.append(text_item(("121071", "DCM", "Finding"), "TEXT", TextValue=whole))
            carrier.texts.append(PlantedText(slot, (0x0040A730, 0x0040A160), (one, two), index))
            carrier.canaries += [Canary(letter, canary, slot) for letter, canary in canaries]
        dataset.ContentSequence = Sequence(items)
        kept = clinical(rng)
        dataset.PatientComments = f"{kept}\n" + "\n".join(form for _, form, _ in some)
        carrier.texts.append(PlantedText("comments", (0x00104000,), (kept,)))
        found.append(carrier)
    return found


def clinical_carriers(person: Persona) -> list[Carrier]:
    """Clinical words alone, none of which may go nor hold the instance."""
    dataset = plain(person, "clinical", _SR, "SR")
    carrier = Carrier("clinical text", "text", person, dataset)
    dataset.ContentSequence = Sequence([text_item(("121071", "DCM", "Finding"), "TEXT", TextValue=text) for text in texts.CLINICAL])
    carrier.texts = [PlantedText("clinical text", (0x0040A730, 0x0040A160), (text,), index) for index, text in enumerate(texts.CLINICAL)]
    found = [carrier]
    for start in range(0, len(texts.CLINICAL), 5):
        some = texts.CLINICAL[start : start + 5]
        dataset = plain(person, f"clinical {start}")
        one = Carrier("clinical text", "text", person, dataset)
        tags = (0x00081030, 0x0008103E, 0x00181030, 0x00321060, 0x00400254)
        for tag, text in zip(tags, some, strict=False):
            dataset.add_new(Tag(tag), "LO", text)
            one.texts.append(PlantedText("clinical descriptors", (tag,), (text,)))
        found.append(one)
    return found


def unannounced_carriers(person: Persona, rng: random.Random) -> list[Carrier]:
    """A stranger's name in a descriptor or comment, one an instance: gone, or held for a person."""
    found = []
    for index, (text, canary) in enumerate(texts.unannounced(rng)):
        dataset = plain(person, f"stranger {index}")
        tag, vr = ((0x00081030, "LO"), (0x0008103E, "LO"), (0x00204000, "LT"), (0x001021B0, "LT"), (0x00181030, "LO"))[index % 5]
        dataset.add_new(Tag(tag), vr, text)
        carrier = Carrier("unannounced names", "text", person, dataset, may_be_held=True)
        carrier.canaries = [Canary("A", canary, "unannounced names")]
        found.append(carrier)
    return found


# -- private elements


def private_carriers(person: Persona) -> list[Carrier]:
    """Known and unknown creators, identity in each form private data take; and elements of the safe list, which must stay."""
    family, mrn = person.family, person.mrn
    words = f"{person.middle} {mrn}"
    found = []
    blocks = (
        ("unknown creator", 0x0011, 0x10, "ACME 1.0"), ("creator names the patient", 0x0033, 0x12, f"{person.middle} PRIVATE"), ("Siemens CSA", 0x0029, 0x10, "SIEMENS CSA HEADER"),
        ("Siemens MR", 0x0019, 0x11, "SIEMENS MR HEADER"), ("GE", 0x0025, 0x10, "GEMS_SERS_01"), ("GE identity", 0x0009, 0x10, "GEMS_IDEN_01"), ("Philips", 0x2001, 0x10, "Philips Imaging DD 001"),
    )  # fmt: skip
    for name, group, block, creator in blocks:
        dataset = plain(person, f"private {name}")
        carrier = Carrier(f"private: {name}", "private", person, dataset)
        dataset.add_new(Tag(group, block), "LO", creator)
        at = block << 8
        nested = Dataset()
        nested.add_new(Tag(group, block), "LO", creator)
        nested.add_new(Tag(group, at | 0x03), "LO", words)
        protocol = gzip.compress(f"PATIENT {words} {person.mail}".encode())
        csa = (
            b"SV10\x04\x03\x02\x01"
            + struct.pack("<II", 1, 77)
            + b"PatientName".ljust(64, b"\0")
            + words.encode().ljust(96, b"\0")
            + b'### ASCCONV BEGIN ###\ntPatientName = "'
            + words.encode()
            + b'"\n'
        )
        for low, vr, value in (
            (0x33, "LO", words), (0x34, "OB", words.encode("utf-16-le")), (0x35, "UN", base64.b64encode(f"x{words}".encode())), (0x36, "OB", protocol + b"\0" * (len(protocol) % 2)),
            (0x37, "OB", csa + b"\0" * (len(csa) % 2)), (0x38, "UT", f"<xml><name>{words}</name></xml>"), (0x39, "SQ", Sequence([nested])), (0x3A, "PN", f"{person.middle}^{family}"), (0x3B, "DA", f"{person.born_on:%Y%m%d}"),
            (0x3C, "UI", f"1.2.840.99999.{mrn[2:]}"), (0x3D, "OB", zlib.compress(words.encode()) + b"\0" * (len(zlib.compress(words.encode())) % 2)),
        ):  # fmt: skip
            dataset.add_new(Tag(group, at | low), vr, value)
        carrier.canaries = [
            Canary("A", person.middle, carrier.slot),
            Canary("H", mrn, carrier.slot),
            Canary("R", f"1.2.840.99999.{mrn[2:]}", carrier.slot),
        ]
        found.append(carrier)
    safe = Carrier("private: safe", "private", person, plain(person, "private safe"))
    for group, block, creator, low, vr, value in (
        (0x0019, 0x10, "SIEMENS MR HEADER", 0x0C, "IS", "1000"), (0x0019, 0x10, "SIEMENS MR HEADER", 0x0D, "CS", "DIRECTIONAL"), (0x7053, 0x20, "Philips PET Private Group", 0x00, "DS", "1.25"),
        (0x2001, 0x10, "Philips Imaging DD 001", 0x03, "FL", 1000.0), (0x0043, 0x13, "GEMS_PARM_01", 0x27, "SH", "/1.0:1"),
    ):  # fmt: skip
        safe.dataset.add_new(Tag(group, block), "LO", creator)
        safe.dataset.add_new(Tag(group, block << 8 | low), vr, value)
        safe.kept.append(KeptValue("safe private", (group << 16 | block << 8 | low,), str(value)))
    # The right element under a wrong creator, and without any: out.
    wrong = Carrier("private: no or wrong creator", "private", person, plain(person, "private wrong"))
    wrong.dataset.add_new(Tag(0x0019, 0x10), "LO", "ACME HEADER")
    wrong.dataset.add_new(Tag(0x0019, 0x100D), "CS", person.middle.upper()[:16])
    wrong.dataset.add_new(Tag(0x0043, 0x1327), "SH", person.middle[:16])
    wrong.canaries = [Canary("A", person.middle, wrong.slot)]
    return [*found, safe, wrong]


# -- containers and characters


def container_carriers(person: Persona) -> list[Carrier]:
    """Identity where no element of the data set stands: preamble, file meta, padding, file name, icon, curve, odd elements."""
    study = Study(person, 0)
    made = KINDS["CT"](study, 64)
    made.SOPInstanceUID = f"{study.ct_uid}.7"
    words = f"{person.middle} {person.mrn}"
    carrier = Carrier("containers", "CT", person, made, file_name=f"{person.family}_{person.given}_{person.mrn}")
    carrier.preamble = words.encode().ljust(128, b"\0")
    made.add_new(Tag(0xFFFC, 0xFFFC), "OB", words.encode("utf-16-le"))
    icon = Dataset()
    icon.Rows, icon.Columns, icon.SamplesPerPixel, icon.PhotometricInterpretation = 8, 8, 1, "MONOCHROME2"
    icon.BitsAllocated, icon.BitsStored, icon.HighBit, icon.PixelRepresentation = 8, 8, 7, 0
    icon.PixelData = words.encode().ljust(64, b"\0")[:64]
    icon["PixelData"].VR = "OB"
    made.IconImageSequence = Sequence([icon])
    made.add_new(Tag(0x5000, 0x3000), "OW", words.encode() + b"\0" * (len(words.encode()) % 2))
    made.add_new(Tag(0x5000, 0x2500), "LO", words)
    made.add_new(Tag(0x6000, 0x4000), "LT", words)
    made.add_new(Tag(0x4008, 0x010B), "ST", words)
    carrier.canaries = [Canary("A", person.middle, "containers"), Canary("H", person.mrn, "containers")]
    return [carrier]


def charset_carriers(person: Persona, rng: random.Random) -> list[Carrier]:
    """This patient's native name in descriptors, comments and content, in the declared character set with its escapes."""
    dataset = plain(person, "characters", _SR, "SR")
    label = "\\".join(person.terms)
    carrier = Carrier(f"characters: {label}", "text", person, dataset)
    items = []
    native = [
        group.replace("^", joint)
        for group in (person.native, person.phonetic, f"{person.family}^{person.given}")
        if group
        for joint in ("", " ", ", ")
    ]
    for index, form in enumerate(native):
        kept = clinical(rng)
        items.append(text_item(("121071", "DCM", "Finding"), "TEXT", TextValue=f"{kept}\n{form}"))
        carrier.texts.append(PlantedText("characters", (0x0040A730, 0x0040A160), (kept,), index))
    dataset.ContentSequence = Sequence(items)
    dataset.PatientComments, dataset.StudyDescription = " / ".join(native), native[0][:32]
    dataset.OtherPatientNames = [person.name, f"{person.maiden}^{person.given}"]
    return [carrier]

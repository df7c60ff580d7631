"""Files of a folder as carriers: parsed, their own identity cleared where a persona's takes its place, the rest left as it is.

Only what is cleared and planted is in the key, so files keep their vendors' private elements, character sets and transfer syntaxes.
"""

from __future__ import annotations

import io
import random
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.tag import Tag

from bench.deid_score.answer_key import Canary, Carrier, KeptValue, PlantedText
from bench.deid_score.carriers import clinical
from bench.deid_score.persona import ALPHABETS, Persona, draw
from bench.deid_score.study import uid
from bench.deid_score.table import listed

_NOT_DICOM = frozenset({".json", ".md", ".txt", ".xz", ".gz", ".tar", ".py", ".png", ".xml"})
#: Of an archive with hundreds of slices so many show what all show.
_MEMBERS_MAX = 6
_TEXTS = (0x00081030, 0x0008103E, 0x00204000, 0x001021B0, 0x00181030)
#: VRs whose values are numbers or codes; where the table is silent they must come out as they went in.
_KEPT_VRS = frozenset({"US", "SS", "UL", "SL", "FL", "FD", "DS", "IS", "CS"})
#: Written anew by a lossless transcoding or by the stamps, or bound to what legitimately goes.
_MAY_CHANGE = frozenset(
    {
        0x00280004,
        0x00280006,
        0x00280301,
        0x00280303,
        0x00120062,
        0x00080005,
        0x00080300,
        0x00280008,
        0x00280102,
        0x00280106,
        0x00280107,
        0x00281101,
        0x00281102,
        0x00281103,
        # A label of its writer's choice (Content Label), which may be the institution's name.
        0x00700080,
    }
)


def corpus_carriers(folder: Path, rng: random.Random, left_out: Counter[str]) -> Iterator[Carrier]:
    """A carrier per file of `folder` that pydicom reads; the rest is counted in `left_out`."""
    personas: dict[str, Persona] = {}
    seen: set[str] = set()
    for name, data in _files(folder):
        try:
            dataset = dcmread(io.BytesIO(data), force=True)
            for element in dataset.iterall():
                _ = element.value
            study, instance = str(dataset.StudyInstanceUID), str(dataset.SOPInstanceUID)
            _ = dataset.SOPClassUID
            if "TransferSyntaxUID" not in dataset.file_meta:
                raise ValueError("no transfer syntax")
        except Exception as problem:
            left_out[f"corpus: not read ({type(problem).__name__})"] += 1
            continue
        if study not in personas:
            personas[study] = draw(rng, 3000 + len(personas), ALPHABETS[0])
        if instance in seen:
            dataset.SOPInstanceUID = uid(instance, name)
        seen.add(instance)
        yield _seeded(dataset, personas[study], rng)


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        if path.name.endswith(".tar.xz"):
            with tarfile.open(path) as archive:
                members = [member for member in archive.getmembers() if member.isfile()]
                for member in members[:: max(1, len(members) // _MEMBERS_MAX)][:_MEMBERS_MAX]:
                    file = archive.extractfile(member)
                    if file is not None:
                        yield f"{path.name}:{member.name}", file.read()
        elif path.suffix not in _NOT_DICOM:
            yield path.name, path.read_bytes()


def _seeded(dataset: Dataset, person: Persona, rng: random.Random) -> Carrier:
    carrier = Carrier("corpus", str(dataset.get("Modality", "?")), person, dataset)
    # The file's own character set may not hold the persona's umlauts: this one's names are plain.
    dataset.PatientName, dataset.PatientID = f"{person.family}^{person.given}^{person.middle}", person.mrn
    dataset.PatientBirthDate, dataset.AccessionNumber, dataset.StudyID = f"{person.born_on:%Y%m%d}", person.accession, person.order
    dataset.ReferringPhysicianName, dataset.OperatorsName, dataset.PerformingPhysicianName = person.staff[:3]
    dataset.NameOfPhysiciansReadingStudy, dataset.RequestingPhysician, dataset.PhysiciansOfRecord = person.staff[3:6]
    dataset.InstitutionName, dataset.InstitutionAddress = person.hospital, f"{person.street}, {person.city}"
    dataset.StationName, dataset.DeviceSerialNumber = person.station, person.serial
    dataset.OtherPatientIDs, dataset.PatientTelephoneNumbers = person.other_id, person.phone
    dataset.PatientAddress, dataset.PatientMotherBirthName = f"{person.street}, {person.city}", person.mother
    dataset.PatientBirthName = person.maiden
    for tag in _TEXTS:
        kept = clinical(rng)
        dataset.add_new(
            Tag(tag),
            "LO" if tag not in (0x00204000, 0x001021B0) else "LT",
            f"{kept} {rng.choice([person.given + ' ' + person.family, person.mrn, 'Dr. ' + person.staff[0].split('^')[0]])}"[:64],
        )
        carrier.texts.append(PlantedText("corpus descriptors", (tag,), (kept,)))
    if Tag(0x0029, 0x00E7) not in dataset:
        dataset.add_new(Tag(0x0029, 0x00E7), "LO", "ACME 2.0")
        dataset.add_new(Tag(0x0029, 0xE710), "OB", person.middle.encode() + b"\0" * (len(person.middle) % 2))
        carrier.canaries.append(Canary("A", person.middle, "corpus private"))
    for element in dataset:
        if (
            element.VR in _KEPT_VRS
            and not element.tag.is_private
            and int(element.tag) not in listed()
            and int(element.tag) not in _MAY_CHANGE
            and 0x0008 <= element.tag.group < 0x5000
            and element.tag.element != 0
        ):
            carrier.kept.append(KeptValue("corpus values", (int(element.tag),), str(element.value)))
    return carrier

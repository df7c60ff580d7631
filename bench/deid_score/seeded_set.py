"""A whole set: the carriers of some patients and of a folder's own files, written to disk as a hospital would send them."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import ExplicitVRLittleEndian

from bench.deid_score import carriers
from bench.deid_score.answer_key import Carrier
from bench.deid_score.burned_text import burned_carriers, marked_carriers
from bench.deid_score.corpus import corpus_carriers
from bench.deid_score.persona import ALPHABETS, Alphabet, Persona, draw

_UTF_8 = ("ISO_IR 192",)


@dataclass(frozen=True)
class SetSize:
    """How large a set is: `patients` with everything, `images` edge of generated frames, `burned` images with text per patient."""

    patients: int
    edge_pixels: int = 64
    burned: int = 8
    alphabets: int = len(ALPHABETS)
    kinds: frozenset[str] | None = None
    strangers: bool = True


@dataclass
class SeededSet:
    """The carriers by file name, what a folder held that could not be seeded, and where the files are."""

    folder: Path
    carriers: dict[str, Carrier] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, carrier: Carrier) -> None:
        """Write the carrier's file. One that cannot be written is counted in `left_out`."""
        name = f"{len(self.carriers):05d}{carrier.file_name and '_' + carrier.file_name}.dcm"
        try:
            data = _file(carrier)
        except Exception as problem:
            # Third-party files hold values that pydicom reads and does not write.
            self.left_out[f"{carrier.slot}: {type(problem).__name__}"] += 1
            return
        (self.folder / name).write_bytes(data)
        self.carriers[name] = carrier


def seed(folder: Path, size: SetSize, random_seed: int, corpus: Path | None) -> SeededSet:
    """The set for these arguments, the same for the same ones."""
    with warnings.catch_warnings():
        # Values beyond the length of their VR are planted on purpose, and other people's files have them.
        warnings.simplefilter("ignore")
        return _seeded(folder, size, random_seed, corpus)


def _seeded(folder: Path, size: SetSize, random_seed: int, corpus: Path | None) -> SeededSet:
    rng = random.Random(random_seed)
    made = SeededSet(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(size.patients):
        # Their texts quote other languages' dates and names, which only UTF-8 holds; `charset_carriers` meet the other sets.
        person = replace(draw(rng, number, _alphabet(number)), terms=_UTF_8)
        for study in (0, 1):
            for carrier in carriers.whole_study(person, rng, study, size.edge_pixels, size.kinds):
                made.add(carrier)
        _slots(made, person, rng, size)
    for number, alphabet in enumerate(ALPHABETS[: size.alphabets]):
        for carrier in carriers.charset_carriers(draw(rng, 1000 + number, alphabet), rng):
            made.add(carrier)
    if size.strangers:
        for carrier in carriers.unannounced_carriers(replace(draw(rng, 2000, ALPHABETS[0]), terms=_UTF_8), rng):
            made.add(carrier)
    if corpus is not None:
        for carrier in corpus_carriers(corpus, rng, made.left_out):
            made.add(carrier)
    return made


def _alphabet(number: int) -> Alphabet:
    """Patients with everything take the alphabets in turn, so that each kind meets each."""
    return ALPHABETS[(1 + number * 5) % len(ALPHABETS)]


def _slots(made: SeededSet, person: Persona, rng: random.Random, size: SetSize) -> None:
    groups = [
        carriers.row_carriers(person),
        carriers.text_carriers(person, rng),
        carriers.private_carriers(person),
        carriers.container_carriers(person),
        burned_carriers(person, rng, size.burned),
        marked_carriers(person),
    ]
    if person.number == 0:
        groups.append(carriers.clinical_carriers(person))
    for group in groups:
        for carrier in group:
            made.add(carrier)


def _file(carrier: Carrier) -> bytes:
    dataset = carrier.dataset
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if "TransferSyntaxUID" not in meta:
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.ImplementationClassUID = "1.2.826.0.1.3680043.9.7777.1"
    meta.SourceApplicationEntityTitle = carrier.persona.station[:16]
    if carrier.preamble:
        meta.PrivateInformationCreatorUID = f"1.2.826.0.1.3680043.9.7777.{carrier.persona.mrn[2:]}"
        meta.PrivateInformation = carrier.preamble
    whole = Dataset()
    whole.update({element.tag: element for element in dataset if element.tag.group not in (0x0000, 0x0002)})
    buffer = BytesIO()
    syntax = meta.TransferSyntaxUID
    whole.file_meta, whole.preamble = meta, carrier.preamble or b"\0" * 128
    dcmwrite(
        buffer,
        whole,
        enforce_file_format=True,
        implicit_vr=syntax.is_implicit_VR,
        little_endian=syntax.is_little_endian,
    )
    return buffer.getvalue() + carrier.trailing

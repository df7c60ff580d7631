"""What the de-identification tests share: instances made of pydicom datasets, names for them, and the result read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom import Dataset, dcmread

from compliance.deid_profile import TELEREAD, DeidProfile
from compliance.deidentify import deidentify
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityTerms, collect_identity
from compliance.part10 import file_of
from compliance.pydicom_bytes import explicit_bytes

SECRET = b"a secret of the tests, 32 bytes.."
OFFSET = -211
EXPLICIT = "1.2.840.10008.1.2.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class Screened:
    """An answer of the pixel step."""

    outcome: str
    reason: str
    dataset: Dataset
    risk: str = "looked at"


def clean_screen(dataset: Dataset, words: Sequence[str]) -> Screened:
    """A pixel step that finds nothing."""
    return Screened("CLEAN", "", dataset)


def bare_instance(number: int = 1) -> Dataset:
    """The least an instance needs: UIDs, class, patient."""
    dataset = Dataset()
    dataset.SOPClassUID = CT
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.2.1.{number}"
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.2.2.1"
    dataset.SeriesInstanceUID = "1.2.826.0.1.3680043.2.3.1"
    dataset.Modality = "CT"
    dataset.PatientID = "PID7788991"
    dataset.PatientName = "Zorvathine^Quillan"
    return dataset


def instance_of(dataset: Dataset) -> IdentifiedDataset:
    return IdentifiedDataset(explicit_bytes(dataset), EXPLICIT, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))


def names_for(identity: IdentityTerms, profile: DeidProfile = TELEREAD, *, secret: bytes = SECRET, offset: int = OFFSET) -> Pseudonymity:
    return Pseudonymity("h1", secret, "RG-PSEUDONYM", offset, "RG-ACCESSION", identity, profile)


def released(dataset: Dataset, profile: DeidProfile = TELEREAD, identity: IdentityTerms | None = None) -> DeidentifiedDataset:
    """The dataset de-identified under the identity of its own headers and `identity`."""
    source = instance_of(dataset)
    found = collect_identity([source], identity)
    return deidentify(source, names_for(found, profile), screen=clean_screen)


def read_back(made: DeidentifiedDataset) -> Dataset:
    return dcmread(BytesIO(file_of(made)))


def output_of(dataset: Dataset, profile: DeidProfile = TELEREAD, identity: IdentityTerms | None = None) -> Dataset:
    return read_back(released(dataset, profile, identity))

"""The two kinds of dataset. mypy proves that nothing outward takes the first; only `deidentify` makes the second.

An `IdentifiedDataset` names a patient and stays on the hospital's side. A `DeidentifiedDataset` is what crosses to the exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any

from compliance.deid_profile import TELEREAD, DeidProfile
from compliance.identity_terms import IdentityTerms
from compliance.instance_digest import instance_digests


@dataclass(frozen=True, slots=True)
class IdentifiedDataset:
    """An instance as the hospital sent it: `payload` is the dataset's bytes in `transfer_syntax_uid`, without preamble and file meta."""

    payload: bytes = field(repr=False)
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)


@dataclass(frozen=True)
class Pseudonymity:
    """Under which names an instance leaves.

    `pseudonym` becomes Patient ID and Patient's Name; `date_offset_days` moves every date of the patient and is never 0 under Retain
    Modified Dates; `uid_secret` is the hospital's alone. `identity` holds what the whole study's headers and its order say of persons,
    places and numbers, so that one instance's text is cleaned of what only another's header names.
    """

    hospital_id: str
    uid_secret: bytes = field(repr=False)
    pseudonym: str
    date_offset_days: int = field(repr=False)
    accession_pseudonym: str
    identity: IdentityTerms = field(repr=False)
    profile: DeidProfile = TELEREAD
    #: What was worked out for one instance of the study and holds for the next, bounded. No argument and not copied by `replace`: it holds
    #: for exactly these names, this identity and this profile, and never for another patient, study or hospital.
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)


#: The key to DeidentifiedDataset's constructor. compliance/deidentify.py may import it, and deid_child.py for what its child
#: made of it and it scanned itself; a test reads the sources for others.
_MADE_BY_DEIDENTIFY = object()


class _Payload:
    """The payload of a DeidentifiedDataset, given whole or in pieces; joined when it is first asked for whole."""

    def __get__(self, instance: DeidentifiedDataset | None, owner: type | None = None) -> bytes:
        if instance is None:
            # So a dataclass learns that there is no default.
            raise AttributeError("payload")
        pieces = instance.__dict__["_pieces"]
        if len(pieces) > 1:
            pieces = instance.__dict__["_pieces"] = (b"".join(pieces),)
        whole: bytes = pieces[0]
        return whole

    def __set__(self, instance: DeidentifiedDataset, value: bytes | tuple[bytes, bytes | memoryview]) -> None:
        instance.__dict__["_pieces"] = value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True)
class DeidentifiedDataset:
    """An instance that went through `deidentify` and its residual scan; every UID in it is pseudonymous.

    `frame_table` holds (offset, length) in bytes of each frame within `payload`; empty where there are no frames. `dicom_json` is the
    PS3.18 F model without bulk data: pixel data stand as a relative BulkDataURI. `attributes` are those QIDO-RS answers with. The
    digests are those of `instance_digest`, worked out when first asked for.
    """

    if TYPE_CHECKING:
        payload: bytes
    else:
        payload: bytes = _Payload()
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    frame_table: tuple[tuple[int, int], ...] = field(repr=False)
    dicom_json: Mapping[str, Any] = field(repr=False)
    attributes: InstanceAttributes = field(repr=False)
    action_counts: Mapping[str, int]
    #: What a person should know though it is no reason to hold: e.g. "RECOGNIZABLE_VISUAL_FEATURES" for a head in slices.
    flags: tuple[str, ...] = ()
    made_by: InitVar[object] = None
    #: What follows the payload given: pixels that nobody need copy.
    behind: InitVar[bytes | memoryview] = b""
    payload_bytes: int = field(init=False)
    _digests: tuple[str | None, str] | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self, made_by: object, behind: bytes | memoryview) -> None:
        if made_by is not _MADE_BY_DEIDENTIFY:
            raise TypeError("a DeidentifiedDataset is made by compliance.deidentify.deidentify alone")
        if behind:
            object.__setattr__(self, "payload", (self.payload, behind))
        object.__setattr__(self, "payload_bytes", sum(map(len, self.pieces)))

    def __repr__(self) -> str:
        return f"DeidentifiedDataset({self.sop_instance_uid!r}, {self.payload_bytes} bytes)"

    @property
    def pieces(self) -> tuple[bytes | memoryview, ...]:
        """What, one after the other, is the payload: who writes or sends them copies no pixels."""
        pieces: tuple[bytes | memoryview, ...] = self.__dict__["_pieces"]
        return pieces

    @property
    def pixel_digest(self) -> str | None:
        return self._both_digests()[0]

    @property
    def payload_digest(self) -> str:
        return self._both_digests()[1]

    def _both_digests(self) -> tuple[str | None, str]:
        if self._digests is None:
            object.__setattr__(self, "_digests", instance_digests(self.payload, self.frame_table))
        assert self._digests is not None
        return self._digests

    def let_payload_go(self) -> None:
        """The payload is sealed and no longer needed here: a study of thousands of slices must not lie in memory whole."""
        self._both_digests()
        object.__setattr__(self, "payload", b"")


@dataclass(frozen=True, slots=True)
class InstanceAttributes:
    """What QIDO-RS and the pages ask of a pseudonymous instance; None where the dataset is silent. Dates and times as in DICOM."""

    modality: str | None = None
    body_part_examined: str | None = None
    series_number: int | None = None
    series_description: str | None = None
    instance_number: int | None = None
    rows: int | None = None
    columns: int | None = None
    number_of_frames: int | None = None
    study_date: str | None = None
    study_time: str | None = None
    study_description: str | None = None
    study_id: str | None = None
    patient_sex: str | None = None
    patient_age: str | None = None
    manufacturer: str | None = None

"""What pass one of `readgate deidentify` learns of files and their studies, and the names they leave under: all that holds the secret."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from crypto.canonical import keyed_digest, keyed_uid

#: Files whose names from pass one are remembered for pass two; of more, the later ones are looked at again.
_KNOWN_MAX = 50_000
#: The fields of IdentityTerms, which is not loaded here: what is read of a file is read elsewhere.
TERMS = (
    "patient_names", "staff_names", "institutions", "places", "contacts", "identifiers", "devices", "patient_ids", "public", "dates",
    "birth_dates", "undecoded",
)  # fmt: skip


class Known(NamedTuple):
    """What pass one learns of a file: its dataset begins at `start`."""

    study_instance_uid: str
    start: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass
class _Study:
    """What pass one learns of a study; `identity` as `deid_serve.identity_json` writes it."""

    patient_id: str
    accession: str = ""
    identity: dict[str, set[str]] = field(default_factory=dict)


class FileStudies:
    """The studies of one run. Of files each has a name, and a number within its archive, -1 without one."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._studies: dict[str, _Study] = {}
        self._known: dict[tuple[str, int], Known] = {}
        #: Pseudonyms by what was there before: UIDs, and patients.
        self.uids: dict[str, str] = {}
        self.patients: dict[str, str] = {}

    def note(self, name: str, number: int, result: Any) -> None:
        """What a child says of a file, null where it is nothing. Raises ValueError and the like where it is no such thing."""
        if result is None:
            return
        study, patient_id, accession, start, *names = result
        if not all(isinstance(one, str) for one in (study, patient_id, accession, *names)) or type(start) is not int:
            raise ValueError("not what is known of a file")
        known = Known(study, start, *names)
        if len(self._known) < _KNOWN_MAX:
            self._known[name, number] = known
        of_study = self._studies.setdefault(study, _Study(patient_id))
        of_study.accession = of_study.accession or accession

    def gather(self, study: str, terms: dict[str, list[str]]) -> None:
        """What a child found of identity in a study beside what it said before. Raises as `note` does."""
        of_study = self._studies.setdefault(study, _Study(""))
        for kind, values in terms.items():
            if kind not in TERMS or not all(isinstance(value, str) for value in values):
                raise ValueError("not terms of an identity")
            of_study.identity.setdefault(kind, set()).update(values)

    def known(self, name: str, number: int) -> Known | None:
        return self._known.get((name, number))

    def told_of(self, known: Sequence[Known | None]) -> dict[str, Any]:
        """What is known of these files, and the pseudonyms of the instances in them, so that nobody need ask for each."""
        named = {one.sop_instance_uid for one in known if one is not None}
        return {"known": known, "pseudonyms": {name: keyed_uid(self._secret, name) for name in named}}

    def took(self, known: Known | None, sop_instance_uid: str) -> None:
        """An instance left under this name."""
        if known is not None and sop_instance_uid == keyed_uid(self._secret, known.sop_instance_uid):
            self.uids[known.sop_instance_uid] = sop_instance_uid

    def pseudonym_of(self, original: str) -> str:
        """Of a UID that stands in an instance that may leave."""
        pseudonym = self.uids[original] = keyed_uid(self._secret, original)
        return pseudonym

    def study_of(self, key: str) -> dict[str, Any] | None:
        """What a child is told of a study, for the second pass; None where the first met no such study."""
        study = self._studies.get(key)
        if study is None:
            return None
        name = keyed_digest(self._secret, "patient", study.patient_id)
        pseudonym = "RG-" + name[:12].upper()
        # Between one and ten years back, the same for all of a patient's studies.
        offset = -(1 + int(keyed_digest(self._secret, "offset", study.patient_id)[:8], 16) % 3650)
        accession = keyed_digest(self._secret, "accession", study.accession)[:12].upper() if study.accession else ""
        if study.patient_id:
            self.patients[study.patient_id] = pseudonym
        return {
            "hospital_id": "files",
            "pseudonym": pseudonym,
            "date_offset_days": offset,
            "accession_pseudonym": accession and "RG" + accession,
            "identity": {kind: sorted(study.identity.get(kind, ())) for kind in TERMS},
        }

    def told(self, asked: dict[str, Any]) -> Any:
        """The answer to a question of compliance/file_passes.py."""
        return self.study_of(asked["study"]) if "study" in asked else self.pseudonym_of(asked["ask"])

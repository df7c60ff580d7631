"""What pass one of `readgate deidentify` learns of files and their studies, and the names they leave under: all that holds the secret.

Invariants
- A file that gave no identity in pass one, whatever the reason, does not leave in pass two.
- Nor does a study that such a file may belong to, unless the file can never be an instance (it does not parse). Where the study was read
  before the rest failed, it is that one. Else it is those that lie in the same folder or archive; where none does, those in the nearest
  folder above that holds any.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from compliance.file_child import refusal_said
from crypto.canonical import keyed_digest, keyed_uid
from crypto.errors import RefusedContent

#: Files whose names from pass one are remembered for pass two; of more, the later ones are looked at again.
_KNOWN_MAX = 50_000
_HELD = "a file that may be of its study gave no identity"
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

    #: That of the first instance that was learnt.
    patient_id: str | None = None
    accession: str = ""
    identity: dict[str, set[str]] = field(default_factory=dict)


class FileStudies:
    """The studies of one run. Of files each has a name, and a number within its archive, -1 without one."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._studies: dict[str, _Study] = {}
        self._known: dict[tuple[str, int], Known] = {}
        #: Of files that are not in `_known` but were learnt, a number each.
        self._learnt: set[int] = set()
        self._missed: dict[tuple[str, int], RefusedContent] = {}
        #: Studies by the folder or archive that they lie in; and where a file of nobody knows which study lies.
        self._places: defaultdict[str, set[str]] = defaultdict(set)
        self._doubtful: set[str] = set()
        self._held: set[str] = set()
        #: Pseudonyms by what was there before: UIDs, and patients.
        self.uids: dict[str, str] = {}
        self.patients: dict[str, str] = {}

    def note(self, name: str, number: int, result: Any) -> None:
        """What a child says of a file, null where it is nothing. Raises ValueError and the like where it is no such thing."""
        if result is None:
            return
        if isinstance(result, dict):
            study = result["study"]
            if study is not None and not isinstance(study, str):
                raise ValueError("not what is known of a file")
            self.miss(name, number, refusal_said(result["refused"]), study)
            return
        study, patient_id, accession, start, *names = result
        if not all(isinstance(one, str) for one in (study, patient_id, accession, *names)) or type(start) is not int:
            raise ValueError("not what is known of a file")
        known = Known(study, start, *names)
        if len(self._known) < _KNOWN_MAX:
            self._known[name, number] = known
        else:
            self._learnt.add(hash((name, number)))
        self._places[_place_of(name, number)].add(study)
        of_study = self._studies.setdefault(study, _Study())
        if of_study.patient_id is None:
            of_study.patient_id = patient_id
        of_study.accession = of_study.accession or accession

    def miss(self, name: str, number: int, refused: RefusedContent, study: str | None = None) -> None:
        """Whom this file names is not known, not even for how long: it is refused, and what it may belong to is held."""
        self._missed[name, number] = refused
        if study is None:
            self._doubtful.add(_place_of(name, number))
        else:
            self._held.add(study)

    def missed(self, name: str, number: int) -> RefusedContent | None:
        """Why pass one could not tell whom this file names."""
        return self._missed.get((name, number))

    def close(self) -> None:
        """Every file was looked at once: which studies are held is certain."""
        if not self._doubtful:
            return
        below: defaultdict[str, set[str]] = defaultdict(set)
        for place, studies in self._places.items():
            for above in _with_those_above(place):
                below[above] |= studies
        for place in self._doubtful:
            lying_there = self._places.get(place)
            self._held |= lying_there or next((below[above] for above in _with_those_above(place) if above in below), set())

    def why_not(self, name: str, number: int) -> RefusedContent | None:
        """Why this file may not leave, whoever made something of it; None where it may."""
        known = self._known.get((name, number))
        if known is None and hash((name, number)) not in self._learnt:
            return self.missed(name, number) or RefusedContent("UID_MISMATCH", "the file is not the one that was read at first")
        return RefusedContent("IDENTITY_INCOMPLETE", _HELD) if known is not None and known.study_instance_uid in self._held else None

    def gather(self, study: str, terms: dict[str, list[str]]) -> None:
        """What a child found of identity in a study beside what it said before. Raises as `note` does."""
        of_study = self._studies.setdefault(study, _Study())
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
        """What a child is told of a study, for the second pass; None where the first met no such study, why it is held where it is."""
        study = self._studies.get(key)
        if study is None:
            return None
        if key in self._held:
            return {"held": _HELD}
        patient_id = study.patient_id or ""
        name = keyed_digest(self._secret, "patient", patient_id)
        pseudonym = "RG-" + name[:12].upper()
        # Between one and ten years back, the same for all of a patient's studies.
        offset = -(1 + int(keyed_digest(self._secret, "offset", patient_id)[:8], 16) % 3650)
        accession = keyed_digest(self._secret, "accession", study.accession)[:12].upper() if study.accession else ""
        if patient_id:
            self.patients[patient_id] = pseudonym
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


def _place_of(name: str, number: int) -> str:
    return name.rpartition("/")[0] if number < 0 else name


def _with_those_above(place: str) -> Iterator[str]:
    yield place
    while place:
        place = place.rpartition("/")[0]
        yield place

"""What the edge states about a de-identified study: one signed statement per study that travels with it and that decisions read.

Invariants
- It names pseudonyms, profile, table edition, counts and digests; nothing in it names a patient.
- It binds the study manifest (compliance/study.py), that is each instance's UID, payload and pixel digest: an instance that is not in
  that manifest was not de-identified with it. The reader's signature binds the same manifest.
- The signature is over the canonical JSON (RFC 8785) of the statement alone, so that any verifier reproduces the bytes.
- A study without a statement that stands counts as identified, whatever its row says; no law then lets it be read.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from compliance.deid_profile import DeidProfile
from compliance.hospital import Hospital, require_hospital
from compliance.profile_table import load_table
from compliance.study import Instance, Study, study_manifest
from crypto.canonical import canonical_json, digest
from crypto.ed25519 import ed25519_key_of_seed, ed25519_public_pem, ed25519_sign, ed25519_verify
from crypto.errors import IntegrityFailure
from crypto.keys import KeyStore

FORMAT = "readgate-deidentification-manifest/1"
#: What the result is in law: pseudonymised, because the hospital keeps the way back (GDPR Art. 4(5)); never anonymous.
LAW_CLASS = "PSEUDONYMISED"
#: What a study counts as whose statement is missing or does not hold.
IDENTIFIED = "IDENTIFIED"
CHECKS = ("PARSED", "TABLE_HELD", "UIDS_PSEUDONYMOUS", "NO_RESIDUAL_IDENTITY", "PIXELS_DECODED_AND_COMPARED")


@dataclass(frozen=True)
class EdgeKey:
    """The signing key of one hospital's edge; `key_id` is the start of the public key's digest."""

    private_pem: bytes
    public_pem: str

    @property
    def key_id(self) -> str:
        return key_id_of(self.public_pem)

    def sign(self, message: bytes) -> bytes:
        return ed25519_sign(self.private_pem, message)


def edge_key(keys: KeyStore, hospital_id: str) -> EdgeKey:
    """The key under which this hospital's edge signs, made at the first call."""
    private = ed25519_key_of_seed(keys.secret(f"edge-signing/{hospital_id}"))
    return EdgeKey(private, ed25519_public_pem(private))


def key_id_of(public_pem: str) -> str:
    return hashlib.sha256(public_pem.encode()).hexdigest()[:16]


def enrol_edge_key(session: Session, keys: KeyStore, hospital_id: str) -> EdgeKey:
    """The hospital's signing key, its public half on the hospital's row from the first study on.

    Raises: IntegrityFailure where another key was enrolled: then the key store is not this deployment's.
    """
    key, hospital = edge_key(keys, hospital_id), require_hospital(session, hospital_id)
    if hospital.edge_public_key not in ("", key.public_pem):
        raise IntegrityFailure(f"hospital {hospital_id} enrolled another signing key than its key store holds")
    if not hospital.edge_public_key:
        hospital.edge_public_key = key.public_pem
        session.add(hospital)
    return key


def statement_of(
    study: Study,
    *,
    profile: DeidProfile,
    actions: Mapping[str, int],
    flags: Iterable[str] = (),
    held: Mapping[str, int] | None = None,
    made_at: dt.datetime,
) -> dict[str, Any]:
    """The statement about `study` as its row stands, to be signed.

    `held` counts instances that were not passed, by reason code. `made_at` is aware UTC.
    """
    table = load_table()
    return {
        "format": FORMAT,
        "hospital_id": study.hospital_id,
        "study_instance_uid": study.study_instance_uid,
        "made_at": made_at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "law_class": LAW_CLASS,
        "profile": {
            "name": profile.name,
            "options": sorted(option.value for option in profile.options),
            "codes": [code for code, _ in profile.method_codes()],
            "longitudinal_temporal_information": profile.longitudinal_information(),
        },
        "table": {"name": "PS3.15 Table E.1-1", "edition": table.edition, "rows": len(table.rows)},
        "checks": list(CHECKS),
        "flags": sorted(flags),
        "actions": {action: actions[action] for action in sorted(actions)},
        "held": dict(sorted((held or {}).items())),
        "left_out": study.left_out_instances,
        "instances": study.instance_count,
        "amendment": study.amendment,
        "study_manifest": study.manifest_digest,
    }


def sign_statement(statement: Mapping[str, Any], key: EdgeKey) -> dict[str, Any]:
    """The statement with its digest and the edge's signature over its canonical bytes."""
    body = dict(statement)
    return {"statement": body, "digest": digest(body), "signature": {"key_id": key.key_id, "value": key.sign(canonical_json(body)).hex()}}


def verify_manifest(document: Mapping[str, Any], verify: Callable[[bytes, bytes], bool]) -> dict[str, Any]:
    """The statement of a signed manifest.

    Raises:
        IntegrityFailure: the digest or the signature is not of this statement.
    """
    try:
        statement = dict(document["statement"])
        stated, value = document["digest"], bytes.fromhex(document["signature"]["value"])
    except (KeyError, TypeError, ValueError):
        raise IntegrityFailure("the de-identification manifest is not one") from None
    if statement.get("format") != FORMAT or stated != digest(statement) or not verify(canonical_json(statement), value):
        raise IntegrityFailure("the de-identification manifest does not hold")
    return statement


def standing_statement(hospital: Hospital, study: Study) -> dict[str, Any]:
    """The statement of the study's own edge about exactly this study as it stands.

    Raises:
        IntegrityFailure: there is none, it is not signed by this hospital's edge, or it is about something else.
    """
    statement = verify_manifest(study.deid_manifest, lambda message, value: ed25519_verify(hospital.edge_public_key, message, value))
    said = (statement["hospital_id"], statement["study_instance_uid"], statement["study_manifest"], statement["law_class"])
    if said != (study.hospital_id, study.study_instance_uid, study.manifest_digest, LAW_CLASS):
        raise IntegrityFailure("the de-identification manifest is about another study")
    return statement


def id_class_of(hospital: Hospital, study: Study) -> str:
    """The class of identity that decisions reckon with: what the row says only while a signed statement stands."""
    if study.id_class == IDENTIFIED:
        return IDENTIFIED
    try:
        standing_statement(hospital, study)
    except IntegrityFailure:
        return IDENTIFIED
    return study.id_class


def manifest_document(study: Study, instances: Iterable[Instance]) -> dict[str, Any]:
    """What travels with the study: the signed statement and the study manifest whose digest is in it."""
    return {**study.deid_manifest, "study_manifest": study_manifest(study.study_instance_uid, instances)}


@dataclass(frozen=True)
class ManifestFacts:
    """What the hospital's pages show of a manifest. `is_standing`: signature, study and instances agree."""

    is_standing: bool
    key_id: str = ""
    profile: str = ""
    table_edition: str = ""
    law_class: str = IDENTIFIED
    made_at: str = ""
    instances: int = 0
    left_out: int = 0
    held: tuple[tuple[str, int], ...] = ()
    actions: tuple[tuple[str, int], ...] = ()
    flags: tuple[str, ...] = ()
    digest: str = ""
    options: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    study_manifest: str = ""


def manifest_facts(hospital: Hospital, study: Study) -> ManifestFacts:
    """The manifest of a study for a page; `is_standing` False where it does not hold, and then nothing of it is repeated."""
    try:
        statement = standing_statement(hospital, study)
    except IntegrityFailure:
        return ManifestFacts(is_standing=False)
    return ManifestFacts(
        is_standing=True,
        key_id=str(study.deid_manifest["signature"]["key_id"]),
        profile=statement["profile"]["name"],
        table_edition=f"{statement['table']['name']}, {statement['table']['edition']}",
        law_class=statement["law_class"],
        made_at=statement["made_at"],
        instances=statement["instances"],
        left_out=statement["left_out"],
        held=tuple(statement["held"].items()),
        actions=tuple(statement["actions"].items()),
        flags=tuple(statement["flags"]),
        digest=str(study.deid_manifest["digest"]),
        options=tuple(statement["profile"]["options"]),
        checks=tuple(statement["checks"]),
        study_manifest=statement["study_manifest"],
    )


def manifest_words(hospital: Hospital, study: Study) -> str:
    """One line beside the images: under what they were de-identified, and by which statement."""
    facts = manifest_facts(hospital, study)
    if not facts.is_standing:
        return "De-identification not verified"
    start = facts.digest.removeprefix("sha256:")[:12]
    return f"{facts.law_class.capitalize()} under {facts.profile}, {facts.table_edition}; statement {start}, signature verified"


def held_back_words(study: Study) -> str:
    """What a reader and the hospital are told beside the study; "" where everything went on."""
    said = []
    if study.held_instances:
        said.append(f"{_images(study.held_instances)} held back by the hospital's edge")
    if study.left_out_instances:
        said.append(f"{_images(study.left_out_instances)} left out by the hospital")
    return "; ".join(said)


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"

"""Who confirmed the law: signatures of a privacy officer and of counsel over exactly the rules they read.

- A confirmation names every rule and set of the bundle by digest (so that none can be taken away or narrowed afterwards) and,
  among the rules, the ones confirmed. A rule is confirmed when both roles, two different people with two different keys, signed it.
- A bundle that lacks something a signer saw is refused. One that holds more is taken: what was added is DRAFT, and a DRAFT never grants.
- Whose keys count is the deployment's to say (`trusted_keys`); without that, the keys in the file are taken as they are, which is right
  for a demonstration and for nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from compliance.facts_schema import instant_text
from crypto.canonical import canonical_json, digest
from crypto.ed25519 import ed25519_public_pem, ed25519_sign, ed25519_verify
from crypto.errors import BadInput

ROLES = ("PRIVACY_OFFICER", "COUNSEL")
FORMAT = "readgate-law-confirmation-1"


@dataclass(frozen=True)
class LawManifest:
    """What a bundle consists of: its name and version, and the digest of every rule and of everything else in it."""

    bundle: str
    version: int
    rules: Mapping[str, str]
    parts: Mapping[str, str]

    def record(self) -> dict[str, Any]:
        """The JSON form; its digest is the bundle's."""
        return {"bundle": self.bundle, "version": self.version, "rules": dict(self.rules), "parts": dict(self.parts)}

    @property
    def digest(self) -> str:
        """'sha256:...' of the canonical form: independent of files and of order."""
        return digest(self.record())


@dataclass(frozen=True)
class Confirmations:
    """A confirmation set whose signatures were verified. `confirmed` maps rule id to the digest both roles signed."""

    set_id: str
    digest: str
    confirmed: Mapping[str, str]
    signers: tuple[tuple[str, str], ...]
    manifest: LawManifest


def sign_manifest(
    manifest: LawManifest, set_id: str, without: frozenset[str], role: str, name: str, at: datetime, private_pem: bytes
) -> dict[str, Any]:
    """One role's signature, as an element of `signatures`: over the manifest, the rules left out, the role, the name and the time.

    Raises:
        BadInput: an unknown role, a rule left out that is not there, or no usable key.
    """
    if role not in ROLES:
        raise BadInput(f"the role is one of {', '.join(ROLES)}")
    unknown = sorted(without - set(manifest.rules))
    if unknown:
        raise BadInput(f"there is no rule {', '.join(unknown)} to leave out")
    signed = {"role": role, "name": name, "confirmed_at": instant_text(at), "public_key": ed25519_public_pem(private_pem)}
    message = _message(set_id, manifest.record(), sorted(without), signed)
    return {**signed, "signature": base64.b64encode(ed25519_sign(private_pem, message)).decode("ascii")}


def confirmation_document(manifest: LawManifest, set_id: str, without: frozenset[str], signatures: list[dict[str, Any]]) -> dict[str, Any]:
    """The file that holds `signatures`."""
    return {
        "format": FORMAT,
        "set": set_id,
        "manifest": manifest.record(),
        "unconfirmed": sorted(without),
        "signatures": sorted(signatures, key=lambda row: str(row["role"])),
    }


def read_confirmations(path: Path) -> dict[str, Any]:
    """The document in `path`, unverified.

    Raises:
        BadInput: unreadable, or not a confirmation document.
    """
    try:
        document = json.loads(path.read_bytes())
    except OSError:
        raise BadInput(f"{path}: cannot be read") from None
    except (ValueError, RecursionError):
        raise BadInput(f"{path}: is not JSON") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BadInput(f"{path}: is not a law confirmation ({FORMAT})")
    return document


def verify_confirmations(path: Path, manifest: LawManifest, trusted_keys: Mapping[str, str] | None = None) -> Confirmations:
    """The confirmations in `path`, verified against `manifest`.

    0. The document is whole. 1. Each role signed once, two people, two keys, keys that are trusted. 2. Each signature is over
    what the document says. 3. What was signed is in the bundle: same name, a version not older, every rule and part unchanged.

    Raises:
        BadInput: any of these fails; the message names the file, the rule or role, and the reason.
    """
    document = read_confirmations(path)
    # 0.
    try:
        said = document["manifest"]
        signed = LawManifest(str(said["bundle"]), int(said["version"]), dict(said["rules"]), dict(said["parts"]))
        without = frozenset(document["unconfirmed"])
        set_id = str(document["set"])
        by_role = {str(row["role"]): dict(row) for row in document["signatures"]}
        rows = len(document["signatures"])
    except (KeyError, TypeError, ValueError):
        raise BadInput(f"{path}: the confirmation document is incomplete") from None
    # 1. and 2.
    if set(by_role) != set(ROLES) or rows != len(ROLES):
        raise BadInput(f"{path}: unsigned: a bundle is confirmed by {' and '.join(ROLES)}, once each")
    if any(len({row.get(attribute) for row in by_role.values()}) != len(ROLES) for attribute in ("public_key", "name")):
        raise BadInput(f"{path}: both roles are held by one person or one key")
    for role, row in by_role.items():
        _verify_signature(path, set_id, signed, sorted(without), role, row, trusted_keys)
    # 3.
    if signed.bundle != manifest.bundle:
        raise BadInput(f"{path}: confirms the bundle {signed.bundle}, not {manifest.bundle}")
    if manifest.version < signed.version:
        raise BadInput(f"{path}: rolled back: version {signed.version} was confirmed and the packs are version {manifest.version}")
    for kind, then, now in (("rule", signed.rules, manifest.rules), ("part", signed.parts, manifest.parts)):
        for name in sorted(then):
            if now.get(name) != then[name]:
                how = "is missing from" if name not in now else "differs in"
                raise BadInput(f"{path}: unsigned: the {kind} {name} {how} the packs since it was confirmed; confirm the bundle anew")
    confirmed = {rule_id: rule_digest for rule_id, rule_digest in signed.rules.items() if rule_id not in without}
    signers = tuple((role, str(by_role[role]["name"])) for role in ROLES)
    return Confirmations(set_id, digest(document), confirmed, signers, signed)


def _verify_signature(
    path: Path,
    set_id: str,
    manifest: LawManifest,
    without: list[str],
    role: str,
    row: dict[str, Any],
    trusted_keys: Mapping[str, str] | None,
) -> None:
    try:
        signature = base64.b64decode(row.pop("signature"), validate=True)
        message = _message(set_id, manifest.record(), without, row)
        public_pem = str(row["public_key"])
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise BadInput(f"{path}: the signature of {role} is incomplete") from None
    if trusted_keys is not None and trusted_keys.get(role, "").strip() != public_pem.strip():
        raise BadInput(f"{path}: the key of {role} is not the one this deployment trusts")
    if not ed25519_verify(public_pem, message, signature):
        raise BadInput(f"{path}: the signature of {role} does not verify")


def _message(set_id: str, manifest: dict[str, Any], without: list[str], signed: Mapping[str, Any]) -> bytes:
    return canonical_json({"format": FORMAT, "set": set_id, "manifest": manifest, "unconfirmed": without, "signer": dict(signed)})

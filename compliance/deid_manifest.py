"""What the edge states about a de-identified study: one signed document per study that travels with it and that decisions read.

Invariants
- It names pseudonyms, profile, table edition, counts and digests; nothing in it names a patient.
- The signature is over the canonical JSON (RFC 8785) of the statement alone, so that any verifier reproduces the bytes.
- One entry per instance; an instance that is not in it was not de-identified with it.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from compliance.deid_profile import DeidProfile
from compliance.identified import DeidentifiedDataset
from compliance.profile_table import load_table
from crypto.canonical import canonical_json, digest
from crypto.errors import IntegrityFailure

FORMAT = "readgate-deidentification-manifest/1"
#: What the result is in law: pseudonymised, because the hospital keeps the way back (GDPR Art. 4(5)); never anonymous.
LAW_CLASS = "PSEUDONYMISED"

#: Signs canonical bytes under the edge's key; verifies the same.
Signer = Callable[[bytes], bytes]
Verifier = Callable[[bytes, bytes], bool]


def study_manifest(
    instances: Iterable[DeidentifiedDataset],
    *,
    hospital_id: str,
    profile: DeidProfile,
    held: Mapping[str, int] | None = None,
    made_at: dt.datetime,
) -> dict[str, Any]:
    """The statement about the instances of one study, to be signed.

    `held` counts instances that were not passed, by reason code. `made_at` is aware UTC. Raises ValueError for instances of two studies.
    """
    listed = sorted(instances, key=lambda one: one.sop_instance_uid)
    studies = {one.study_instance_uid for one in listed}
    if len(studies) != 1:
        raise ValueError("a manifest is about one study")
    counts: Counter[str] = Counter()
    flags: set[str] = set()
    for one in listed:
        counts.update(one.action_counts)
        flags.update(one.flags)
    table = load_table()
    return {
        "format": FORMAT,
        "hospital_id": hospital_id,
        "study_instance_uid": studies.pop(),
        "made_at": made_at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "law_class": LAW_CLASS,
        "profile": {
            "name": profile.name,
            "options": sorted(option.value for option in profile.options),
            "codes": [code for code, _ in profile.method_codes()],
            "longitudinal_temporal_information": profile.longitudinal_information(),
        },
        "table": {"name": "PS3.15 Table E.1-1", "edition": table.edition, "rows": len(table.rows)},
        "checks": ["PARSED", "TABLE_HELD", "UIDS_PSEUDONYMOUS", "NO_RESIDUAL_IDENTITY", "PIXELS_DECODED_AND_COMPARED"],
        "flags": sorted(flags),
        "actions": {action: counts[action] for action in sorted(counts)},
        "held": dict(sorted((held or {}).items())),
        "instances": [
            {
                "sop_instance_uid": one.sop_instance_uid,
                "sop_class_uid": one.sop_class_uid,
                "series_instance_uid": one.series_instance_uid,
                "transfer_syntax_uid": one.transfer_syntax_uid,
                "frames": len(one.frame_table),
                "payload_digest": one.payload_digest,
                "pixel_digest": one.pixel_digest,
            }
            for one in listed
        ],
    }


def sign_manifest(statement: Mapping[str, Any], sign: Signer, key_id: str) -> dict[str, Any]:
    """The statement with its digest and the edge's signature over its canonical bytes."""
    body = dict(statement)
    return {
        "statement": body,
        "digest": digest(body),
        "signature": {"key_id": key_id, "value": sign(canonical_json(body)).hex()},
    }


def verify_manifest(document: Mapping[str, Any], verify: Verifier) -> dict[str, Any]:
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

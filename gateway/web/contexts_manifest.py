"""What the page about a study's de-identification is given."""

from __future__ import annotations

from dataclasses import dataclass

from compliance.deid_manifest import ManifestFacts
from gateway.web.contexts import Shell


@dataclass(frozen=True)
class InstanceDigest:
    sop_instance_uid: str
    payload: str
    pixels: str


@dataclass(frozen=True)
class DeidManifestPage:
    """deid_manifest.html.j2; GET /studies/{study_key}/deidentification and /privacy/studies/{study}/deidentification.

    Made to be printed; `?format=json` gives the signed document itself. Where `facts.is_standing` is False nothing of it is repeated.
    """

    shell: Shell
    pseudonym: str
    study_instance_uid: str
    json_href: str
    facts: ManifestFacts
    actions: tuple[tuple[str, int], ...]
    flags: tuple[tuple[str, str], ...]
    held: tuple[tuple[str, str, int], ...]
    instances: tuple[InstanceDigest, ...]
    instance_count: int

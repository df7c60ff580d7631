"""Sample contexts of the page about a study's de-identification."""

from __future__ import annotations

from compliance.deid_manifest import ManifestFacts
from gateway.web.contexts_manifest import DeidManifestPage, InstanceDigest
from tests.page_samples import DIGEST, shell


def standing() -> DeidManifestPage:
    return DeidManifestPage(
        shell=shell("De-identification", "hospital_staff", current="/studies"),
        pseudonym="RG-7KQ2-0001",
        study_instance_uid="2.25.339105338721634287236827346283764",
        json_href="/studies/4/deidentification?format=json",
        facts=ManifestFacts(
            is_standing=True,
            key_id="9f3ac18e2d77aa01",
            profile="teleread",
            table_edition="PS3.15 Table E.1-1, 2026c",
            law_class="PSEUDONYMISED",
            made_at="2026-11-22T10:04:00Z",
            instances=174,
            left_out=1,
            digest=DIGEST,
            options=("Clean Descriptors", "Clean Pixel Data", "Retain Modified Dates"),
            checks=("PARSED", "TABLE_HELD", "NO_RESIDUAL_IDENTITY"),
            study_manifest=DIGEST,
        ),
        actions=(("C: cleaned", 522), ("K: kept", 18_231), ("X: removed", 4_003)),
        flags=(("RECOGNIZABLE_VISUAL_FEATURES", "A head in slices: a face could be reconstructed from it. It was not removed."),),
        held=(("BURNED_IN_TEXT", "The images may show who the patient is: text in the pixels could not be read with certainty", 2),),
        instances=tuple(InstanceDigest(f"2.25.33910533872163428723682734628{number}", DIGEST, DIGEST) for number in range(3)),
        instance_count=174,
    )


def broken() -> DeidManifestPage:
    return DeidManifestPage(
        shell=shell("De-identification", "privacy_officer", current="/privacy/decisions"),
        pseudonym="RG-7KQ2-0001",
        study_instance_uid="2.25.339105338721634287236827346283764",
        json_href="/privacy/studies/2.25.1/deidentification?format=json",
        facts=ManifestFacts(is_standing=False),
        actions=(),
        flags=(),
        held=(),
        instances=(),
        instance_count=174,
    )

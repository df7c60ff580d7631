"""What every instance needs and none changes is loaded before the first one comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import sys
from compliance import device_masks, identity_terms, profile_table, strangers
from compliance.deidentify import deidentify
from compliance.identified import IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityTerms
from compliance.invented_instance import prepare
from compliance.screened_dataset import screening_dataset
from compliance.transcode import HTJ2K_LOSSLESS
from tests.builders import make_ct_study, payload_of
(one,) = make_ct_study(1, 16, 16)
source = IdentifiedDataset(payload_of(one), "1.2.840.10008.1.2.1", str(one.SOPClassUID), str(one.SOPInstanceUID))
class Clean:
    outcome, reason, risk = "CLEAN", "", "CT"
    def __init__(self, dataset): self.dataset = dataset
def screen(dataset, words):
    device_masks.pixel_risk(dataset, device_masks.matching_masks(dataset, device_masks.known_masks()))
    return Clean(dataset)
PREPARE
tables = [profile_table.load_table, device_masks.known_masks, device_masks.risk_tags, identity_terms._kinds_by_tag, strangers._list]
misses, modules = [table.cache_info().misses for table in tables], set(sys.modules)
under = Pseudonymity("h1", b"s" * 32, "RG-1", -7, "A1", IdentityTerms.from_instance(source))
assert deidentify(source, under, screen=screen).transfer_syntax_uid == HTJ2K_LOSSLESS
print("tables", sum(table.cache_info().misses - was for table, was in zip(tables, misses)))
print("codecs", sum("imagecodecs" in name or "encodings" in name for name in set(sys.modules) - modules))
"""


@pytest.mark.parametrize("is_prepared", [True, False])
def test_the_first_instance_loads_no_table_list_or_codec_that_could_be_there(is_prepared: bool) -> None:
    program = _PROGRAM.replace("PREPARE", "prepare()" if is_prepared else "")
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    loaded = {name: int(count) for name, count in (line.split() for line in done.stdout.splitlines())}
    assert (loaded == {"tables": 0, "codecs": 0}) == is_prepared
    # Else the test would see nothing.
    assert is_prepared or min(loaded.values()) > 0

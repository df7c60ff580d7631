"""What swells, nests or hurts in a confined child: refused by name in bounded memory, and the child goes on."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate

from compliance.deid_child import ChildLimits, DeidChild
from compliance.deid_profile import TELEREAD, DeidProfile, Option
from compliance.identified import IdentifiedDataset
from compliance.identity_terms import IdentityTerms
from crypto.errors import RefusedContent
from tests.builders import make_ct_study
from tests.deid_children import MASKS, asked
from tests.deid_samples import EXPLICIT, bare_instance, instance_of, names_for

MEMORY_BYTES_MAX = 512 << 20
J2K, RLE, DEFLATED = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99"


@pytest.fixture(scope="module")
def child() -> Iterator[DeidChild]:
    with DeidChild(ChildLimits(seconds_per_instance=120)) as running:
        yield running


def peak_bytes(pid: int | None) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def sized(
    rows: int, columns: int, syntax: str, pixels: bytes, *, frames: int = 1, sop_class: str = "1.2.840.10008.5.1.4.1.1.2"
) -> IdentifiedDataset:
    dataset = bare_instance()
    dataset.SOPClassUID, dataset.ImageType = sop_class, ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    if frames > 1:
        dataset.NumberOfFrames = frames
    dataset.add_new("PixelData", "OB" if syntax != EXPLICIT else "OW", pixels)
    if syntax != EXPLICIT:
        dataset["PixelData"].is_undefined_length = True
    source = instance_of(dataset)
    return IdentifiedDataset(source.payload, syntax, source.sop_class_uid, source.sop_instance_uid)


def huge_tiles() -> IdentifiedDataset:
    """A code stream of a small picture whose header was made to say 60000 x 60000 in one tile."""
    stream = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64), np.uint16), codecformat="j2k"))
    at = stream.index(b"\xff\x51") + 6
    stream[at : at + 32] = struct.pack(">8I", 60000, 60000, 0, 0, 60000, 60000, 0, 0)
    return sized(60000, 60000, J2K, encapsulate([bytes(stream)]))


def runs(frames: int, sop_class: str) -> IdentifiedDataset:
    """RLE frames of 512 x 512 x 16 bits, all one run after another: 60 times as large when decoded."""
    plane = b"\x81\x00" * (512 * 512 // 128)
    frame = struct.pack("<16I", 2, 64, 64 + len(plane), *[0] * 13) + plane * 2
    return sized(512, 512, RLE, encapsulate([frame] * frames), frames=frames, sop_class=sop_class)


def deflated() -> IdentifiedDataset:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(1000)), packer.flush()])
    return IdentifiedDataset(packed, DEFLATED, "1.2.840.10008.5.1.4.1.1.2", "1.2.3")


def nested() -> IdentifiedDataset:
    base = instance_of(bare_instance())
    deep = b"".join(struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) for _ in range(10_000))
    return replace(base, payload=base.payload + deep)


SECONDARY = "1.2.840.10008.5.1.4.1.1.7.3"
BOMBS: dict[str, Callable[[], IdentifiedDataset]] = {
    "60000 x 60000 of nothing": lambda: sized(60000, 60000, EXPLICIT, b"\0\0"),
    "60000 x 60000, an empty frame": lambda: sized(60000, 60000, J2K, encapsulate([b"\xff\x4f\xff\xd9"])),
    "one tile of 60000 x 60000": huge_tiles,
    "4000 frames of one run": lambda: runs(4000, "1.2.840.10008.5.1.4.1.1.2.1"),
    "400 frames of one run, to be read": lambda: runs(400, SECONDARY),
    "1000 to 1 deflated": deflated,
    "10000 sequences deep": nested,
    "2 billion frames": lambda: sized(1, 1, EXPLICIT, b"\0\0", frames=2_000_000_000),
}
#: What decodes to far more than it is, but is legal: it may pass, in bounded memory.
LEGAL = {"4000 frames of one run", "400 frames of one run, to be read"}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_in_bounded_memory_and_the_child_goes_on(kind: str, child: DeidChild) -> None:
    before = peak_bytes(os.getpid())
    try:
        made = child.deidentify(BOMBS[kind](), names_for(IdentityTerms()), masks=MASKS, reviewed=None)
        assert kind in LEGAL and made.payload_bytes < 64 << 20
    except RefusedContent as refused:
        assert kind not in LEGAL or refused.reason_code in ("BURNED_IN_TEXT", "WORKER_LIMIT", "WORKER_LATE"), refused.reason_code
        assert refused.reason_code != "WORKER_DIED"
    assert peak_bytes(child.pid) < MEMORY_BYTES_MAX and peak_bytes(os.getpid()) - before < 128 << 20
    assert asked(child, instance_of(make_ct_study(1)[0])).sop_instance_uid


HOSTILE = [
    "\x00", "\x1b$B", "\\" * 60, "^" * 64, "=" * 3, "%n%s%x", "../../etc/passwd", "${jndi:ldap://x}", "' OR 1=1--", "<script>", "{{7*7}}",
    "A" * 64, "\u202e", "\ufeff", "\U0001f600" * 16, "a\u0301" * 32, "\ud7ff", "0" * 64, "-" * 64, "(" * 64, "[" * 64, "a" * 30 + "!" * 30,
    ("x " * 32).strip(), "Mr " * 21, "Dr. " * 16, ", " * 32, "1-1-1-" * 10, "1.1.1." * 10,
]  # fmt: skip
TEXTS = ["ImageComments", "StudyDescription", "SeriesDescription", "PatientComments", "AdditionalPatientHistory", "ReasonForStudy",
         "DerivationDescription", "ProtocolName", "StationName", "InstitutionName", "PatientName", "ReferringPhysicianName",
         "RequestingService", "AdmittingDiagnosesDescription", "ContrastBolusAgent", "AcquisitionComments"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_500_hostile_strings_in_every_text_element_end_by_name(child: DeidChild) -> None:
    rng = np.random.default_rng(5)
    strings = HOSTILE + [bytes(rng.integers(1, 255, 60, np.uint8)).decode("latin-1") for _ in range(500 - len(HOSTILE))]
    assert len(strings) == 500
    profile = DeidProfile("texts", TELEREAD.options - {Option.CLEAN_PIXEL_DATA})
    under = names_for(IdentityTerms(patient_names=frozenset({"Zorvathine^Quillan"})), profile)
    ended: dict[str, int] = {}
    for text in strings:
        dataset = Dataset()
        dataset.update(bare_instance())
        dataset.SpecificCharacterSet = "ISO_IR 192"
        for keyword in TEXTS:
            setattr(dataset, keyword, text.replace("\ud7ff", "x")[:64])
        try:
            child.deidentify(instance_of(dataset), under, masks=MASKS, reviewed=None)
            ended["passed"] = ended.get("passed", 0) + 1
        except RefusedContent as refused:
            ended[refused.reason_code] = ended.get(refused.reason_code, 0) + 1
    assert sum(ended.values()) == 500 and not {"WORKER_DIED", "WORKER_LATE", "WORKER_LIMIT"} & set(ended), ended

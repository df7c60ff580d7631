"""De-identification in a process that may die: the same bytes, no key in it, no network, and a death or a bomb that harms nothing else."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate

from compliance import child_wire
from compliance.deid_child import ChildLimits, DeidChild, DeidChildren
from compliance.deid_profile import TELEREAD, DeidProfile, Option
from compliance.deid_serve import identity_json, identity_of_json
from compliance.deidentify import deidentify
from compliance.device_masks import known_masks
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityTerms, collect_identity
from compliance.quarantine import QuarantineItem
from compliance.study import require_study
from crypto.errors import RefusedContent
from gateway.processing import archive_originals, deidentify_study
from tests.builders import make_ct_study
from tests.canary import canary_study
from tests.deid_samples import EXPLICIT, SECRET, bare_instance, clean_screen, instance_of, names_for
from tests.gateway_site import gateway_site
from tests.test_partial_hold import items, study_of

MEMORY_BYTES_MAX = 512 << 20
CT = "1.2.840.10008.5.1.4.1.1.2"
J2K, RLE, DEFLATED = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99"
MASKS = known_masks()


@pytest.fixture(scope="module")
def child() -> Iterator[DeidChild]:
    with DeidChild(ChildLimits(seconds_per_instance=120)) as running:
        yield running


def asked(child: DeidChild, source: IdentifiedDataset, under: Pseudonymity | None = None) -> DeidentifiedDataset:
    return child.deidentify(source, under or names_for(collect_identity([source])), masks=MASKS, reviewed=None)


def peak_bytes(pid: int | None) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def test_a_child_makes_what_the_parent_would_have_made(child: DeidChild) -> None:
    datasets, _ = canary_study()
    sources = [instance_of(one) for one in [*make_ct_study(2), *datasets] if "PixelData" not in one or one.Modality == "CT"]
    assert len(sources) > 2
    for source in sources:
        under = names_for(collect_identity([source]))
        made, here = asked(child, source, under), deidentify(source, replace(under), screen=clean_screen)
        assert (made.payload, made.dicom_json, made.frame_table) == (here.payload, here.dicom_json, here.frame_table)
        assert (made.attributes, made.action_counts, made.flags) == (here.attributes, here.action_counts, here.flags)
        assert (made.pixel_digest, made.payload_digest) == (here.pixel_digest, here.payload_digest)


def test_identity_goes_to_the_child_and_comes_back_the_same() -> None:
    identity = collect_identity([instance_of(one) for one in canary_study()[0]])
    assert identity_of_json(identity_json(identity)) == identity and identity.dates


def test_no_key_is_told_to_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bytes] = []
    send = child_wire.send

    def listen(descriptor: int, words: dict[str, Any], payload: bytes = b"", deadline: float | None = None) -> None:
        told.append(repr(words).encode() + payload)
        send(descriptor, words, payload, deadline)

    monkeypatch.setattr(child_wire, "send", listen)
    with DeidChild() as fresh:
        asked(fresh, instance_of(make_ct_study(1)[0]))
    everything = b"".join(told)
    assert b"RG-PSEUDONYM" in everything and b"2.25." in everything
    assert SECRET not in everything and SECRET.hex().encode() not in everything


CONFINED = """
import os, resource, socket, sys
from compliance.confinement import confine
if confine(2 << 30):
    for address in (("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 9)):
        try:
            socket.create_connection(address, 2)
        except OSError:
            continue
        sys.exit("the network is there")
try:
    open(sys.argv[2], "wb").write(b"x" * 8192)
except OSError:
    pass
else:
    if os.path.getsize(sys.argv[2]):
        sys.exit("a file was written")
try:
    bytearray(4 << 30)
except MemoryError:
    pass
else:
    sys.exit("memory without end")
if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):
    sys.exit("a core could be written")
try:
    descriptors = [os.dup(0) for _ in range(100)]
except OSError:
    sys.exit(0)
sys.exit("descriptors without end")
"""


def test_a_confined_process_has_no_network_no_file_no_core_and_little_memory(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        # The signal of RLIMIT_FSIZE would end it where writing is what is asked about.
        run = subprocess.run(
            [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + CONFINED, port, str(tmp_path / "x")],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (run.returncode, run.stderr.strip()) == (0, "")


class MortalChild(DeidChild):
    """Dies of the instances of these UIDs, as often as it is said."""

    def __init__(self, deadly: set[str], deaths: int) -> None:
        super().__init__()
        self.deadly, self.deaths = deadly, deaths

    def _asked(self, source: IdentifiedDataset, *others: Any) -> DeidentifiedDataset:
        if source.sop_instance_uid in self.deadly and self.deaths:
            self.deaths -= 1
            os.kill(self._started().pid, signal.SIGKILL)
        return super()._asked(source, *others)


def test_a_death_is_tried_again_and_the_second_refuses_the_instance_alone() -> None:
    first, second = (instance_of(one) for one in make_ct_study(2))
    under = names_for(collect_identity([first, second]))
    with MortalChild({first.sop_instance_uid}, deaths=1) as once:
        assert asked(once, first, under).sop_instance_uid
    with MortalChild({first.sop_instance_uid}, deaths=9) as always:
        with pytest.raises(RefusedContent, match="WORKER_DIED"):
            asked(always, first, under)
        assert asked(always, second, under).sop_instance_uid


def test_a_late_child_is_replaced() -> None:
    with DeidChild(ChildLimits(seconds_per_instance=0.0001)) as slow, pytest.raises(RefusedContent, match="WORKER_LATE"):
        asked(slow, instance_of(make_ct_study(1)[0]))


def test_the_instance_that_kills_is_held_and_the_study_goes_on(tmp_path: Path) -> None:
    datasets = study_of(4, 71)
    children = DeidChildren(1)
    children._idle.get()
    children._idle.put(MortalChild({datasets[2].SOPInstanceUID}, deaths=9))
    with gateway_site(tmp_path / "data", has_study=False) as site:
        received_pk = site.receive(datasets)
        archive_originals(site.app, received_pk)
        uid = deidentify_study(site.app, received_pk, children)
        children._idle.get().close()
        item: QuarantineItem
        (item,) = items(site)
        assert (item.reason_code, item.instance_count, item.is_partial) == ("WORKER_DIED", 1, True)
        with site.app.database.reading() as session:
            assert require_study(session, uid).instance_count == 3


def test_a_lying_child_makes_no_identity_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    source = instance_of(make_ct_study(1)[0])
    under = names_for(collect_identity([source]))
    receive = child_wire.receive

    def lie(descriptor: int, payload_bytes_max: int, deadline: float | None = None) -> tuple[dict[str, Any], bytes]:
        words, payload = receive(descriptor, payload_bytes_max, deadline)
        return words, source.payload if "made" in words else payload

    monkeypatch.setattr(child_wire, "receive", lie)
    with DeidChild() as liar, pytest.raises(RefusedContent) as refused:
        asked(liar, source, under)
    assert refused.value.reason_code in ("RESIDUAL_IDENTITY", "TABLE_NOT_HELD")


# -- what swells


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

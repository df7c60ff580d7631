"""De-identification in a process that may die: the same bytes, no key in it, no network, and a death or a bomb that harms nothing else."""

from __future__ import annotations

import ast
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate

from compliance import child_wire
from compliance.child_answer import proposed_of, refusal_of
from compliance.dataset_bytes import EXPLICIT_LITTLE, elements, encode_element, encode_items
from compliance.deid_child import ChildLimits, DeidChild, DeidChildren, _made
from compliance.deid_profile import TELEREAD, DeidProfile, Option
from compliance.deid_serve import identity_json, identity_of_json
from compliance.deidentify import deidentify
from compliance.device_masks import known_masks
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityTerms, collect_identity
from compliance.quarantine import QuarantineItem
from compliance.refusal_words import REASONS, known_detail
from compliance.study import require_study
from crypto.canonical import keyed_uid
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
import os, resource, signal, socket, sys
from compliance.confinement import confine
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
inherited = os.dup2(0, 40)
told = confine(2 << 30)
if told.has_no_network:
    for address in (("127.0.0.1", int(sys.argv[1])), ("192.0.2.1", 9)):
        try:
            socket.create_connection(address, 2)
        except OSError:
            continue
        sys.exit("the network is there")
def opens(path, mode="rb"):
    try:
        with open(path, mode) as file:
            return file.read() if mode == "rb" else file.write("x" * 8192)
    except OSError:
        return None
if opens(sys.argv[2], "w") and os.path.getsize(sys.argv[2]):
    sys.exit("a file was written")
if told.has_no_files and (opens(sys.argv[3]) or opens("/etc/passwd") or opens(f"/proc/{os.getppid()}/environ")):
    sys.exit("a file was read")
if told.has_no_files and os.path.exists(sys.argv[2]):
    sys.exit("a file was made")
if told.has_no_processes:
    try:
        os.fork() or os._exit(0)
    except OSError:
        pass
    else:
        sys.exit("a process was made")
import json.tool  # what is loaded later is found
try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
except (OSError, ValueError):
    pass
else:
    sys.exit("a limit was lifted")
try:
    os.fstat(inherited)
except OSError:
    pass
else:
    sys.exit("a descriptor was kept")
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
    pass
else:
    sys.exit("descriptors without end")
if told.has_no_files and sys.platform == "linux" and sys.argv[4] == "new":
    try:
        os.kill(os.getppid(), 0)
    except OSError:
        pass
    else:
        sys.exit("others hear its signals")
"""


def has_landlock() -> int:
    """The version of Landlock that this kernel has, 0 where it has none."""
    return max(0, ctypes.CDLL(None).syscall(444, None, 0, 1))


def test_a_confined_process_has_no_network_no_file_no_core_and_little_memory(tmp_path: Path) -> None:
    key = tmp_path / "uid_h1.key"
    key.write_bytes(b"a secret of the hospital")
    with socket.create_server(("127.0.0.1", 0)) as server:
        age = "new" if has_landlock() >= 6 else "old"
        run = subprocess.run(
            [sys.executable, "-c", CONFINED, str(server.getsockname()[1]), str(tmp_path / "x"), str(key), age],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (run.returncode, run.stderr.strip()) == (0, "")


def test_the_child_says_what_holds_of_it_and_stands_nowhere_with_nothing(child: DeidChild) -> None:
    asked(child, instance_of(make_ct_study(1)[0]))
    assert child.confinement.has_no_files == (has_landlock() > 0)
    assert {"memory", "cpu", *(["files"] if has_landlock() else [])} <= set(child.confinement.held().split())
    own = Path(f"/proc/{child.pid}")
    if os.access(own / "environ", os.R_OK) and os.getuid() == 0:
        assert os.readlink(own / "cwd") == "/"
        names = {one.partition(b"=")[0] for one in (own / "environ").read_bytes().split(b"\0") if one}
        assert names <= {b"PYTHONPATH", b"PYTHONSAFEPATH", b"PYTHONDONTWRITEBYTECODE", b"OMP_NUM_THREADS", b"OPENBLAS_NUM_THREADS"}


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

    def lie(*arguments: Any) -> tuple[dict[str, Any], bytes]:
        words, payload = receive(*arguments)
        return words, source.payload if "made" in words else payload

    monkeypatch.setattr(child_wire, "receive", lie)
    with DeidChild() as liar, pytest.raises(RefusedContent) as refused:
        asked(liar, source, under)
    assert refused.value.reason_code in ("RESIDUAL_IDENTITY", "TABLE_NOT_HELD", "WORKER_DIED") and liar.pid is None


# -- what a child that was taken over may say

NAMED = "Zorvathine Quillan PID7788991"


def real_answer() -> tuple[dict[str, Any], bytes, IdentifiedDataset, Pseudonymity]:
    """(facts, payload, source, names) as an honest child would give them."""
    source = instance_of(bare_instance())
    under = names_for(IdentityTerms(patient_names=frozenset({"Zorvathine^Quillan"}), patient_ids=frozenset({"PID7788991"})))
    made = deidentify(source, under, screen=clean_screen)
    return (
        {"transfer_syntax_uid": made.transfer_syntax_uid, "action_counts": dict(made.action_counts), "flags": []},
        made.payload,
        source,
        under,
    )


def test_what_a_child_says_of_its_bytes_is_not_believed() -> None:
    facts, payload, source, under = real_answer()
    honest = _made(facts, payload, source, under)
    lies = {
        "dicom_json": {**honest.dicom_json, "00081030": {"vr": "LO", "Value": [NAMED]}},
        "attributes": {**asdict(honest.attributes), "study_description": NAMED},
        "sop_instance_uid": source.sop_instance_uid,
        "study_instance_uid": "1.2.826.0.1.3680043.2.2.1",
        "series_instance_uid": "1.2.826.0.1.3680043.2.3.1",
        "frame_table": [],
    }
    made = _made({**facts, **lies}, payload, source, under)
    assert (made.dicom_json, made.attributes) == (honest.dicom_json, honest.attributes)
    assert made.study_instance_uid == keyed_uid(SECRET, "1.2.826.0.1.3680043.2.2.1")
    assert made.sop_instance_uid == keyed_uid(SECRET, source.sop_instance_uid)
    assert "Zorvathine" not in repr(vars(made)) and "1.2.826" not in repr(made.dicom_json)


def changed(payload: bytes, tag: int, value: bytes | None) -> bytes:
    """The payload with another value of `tag`, or without it."""
    parts = []
    for element in elements(payload, 0, len(payload), EXPLICIT_LITTLE):
        if element.tag != tag:
            parts.append(payload[element.start : element.stop])
        elif value is not None:
            parts.append(encode_element(tag, element.vr, value))
    return b"".join(parts)


def deep_sequences(depth: int) -> bytes:
    inside = b""
    for _ in range(depth):
        inside = encode_element(0x0040A730, "SQ", encode_items([inside]))
    return inside


BEHIND = encode_element(0x7FE00001, "LO", b"a word of the child's")
FORGED: dict[str, Callable[[bytes], bytes]] = {
    "another instance": lambda payload: changed(payload, 0x00080018, b"2.25.1234567890123456"),
    "another study": lambda payload: changed(payload, 0x0020000D, b"2.25.1234567890123456"),
    "no series": lambda payload: changed(payload, 0x0020000E, None),
    "another class": lambda payload: changed(payload, 0x00080016, b"1.2.840.10008.5.1.4.1.1.4"),
    "another patient": lambda payload: changed(payload, 0x00100010, b"Somebody^Else"),
    "another number": lambda payload: changed(payload, 0x00100020, b"12"),
    "another accession": lambda payload: changed(payload, 0x00080050, b"12"),
    "text in the group of pixels": lambda payload: payload + BEHIND,
    "elements without number": lambda payload: payload + encode_element(0x0040A730, "SQ", encode_items([b""] * 100_000)),
    "half an element": lambda payload: payload + b"\0",
    "400 sequences deep": lambda payload: payload + deep_sequences(400),
}


@pytest.mark.parametrize("kind", FORGED)
def test_bytes_that_are_no_work_on_the_source_are_refused(kind: str) -> None:
    facts, payload, source, under = real_answer()
    with pytest.raises((ValueError, RefusedContent)) as refused:
        _made(facts, FORGED[kind](payload), source, under)
    assert "Zorvathine" not in str(refused.value)


@pytest.mark.parametrize("flags", [[NAMED], NAMED, [["UNUSED_BITS_CLEARED"]]])
def test_flags_and_counts_are_of_closed_lists(flags: Any) -> None:
    facts, payload, source, under = real_answer()
    with pytest.raises((ValueError, TypeError)):
        _made({**facts, "flags": flags}, payload, source, under)
    for counts in ({NAMED: 1}, {"X": NAMED}, {"X": -1}):
        with pytest.raises(ValueError):
            _made({**facts, "action_counts": counts}, payload, source, under)


def answering(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any], payload: bytes = b"") -> None:
    """Every child says this in place of what it made."""
    receive = child_wire.receive

    def lie(*arguments: Any) -> tuple[dict[str, Any], bytes]:
        words, made = receive(*arguments)
        return (answer, payload) if "made" in words else (words, made)

    monkeypatch.setattr(child_wire, "receive", lie)


def test_a_refusal_says_nothing_but_words_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for refused in ([NAMED, "", None], ["DOUBTFUL_TEXT", "", NAMED], ["DOUBTFUL_TEXT", 1, None]):
        with pytest.raises(ValueError):
            refusal_of(refused)
    for box in ([0, 0, 1, 1, NAMED], [0, 0, 1, 1 << 60, "mask"], [0, 0, 1, NAMED, "mask"]):
        with pytest.raises(ValueError):
            proposed_of([box])
    answering(monkeypatch, {"refused": [NAMED, "", None], "proposed": []})
    with DeidChild() as liar, pytest.raises(RefusedContent) as refusal:
        asked(liar, instance_of(make_ct_study(1)[0]))
    assert (refusal.value.reason_code, refusal.value.tag) == ("WORKER_DIED", None) and liar.pid is None


def test_a_detail_that_is_none_of_ours_is_dropped() -> None:
    for said, kept in ((NAMED, ""), ("TEXT_REMAINS", "TEXT_REMAINS"), ("an original day is left", "an original day is left")):
        assert refusal_of(["BURNED_IN_TEXT", said, "(7FE0,0010)"]) == ("BURNED_IN_TEXT", kept, "(7FE0,0010)")


def test_every_refusal_of_the_package_is_known_by_its_words() -> None:
    said: set[str] = set()
    for path in Path(child_wire.__file__).parent.glob("*.py"):
        if path.name in ("deid_child.py", "part10.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("RefusedContent", "_malformed", "_not_held", "_refused")
            ):
                said.update(one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))
    assert len(said) > 80 and not [one for one in said if one not in REASONS and known_detail(one) != one]


@pytest.mark.parametrize("harm", [RecursionError, MemoryError, OverflowError, AssertionError])
def test_whatever_an_answer_does_to_the_parent_it_is_a_death(harm: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    source = instance_of(make_ct_study(1)[0])
    with DeidChild() as child:
        asked(child, source)

        def receive(*_: Any) -> tuple[dict[str, Any], bytes]:
            raise harm

        monkeypatch.setattr(child_wire, "receive", receive)
        with pytest.raises(RefusedContent, match="WORKER_DIED"):
            asked(child, source)
        assert child.pid is None


def test_an_answer_is_no_larger_than_its_question_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    source = instance_of(make_ct_study(1)[0])
    bounds: list[tuple[int, int]] = []
    receive = child_wire.receive

    def listen(descriptor: int, payload_max: int, deadline: float | None, words_max: int) -> tuple[dict[str, Any], bytes]:
        bounds.append((payload_max, words_max))
        return receive(descriptor, payload_max, deadline, words_max)

    monkeypatch.setattr(child_wire, "receive", listen)
    with DeidChild() as child:
        asked(child, source)
    assert bounds and max(words for _, words in bounds) <= 1 << 20
    assert max(size for size, _ in bounds) <= (256 << 20) + 8 * len(source.payload)


@pytest.mark.parametrize(
    "message",
    [struct.pack(">I", 1 << 31), struct.pack(">I", 2) + b"{}" + struct.pack(">Q", 1 << 40), struct.pack(">I", 4) + b"[[]]" + bytes(8)],
    ids=["words", "payload", "no object"],
)
def test_a_message_that_is_too_long_is_none(message: bytes) -> None:
    source, sink = os.pipe()
    os.write(sink, message)
    os.close(sink)
    with pytest.raises(ValueError):
        child_wire.receive(source, 100, None, 1 << 20)
    os.close(source)


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

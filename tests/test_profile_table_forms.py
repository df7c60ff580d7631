"""Table E.1-1 however an element is written: each encoding, each VR the dictionary allows, UN, wrong VRs, repeating groups, cut bytes."""

from __future__ import annotations

import struct
from functools import cache

import pytest
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag

from compliance.deid_profile import BASIC, TELEREAD, DeidProfile, Option
from compliance.deidentify import deidentify
from compliance.identified import IdentifiedDataset
from compliance.identity_terms import IdentityTerms, collect_identity
from compliance.profile_table import effective_action, load_table, resolve
from crypto.errors import RefusedContent
from tests.builders import payload_of
from tests.deid_samples import CT, EXPLICIT, bare_instance, clean_screen, instance_of, names_for, output_of, read_back
from tests.test_profile_table import GIVEN, NESTS, REFUSED, check, full_dataset, tag_of_row, vr_of

IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
#: All options at once; the two for dates exclude each other, and the one for faces holds what has a head in it.
_ALL = frozenset(Option) - {Option.RETAIN_FULL_DATES, Option.CLEAN_VISUAL_FEATURES}
EVERYTHING = DeidProfile("everything", _ALL)
EVERYTHING_FULL_DATES = DeidProfile("everything, full dates", _ALL - {Option.RETAIN_MODIFIED_DATES} | {Option.RETAIN_FULL_DATES})
PROFILES = {profile.name: profile for profile in (BASIC, TELEREAD, EVERYTHING, EVERYTHING_FULL_DATES)}
VRS = "AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SS ST SV TM UC UI UL UN UR US UT UV".split()
_LONG = frozenset("OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


def header(tag: int, vr: str, length: int) -> bytes:
    """An explicit VR element's header (PS3.5 7.1.2)."""
    start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return start + (struct.pack("<HI", 0, length) if vr in _LONG else struct.pack("<H", length))


def implicit_value(element: DataElement) -> bytes:
    one = Dataset()
    one[element.tag] = element
    return payload_of_plain(one)[8:]


def payload_of_plain(dataset: Dataset) -> bytes:
    return payload_of(dataset, IMPLICIT)


def as_unknown(dataset: Dataset) -> bytes:
    """Explicit VR with each element as UN; the items of sequences in implicit VR, as PS3.5 6.2.2 has it."""
    return b"".join(header(int(one.tag), "UN", len(value := implicit_value(one))) + value for one in dataset)


@cache
def written(form: str, profile: str, nest: tuple[int, ...]) -> Dataset:
    dataset = full_dataset(nest)
    syntax = {"implicit": IMPLICIT, "big endian": BIG_ENDIAN}.get(form, EXPLICIT)
    payload = as_unknown(dataset) if form == "UN" else payload_of(dataset, syntax)
    source = IdentifiedDataset(payload, syntax, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
    made = deidentify(source, names_for(collect_identity([source]), PROFILES[profile]), screen=clean_screen)
    output = read_back(made)
    for tag in nest:
        output = output[Tag(tag)].value[0]
    return output


@pytest.mark.parametrize("form", ["explicit", "implicit", "big endian", "UN"])
@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("nest", NESTS, ids=["top", "nested once", "nested three times"])
def test_every_row_in_every_encoding(form: str, profile: str, nest: tuple[int, ...]) -> None:
    output = written(form, profile, nest)
    wrong = []
    for row in load_table().rows:
        tag = tag_of_row(row)
        if tag in REFUSED or (not nest and tag in GIVEN):
            continue
        if form == "implicit" and vr_of(tag) == "OB" and tag >> 24 == 0x60:
            continue
        action = resolve(effective_action(row, PROFILES[profile]), tag, CT, nest[-1] if nest else None)
        try:
            check(row, action, tag, output)
        except AssertionError as problem:
            wrong.append(f"{row.pattern} {action}: {problem}")
    assert not wrong, wrong[:5]


# -- what stands for many, and what nobody may send


@pytest.mark.parametrize("group", range(0x5000, 0x5020, 2), ids=hex)
@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize("profile", [BASIC, TELEREAD, EVERYTHING], ids=lambda profile: profile.name)
def test_curves_of_every_group_go(group: int, vr: str, profile: DeidProfile) -> None:
    dataset = bare_instance()
    dataset.add_new(Tag(group, 0x3000), vr, b"Zorvath1")
    dataset.add_new(Tag(group, 0x2500), "LO", "a curve")
    dataset.add_new(Tag(group, 0x0005), "US", 1)
    assert not [element for element in output_of(dataset, profile) if element.tag.group == group]


@pytest.mark.parametrize("group", range(0x6000, 0x6020, 2), ids=hex)
@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_overlays_of_every_group_go_unless_graphics_are_cleaned(group: int, vr: str) -> None:
    dataset = bare_instance()
    for number, kind, value in ((0x3000, vr, b"\x01\x02"), (0x4000, "LT", "knee Zorvathine"), (0x0022, "LO", "knee")):
        dataset.add_new(Tag(group, number), kind, value)
    assert not [element for element in output_of(dataset, BASIC) if element.tag.group == group]
    kept = output_of(dataset, TELEREAD)
    assert Tag(group, 0x3000) in kept and kept[Tag(group, 0x4000)].value == "knee [-]"


#: Command, file, directory and odd low groups; group lengths; what no dictionary has; padding; private elements without a creator.
_NEVER = (
    0x00000010, 0x00010010, 0x00020003, 0x00030010, 0x00040010, 0x00050010, 0x00060010, 0x00070010, 0x00080000, 0x00100000, 0x00280000,
    0x0008FFFE, 0x00123456, 0x4FFE0001, 0x77770010, 0xFFFAFFFA, 0xFFFCFFFC, 0x00091001, 0x00290010, 0x0029FFFE, 0xFFFF0010,
)  # fmt: skip


@pytest.mark.parametrize("nest", NESTS, ids=["top", "nested once", "nested three times"])
@pytest.mark.parametrize("tag", _NEVER, ids=lambda tag: f"{tag:08X}")
def test_commands_group_lengths_unknown_and_orphaned_elements_never_pass(tag: int, nest: tuple[int, ...]) -> None:
    dataset, item = bare_instance(), b""
    item = header(tag, "LO", 10) + b"Qzorphan77"
    for outer in reversed(nest):
        value = struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item
        item = header(outer, "SQ", len(value)) + value
    whole = instance_of(dataset)
    at = nest[0] if nest else tag
    payload = _inserted(whole.payload, at, item)
    source = IdentifiedDataset(payload, EXPLICIT, whole.sop_class_uid, whole.sop_instance_uid)
    try:
        made = deidentify(source, names_for(IdentityTerms()), screen=clean_screen)
    except RefusedContent:
        return
    assert b"Qzorphan77" not in made.payload


def _inserted(payload: bytes, tag: int, element: bytes) -> bytes:
    """`payload` (explicit VR, short headers only before `tag`) with `element` at its place in tag order."""
    pos = 0
    while pos < len(payload):
        group, number, _, length = struct.unpack_from("<HH2sH", payload, pos)
        if group << 16 | number > tag:
            break
        pos += 8 + length
    return payload[:pos] + element + payload[pos:]


def _one_row_per_action_and_vr() -> list[tuple[int, str]]:
    found: dict[tuple[str, str], int] = {}
    for row in load_table().rows:
        tag = tag_of_row(row)
        action = resolve(effective_action(row, TELEREAD), tag, CT)
        if (
            tag not in GIVEN | REFUSED
            and tag >> 16 >= 0x0008
            and tag >> 16 & 1 == 0
            and action in "XZDU"
            and tag not in (0x00100010, 0x00080050)
        ):
            found.setdefault((action, vr_of(tag)), tag)
    return [(tag, action) for (action, _), tag in sorted(found.items())]


@pytest.mark.parametrize(("tag", "action"), _one_row_per_action_and_vr(), ids=lambda one: f"{one:08X}" if isinstance(one, int) else one)
def test_a_wrong_vr_carries_nothing_out(tag: int, action: str) -> None:
    """An element that goes, is emptied or replaced does so under each declared VR, whatever its bytes are."""
    for vr in [*VRS, "??"]:
        raw = b"Qzwrong7" * 2
        base = instance_of(bare_instance())
        payload = _inserted(base.payload, tag, header(tag, vr, len(raw)) + raw)
        source = IdentifiedDataset(payload, EXPLICIT, base.sop_class_uid, base.sop_instance_uid)
        try:
            made = deidentify(source, names_for(IdentityTerms()), screen=clean_screen)
        except RefusedContent:
            continue
        assert b"Qzwrong7" not in made.payload, (vr, action)


def test_a_dataset_cut_at_any_byte_is_refused_or_clean() -> None:
    dataset = bare_instance()
    inner = Dataset()
    inner.PatientName, inner.StudyDate, inner.StudyDescription = "Zorvathine^Quillan", "20200301", "knee Zorvathine"
    dataset.ReferencedStudySequence = Sequence([inner])
    dataset.StudyDescription, dataset.PatientComments = "CT Zorvathine", "seen, Zorvathine"
    base = instance_of(dataset)
    under = names_for(collect_identity([base]))
    passed = 0
    for length in range(len(base.payload)):
        source = IdentifiedDataset(base.payload[:length], EXPLICIT, base.sop_class_uid, base.sop_instance_uid)
        try:
            made = deidentify(source, under, screen=clean_screen)
        except RefusedContent:
            continue
        passed += 1
        assert b"Zorvath" not in made.payload
    # Only a cut between two elements, behind all that an instance needs, leaves a dataset.
    assert passed <= 4


def test_retired_elements_of_the_standard_pass_only_as_numbers_and_codes() -> None:
    dataset = bare_instance()
    # Retired in PS3.6: Image Dimensions US, Recognition Code SH, Data Set Type US, Study Comments is in the table, Other Magnification CS.
    for tag, vr, value in (
        (0x00280005, "US", 2),
        (0x00080001, "UL", 9),
        (0x00100000 | 0x9431, "FL", 1.0),
        (0x00400307, "LT", "Qzretired text"),
    ):
        dataset[Tag(tag)] = DataElement(BaseTag(tag), vr, value)
    assert b"Qzretired" not in released_payload(dataset)


def released_payload(dataset: Dataset) -> bytes:
    source = instance_of(dataset)
    return deidentify(source, names_for(IdentityTerms()), screen=clean_screen).payload

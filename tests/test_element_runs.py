"""What is worked out once for a series must be what it would be worked out anew, whatever repeats and whatever it depends on."""

from __future__ import annotations

import dataclasses
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence

from compliance import element_runs, identity_terms
from compliance.dataset_bytes import EXPLICIT_LITTLE, Element, Encoding, elements, encode_element, encoding_of
from compliance.deid_profile import TELEREAD, DeidProfile, Option
from compliance.deidentify import deidentify
from compliance.element_runs import HeaderValues, Part, RunParser
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityCollector, IdentityTerms, collect_identity
from compliance.private_elements import safe_elements
from compliance.residual_scan import ResidualScan
from compliance.value_rules import ValueRules
from crypto.errors import RefusedContent
from tests.builders import make_ct_study, payload_of
from tests.deid_samples import EXPLICIT, OFFSET, SECRET, bare_instance, clean_screen, instance_of, names_for


def made_of(source: IdentifiedDataset, under: Pseudonymity) -> DeidentifiedDataset | str:
    try:
        return deidentify(source, under, screen=clean_screen, compress=False)
    except RefusedContent as refused:
        return refused.reason_code


def same(one: DeidentifiedDataset | str, other: DeidentifiedDataset | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return (one.payload, one.dicom_json, one.action_counts, one.flags) == (
        other.payload,
        other.dicom_json,
        other.action_counts,
        other.flags,
    )


def flattened(parts: list[Part], buf: bytes) -> list[tuple[int, str, bytes]]:
    found: list[tuple[int, str, bytes]] = []
    for part in parts:
        inside, raw = ([part], buf) if isinstance(part, Element) else (part[0].elements, part[0].raw)
        found += [(one.tag, one.vr, raw[one.start : one.stop]) for one in inside]
    return found


#: Elements by what makes their treatment depend on others: character sets, private creators, VRs by pixel description, order, sequences.
def _variants(dataset: Dataset, choice: random.Random) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SeriesDescription = choice.choice(["Schädel", "Thorax", "Thorax 2"])
    dataset.PixelRepresentation = choice.choice([0, 1])
    dataset.add_new(0x00280106, choice.choice(["US", "SS"]), 1)
    dataset.InstanceNumber = str(choice.randrange(3))
    dataset.AcquisitionDate = choice.choice(["20260314", "20260315"])
    for group, creator in ((0x0019, "GEMS_ACQU_01"), (0x0029, "SOMEBODY'S OWN")):
        if choice.random() < 0.7:
            block = dataset.private_block(group, choice.choice([creator, "ACME"]), create=True)
            for element in choice.sample([0x23, 0x24, 0x27, 0x5A], 2):
                block.add_new(element, "DS", str(choice.randrange(2)))
    if choice.random() < 0.5:
        item = Dataset()
        item.CodeValue, item.CodeMeaning = "1", choice.choice(["Zorvathine", "Head"])
        dataset.ProcedureCodeSequence = Sequence([item])
    for keyword in choice.sample(["Manufacturer", "KVP", "Rows", "StudyTime", "PatientAge", "ImageComments"], 3):
        if keyword in dataset:
            del dataset[keyword]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([EXPLICIT, "1.2.840.10008.1.2"]))
def test_a_study_comes_out_as_its_instances_would_one_by_one(seed: int, syntax: str) -> None:
    choice = random.Random(seed)
    sources = []
    for number, dataset in enumerate(make_ct_study(5, 4, 4)):
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.2.1.{number}"
        _variants(dataset, choice)
        payload = payload_of(dataset, syntax)
        # The same bytes mean other letters, or none, under another character set.
        payload = payload.replace(b"ISO_IR 100", choice.choice([b"ISO_IR 100", b"ISO_IR 144", b"ISO_IR 192"]), 1)
        if choice.random() < 0.2:
            found = elements(payload, 0, len(payload), encoding_of(syntax))
            one, two = sorted(choice.sample(range(len(found) - 1), 2))
            order = [*found[:one], found[two], *found[one:two], *found[two + 1 :]]
            payload = b"".join(payload[each.start : each.stop] for each in order)
        sources.append(IdentifiedDataset(payload, syntax, dataset.SOPClassUID, dataset.SOPInstanceUID))
    identity = collect_identity(sources)
    apart = IdentityTerms()
    for source in sources:
        apart = apart.merge(IdentityTerms.from_instance(source))
    assert identity == apart
    alone = [made_of(source, names_for(identity)) for source in sources]
    together = names_for(identity)
    for _ in range(3):
        for source, expected in zip(sources, alone, strict=True):
            assert same(made_of(source, together), expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2)), max_size=12), max_size=8))
def test_parts_are_the_elements_whatever_came_before(datasets: list[list[tuple[int, int]]]) -> None:
    parser = RunParser(EXPLICIT_LITTLE, alone=(0x00080007, 0x00080020))
    for pairs in datasets:
        buf = b"".join(
            b"\x08\0" + number.to_bytes(2, "little") + b"LO" + (2 * length).to_bytes(2, "little") + b"ab" * length
            for number, length in pairs
        )
        parts = parser.parts(buf)
        assert flattened(parts, buf) == [
            (one.tag, one.vr, buf[one.start : one.stop]) for one in elements(buf, 0, len(buf), EXPLICIT_LITTLE)
        ]
        for part in parts:
            if not isinstance(part, Element):
                tags = [one.tag for one in part[0].elements]
                assert tags == sorted(set(tags)) and not {0x00080007, 0x00080020} & set(tags)
                assert len({(tag > 0x00080007, tag > 0x00080020) for tag in tags}) == 1


def test_names_that_are_replaced_start_with_nothing_known() -> None:
    source = instance_of(bare_instance())
    under = names_for(IdentityTerms())
    assert isinstance(made_of(source, under), DeidentifiedDataset)
    assert under.memo
    other = dataclasses.replace(under, identity=IdentityTerms(patient_ids=frozenset({"OTHER"})), hospital_id="h2")
    assert not other.memo
    assert made_of(source, other) == "SEVERAL_PATIENT_IDS"
    with pytest.raises(TypeError):
        Pseudonymity("h1", SECRET, "RG-P", OFFSET, "RG-A", IdentityTerms(), TELEREAD, under.memo)  # type: ignore[call-arg]


def test_two_hospitals_do_not_answer_for_each_other() -> None:
    dataset = bare_instance()
    dataset.ProtocolName, dataset.SeriesDescription = "Quillan Thorax", "Thorax"
    source = instance_of(dataset)
    first = names_for(collect_identity([source]))
    second = names_for(collect_identity([source]), secret=b"another hospital's secret.......")
    one, two, again = made_of(source, first), made_of(source, second), made_of(source, first)
    assert isinstance(one, DeidentifiedDataset) and isinstance(two, DeidentifiedDataset)
    assert one.study_instance_uid != two.study_instance_uid
    assert same(one, again) and same(
        two, made_of(source, names_for(collect_identity([source]), secret=b"another hospital's secret......."))
    )


def test_a_private_element_is_what_its_creator_says() -> None:
    creators = {"DS": "GEMS_ACQU_01", "FD": "SIEMENS MR HEADER"}
    assert {vr: safe_elements()[0x0019, 0x27, creator] for vr, creator in creators.items()} == {"DS": "DS", "FD": "FD"}
    under = names_for(IdentityTerms())
    vrs = []
    for number, creator in enumerate([*creators.values(), "ACME", *creators.values()]):
        dataset = bare_instance(number)
        block = dataset.private_block(0x0019, creator, create=True)
        block.add_new(0x27, "UN", b"1       ")
        made = made_of(instance_of(dataset), under)
        assert isinstance(made, DeidentifiedDataset)
        found = elements(made.payload, 0, len(made.payload), EXPLICIT_LITTLE)
        vrs.append([one.vr for one in found if one.tag & 0x00010000 and one.tag & 0xFFFF > 0xFF])
    assert vrs == [[vr] for vr in creators] + [[]] + [[vr] for vr in creators]


def test_what_the_study_learns_of_is_cleaned_of_text_that_was_met_before() -> None:
    dataset = bare_instance()
    dataset.SeriesDescription = "Thorax Vexmoor"
    source = instance_of(dataset)
    ignorant = names_for(IdentityTerms())
    made_of(source, ignorant)
    knowing = dataclasses.replace(ignorant, identity=IdentityTerms(staff_names=frozenset({"Vexmoor^Ilse"})))
    made = made_of(source, knowing)
    assert isinstance(made, DeidentifiedDataset) and b"Vexmoor" not in made.payload


def test_the_scan_forgets_nothing_it_did_not_pass() -> None:
    under = names_for(IdentityTerms(patient_names=frozenset({"Zorvathine^Quillan"})))
    clean = made_of(instance_of(bare_instance()), under)
    assert isinstance(clean, DeidentifiedDataset)
    scan = ResidualScan(under)
    leak = b"\x08\0\x3e\x10LO\x0a\0Zorvathine"
    at = next(one.start for one in elements(clean.payload, 0, len(clean.payload), EXPLICIT_LITTLE) if one.tag > 0x0008103E)
    leaking = clean.payload[:at] + leak + clean.payload[at:]
    for _ in range(3):
        scan.check(clean.payload)
        with pytest.raises(RefusedContent, match="RESIDUAL_IDENTITY"):
            scan.check(leaking)


def test_the_scan_knows_a_uid_again_once_an_instance_is_named_by_it() -> None:
    """An element that was passed while nobody knew whose UID stands in it is looked at again when that is known."""
    profile = DeidProfile("no descriptors", TELEREAD.options - {Option.CLEAN_DESCRIPTORS})
    under = names_for(IdentityTerms(), profile)
    first, second = bare_instance(1), bare_instance(2)
    made = made_of(instance_of(first), under)
    assert isinstance(made, DeidentifiedDataset)
    scan: ResidualScan = under.memo["scan", get_ident()]
    element = b"\x18\0\x30\x10LO\x1c\0" + b"1.2.826.0.1.3680043.2.1.2   "
    found = elements(made.payload, 0, len(made.payload), EXPLICIT_LITTLE)
    at = next((one.start for one in found if one.tag > 0x00181030), len(made.payload))
    naming = made.payload[:at] + element + made.payload[at:]
    scan.check(naming)
    scan.check(naming)
    # What rewriting the second instance does; its own scan would make this one forget the neighbours.
    ValueRules(under).uid(second.SOPInstanceUID)
    with pytest.raises(RefusedContent, match="an original UID is left"):
        scan.check(naming)


def test_a_header_that_may_go_on_is_not_taken_for_whole() -> None:
    source = instance_of(make_ct_study(1, 4, 4)[0])
    values = HeaderValues([0x00100020, 0x0020000D])
    whole = values.of(source.payload, EXPLICIT_LITTLE)
    assert whole is not None and set(whole[0]) == {0x00100020, 0x0020000D}
    pixels = next(one for one in elements(source.payload, 0, len(source.payload), EXPLICIT_LITTLE) if one.tag == 0x7FE00010)
    for one in elements(source.payload, 0, len(source.payload), EXPLICIT_LITTLE):
        if one.tag < 0x7FE00010:
            assert values.of(source.payload[: one.stop], EXPLICIT_LITTLE, is_whole=False) is None
    beginning = values.of(source.payload[: pixels.start + 20], EXPLICIT_LITTLE, is_whole=False)
    assert beginning is not None and beginning[0] == whole[0]
    collector = IdentityCollector()
    collector.add(IdentifiedDataset(source.payload[: pixels.start + 20], EXPLICIT, source.sop_class_uid, source.sop_instance_uid))
    assert collector.terms() == collect_identity([source])


def test_threads_that_share_a_study_do_not_disturb_each_other() -> None:
    choice = random.Random(5)
    sources = []
    for number, dataset in enumerate(make_ct_study(24, 4, 4)):
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.2.1.{number}"
        _variants(dataset, choice)
        sources.append(instance_of(dataset))
    identity = collect_identity(sources)
    one_by_one = names_for(identity)
    expected = [made_of(source, one_by_one) for source in sources]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for _ in range(4):
            under = names_for(identity)
            with ThreadPoolExecutor(6) as pool:
                made = list(pool.map(lambda source, under=under: made_of(source, under), sources * 2))
            assert all(same(one, other) for one, other in zip(made, expected * 2, strict=True))
    finally:
        sys.setswitchinterval(before)


def test_pixels_behind_the_payload_are_scanned_as_if_they_stood_in_it() -> None:
    under = names_for(IdentityTerms(patient_names=frozenset({"Baumgartner^Franz"})))
    under.memo["uids"] = {}
    header = b"\xe0\x7f\x10\x00OW\0\0" + (8192).to_bytes(4, "little")
    clean = bytes(8192)
    ResidualScan(under).check(header, clean)
    for leaking in (b"\0\0BAUMGARTNER\0".ljust(8192, b"\0"), b"\0\0BAUMGARTNER\0".rjust(8192, b"\0")):
        with pytest.raises(RefusedContent, match="RESIDUAL_IDENTITY"):
            ResidualScan(under).check(header, memoryview(leaking))
    # No header, a header in two places, bytes that no header counts, and a value that is no pixels.
    text = b"\x08\x00\x08\x00UT\0\0" + (8192).to_bytes(4, "little")
    for head, behind in ((b"", clean), (header[:8], header[8:] + clean), (header, clean + b"\0\0"), (text, clean)):
        with pytest.raises(RefusedContent, match="TABLE_NOT_HELD"):
            ResidualScan(under).check(head, behind)


def test_what_varies_is_known_by_its_header_and_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    payloads = [payload_of(one) for one in make_ct_study(6)]
    parser, asked = RunParser(EXPLICIT_LITTLE), []
    real = element_runs.element_at

    def counted(buf: bytes, pos: int, end: int, encoding: Encoding) -> Element:
        asked.append(pos)
        return real(buf, pos, end, encoding)

    monkeypatch.setattr(element_runs, "element_at", counted)
    counts = []
    for payload in payloads:
        before = len(asked)
        found = flattened(parser.parts(payload), payload)
        counts.append(len(asked) - before)
        assert found == [(one.tag, one.vr, payload[one.start : one.stop]) for one in elements(payload, 0, len(payload), EXPLICIT_LITTLE)]
        varying = sum(isinstance(part, Element) for part in parser.parts(payload))
    # Pixel data, and what changes its length.
    assert counts[0] > 40 and counts[-1] < varying, counts


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_header_that_was_met_is_refused_where_its_value_is_cut(cut: int) -> None:
    one, two = (encode_element(0x00080060, "CS", b"CT") + encode_element(0x00200013, "IS", value) for value in (b"10", b"11"))
    parser = RunParser(EXPLICIT_LITTLE)
    for payload in (one, two, one):
        assert len(flattened(parser.parts(payload), payload)) == 2
    torn = two[:-cut]
    try:
        alone: object = [(one.tag, one.vr, torn[one.start : one.stop]) for one in elements(torn, 0, len(torn), EXPLICIT_LITTLE)]
    except RefusedContent as refused:
        alone = refused.reason_code, refused.detail, refused.tag
    try:
        found: object = flattened(parser.parts(torn), torn)
    except RefusedContent as refused:
        found = refused.reason_code, refused.detail, refused.tag
    assert found == alone


def test_values_of_headers_are_kept_in_bounded_memory_and_are_right_after_they_were_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(element_runs, "KEPT_MEMORY_MAX", 300_000)
    values, dropped = HeaderValues([0x00100020]), 0
    for number in range(40):
        patient_id = f"P{number:03d}".encode()
        filling = b"".join(encode_element(0x00180010 + number + index, "LO", bytes([65 + number]) * 4000) for index in range(8))
        found = values.of(encode_element(0x00100020, "LO", patient_id) + filling, EXPLICIT_LITTLE)
        assert found is not None and found[0] == {0x00100020: patient_id}
        kept = values._of_runs
        dropped += len(kept) == 1
        assert kept.memory <= 300_000 and sum(len(run.raw) for run in kept) <= kept.memory
    assert dropped >= 2


def test_what_a_collector_has_met_is_kept_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity_terms, "_RUNS_BYTES_MAX", 20_000)
    collector = IdentityCollector()
    for number in range(30):
        payload = encode_element(0x00100010, "PN", b"Maierhuber^Eva") + encode_element(
            0x00180010 + number, "LO", bytes([65 + number]) * 4000
        )
        collector.add_parts(payload, RunParser(EXPLICIT_LITTLE).parts(payload), EXPLICIT_LITTLE)
        assert sum(len(run.raw) for run, _ in collector._runs) <= 20_000 + (1 << 16)
    assert len(collector._runs) < 10
    assert "maierhuber" in str(collector.terms()).lower(), "what was gathered is not what is dropped"

"""What leaves `deidentify`: no canary of the identity, consistent references, legal and decodable data; and what is refused, by reason."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from compliance.dataset_bytes import encode_element
from compliance.deid_profile import BASIC, TELEREAD, DeidProfile, profile_of
from compliance.deidentify import deidentify
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, InstanceAttributes
from compliance.identity_terms import IdentityTerms, collect_identity
from compliance.part10 import file_of, instance_of_file
from compliance.profile_table import effective_action, load_table
from compliance.residual_scan import ResidualScan
from crypto.canonical import keyed_uid
from crypto.errors import RefusedContent
from tests.builders import make_ct_study, part10_of, payload_of
from tests.canary import canary_study
from tests.deid_samples import (
    EXPLICIT,
    OFFSET,
    SECRET,
    bare_instance,
    clean_screen,
    instance_of,
    names_for,
    output_of,
    read_back,
    released,
)
from tests.peers import corpus_dir, require_peer

SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"]


def sources_of(datasets: list[Dataset], syntax: str = EXPLICIT) -> list[IdentifiedDataset]:
    return [IdentifiedDataset(payload_of(one, syntax), syntax, one.SOPClassUID, one.SOPInstanceUID) for one in datasets]


def all_of(sources: list[IdentifiedDataset], profile: DeidProfile = TELEREAD) -> list[DeidentifiedDataset]:
    under = names_for(collect_identity(sources), profile)
    return [deidentify(one, under, screen=clean_screen) for one in sources]


def is_descriptor(where: str) -> bool:
    """Whether the string at this path stands in text that is cleaned: a word nobody's header names is a word there."""
    tag = int(where.split(".")[-1][1:10].replace(",", ""), 16)
    row = load_table().row(tag)
    return row is not None and not tag >> 16 & 1 and effective_action(row, TELEREAD) in ("C", "K")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_no_canary_of_a_study_is_left_in_any_spelling(syntax: str) -> None:
    datasets, found = canary_study()
    canaries = {where: canary for where, canary in found.items() if not is_descriptor(where)}
    assert len(canaries) > 50
    for made in all_of(sources_of(datasets, syntax)):
        data = file_of(made)
        for where, canary in canaries.items():
            for spelled in {canary, canary.lower(), canary.upper()}:
                forms = [
                    spelled.encode(),
                    spelled.encode("utf-16-le"),
                    spelled.encode("utf-16-be"),
                    base64.b64encode(spelled.encode()).rstrip(b"="),
                ]
                assert not any(form in data for form in forms), where
        assert not any(canary in str(made.dicom_json) for canary in canaries.values())


def test_pixels_survive_exactly_and_each_frame_has_its_place() -> None:
    original = make_ct_study(1)[0]
    made = all_of(sources_of([original]))[0]
    output = read_back(made)
    assert made.transfer_syntax_uid == "1.2.840.10008.1.2.4.201"
    assert np.array_equal(output.pixel_array, original.pixel_array)
    (offset, length), *rest = made.frame_table
    assert not rest and made.payload[offset : offset + 2] == b"\xff\x4f" and length % 2 == 0
    assert made.pixel_digest is not None and made.pixel_digest.startswith("sha256:")


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_encodings_give_one_result(syntax: str) -> None:
    datasets = make_ct_study(2)
    assert [one.payload for one in all_of(sources_of(datasets, syntax))] == [one.payload for one in all_of(sources_of(datasets))]


def test_dates_of_a_patient_move_together_and_times_stay() -> None:
    dataset = bare_instance()
    dataset.StudyDate, dataset.StudyTime, dataset.AcquisitionDateTime = "20200301", "101112", "20200302101112.5+0100"
    output = output_of(dataset)
    assert (output.StudyDate, output.StudyTime, output.AcquisitionDateTime) == ("20190803", "101112", "20190804101112.5+0100")
    assert output.LongitudinalTemporalInformationModified == "MODIFIED"
    assert OFFSET == -211


def test_references_resolve_within_the_study_and_not_between_hospitals() -> None:
    one, two = bare_instance(1), bare_instance(2)
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = one.SOPClassUID, one.SOPInstanceUID
    two.SourceImageSequence = Sequence([reference])
    first, second = (read_back(made) for made in all_of([instance_of(one), instance_of(two)]))
    assert second.SourceImageSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID == keyed_uid(SECRET, one.SOPInstanceUID)
    assert second.SourceImageSequence[0].ReferencedSOPClassUID == one.SOPClassUID
    assert first.StudyInstanceUID == second.StudyInstanceUID != one.StudyInstanceUID
    other = deidentify(instance_of(one), names_for(IdentityTerms(), secret=b"another hospital's secret......."), screen=clean_screen)
    assert other.study_instance_uid != first.StudyInstanceUID


def test_stamps_say_what_was_done() -> None:
    output = output_of(bare_instance())
    assert (output.PatientName, output.PatientID, output.PatientIdentityRemoved) == ("RG-PSEUDONYM", "RG-PSEUDONYM", "YES")
    codes = [item.CodeValue for item in output.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113101", "113103", "113104", "113105", "113107", "113108", "113111"]
    assert output_of(bare_instance(), BASIC).LongitudinalTemporalInformationModified == "REMOVED"


@pytest.mark.parametrize(
    ("age", "expected"), [("045Y", "045Y"), ("089Y", "089Y"), ("090Y", "090Y"), ("104Y", "090Y"), ("999M", "999M"), ("NONE", "")]
)
def test_age_is_capped_at_ninety(age: str, expected: str) -> None:
    dataset = bare_instance()
    dataset[0x00101010] = DataElement(0x00101010, "CS", age)
    dataset[0x00101010].VR = "AS"
    assert str(output_of(dataset).PatientAge or "") == expected


PRIVATE: list[tuple[str, int, int, str, object, bool]] = [
    ("SIEMENS MR HEADER", 0x00190010, 0x0C, "IS", "1000", True),
    ("SIEMENS MR HEADER", 0x00190042, 0x0C, "IS", "1000", True),
    ("SIEMENS MR HEADER", 0x00190010, 0x0C, "LO", "Zorvathine", False),
    ("SIEMENS MR HEADER", 0x00190010, 0x0B, "DS", "1", False),
    ("ACME MR HEADER", 0x00190010, 0x0C, "IS", "1000", False),
    ("GEMS_ACQU_01", 0x00190011, 0x9E, "LO", "efgre3d Zorvathine", True),
    ("SIEMENS CSA HEADER", 0x00290010, 0x10, "OB", b"Zorvathine..", False),
    ("GEMS_SERS_01", 0x00250010, 0x1B, "OB", b"\x1f\x8bxx", False),
    ("Zorvathine^Quillan", 0x00330010, 0x01, "LO", "x", False),
]


@pytest.mark.parametrize(("creator", "block", "low", "vr", "value", "stays"), PRIVATE)
def test_private_elements_stay_only_by_creator_and_element(creator: str, block: int, low: int, vr: str, value: object, stays: bool) -> None:
    dataset = bare_instance()
    dataset.add_new(Tag(block), "LO", creator)
    tag = Tag(block >> 16, (block & 0xFF) << 8 | low)
    dataset.add_new(tag, vr, value)
    output = output_of(dataset)
    assert (tag in output, Tag(block) in output) == (stays, stays)
    assert "Zorvathine" not in str(output)
    assert not any(element.tag.is_private for element in output_of(dataset, BASIC))


def test_private_element_without_creator_goes() -> None:
    dataset = bare_instance()
    dataset.add_new(0x0019100C, "IS", "5")
    assert 0x0019100C not in output_of(dataset)


CHARSETS = [
    ("ISO_IR 100", "Gänßler^Jörg", "iso8859_1"),
    ("ISO_IR 101", "Dvořák^Jiří", "iso8859_2"),
    ("ISO_IR 144", "Люкceмбypг", "iso8859_5"),
    ("ISO_IR 127", "قباني^لنزار", "iso8859_6"),
    ("ISO_IR 126", "Διονυσιος", "iso8859_7"),
    ("ISO_IR 138", "שרון^דבורה", "iso8859_8"),
    ("ISO_IR 166", "สมชาย^ใจดี", "tis_620"),
    ("ISO_IR 192", "王^小东", "utf_8"),
    ("GB18030", "王^小东", "gb18030"),
    ("GBK", "王^小东", "gbk"),
    ("\\ISO 2022 IR 87", "山田^太郎", "iso2022_jp"),
    ("\\ISO 2022 IR 149", "洪^吉洞", "euc_kr+"),
]


@pytest.mark.parametrize(("charset", "name", "codec"), CHARSETS, ids=[row[0] for row in CHARSETS])
def test_names_in_every_character_set_are_found_in_text(charset: str, name: str, codec: str) -> None:
    raw = (b"\x1b$)C" + name.replace("^", "^\x1b$)C").encode("euc_kr")) if codec == "euc_kr+" else name.encode(codec)
    spaced = raw.replace(b"^", b" ")
    dataset = bare_instance()
    dataset.SpecificCharacterSet = charset.split("\\")
    dataset[0x00100010] = DataElement(0x00100010, "UN", raw)
    dataset[0x0008103E] = DataElement(0x0008103E, "UN", b"knee " + spaced)
    output = output_of(dataset)
    assert output.SpecificCharacterSet == "ISO_IR 192"
    assert output.SeriesDescription.startswith("knee")
    for part in name.split("^"):
        assert len(part) < 2 or part not in output.SeriesDescription


def test_text_is_written_as_utf_8() -> None:
    dataset = bare_instance()
    dataset.SpecificCharacterSet, dataset.SeriesDescription = "ISO_IR 100", "Schädel übersicht"
    assert "Schädel übersicht".encode() in released(dataset).payload


def content_item(value_type: str, code: str, **values: object) -> Dataset:
    item, concept = Dataset(), Dataset()
    concept.CodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning = code, "DCM", "x"
    item.RelationshipType, item.ValueType, item.ConceptNameCodeSequence = "CONTAINS", value_type, Sequence([concept])
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def test_structured_content_follows_its_own_table() -> None:
    report = bare_instance()
    report.SOPClassUID, report.StudyDate = "1.2.840.10008.5.1.4.1.1.88.11", "20200301"
    report.ContentSequence = Sequence(
        [
            content_item("TEXT", "121071", TextValue="Nodule in Zorvathine, 4 mm"),
            content_item("PNAME", "121008", PersonName="Readerson^Ada"),
            content_item("TEXT", "121030", TextValue="PID7788991"),
            content_item("DATE", "111060", Date="20200301"),
            content_item("UIDREF", "112227", UID="1.2.3.4.5.6"),
            content_item("TEXT", "999999", TextValue="unlisted, Zorvathine"),
            content_item("CONTAINER", "121070", ContentSequence=Sequence([content_item("TEXT", "121106", TextValue="seen by Readerson")])),
        ]
    )
    output = output_of(report)
    texts = [item.get("TextValue") or str(item.get("PersonName") or item.get("Date") or "") for item in output.ContentSequence]
    assert texts == ["Nodule in [-], 4 mm", "REMOVED", "20190803", "unlisted, [-]", ""]
    assert output.ContentSequence[4].ContentSequence[0].TextValue == "seen by [-]"
    assert output_of(report, BASIC).ContentSequence[0].TextValue == "REMOVED"


# -- refused


@pytest.mark.parametrize("planted", [b"Zorvathine", "Zorvathine".encode("utf-16-le"), base64.b64encode(b"xZorvathine-1"), b"PID7788991"])
@pytest.mark.parametrize("where", ["palette", "pixels"])
def test_scan_finds_what_rules_would_have_kept(planted: bytes, where: str) -> None:
    dataset = make_ct_study(1)[0]
    dataset.PatientName, dataset.PatientID = "Zorvathine^Quillan", "PID7788991"
    # Its text names the person the sample was made of, who would be a stranger now.
    del dataset.PatientComments
    if where == "palette":
        dataset.ICCProfile = b"acsp" + planted + bytes(len(planted) % 2)
    else:
        dataset.PixelData = dataset.PixelData[:33] + planted + dataset.PixelData[33 + len(planted) :]
    source = instance_of(dataset)
    with pytest.raises(RefusedContent, match="RESIDUAL_IDENTITY"):
        deidentify(source, names_for(collect_identity([source])), screen=clean_screen, compress=False)


def test_scan_is_no_part_of_what_it_checks() -> None:
    source = instance_of(make_ct_study(1)[0])
    under = names_for(collect_identity([source]))
    deidentify(source, under, screen=clean_screen)
    with pytest.raises(RefusedContent):
        ResidualScan(under).check(source.payload)


def test_only_deidentify_makes_the_outward_type() -> None:
    with pytest.raises(TypeError):
        DeidentifiedDataset(b"", EXPLICIT, "1", "2", "3", "4", (), {}, InstanceAttributes(), {}, None, "")
    users = [
        path.name
        for path in Path(__file__).parents[1].glob("*/*.py")
        if "_MADE_BY_DEIDENTIFY" in path.read_text() and path.parent.name != "tests"
    ]
    assert sorted(users) == ["deid_child.py", "deidentify.py", "identified.py"]


def test_dciodvfy_finds_no_new_errors(tmp_path: Path) -> None:
    program = require_peer("dciodvfy")
    dataset = make_ct_study(1)[0]
    (tmp_path / "before.dcm").write_bytes(part10_of(dataset))
    source = sources_of([dataset])[0]
    # dciodvfy does not know the HTJ2K transfer syntaxes, so the pixels stay native here.
    made = deidentify(source, names_for(collect_identity([source])), screen=clean_screen, compress=False)
    (tmp_path / "after.dcm").write_bytes(file_of(made))

    def errors(name: str) -> set[str]:
        run = subprocess.run([program, str(tmp_path / name)], capture_output=True, timeout=60, check=False)
        return {line for line in (run.stdout + run.stderr).decode("utf-8", "replace").splitlines() if line.startswith("Error")}

    assert errors("after.dcm") - errors("before.dcm") == set()


def test_a_directory_of_files_is_called_one() -> None:
    meta = b"".join(
        encode_element(tag, "UI", value) for tag, value in ((0x00020002, b"1.2.840.10008.1.3.10\0"), (0x00020010, b"1.2.840.10008.1.2.1\0"))
    )
    with pytest.raises(RefusedContent, match="DICOMDIR"):
        instance_of_file(bytes(128) + b"DICM" + meta + encode_element(0x00041130, "CS", b"MEDIA "))


def test_every_file_of_the_corpus_is_released_or_refused_with_a_reason() -> None:
    released_count = 0
    for path in sorted(corpus_dir().rglob("*")):
        if not path.is_file() or path.suffix in (".xz", ".json", ".md"):
            continue
        try:
            source = instance_of_file(path.read_bytes())
            deidentify(source, names_for(collect_identity([source]), profile_of([])), screen=clean_screen, compress=False)
            released_count += 1
        except RefusedContent as refused:
            assert refused.reason_code
    assert released_count > 250

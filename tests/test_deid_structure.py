"""De-identification leaves legal objects behind: planes with their description, codes that are codes, text in the set it was written in."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from compliance import character_sets
from compliance.burned_in import screen_pixels
from compliance.deid_profile import BASIC
from compliance.deidentify import deidentify
from compliance.identified import IdentifiedDataset
from compliance.identity_terms import IdentityTerms, collect_identity
from compliance.pixel_child import PixelChild
from crypto.errors import RefusedContent
from tests.builders import make_ct_study, payload_of
from tests.deid_samples import bare_instance, clean_screen, instance_of, names_for, output_of, read_back

BIG_ENDIAN = "1.2.840.10008.1.2.2"


def test_overlay_that_was_screened_keeps_its_bits() -> None:
    dataset = make_ct_study(1)[0]
    rows, columns = dataset.Rows, dataset.Columns
    bits = np.packbits(np.arange(rows * columns) % 7 == 0, bitorder="little").tobytes()
    for tag, vr, value in (
        (0x60000010, "US", rows), (0x60000011, "US", columns), (0x60000040, "CS", "G"), (0x60000050, "SS", [1, 1]), (0x60000100, "US", 1),
        (0x60000102, "US", 0), (0x60003000, "OW", bits),
    ):  # fmt: skip
        dataset.add_new(tag, vr, value)
    assert output_of(dataset)[0x60003000].value == bits
    # Under a profile that cleans no graphics the plane goes whole.
    assert not [element for element in output_of(dataset, BASIC) if element.tag.group == 0x6000]


@pytest.mark.parametrize("in_child", [False, True])
def test_names_beside_cleaned_pixels_are_read_in_their_own_character_set(in_child: bool) -> None:
    """Taken for Latin-1, 'ů' would be written as '?', and the name would pass for another."""
    dataset = make_ct_study(1)[0]
    dataset.SpecificCharacterSet, dataset.PatientName = "ISO_IR 192", "Quiůljadwem^Osh"
    del dataset.PatientComments
    dataset.DerivationDescription, dataset.WindowCenterWidthExplanation = "left knee Quiůljadwem", "bone Quiůljadwem"
    for tag, vr, value in (
        (0x60000010, "US", dataset.Rows), (0x60000011, "US", dataset.Columns), (0x60000040, "CS", "G"), (0x60000050, "SS", [1, 1]),
        (0x60000100, "US", 1), (0x60000102, "US", 0), (0x60003000, "OW", bytes(4)),
    ):  # fmt: skip
        dataset.add_new(tag, vr, value)
    source = instance_of(dataset)
    under = names_for(collect_identity([source]))
    if in_child:
        with PixelChild() as child:
            made = read_back(deidentify(source, under, screen=child.screen))
    else:
        made = read_back(deidentify(source, under, screen=lambda shown, words: screen_pixels(shown, list(words), None)))
    assert 0x60003000 not in made
    assert str(made.DerivationDescription).startswith("left knee [-]") and made.WindowCenterWidthExplanation == "bone [-]"


def test_required_code_that_names_a_place_becomes_a_dummy_and_not_nothing() -> None:
    dataset = bare_instance()
    dataset.InstitutionName, dataset.ContentLabel = "Zweifelsberg", "QIN ZWEIFELSBERG"
    assert output_of(dataset).ContentLabel == "REMOVED"


def test_value_type_stays_whoever_is_called_so() -> None:
    dataset, item = bare_instance(), Dataset()
    dataset.SOPClassUID, dataset.ReferringPhysicianName = "1.2.840.10008.5.1.4.1.1.88.11", "Text^Num"
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", "no change"
    dataset.ContentSequence = Sequence([item])
    assert output_of(dataset).ContentSequence[0].ValueType == "TEXT"


def test_letters_and_numbers_of_an_enumeration_stay_though_the_study_is_numbered_so() -> None:
    dataset = bare_instance()
    dataset.AccessionNumber, dataset.PatientName, dataset.StudyID = "0000000001", "L^R", "01"
    dataset.LossyImageCompression, dataset.Laterality, dataset.BurnedInAnnotation = "01", "L", "NO"
    out = output_of(dataset)
    assert (out.LossyImageCompression, out.Laterality, out.BurnedInAnnotation) == ("01", "L", "NO")


def test_dummy_annotation_keeps_channels_and_range() -> None:
    dataset, note = bare_instance(), Dataset()
    note.ReferencedWaveformChannels, note.TemporalRangeType, note.UnformattedTextValue = [1, 0], "POINT", "Zorvathine"
    dataset.WaveformAnnotationSequence = Sequence([note])
    made = output_of(dataset, BASIC).get("WaveformAnnotationSequence")
    if made:
        assert list(made[0].ReferencedWaveformChannels) == [1, 0] and made[0].TemporalRangeType == "POINT"
    annotation, text = Dataset(), Dataset()
    text.BoundingBoxAnnotationUnits, text.UnformattedTextValue = "PIXEL", "Zorvathine"
    annotation.GraphicLayer, annotation.TextObjectSequence = "ZORVATHINE", Sequence([text])
    dataset.GraphicAnnotationSequence = Sequence([annotation])
    item = output_of(dataset, BASIC).GraphicAnnotationSequence[0]
    assert (item.TextObjectSequence[0].BoundingBoxAnnotationUnits, item.TextObjectSequence[0].UnformattedTextValue) == ("PIXEL", "REMOVED")
    assert item.GraphicLayer != "ZORVATHINE"


@pytest.mark.parametrize(("bits", "is_refused"), [(16, False), (32, True)])
def test_big_endian_cells_of_two_orders_are_held(bits: int, is_refused: bool) -> None:
    dataset = make_ct_study(1)[0]
    array = dataset.pixel_array.astype(f"i{bits // 8}")
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelData = bits - 1, array.astype(f"<i{bits // 8}").tobytes()
    source = IdentifiedDataset(payload_of(dataset, BIG_ENDIAN), BIG_ENDIAN, str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
    under = names_for(collect_identity([source]))
    if is_refused:
        with pytest.raises(RefusedContent, match="two orders"):
            deidentify(source, under, screen=clean_screen)
    else:
        deidentify(source, under, screen=clean_screen)


@pytest.mark.parametrize(
    ("declared", "value", "text"),
    [
        # Escaped once for two lines; PS3.5 6.1.2.5.3 wants it again on the second.
        (("", "ISO 2022 IR 149"), b"\x1b$)Cknee\n" + "솔별".encode("euc_kr"), "knee\n솔별"),
        (("", "ISO 2022 IR 144"), b"\x1b-Lknee\r\n" + "жщюя".encode("iso8859_5"), "knee\r\nжщюя"),
        # Declared for use behind escapes, which the sender leaves out.
        (("", "ISO 2022 IR 58"), "knee 张鹏".encode("gb2312"), "knee 张鹏"),
        # As the standard has it.
        (("", "ISO 2022 IR 149"), b"knee\n\x1b$)C" + "솔".encode("euc_kr") + b"\nL4/5", "knee\n솔\nL4/5"),
    ],
)
def test_text_in_a_set_escaped_too_seldom_is_read(declared: tuple[str, ...], value: bytes, text: str) -> None:
    assert character_sets.decode(value, character_sets.codecs_of(declared)) == text


def test_native_name_in_such_text_goes_and_clinical_words_stay() -> None:
    dataset = bare_instance()
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
    dataset.PatientComments = "left knee\n솔별"
    made = output_of(dataset, identity=IdentityTerms(patient_names=frozenset({"Kim^Ha=솔별^샘"})))
    assert str(made.PatientComments).replace("\r", "") == "left knee\n[-]"

"""The marks of a presentation state: clinical words stay beside their arrows, people go, and without Clean Graphics nothing is told."""

from __future__ import annotations

import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from compliance.deid_profile import BASIC, TELEREAD, DeidProfile
from crypto.errors import RefusedContent
from tests.deid_samples import bare_instance, output_of

GSPS = "1.2.840.10008.5.1.4.1.1.11.1"


def marked(text: str) -> Dataset:
    dataset = bare_instance()
    dataset.SOPClassUID, dataset.Modality, dataset.ContentLabel = GSPS, "PR", "ANNO"
    said, arrow, annotation, layer = Dataset(), Dataset(), Dataset(), Dataset()
    said.UnformattedTextValue = text
    said.BoundingBoxAnnotationUnits, said.AnchorPoint, said.AnchorPointVisibility = "PIXEL", [4.0, 5.0], "Y"
    arrow.GraphicType, arrow.GraphicData, arrow.GraphicAnnotationUnits = "POLYLINE", [1.0, 2.0, 3.0, 4.0], "PIXEL"
    annotation.GraphicLayer, annotation.TextObjectSequence, annotation.GraphicObjectSequence = "MARKS", Sequence([said]), Sequence([arrow])
    layer.GraphicLayer, layer.GraphicLayerOrder, layer.GraphicLayerDescription = "MARKS", 1, "left, for Zorvathine"
    dataset.GraphicAnnotationSequence, dataset.GraphicLayerSequence = Sequence([annotation]), Sequence([layer])
    return dataset


def text_of(dataset: Dataset, profile: DeidProfile = TELEREAD) -> str:
    made = output_of(dataset, profile).GraphicAnnotationSequence[0]
    if profile is TELEREAD:
        assert made.GraphicObjectSequence[0].GraphicData == [1.0, 2.0, 3.0, 4.0] and made.GraphicLayer == "MARKS"
    return str(made.TextObjectSequence[0].UnformattedTextValue)


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("Nodule 8 mm in S6", "Nodule 8 mm in S6"),
        ("Hodgkin, node 12 x 9 mm, Parkinson known", "Hodgkin, node 12 x 9 mm, Parkinson known"),
        ("Nodule 8 mm, Zorvathine Quillan", "Nodule 8 mm, [-]"),
        ("PID7788991: 4 mm", "[-]: 4 mm"),
        ("seen by Dr. Meyerbeer, left", "seen by Dr. [-], left"),
        ("3.2.2026 5 cm", "[-] 5 cm"),
    ],
)
def test_text_beside_a_mark_is_cleaned_and_keeps_its_clinical_words(written: str, left: str) -> None:
    assert text_of(marked(written)) == left


def test_a_stranger_in_it_holds_the_instance_and_names_the_element() -> None:
    with pytest.raises(RefusedContent, match="DOUBTFUL_TEXT") as refused:
        text_of(marked("John Smithson agrees"))
    assert refused.value.tag == "(0070,0006)"


def test_without_clean_graphics_a_dummy_stands_there() -> None:
    assert text_of(marked("Nodule 8 mm"), BASIC) == "REMOVED"


def test_the_description_of_a_layer_is_cleaned_too() -> None:
    assert output_of(marked("x")).GraphicLayerSequence[0].GraphicLayerDescription == "left, for [-]"

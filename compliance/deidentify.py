"""One instance from the hospital's side to the exchange's: `deidentify` is the only way, and it proves what it made.

Steps
  0. the bytes parse to the end, one patient, one instance, sizes that can be;
  1. the pixels are screened (by the caller's `screen`), and text that names somebody is out of them or the instance is held;
  2. every element is rewritten (`element_rules`), the stamps of PS3.15 E.1.1 written;
  3. pixel data are transcoded losslessly and compared (`transcode`);
  4. other code reads the result back and looks for what should not be there (`residual_scan`).
Nothing leaves on a failure of any step: RefusedContent, and the caller quarantines. Equal input under equal names gives equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from threading import get_ident
from typing import Any, Protocol

from pydicom import Dataset

from compliance import character_sets
from compliance.dataset_bytes import (
    EXPLICIT_LITTLE,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    Element,
    Encoding,
    elements,
    encode_element,
    encode_items,
    encoding_of,
    little_endian_copy,
)
from compliance.deid_profile import Option
from compliance.device_masks import risk_tags
from compliance.element_rules import Context
from compliance.element_runs import KeptRuns, RunParser
from compliance.element_values import json_values
from compliance.identified import _MADE_BY_DEIDENTIFY, DeidentifiedDataset, IdentifiedDataset, InstanceAttributes, Pseudonymity
from compliance.instance_facts import InstanceFacts
from compliance.instance_rules import InstanceRewriter, Piece
from compliance.profile_table import tag_text
from compliance.residual_scan import ResidualScan
from compliance.screened_dataset import screening_dataset, with_screened_pixels
from compliance.transcode import WrittenPixels, write_pixels
from crypto.errors import RefusedContent

#: Storage classes that are documents of another kind (PS3.3 A.45, PS3.4 B.5); of them only PDF can be proved (encapsulated_pdf.py).
_ENCAPSULATED = ("1.2.840.10008.5.1.4.1.1.104.",)
_ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
_DICOMDIR = "1.2.840.10008.1.3.10"
#: Raw data and private storage hold what only their maker can read.
_OPAQUE = frozenset({"1.2.840.10008.5.1.4.1.1.66"})
_STUDY_UID, _SERIES_UID, _SOP_UID, _SOP_CLASS = 0x0020000D, 0x0020000E, 0x00080018, 0x00080016
_SIGNATURES_MAX = 1_000
#: Of pixel data that need no padding: header and value.
_NATIVE_PIECES = 2
#: What `_stamped` may write: never part of a run.
_STAMPED = frozenset(
    {0x00080005, 0x00080050, 0x00100010, 0x00100020, 0x00120062, 0x00120063, 0x00120064, 0x00280006, 0x00280301, 0x00280303}
)
#: (key in the DICOM JSON model, name, whether it is a number) of each of the InstanceAttributes.
_ATTRIBUTES = (
    ("00080060", "modality", False),
    ("00180015", "body_part_examined", False),
    ("00200011", "series_number", True),
    ("0008103E", "series_description", False),
    ("00200013", "instance_number", True),
    ("00280010", "rows", True),
    ("00280011", "columns", True),
    ("00280008", "number_of_frames", True),
    ("00080020", "study_date", False),
    ("00080030", "study_time", False),
    ("00081030", "study_description", False),
    ("00200010", "study_id", False),
    ("00100040", "patient_sex", False),
    ("00101010", "patient_age", False),
    ("00080070", "manufacturer", False),
)
_ABSENT: Mapping[str, Any] = {}
_HEAD = frozenset({"HEAD", "BRAIN", "FACE", "HEADNECK", "SKULL", "SINUS", "ORBIT", "JAW", "IAC", "HEAD NECK"})
_SLICES = frozenset({"CT", "MR", "PT", "NM"})


class PixelScreening(Protocol):
    """What the pixel step answers; `dataset` carries the cleaned pixels where `outcome` is CLEANED."""

    @property
    def outcome(self) -> str: ...  # CLEAN, CLEANED or HOLD
    @property
    def reason(self) -> str: ...
    @property
    def dataset(self) -> Dataset: ...
    @property
    def risk(self) -> str: ...  # "" where the class of risk let the instance pass unseen


#: Called with the top-level elements of the instance and the words of the study's identity.
PixelScreen = Callable[[Dataset, Sequence[str]], PixelScreening]


def deidentify(
    source: IdentifiedDataset, under: Pseudonymity, *, screen: PixelScreen | None = None, compress: bool = True
) -> DeidentifiedDataset:
    """The instance under its pseudonyms, proved free of the study's identity.

    `screen` is needed where the profile has Clean Pixel Data and the instance has pixels. Without `compress` native pixels stay native.

    Raises:
        RefusedContent: the instance must be quarantined; `reason_code` says why, `tag` names the element where there is one.
    """
    # 0.
    payload, encoding = source.payload, encoding_of(source.transfer_syntax_uid)
    syntax = source.transfer_syntax_uid
    if syntax == EXPLICIT_VR_BIG_ENDIAN:
        payload, encoding, syntax = little_endian_copy(payload), EXPLICIT_LITTLE, EXPLICIT_VR_LITTLE_ENDIAN
    facts = _facts_of(payload, encoding, under)
    _check_instance(source, under, facts)
    # 1.
    has_graphics = facts.has_graphics
    screened = cleaned = False
    if (facts.pixels is not None or has_graphics) and under.profile.has(Option.CLEAN_PIXEL_DATA):
        if facts.pixels is not None:
            facts.shape.check()
        if screen is None:
            raise RefusedContent("PIXELS_NOT_SCREENED", "the profile cleans pixel data and no screen was given")
        # A class that is not at risk is so by these attributes alone: slices that agree in them agree in the verdict.
        signature = None if has_graphics else ("spared", encoding, syntax, *facts.raw(risk_tags()))
        if signature is None or signature not in under.memo:
            found = elements(payload, 0, len(payload), encoding)
            result = screen(screening_dataset(payload, found, encoding, syntax, facts.charset), _search_words(under))
            if result.outcome not in ("CLEAN", "CLEANED"):
                raise RefusedContent("BURNED_IN_TEXT", result.reason, tag="(7FE0,0010)")
            if result.outcome == "CLEANED":
                cleaned = True
                payload, _, encoding, syntax = with_screened_pixels(payload, found, encoding, syntax, result.dataset)
                facts = _facts_of(payload, encoding, under)
            elif signature is not None and result.risk == "":
                _remember(under, signature)
        screened = True
    # 2.
    rewriter = InstanceRewriter(under)
    is_signed, is_wide = facts.number(0x00280103) == 1, facts.number(0x00280100) != 8
    graphics_screened = screened and under.profile.has(Option.CLEAN_GRAPHICS)
    context = Context(encoding, facts.charset, source.sop_class_uid, is_signed, is_wide, graphics_screened)
    pieces = rewriter.instance(payload, facts.parts, context)
    # 3.
    pixels = facts.pixels
    laid = None if pixels is None else _laid(payload, pixels, syntax, facts, compress)
    pieces = _stamped(pieces, under, laid, screened)
    head = b"".join([piece.out for piece in pieces])
    head_bytes = len(head)
    behind: bytes | memoryview = b""
    if laid and len(laid.pieces) == _NATIVE_PIECES:
        # Uncompressed pixels stay where they are, and are scanned and written from there.
        head, behind = head + laid.pieces[0], laid.pieces[1]
    elif laid:
        head = b"".join([head, *laid.pieces])
    frames = tuple((head_bytes + offset, length) for offset, length in laid.frames) if laid else ()
    model: dict[str, Any] = {}
    for piece in pieces:
        model.update(piece.json)
    # 4.
    # One a thread: what they learn from an instance they learn in several steps.
    scan: ResidualScan = under.memo.get(("scan", get_ident())) or ResidualScan(under)
    under.memo["scan", get_ident()] = scan
    scan.check(head, behind)
    if laid and pixels is not None:
        model[f"{pixels.tag:08X}"] = {"vr": laid.vr, "BulkDataURI": f"bulkdata/{pixels.tag:08X}"}
    return _made(source, model, head, behind, laid, frames, rewriter, under, cleaned)


def _facts_of(payload: bytes, encoding: Encoding, under: Pseudonymity) -> InstanceFacts:
    key = "parser", encoding, get_ident()
    parser: RunParser = under.memo.get(key) or RunParser(encoding, _STAMPED)
    under.memo[key] = parser
    return InstanceFacts(payload, parser.parts(payload), under.memo.setdefault("facts of runs", KeptRuns()))


def _check_instance(source: IdentifiedDataset, under: Pseudonymity, facts: InstanceFacts) -> None:
    if under.date_offset_days == 0 and under.profile.has(Option.RETAIN_MODIFIED_DATES):
        raise ValueError("Retain Modified Dates needs an offset other than zero")
    sop_class = facts.text(_SOP_CLASS)
    if not sop_class or not all(facts.text(tag) for tag in (_STUDY_UID, _SERIES_UID, _SOP_UID)):
        raise RefusedContent("MISSING_UID", "SOP class, study, series and instance must be named")
    if sop_class != source.sop_class_uid or facts.text(_SOP_UID) != source.sop_instance_uid:
        raise RefusedContent("UID_MISMATCH", "the dataset is not the instance it was sent as", tag="(0008,0018)")
    # A CDA names its patient and authors in a header that it must have (ClinicalDocument/recordTarget); solids are shapes of bodies.
    is_document = sop_class.startswith(_ENCAPSULATED) or 0x00420011 in facts
    if is_document and (sop_class != _ENCAPSULATED_PDF or (facts.text(0x00420012) or "").lower() != "application/pdf"):
        raise RefusedContent("ENCAPSULATED_DOCUMENT", "only a PDF can be made anew and proved", tag="(0042,0011)")
    if sop_class == _DICOMDIR:
        raise RefusedContent("DICOMDIR", "a directory of files is no instance of a study")
    if sop_class in _OPAQUE or not sop_class.startswith("1.2.840.10008."):
        raise RefusedContent("OPAQUE_SOP_CLASS", "only its maker can read what it holds", tag=tag_text(_SOP_CLASS))
    patient_ids = under.identity.patient_ids | ({own} if (own := _patient_id(facts)) else frozenset())
    if len(patient_ids) > 1:
        raise RefusedContent("SEVERAL_PATIENT_IDS", "the study names more than one patient", tag="(0010,0020)")
    if source.transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN and facts.pixels is not None and facts.number(0x00280100) > 16:
        # As words of 16 bits by PS3.5 A.3, as whole cells by common software: one of the two readings turns a dose into another.
        raise RefusedContent("IMPOSSIBLE_PIXELS", "big-endian cells of more than 16 bits are written in two orders", tag="(7FE0,0010)")
    if facts.pixel_elements > 1:
        raise RefusedContent("MALFORMED_PIXELS", "more than one pixel data element", tag="(7FE0,0010)")
    if under.profile.has(Option.CLEAN_VISUAL_FEATURES) and _shows_a_face(facts):
        raise RefusedContent("RECOGNIZABLE_VISUAL_FEATURES", "a face could be reconstructed and cannot be removed here")


def _patient_id(facts: InstanceFacts) -> str | None:
    value = (facts.value(0x00100020) or b"").strip(b"\0 ")
    return character_sets.decode(value, character_sets.codecs_of(facts.charset)) if value else None


def _shows_a_face(facts: InstanceFacts) -> bool:
    return facts.text(0x00080060) in _SLICES and (facts.text(0x00180015) or "HEAD").upper() in _HEAD


def _remember(under: Pseudonymity, signature: tuple[object, ...]) -> None:
    seen: list[object] = under.memo.setdefault("spared signatures", [])
    if len(seen) >= _SIGNATURES_MAX:
        for one in seen:
            under.memo.pop(one, None)
        seen.clear()
    seen.append(signature)
    under.memo[signature] = True


def _search_words(under: Pseudonymity) -> Sequence[str]:
    words: list[str] | None = under.memo.get("words")
    if words is None:
        words = under.memo["words"] = under.identity.search_words()
    return words


def _laid(payload: bytes, pixels: Element, syntax: str, facts: InstanceFacts, compress: bool) -> WrittenPixels:
    vr = pixels.vr or {0x7FE00008: "OF", 0x7FE00009: "OD"}.get(pixels.tag, "OW")
    return write_pixels(pixels, vr, payload, syntax, facts.shape, compress=compress)


def _stamped(pieces: list[Piece], under: Pseudonymity, laid: WrittenPixels | None, screened: bool) -> list[Piece]:
    """With what the Basic Profile asks to be said (PS3.15 E.1.1, E.3.6) and the patient's names for this hospital."""
    key = ("stamps", screened, bool(laid and laid.made_interleaved))
    stamps: dict[int, Piece] | None = under.memo.get(key)
    if stamps is None:
        values = [
            (0x00080005, "CS", b"ISO_IR 192"),
            (0x00080050, "SH", under.accession_pseudonym.encode()),
            (0x00100010, "PN", under.pseudonym.encode()),
            (0x00100020, "LO", under.pseudonym.encode()),
            (0x00120062, "CS", b"YES"),
            (0x00120063, "LO", f"Readgate {under.profile.name}"[:64].encode()),
            (0x00280303, "CS", under.profile.longitudinal_information().encode()),
        ]
        if screened:
            values.append((0x00280301, "CS", b"NO"))
        if laid and laid.made_interleaved:
            values.append((0x00280006, "US", b"\0\0"))
        made = [Piece(tag, encode_element(tag, vr, value), {f"{tag:08X}": json_values(vr, value, tag)}) for tag, vr, value in values]
        stamps = under.memo[key] = {piece.tag: piece for piece in [*made, _method_codes(under)]}
    return sorted([*(piece for piece in pieces if piece.tag not in stamps), *stamps.values()], key=itemgetter(0))


def _method_codes(under: Pseudonymity) -> Piece:
    datasets, models = [], []
    for code, meaning in under.profile.method_codes():
        parts = [(0x00080100, "SH", code.encode()), (0x00080102, "SH", b"DCM"), (0x00080104, "LO", meaning.encode())]
        datasets.append(b"".join(encode_element(tag, vr, value) for tag, vr, value in parts))
        models.append({f"{tag:08X}": json_values(vr, value, tag) for tag, vr, value in parts})
    encoded = encode_element(0x00120064, "SQ", encode_items(datasets))
    return Piece(0x00120064, encoded, {"00120064": {"vr": "SQ", "Value": models}})


def _made(
    source: IdentifiedDataset, model: dict[str, Any], head: bytes, behind: bytes | memoryview, laid: WrittenPixels | None,
    frames: tuple[tuple[int, int], ...], rewriter: InstanceRewriter, under: Pseudonymity, cleaned: bool,
) -> DeidentifiedDataset:  # fmt: skip
    names = [_first(model, tag) for tag in ("00080018", "0020000D", "0020000E")]
    if not all(names):
        # A UID in no form of PS3.5 9.1 has no pseudonym: rewriting left it out.
        raise RefusedContent("MISSING_UID", "study, series and instance must be named by valid UIDs")
    sop_instance_uid, study_instance_uid, series_instance_uid = (str(name) for name in names)
    flags = []
    modality, part = _first(model, "00080060"), _first(model, "00180015")
    if modality in _SLICES and str(part or "HEAD").upper() in _HEAD:
        flags.append("RECOGNIZABLE_VISUAL_FEATURES")
    if laid and laid.cleared_unused_bits:
        flags.append("UNUSED_BITS_CLEARED")
    if cleaned:
        flags.append("PIXELS_CLEANED")
    return DeidentifiedDataset(
        payload=head,
        behind=behind,
        transfer_syntax_uid=laid.transfer_syntax_uid if laid else EXPLICIT_VR_LITTLE_ENDIAN,
        sop_class_uid=source.sop_class_uid,
        sop_instance_uid=sop_instance_uid,
        study_instance_uid=study_instance_uid,
        series_instance_uid=series_instance_uid,
        frame_table=frames,
        dicom_json=model,
        attributes=_attributes(model),
        action_counts=rewriter.counts,
        flags=tuple(flags),
        made_by=_MADE_BY_DEIDENTIFY,
    )


def _first(model: Mapping[str, Any], tag: str) -> Any:
    values = model.get(tag, {}).get("Value")
    return values[0] if values else None


def _attributes(model: Mapping[str, Any]) -> InstanceAttributes:
    found: dict[str, Any] = {}
    for tag, name, is_number in _ATTRIBUTES:
        values = model.get(tag, _ABSENT).get("Value")
        value = values[0] if values else None
        if value is not None:
            found[name] = str(value) if not is_number else int(value) if isinstance(value, int | float) else None
    return InstanceAttributes(**found)

"""HL7 v2: what goes out cannot be broken by a value, what comes in cannot break us."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import hl7
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import RefusedContent
from reporting.content import ReportKind
from reporting.hl7_message import MESSAGE_BYTES_MAX, escape, message, parse, segment
from reporting.mllp import frame, unframe
from reporting.order_message import parse_order
from reporting.oru import Ack, MessageRoute, acknowledgement, compose_oru, control_id_of, parse_ack
from tests.report_samples import NOW, STUDY_UID, make_addendum, make_content, make_patient, make_source, make_study, sealed_sample, sign

ROUTE = MessageRoute(receiving_application="RIS", receiving_facility="SBUH")
INJECTION = "x|y^z&a~b\\c\nMSH|^~\\&|EVIL\nPID|1||666"


def _oru(source: Any = None, **options: Any) -> Any:
    return hl7.parse(compose_oru(source or make_source(), now=NOW, route=ROUTE, **options).decode())


def _field(row: Any, number: int) -> str:
    return str(row[number])


def test_oru_says_whose_what_and_by_whom() -> None:
    received = _oru()
    head, pid, obr = received.segment("MSH"), received.segment("PID"), received.segment("OBR")
    assert (_field(head, 9), _field(head, 12), _field(head, 5), _field(head, 18)) == ("ORU^R01^ORU_R01", "2.5.1", "RIS", "UNICODE UTF-8")
    assert _field(pid, 3) == "MRN-0048213^^^HOSP1^MR"
    assert _field(pid, 5) == "Vandermeer^Katharina^^^Mrs^^L^A"
    assert (_field(pid, 7), _field(pid, 8)) == ("19680412", "F")
    assert (_field(obr, 18), _field(obr, 25), _field(obr, 32)) == ("ACC-2026-11873", "F", "r1&Dr. Ingrid Solheim")
    assert _field(obr, 4) == "30799-1^CT Head WO contrast^LN"
    assert _field(obr, 16) == "^Okafor^Miriam^^^Dr."
    assert _field(received.segment("ZDS"), 1).split("^")[0] == STUDY_UID
    names = [_field(row, 3).split("^")[0] for row in received.segments("OBX")]
    assert names == ["73568-8", "18785-6", "55111-9", "55114-3", "59776-5", "19005-8"]
    assert [_field(row, 1) for row in received.segments("OBX")] == [str(number) for number in range(1, 7)]


def test_pdf_is_the_last_observation_and_comes_back_identical() -> None:
    row = _oru(pdf=sealed_sample()).segments("OBX")[-1]
    assert _field(row, 2) == "ED"
    source, kind, subtype, encoding, data = _field(row, 5).split("^")
    assert (source, kind, subtype, encoding) == ("", "application", "pdf", "Base64")
    assert base64.b64decode(data) == sealed_sample()


@pytest.mark.parametrize(("kind", "status"), [(ReportKind.PRELIMINARY, "P"), (ReportKind.FINAL, "F")])
def test_status_follows_the_kind(kind: ReportKind, status: str) -> None:
    received = _oru(make_source(sign(make_content(kind=kind))))
    assert _field(received.segment("OBR"), 25) == status
    assert {_field(row, 11) for row in received.segments("OBX")} == {status}


def test_addendum_is_a_correction_that_repeats_the_report() -> None:
    received = _oru(make_addendum())
    assert _field(received.segment("OBR"), 25) == "C"
    assert [_field(row, 4) for row in received.segments("OBX")] == ["1"] * 2 + ["2"] * 6


def test_control_id_is_the_reports_own() -> None:
    one, again, other = control_id_of(make_content()), control_id_of(make_content()), control_id_of(make_content(findings="Normal."))
    assert one == again != other
    assert len(one) == 20
    assert _field(_oru().segment("MSH"), 10) == one


def test_values_cannot_end_their_field_segment_or_frame() -> None:
    source = make_source(
        sign(make_content(findings=INJECTION.strip())),
        patient=make_patient(name="a|b&c~d\\e^g", patient_id="1^2|3"),
        study=make_study(procedure_code=None, procedure="p|q\\.br\\r~s"),
    )
    payload = compose_oru(source, now=NOW, route=ROUTE)
    assert payload.count(b"\rPID|") == 1
    assert payload.count(b"MSH|") == 1
    received = parse(payload)
    assert received.value(received.first("PID"), 3) == "1^2|3"
    assert received.value(received.first("PID"), 5) == "a|b&c~d\\e"
    assert received.value(received.first("OBR"), 4, 2) == "p|q\\.br\\r~s"
    findings = next(row for row in received.all("OBX") if row[3].startswith("59776-5"))
    assert received.value(findings, 5) == INJECTION
    assert unframe(frame(payload)) == (payload, b"")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=6))
def test_any_text_is_refused_or_comes_back_from_its_field(values: list[str]) -> None:
    try:
        payload = message([segment("MSH", "^~\\&")[:4] + "^~\\&|A", segment("NTE", *values, "end")])
    except RefusedContent:
        return
    received = parse(payload)
    assert len(received.rows) == 2
    for number, value in enumerate(values, 1):
        expected = value.replace("\r\n", " ").replace("\r", " ").replace("\n", " ").strip()
        # An explicit null (two quotation marks) is HL7's way to say nothing.
        assert received.value(received.first("NTE"), number) == ("" if expected == '""' else expected)


@pytest.mark.parametrize("character", ["\x00", "\x0b", "\x1c", "\x1b", "\u2028"])
def test_control_characters_never_leave(character: str) -> None:
    with pytest.raises(RefusedContent):
        escape(f"a{character}b")


@pytest.mark.parametrize("code", ["AA", "AE", "AR"])
def test_acknowledgement_answers_the_message(code: str) -> None:
    sent = compose_oru(make_source(), now=NOW, route=ROUTE)
    assert parse_ack(acknowledgement(sent, code, now=NOW, control_id="1")) == Ack(code, control_id_of(make_content()))
    assert hl7.parse(sent.decode()).create_ack(code)
    assert parse_ack(str(hl7.parse(sent.decode()).create_ack(code)).encode()) == Ack(code, control_id_of(make_content()))


NO_ACKNOWLEDGEMENTS = [
    b"",
    b"MSH|^~\\&|A\rMSA|XX|1\r",
    b"MSH|^~\\&|A\rMSA|AA\r",
    b"MSH|^~\\&|A\r",
    b"HTTP/1.1 400 Bad Request\r\n",
]


@pytest.mark.parametrize("answer", NO_ACKNOWLEDGEMENTS)
def test_what_is_no_acknowledgement_is_refused(answer: bytes) -> None:
    with pytest.raises(RefusedContent):
        parse_ack(answer)


def test_acknowledging_nonsense_is_possible() -> None:
    assert acknowledgement(b"nonsense", "AR", now=NOW, control_id="7").endswith(b"MSA|AR\r")


def test_frames_are_taken_apart_one_by_one() -> None:
    stream = frame(b"one") + frame(b"two")
    assert unframe(stream) == (b"one", frame(b"two"))
    for cut in range(1, len(frame(b"one"))):
        assert unframe(stream[:cut]) == (None, stream[:cut])
    assert unframe(b"") == (None, b"")
    with pytest.raises(RefusedContent):
        unframe(b"GET / HTTP/1.1")
    with pytest.raises(RefusedContent):
        unframe(b"\x0b" + b"x" * (MESSAGE_BYTES_MAX + 1))
    with pytest.raises(RefusedContent):
        frame(b"a\x1c\rb")


def _row(name: str, **fields: str) -> str:
    """`_row("OBR", f4="x")`: a segment by field numbers, raw."""
    numbered = {int(key[1:]): value for key, value in fields.items()}
    return "|".join([name, *(numbered.get(number, "") for number in range(1, max(numbered) + 1))])


PID = _row("PID", f1="1", f3="999^^^NAT^NI~123^^^H1&1.2.3&ISO^MR", f5="Muster^Eva^B^Jr^Dr~漢^字^^^^^^I", f7="197001021200", f8="F")
OBR_ORDERED = {"f1": "1", "f2": "P1", "f3": "F1", "f4": "CTH^CT Head^L", "f18": "ACC1", "f27": "^^^^^S"}
OBR_REASON = {"f13": "pain \\T\\ nausea", "f16": "8^Other^Er", "f31": "^Headache of Eva"}


def _order(kind: str = "ORM^O01", charset: str = "", **changes: str | None) -> bytes:
    rows: dict[str, str | None] = {
        "MSH": f"MSH|^~\\&|RIS|H1|READGATE||20261122080000||{kind}|M-77|P|2.5.1||||||{charset}",
        "PID": PID,
        "PV1": _row("PV1", f1="1", f2="O", f8="77^Ref^Doc^^^Dr"),
        "ORC": _row("ORC", f1="NW", f2="P1", f3="F1"),
        "OBR": _row("OBR", **OBR_ORDERED, **OBR_REASON),
        "ZDS": "ZDS|1.2.3^RIS^Application^DICOM",
    }
    rows.update(changes)
    return "\r".join(row for row in rows.values() if row is not None).encode() + b"\r"


def test_orm_is_read_into_its_fields() -> None:
    order = parse_order(_order())
    assert (order.patient_id, order.issuer_of_patient_id) == ("123", "H1")
    assert (order.patient_name, order.birth_date, order.sex) == ("Muster^Eva^B^Dr^Jr=漢^字", "19700102", "F")
    assert (order.accession_number, order.placer_order_number, order.control_id) == ("ACC1", "P1", "M-77")
    assert (order.procedure_code, order.procedure_text, order.procedure_scheme) == ("CTH", "CT Head", "L")
    assert order.indication == "Headache of Eva\npain & nausea"
    assert (order.priority, order.referring_physician, order.study_instance_uid) == ("STAT", "Ref^Doc^^Dr", "1.2.3")
    assert (order.order_control, order.message_type) == ("NW", "ORM^O01")


def test_omi_and_omg_are_read_from_their_own_segments() -> None:
    omi = parse_order(_order("OMI^O23^OMI_O23", ZDS=None, TQ1=_row("TQ1", f9="A"), IPC="IPC|ACC9^H1|RP1|1.2.9|SP1|CT"))
    assert (omi.accession_number, omi.study_instance_uid, omi.priority) == ("ACC9", "1.2.9", "ASAP")
    omg = parse_order(_order("OMG^O19^OMG_O19", ZDS=None, PV1=None, OBR=_row("OBR", f3="F1", f4="X^Chest^L", f16="8^Other^Er")))
    assert (omg.accession_number, omg.priority, omg.study_instance_uid) == ("F1", "ROUTINE", "")
    assert omg.referring_physician == "Other^Er"


def test_latin_1_is_read_where_it_is_named_and_refused_where_not() -> None:
    named = _order(charset="8859/1").decode().replace("漢^字", "M\xfcll^er").encode("latin-1")
    assert "Müll^er" in parse_order(named).patient_name
    with pytest.raises(RefusedContent, match="hl7-character-set"):
        parse_order(named.replace(b"8859/1", b""))
    with pytest.raises(RefusedContent, match="hl7-character-set"):
        parse_order(_order(charset="KLINGON"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "ADT^A08"}, "hl7-message-type"),
        ({"PID": None}, "hl7-malformed"),
        ({"PID": _row("PID", f3="", f5="A^B")}, "hl7-malformed"),
        ({"PID": _row("PID", f3="1", f5="")}, "hl7-malformed"),
        ({"PID": _row("PID", f3="1", f5="A^B", f7="January")}, "hl7-malformed"),
        ({"PID": _row("PID", f3="1\\X00\\2", f5="A^B")}, "hl7-control-character"),
        ({"PID": _row("PID", f3="1", f5="A\\X1B\\B")}, "hl7-control-character"),
        ({"PID": _row("PID", f3="1\\E\\2", f5="A^B")}, "hl7-malformed"),
        ({"PID": _row("PID", f3="x" * 65, f5="A^B")}, "hl7-malformed"),
        ({"OBR": None}, "hl7-malformed"),
        ({"OBR": _row("OBR", f4="X^Y^L"), "ORC": "ORC|NW"}, "hl7-malformed"),
        ({"OBR": _row("OBR", f18="A1") + "\r" + _row("OBR", f18="A2")}, "hl7-several-orders"),
        ({"OBR": _row("OBR", f18="A" * 17)}, "hl7-malformed"),
        ({"OBR": _row("OBR", f18="A", f13="x" * 40_000)}, "hl7-too-long"),
        ({"ZDS": "ZDS|not.a.uid"}, "hl7-malformed"),
        ({"ZDS": "lower|case"}, "hl7-malformed"),
        ({"ZDS": "MSH|^~\\&|SECOND"}, "hl7-malformed"),
    ],
    ids=str,
)
def test_order_that_cannot_be_relied_on_is_refused_without_naming_a_value(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedContent) as refused:
        parse_order(_order(**changes))
    assert refused.value.reason_code == reason
    assert "Muster" not in str(refused.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60), st.integers(0, 400), st.booleans())
def test_no_bytes_raise_anything_but_a_refusal(noise: bytes, position: int, is_inserted: bool) -> None:
    whole = _order()
    payload = whole[:position] + noise + (whole[position:] if is_inserted else whole[position + len(noise) :])
    for candidate in (payload, noise, b"MSH" + noise):
        with contextlib.suppress(RefusedContent):
            parse_order(candidate)

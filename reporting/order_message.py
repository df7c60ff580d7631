"""The order that comes before a study: ORM^O01, OMG^O19 or OMI^O23, read into the fields that the gateway uses.

What is read is identity and stays on the hospital's side. Where each field stands: IHE RAD TF-2 4.2 and 4.4, HL7 2.5.1 chapters 3 and 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from crypto.errors import RefusedContent
from reporting.hl7_message import MALFORMED, TOO_LONG, Message, parse

WRONG_MESSAGE = "hl7-message-type"
SEVERAL_ORDERS = "hl7-several-orders"
ORDER_MESSAGES = frozenset((("ORM", "O01"), ("OMG", "O19"), ("OMI", "O23")))
VALUE_CHARACTERS_MAX = 1024
EXPECTED_INSTANCES_MAX = 1_000_000
TEXT_CHARACTERS_MAX = 32_768

#: Table 0485 and the older TQ-6; anything else is routine, and said so.
_PRIORITIES = {"S": "STAT", "A": "ASAP", "R": "ROUTINE", "P": "ROUTINE", "C": "ROUTINE", "T": "ROUTINE", "": "ROUTINE"}
#: IN1-15, table 0086, with the codes of ASC X12 element 1032 that US hospitals put there.
_PAYERS = {"MA": "MEDICARE", "MB": "MEDICARE", "MC": "MEDICAID", "CI": "COMMERCIAL", "BL": "COMMERCIAL", "HM": "COMMERCIAL", "09": "SELF"}
_SEXES = {"M": "M", "F": "F", "O": "O", "A": "O"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An imaging order; names are PN, `birth_date` YYYYMMDD or empty, `priority` STAT, ASAP or ROUTINE, absent values empty."""

    control_id: str
    message_type: str
    #: ORC-1, table 0119: NW new, XO changed, CA canceled, ...
    order_control: str
    patient_id: str
    issuer_of_patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    accession_number: str
    placer_order_number: str
    procedure_code: str
    procedure_scheme: str
    procedure_text: str
    indication: str
    priority: str
    referring_physician: str
    study_instance_uid: str
    #: PUBLIC, COMMERCIAL, MEDICARE, MEDICAID or SELF; empty where the message does not say, or says something else.
    payer_kind: str = ""
    #: How many images the study has, in digits, where the message says so in an OBX; else empty.
    expected_instances: str = ""


def parse_order(payload: bytes) -> Order:
    """The order in an unframed message.

    Raises:
        RefusedContent: not one of the three messages, without patient, patient identifier or accession number, with more than one
            order, or with a value that cannot be one; the message names segment and field, never the value.
    """
    received = parse(payload)
    head = received.first("MSH")
    kind = received.value(head, 9, 1), received.value(head, 9, 2)
    if kind not in ORDER_MESSAGES:
        raise RefusedContent(WRONG_MESSAGE, "MSH-9 is none of ORM^O01, OMG^O19, OMI^O23")
    if len(received.all("PID")) != 1:
        raise RefusedContent(MALFORMED, "an order has exactly one PID")
    requests = received.all("OBR")
    if not requests:
        raise RefusedContent(MALFORMED, "an order has an OBR")
    accessions = {_accession(received, row, number) for number, row in enumerate(requests)}
    if len(accessions) != 1:
        raise RefusedContent(SEVERAL_ORDERS, "the message orders under several accession numbers")
    control, request, visit = received.first("ORC"), requests[0], received.first("PV1")
    identifier, issuer = _patient_identifier(received, received.first("PID"))
    pid = received.first("PID")
    code = 44 if received.value(request, 44) else 4
    order = Order(
        control_id=received.value(head, 10),
        message_type="^".join(kind),
        order_control=received.value(control, 1),
        patient_id=identifier,
        issuer_of_patient_id=issuer,
        patient_name="=".join(_names(received, pid, 5)).rstrip("="),
        birth_date=_date(received.value(pid, 7)),
        sex=_SEXES.get(received.value(pid, 8).upper(), ""),
        accession_number=accessions.pop(),
        placer_order_number=received.value(request, 2) or received.value(control, 2),
        procedure_code=received.value(request, code, 1),
        procedure_scheme=received.value(request, code, 3),
        procedure_text=" / ".join(dict.fromkeys(text for row in requests if (text := received.value(row, 4, 2) or received.value(row, 4)))),
        indication=_indication(received, request),
        priority=_priority(received, request, control),
        referring_physician=_provider(received, visit, 8) or _provider(received, request, 16),
        study_instance_uid=_study_uid(received),
        payer_kind=_PAYERS.get(received.value(insurances[0], 15).upper(), "") if (insurances := received.all("IN1")) else "",
        expected_instances=_expected_instances(received),
    )
    _require_sizes(order)
    return order


def _accession(received: Message, request: tuple[str, ...], number: int) -> str:
    """IPC-1 where there is an IPC, else OBR-18 as IHE has it, else the filler's order number."""
    imaging = received.all("IPC")
    candidates = [received.value(imaging[min(number, len(imaging) - 1)], 1)] if imaging else []
    candidates += [received.value(request, 18), received.value(request, 3), received.value(received.first("ORC"), 3)]
    accession = next((candidate for candidate in candidates if candidate), "")
    if not accession or len(accession) > 16 or "\\" in accession or "\n" in accession:
        raise RefusedContent(MALFORMED, "the accession number (IPC-1, OBR-18 or OBR-3) is missing, or no SH of 16 characters")
    return accession


def _patient_identifier(received: Message, pid: tuple[str, ...]) -> tuple[str, str]:
    """The medical record number of PID-3, else its first identifier, with the assigning authority."""
    repetitions = received.repetitions(pid, 3)
    chosen = next((one for one in repetitions if received.component(one, 5) == "MR"), repetitions[0] if repetitions else "")
    identifier = received.component(chosen, 1)
    if not identifier or len(identifier) > 64 or "\\" in identifier or "\n" in identifier:
        raise RefusedContent(MALFORMED, "the patient identifier (PID-3) is missing, or no LO of 64 characters")
    return identifier, received.component(chosen, 4, 1) or received.component(chosen, 4, 2)


def _names(received: Message, row: tuple[str, ...], number: int) -> list[str]:
    """The groups of a PN from the repetitions of an XPN: alphabetic, ideographic, phonetic (XPN-8)."""
    groups = ["", "", ""]
    for repetition in received.repetitions(row, number):
        place = {"I": 1, "P": 2}.get(received.component(repetition, 8), 0)
        if not groups[place]:
            groups[place] = _person_name([received.component(repetition, part) for part in range(1, 6)])
    if not any(groups):
        raise RefusedContent(MALFORMED, "the patient's name (PID-5) is missing")
    return groups


def _provider(received: Message, row: tuple[str, ...], number: int) -> str:
    repetitions = received.repetitions(row, number)
    return _person_name([received.component(repetitions[0], part) for part in range(2, 7)]) if repetitions else ""


def _person_name(parts: list[str]) -> str:
    """XPN orders suffix before prefix, PN prefix before suffix; what PN uses as a delimiter cannot be part of a name."""
    family, given, middle, suffix, prefix = (re.sub(r"[\^=\\\n]", " ", part).strip() for part in parts)
    return "^".join((family, given, middle, prefix, suffix)).rstrip("^")


def _indication(received: Message, request: tuple[str, ...]) -> str:
    """The reason for the study (OBR-31), then relevant clinical information (OBR-13), then notes (NTE-3)."""
    reasons = [received.component(one, 2) or received.component(one, 1) for one in received.repetitions(request, 31)]
    notes = [received.text(row, 3) for row in received.all("NTE")]
    # Senders fill OBR-13 and OBR-31 with the same words; a reader wants them once.
    return "\n".join(dict.fromkeys(text for text in (*reasons, received.text(request, 13), *notes) if text))


def _priority(received: Message, request: tuple[str, ...], control: tuple[str, ...]) -> str:
    timing = received.first("TQ1")
    stated = (received.value(timing, 9), received.value(request, 27, 6), received.value(control, 7, 6), received.value(request, 5))
    return _PRIORITIES.get(next((one for one in stated if one), "")[:1].upper(), "ROUTINE")


def _expected_instances(received: Message) -> str:
    """OBX-5 of the OBX whose OBX-3 is Number of Study Related Instances (0020,1208): HL7 has no field of its own for it."""
    stated = {received.value(row, 5) for row in received.all("OBX") if received.value(row, 3, 1).replace(",", "") == "00201208"}
    if not stated:
        return ""
    number = stated.pop()
    if stated or not (number.isascii() and number.isdigit() and 1 <= int(number[:8]) <= EXPECTED_INSTANCES_MAX and len(number) <= 7):
        raise RefusedContent(MALFORMED, f"the number of images (OBX-5 of 0020,1208) is not one number from 1 to {EXPECTED_INSTANCES_MAX}")
    return number


def _study_uid(received: Message) -> str:
    uid = received.value(received.first("IPC"), 3) or received.value(received.first("ZDS"), 1)
    if uid and (len(uid) > 64 or not re.fullmatch(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+", uid, re.ASCII)):
        raise RefusedContent(MALFORMED, "the Study Instance UID (IPC-3 or ZDS-1) is not a UID")
    return uid


def _date(value: str) -> str:
    if value and not re.fullmatch(r"[0-9]{4}(?:[0-9]{2}){0,5}.*", value, re.ASCII):
        raise RefusedContent(MALFORMED, "the date of birth (PID-7) is not a date")
    return value[:8] if len(value) >= 8 and value[:8].isdigit() else ""


def _require_sizes(order: Order) -> None:
    for name in Order.__dataclass_fields__:
        limit = TEXT_CHARACTERS_MAX if name == "indication" else VALUE_CHARACTERS_MAX
        if len(getattr(order, name)) > limit:
            raise RefusedContent(TOO_LONG, f"{name} has more than {limit} characters")
        if name != "indication" and "\n" in getattr(order, name):
            raise RefusedContent(MALFORMED, f"{name} has several lines")

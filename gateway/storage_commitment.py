"""The data sets of Storage Commitment, Push Model (PS3.4 J.3): the N-ACTION that asks, the N-EVENT-REPORT that answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from crypto.errors import IntegrityFailure, RefusedContent
from gateway.dicom_uids import EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, is_valid_uid
from gateway.header_scan import MALFORMED, ElementPlace, elements, encoding_of, items
from gateway.intake_port import CommitmentResult, FailedReference, InstanceReference

#: PS3.4 Table J.3-2
EVENT_ALL_COMMITTED = 1
EVENT_FAILURES_EXIST = 2
#: More than a study of any modality has; a request beyond it is refused rather than answered in part.
REFERENCES_MAX = 100_000

_TRANSACTION_UID = 0x00081195
_REFERENCED_SOP_SEQUENCE = 0x00081199
_REFERENCED_SOP_CLASS_UID = 0x00081150
_REFERENCED_SOP_INSTANCE_UID = 0x00081155


@dataclass(frozen=True, slots=True)
class CommitmentRequest:
    """The Action Information of an N-ACTION-RQ (PS3.4 Table J.3-1)."""

    transaction_uid: str
    instances: Sequence[InstanceReference]

    def failed_for(self, failure_reason: int) -> CommitmentResult:
        """The result in which every instance failed for one reason."""
        return CommitmentResult((), [FailedReference(each.sop_class_uid, each.sop_instance_uid, failure_reason) for each in self.instances])


def parse_commitment_request(payload: bytes, transfer_syntax_uid: str) -> CommitmentRequest:
    """Raises: RefusedContent if a required attribute is absent, twice there or no UID."""
    encoding = encoding_of(transfer_syntax_uid)
    transaction_uid: str | None = None
    sequence: ElementPlace | None = None
    for place in elements(payload, 0, len(payload), encoding):
        if place.tag == _TRANSACTION_UID:
            transaction_uid = _uid(payload, place)
        elif place.tag == _REFERENCED_SOP_SEQUENCE:
            sequence = place
    if transaction_uid is None or sequence is None:
        raise RefusedContent(MALFORMED, "PS3.4 Table J.3-1")
    instances: list[InstanceReference] = []
    for start, end in items(payload, sequence):
        found = {place.tag: place for place in elements(payload, start, end, sequence.encoding)}
        sop_class, sop_instance = found.get(_REFERENCED_SOP_CLASS_UID), found.get(_REFERENCED_SOP_INSTANCE_UID)
        if sop_class is None or sop_instance is None or len(instances) >= REFERENCES_MAX:
            raise RefusedContent(MALFORMED, "PS3.4 Table J.3-1")
        instances.append(InstanceReference(_uid(payload, sop_class), _uid(payload, sop_instance)))
    if not instances:
        raise RefusedContent(MALFORMED, "PS3.4 Table J.3-1")
    return CommitmentRequest(transaction_uid, instances)


def event_type_of(result: CommitmentResult) -> int:
    """PS3.4 J.3.3."""
    return EVENT_FAILURES_EXIST if result.failed else EVENT_ALL_COMMITTED


def commitment_dataset(transaction_uid: str, result: CommitmentResult) -> Dataset:
    """The Event Information of an N-EVENT-REPORT (PS3.4 Table J.3-2)."""
    dataset = Dataset()
    dataset.TransactionUID = transaction_uid
    if result.committed:
        dataset.ReferencedSOPSequence = [_reference(each.sop_class_uid, each.sop_instance_uid) for each in result.committed]
    if result.failed:
        failed = []
        for each in result.failed:
            item = _reference(each.sop_class_uid, each.sop_instance_uid)
            item.FailureReason = each.failure_reason
            failed.append(item)
        dataset.FailedSOPSequence = failed
    return dataset


def encode_commitment_result(transaction_uid: str, result: CommitmentResult, transfer_syntax_uid: str) -> bytes:
    """`commitment_dataset`, encoded in one of the three uncompressed syntaxes."""
    is_little = transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    encoded = encode(commitment_dataset(transaction_uid, result), transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN, is_little)
    if encoded is None:
        raise IntegrityFailure("a storage commitment result cannot be encoded")
    return bytes(encoded)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_instance_uid
    return item


def _uid(payload: bytes, place: ElementPlace) -> str:
    raw = payload[place.start : place.end].rstrip(b"\0 ")
    if not is_valid_uid(raw):
        raise RefusedContent(MALFORMED, "PS3.5 9.1", tag=f"({place.tag >> 16:04X},{place.tag & 0xFFFF:04X})")
    return raw.decode("ascii")

"""Sending: C-ECHO, C-STORE, and the N-EVENT-REPORT of a Storage Commitment on an association of our own, all by pynetdicom.

One call is one association. What comes back is sorted by what the caller does next: try again later (`TemporarilyUnable`), give it to a
person (`PermanentPeerFailure`), or read the status. Nothing of what is sent reaches a log.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_context, build_role
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from crypto.errors import BadInput, PermanentPeerFailure, RefusedContent, TemporarilyUnable
from gateway.dicom_uids import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE,
    VERIFICATION,
)
from gateway.intake_port import CommitmentResult
from gateway.negotiation import silence_pynetdicom
from gateway.storage_commitment import commitment_dataset, event_type_of

_REJECTED_TRANSIENT = 2


@dataclass(frozen=True, slots=True)
class RemoteAe:
    """A DICOM node we call. With `tls`, its name is checked where the context says so."""

    host: str
    port: int
    called_ae_title: str
    calling_ae_title: str
    tls: ssl.SSLContext | None = None
    #: For connecting, for each answer, and for silence.
    timeout_seconds: float = 30.0


def echo(remote: RemoteAe) -> int:
    """The status of a C-ECHO. Raises: TemporarilyUnable, PermanentPeerFailure."""
    with _associated(remote, [build_context(VERIFICATION)]) as association:
        return _status(association.send_c_echo())


def store(instance: Dataset | bytes, remote: RemoteAe) -> int:
    """Send one instance, a data set with file meta or the bytes of a Part 10 file, in the transfer syntax it has.

    Returns the C-STORE status (PS3.4 Table B.2-1): success, or a warning or failure for the caller to sort.
    Raises: BadInput if the instance does not name its class and syntax, TemporarilyUnable, PermanentPeerFailure.
    """
    return store_all([instance], remote)[0]


def store_all(instances: Sequence[Dataset | bytes], remote: RemoteAe) -> list[int]:
    """As `store`, for several instances on one association, in order. An association that breaks raises, whatever was sent before."""
    datasets = [_dataset(instance) for instance in instances]
    kinds = dict.fromkeys((str(dataset.SOPClassUID), str(dataset.file_meta.TransferSyntaxUID)) for dataset in datasets)
    if len(kinds) > 128:
        raise BadInput("more than 128 kinds of instances on one association (PS3.8 9.3.2.2)")
    with _associated(remote, [build_context(sop_class, syntax) for sop_class, syntax in kinds]) as association:
        return [_store_one(association, dataset) for dataset in datasets]


def send_commitment_result(transaction_uid: str, result: CommitmentResult, remote: RemoteAe) -> None:
    """The peer knows the outcome of its Storage Commitment request when this returns (PS3.4 J.3.3).

    We call as the SCP of the class, so the roles are negotiated the other way round (PS3.7 D.3.3.4).
    Raises: TemporarilyUnable, PermanentPeerFailure.
    """
    role = build_role(STORAGE_COMMITMENT_PUSH_MODEL, scu_role=False, scp_role=True)
    context = build_context(STORAGE_COMMITMENT_PUSH_MODEL, [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
    with _associated(remote, [context], [role]) as association:
        try:
            status, _ = association.send_n_event_report(
                commitment_dataset(transaction_uid, result),
                event_type_of(result),
                UID(STORAGE_COMMITMENT_PUSH_MODEL),
                UID(STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE),
            )
        except ValueError:
            raise PermanentPeerFailure("the peer takes no storage commitment results from us (role selection, PS3.7 D.3.3.4)") from None
        except RuntimeError:
            raise TemporarilyUnable("the association with the peer broke") from None
        answered = _status(status)
        if answered != 0x0000:
            raise PermanentPeerFailure(f"the peer answered the storage commitment result with status 0x{answered:04X}")


@contextlib.contextmanager
def _associated(remote: RemoteAe, contexts: list[PresentationContext], roles: Sequence[Any] = ()) -> Iterator[Association]:
    silence_pynetdicom()
    entity = AE(ae_title=remote.calling_ae_title)
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = remote.timeout_seconds
    association = entity.associate(
        remote.host,
        remote.port,
        contexts=contexts,
        ae_title=remote.called_ae_title,
        ext_neg=list(roles),
        tls_args=None if remote.tls is None else (remote.tls, remote.host),
    )
    if not association.is_established:
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            text = f"the peer rejected the association: {answer.result}/{answer.result_source}/{answer.diagnostic} (PS3.8 9.3.4)"
            raise TemporarilyUnable(text) if answer.result == _REJECTED_TRANSIENT else PermanentPeerFailure(text)
        if association.acceptor.primitive is not None and not association.accepted_contexts:
            raise PermanentPeerFailure("the peer accepts none of the presentation contexts")
        raise TemporarilyUnable("no association with the peer: not reachable, no answer, or its TLS refused ours")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _store_one(association: Association, dataset: Dataset) -> int:
    try:
        return _status(association.send_c_store(dataset))
    except ValueError:
        raise PermanentPeerFailure("the peer does not accept this SOP class in this transfer syntax") from None
    except RuntimeError:
        raise TemporarilyUnable("the association with the peer broke") from None


def _status(answer: Dataset) -> int:
    if "Status" not in answer:
        raise TemporarilyUnable("the peer did not answer in time, or hung up")
    return int(answer.Status)


def _dataset(instance: Dataset | bytes) -> Dataset:
    if isinstance(instance, bytes):
        try:
            instance = dcmread(BytesIO(instance))
        except Exception:
            raise RefusedContent("part10_malformed") from None
    meta = getattr(instance, "file_meta", None)
    if meta is None or "TransferSyntaxUID" not in meta or "SOPClassUID" not in instance or "SOPInstanceUID" not in instance:
        raise BadInput("an instance to send needs its SOP Class, SOP Instance and Transfer Syntax UID")
    return instance

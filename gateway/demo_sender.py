"""A hospital that sends: its order over MLLP, then its study over DICOM TLS with its own certificate."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from compliance.crosswalk import lookup_secret
from crypto.canonical import keyed_digest
from crypto.errors import TemporarilyUnable
from gateway.application import Application
from gateway.dicom_tls import TlsMaterial, client_context
from gateway.samples import SampleStudy
from gateway.store_scu import RemoteAe, store_all
from reporting.mllp import frame, unframe
from reporting.oru import parse_ack

_ANSWER_SECONDS = 20.0


@dataclass(frozen=True)
class SentStudy:
    """What the demonstration remembers of a study it sent: enough to find its rows and to know its patient again."""

    name: str
    study_lookup: str
    study_instance_uid: str
    patient_name: str
    instances: int
    seconds: float


def send_sample(app: Application, sample: SampleStudy, *, dicom: tuple[str, int], orders: tuple[str, int]) -> SentStudy:
    """The order was acknowledged and every instance answered 0x0000. Raises: TemporarilyUnable, PermanentPeerFailure."""
    _send_order(orders, sample.order_message)
    ae_title = f"{sample.hospital_id.upper()}_PACS"
    pair = app.certificates.client(ae_title)
    roots = b"".join(app.certificates.trust_roots())
    tls = client_context(TlsMaterial(certificate_pem=pair.certificate_pem, key_pem=pair.key_pem, trusted_authorities_pem=roots))
    remote = RemoteAe(host=dicom[0], port=dicom[1], called_ae_title=app.settings.dicom.ae_title, calling_ae_title=ae_title, tls=tls)
    began = time.monotonic()
    statuses = store_all(list(sample.datasets), remote)
    if any(statuses):
        raise TemporarilyUnable(f"{sample.name}: an instance was refused with status 0x{max(statuses):04X}")
    first = sample.datasets[0]
    uid = str(first.StudyInstanceUID)
    return SentStudy(
        name=sample.name,
        study_lookup=keyed_digest(lookup_secret(app.keys, sample.hospital_id), "study", uid),
        study_instance_uid=uid,
        patient_name=str(first.PatientName).split("=")[0],
        instances=len(sample.datasets),
        seconds=time.monotonic() - began,
    )


def _send_order(address: tuple[str, int], message: bytes) -> None:
    with socket.create_connection(address, timeout=_ANSWER_SECONDS) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        connection.sendall(frame(message))
        received = b""
        while True:
            chunk = connection.recv(8192)
            if not chunk:
                raise TemporarilyUnable("the order was not acknowledged")
            received += chunk
            answer, received = unframe(received)
            if answer is not None:
                break
    if parse_ack(answer).code != "AA":
        raise TemporarilyUnable("the order was not accepted")

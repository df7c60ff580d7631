"""Association negotiation as the acceptor (PS3.8 7.1, Annex D of PS3.7), by pynetdicom's PDU classes and its `presentation`.

The AE titles stand at fixed places of the request and are read without decoding anything else, so that the variable part of a request is
decoded only for a peer that the port has admitted.

What is offered: C-ECHO, every Storage SOP class and transfer syntax that pynetdicom knows, the Storage Commitment Push Model, and the
private classes and syntaxes that the configuration names. The deflated syntaxes are left out unless asked for: one of their instances can
unfold to a thousand times its size in whoever reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pydicom.uid import UID
from pynetdicom import _config as pynetdicom_config
from pynetdicom._globals import ALL_TRANSFER_SYNTAXES
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
)
from pynetdicom.presentation import AllStoragePresentationContexts, PresentationContext, negotiate_as_acceptor

from crypto.errors import ReadgateError
from gateway import dimse_responses as dimse
from gateway.dicom_uids import (
    APPLICATION_CONTEXT,
    DEFLATED_TRANSFER_SYNTAXES,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    IMPLICIT_VR_LITTLE_ENDIAN,
    STORAGE_COMMITMENT_PUSH_MODEL,
    VERIFICATION,
)
from gateway.intake_port import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    AcceptedContext,
    Refusal,
)
from gateway.pdu import PDU_BYTES_MAX, ProtocolViolation

_ITEMS_MAX = 4096  # 64 KiB hold fewer of any length that a real UID has


class AssociationRefused(ReadgateError):
    """The request is answered with A-ASSOCIATE-RJ."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.event_name)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class StorageOffer:
    """What the acceptor offers beyond the standard's own storage classes."""

    private_sop_classes: Sequence[str] = ()
    private_transfer_syntaxes: Sequence[str] = ()
    with_deflated: bool = False


@dataclass(frozen=True, slots=True)
class Negotiated:
    """An association that may be accepted: the A-ASSOCIATE-AC to send and what it says."""

    acceptance_pdu: bytes
    contexts: Mapping[int, AcceptedContext]
    peer_pdu_bytes_max: int
    refused_contexts: int = 0


@dataclass(slots=True)
class Negotiator:
    """Negotiates every association of a process; what it remembers between two of them is what it offers."""

    offer: StorageOffer = field(default_factory=StorageOffer)
    _syntaxes: dict[str, Sequence[str]] = field(init=False)
    _contexts: dict[str, PresentationContext] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        silence_pynetdicom()
        known = [str(uid) for uid in ALL_TRANSFER_SYNTAXES if self.offer.with_deflated or uid not in DEFLATED_TRANSFER_SYNTAXES]
        # The sender's own encoding is not ours to choose: what every sender can do stands first, big endian last.
        first = [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN]
        middle = [uid for uid in known if uid not in first and uid != EXPLICIT_VR_BIG_ENDIAN]
        syntaxes = [*first, *middle, *self.offer.private_transfer_syntaxes, EXPLICIT_VR_BIG_ENDIAN]
        classes = {str(context.abstract_syntax) for context in AllStoragePresentationContexts} | set(self.offer.private_sop_classes)
        self._syntaxes = dict.fromkeys(classes, syntaxes)
        for uid in (VERIFICATION, STORAGE_COMMITMENT_PUSH_MODEL):
            self._syntaxes[uid] = [*first, EXPLICIT_VR_BIG_ENDIAN]

    def negotiate(self, request_pdu: bytes) -> Negotiated:
        """Answer the contexts and roles of an A-ASSOCIATE-RQ whose titles were admitted.

        Raises: AssociationRefused, ProtocolViolation.
        """
        _check_items(request_pdu)
        try:
            decoded = A_ASSOCIATE_RQ()
            decoded.decode(request_pdu)
            request = decoded.to_primitive()
            if str(request.application_context_name) != APPLICATION_CONTEXT:
                raise AssociationRefused(Refusal(1, 1, 2, "application_context_refused"))
            wanted = request.presentation_context_definition_list
            roles = {
                cast(UID, item.sop_class_uid): (item.scu_role, item.scp_role)
                for item in request.user_information
                if isinstance(item, SCP_SCU_RoleSelectionNegotiation)
            }
            peer_pdu_bytes_max = int(request.maximum_length_received or 0)
            supported = [self._context(uid) for uid in {str(context.abstract_syntax) for context in wanted} if uid in self._syntaxes]
            results, role_replies = negotiate_as_acceptor(wanted, supported, roles)
            acceptance = _acceptance(request_pdu, results, role_replies)
        except AssociationRefused:
            raise
        except Exception:
            # pynetdicom asserts, indexes and looks up its way through a malformed request; all of it means the same.
            raise ProtocolViolation("association_request_malformed", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE) from None
        if not wanted or len({context.context_id for context in wanted}) != len(wanted):
            raise ProtocolViolation("presentation_contexts_malformed", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
        contexts = {
            context_id: AcceptedContext(context_id, str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context_id, context in ((cast(int, context.context_id), context) for context in results)
            if context.result == 0x00
        }
        return Negotiated(acceptance, contexts, peer_pdu_bytes_max, len(results) - len(contexts))

    def _context(self, sop_class_uid: str) -> PresentationContext:
        context = self._contexts.get(sop_class_uid)
        if context is None:
            context = PresentationContext()
            context.abstract_syntax = UID(sop_class_uid)
            context.transfer_syntax = [UID(uid) for uid in self._syntaxes[sop_class_uid]]
            # The requestor may be the SCU and nothing else; a proposal to be both is answered with SCU alone (PS3.7 D.3.3.4).
            context.scu_role, context.scp_role = True, False
            # All of them at once would cost every start a third of a second; two threads may make the same one, which does no harm.
            self._contexts[sop_class_uid] = context
        return context


def read_titles(request_pdu: bytes) -> tuple[str, str]:
    """(calling AE title, called AE title) of an A-ASSOCIATE-RQ, without their padding (PS3.8 Table 9-11).

    Raises: AssociationRefused for another protocol version or a title that is none (PS3.5 6.2, AE).
    """
    if not int.from_bytes(request_pdu[6:8], "big") & 1:
        raise AssociationRefused(Refusal(1, 2, 2, "protocol_version_refused"))
    called = _title(request_pdu[10:26], CALLED_AE_TITLE_NOT_RECOGNIZED)
    calling = _title(request_pdu[26:42], CALLING_AE_TITLE_NOT_RECOGNIZED)
    return calling, called


def silence_pynetdicom() -> None:
    """Nothing that pynetdicom says reaches a log: it prints data sets and addresses, some of them by default."""
    pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
    pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False
    pynetdicom_config.LOG_HANDLER_LEVEL = "none"
    logger = logging.getLogger("pynetdicom")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL + 1)


def _title(raw: bytes, refusal: Refusal) -> str:
    title = raw.strip(b" ")
    if not title or b"\\" in title or any(byte < 0x20 or byte > 0x7E for byte in title):
        raise AssociationRefused(refusal)
    return title.decode("ascii")


def _check_items(request_pdu: bytes) -> None:
    """The items and sub-items fill their containers and are not absurdly many: this much before a library looks at them."""
    pending = [(74, len(request_pdu), True)]
    count = 0
    while pending:
        position, end, is_outer = pending.pop()
        while position < end:
            count += 1
            if position + 4 > end or count > _ITEMS_MAX:
                raise ProtocolViolation("association_request_malformed", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
            kind, length = request_pdu[position], int.from_bytes(request_pdu[position + 2 : position + 4], "big")
            item_end = position + 4 + length
            if item_end > end:
                raise ProtocolViolation("association_request_malformed", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
            if is_outer and kind == 0x20:
                pending.append((position + 8, item_end, False))
            elif is_outer and kind == 0x50:
                pending.append((position + 4, item_end, False))
            position = item_end


def _acceptance(
    request_pdu: bytes, results: Sequence[PresentationContext], role_replies: Sequence[SCP_SCU_RoleSelectionNegotiation]
) -> bytes:
    longest = MaximumLengthNotification()
    longest.maximum_length_received = PDU_BYTES_MAX
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = "READGATE"
    primitive.called_ae_title = "READGATE"
    primitive.presentation_context_definition_results_list = list(results)
    primitive.user_information = [longest, implementation, version, *role_replies]
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(primitive)
    encoded = pdu.encode()
    # PS3.8 Table 9-17: the titles and the reserved bytes after them are sent back exactly as they came.
    return bytes(encoded[:10] + request_pdu[10:74] + encoded[74:])

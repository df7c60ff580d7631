"""The DIMSE services of one association as their SCP: C-ECHO, C-STORE, Storage Commitment Push Model (PS3.7 9.3, 10.3; PS3.4 B, J).

Invariants
- A success is answered only after the port has returned it.
- A data set is read to its end whatever becomes of it, so that the answer reaches a sender that is still sending; only one of more than
  twice the largest size is cut short.
- The payload lies in the window from the socket until the port has it, in one piece, and takes no memory beside it, however small the
  sender's fragments are.
- A commitment result that the peer has not confirmed when the association ends goes back to the port.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from crypto.errors import ReadgateError
from gateway import dimse_responses as dimse
from gateway.association_limits import AssociationLimits
from gateway.dicom_uids import STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE, VERIFICATION, is_valid_uid
from gateway.dimse_commands import COMMAND_BYTES_MAX, Command, parse_command
from gateway.intake_port import AcceptedContext, CommitmentResult, InstanceHead, IntakePort, LargeInstance
from gateway.pdu import PduReader, ProtocolViolation
from gateway.storage_commitment import CommitmentRequest, encode_commitment_result, event_type_of, parse_commitment_request

_T = TypeVar("_T")


class DimseScp:
    """Serves the messages of one association, one at a time, in its thread."""

    def __init__(
        self,
        *,
        reader: PduReader,
        send: Callable[[bytes], None],
        port: IntakePort,
        session: object,
        contexts: Mapping[int, AcceptedContext],
        peer_pdu_bytes_max: int,
        limits: AssociationLimits,
        log: Any,
    ) -> None:
        self._reader = reader
        self._send = send
        self._port = port
        self._session = session
        self._contexts = contexts
        self._peer_pdu_bytes_max = peer_pdu_bytes_max
        self._limits = limits
        self._log = log
        self._reports: dict[int, tuple[str, CommitmentResult]] = {}
        self._reports_sent = 0
        #: Instances answered with success.
        self.instances_kept = 0

    def relax(self) -> None:
        """Give back the payload memory until the next message."""
        self._reader.relax()

    def close(self) -> None:
        """The association is over: the memory goes, and unconfirmed commitment results go back to the port. Raises nothing."""
        self._reader.close()
        for transaction_uid, result in self._reports.values():
            try:
                self._port.commitment_undelivered(self._session, transaction_uid, result)
            except Exception as error:
                self._status_of(error)

    def receive_message(self, deadline: float) -> None:
        """Read one message, of which the first item is next on the wire, and answer it.

        Raises: ProtocolViolation, MessageInterrupted, ConnectionLost, DeadlinePassed.
        """
        self._reader.forget()
        context, command = self._read_command(deadline)
        field = command.field
        if field == dimse.C_STORE_RQ:
            self._store(context, command, deadline)
        elif field == dimse.C_ECHO_RQ:
            self._drain_dataset(context, command, deadline)
            self._send(dimse.plain_response(context.context_id, dimse.C_ECHO_RSP, command.message_id, dimse.SUCCESS, VERIFICATION.encode()))
        elif field == dimse.N_ACTION_RQ:
            self._commit(context, command, deadline)
        elif field == dimse.N_EVENT_REPORT_RSP:
            self._drain_dataset(context, command, deadline)
            self._report_answered(command)
        elif field == dimse.C_CANCEL_RQ:
            pass  # there is nothing of ours that could be cancelled, and C-CANCEL has no answer (PS3.7 9.3.2.3)
        elif field & 0x8000:
            raise ProtocolViolation("response_unexpected", abort_reason=dimse.ABORT_UNEXPECTED_PDU_PARAMETER)
        else:
            self._drain_dataset(context, command, deadline)
            self._log.warning("operation_refused", command_field=field)
            self._send(dimse.plain_response(context.context_id, field | 0x8000, command.message_id, dimse.UNRECOGNIZED_OPERATION))

    def _read_command(self, deadline: float) -> tuple[AcceptedContext, Command]:
        encoded = b""
        first_id: int | None = None
        while True:
            context_id, control, fragment = self._reader.read_fragment(deadline)
            if context_id not in self._contexts or (first_id is not None and context_id != first_id):
                raise ProtocolViolation("presentation_context_unknown", abort_reason=dimse.ABORT_UNEXPECTED_PDU_PARAMETER)
            if not control & 1:
                raise ProtocolViolation("dataset_without_command", abort_reason=dimse.ABORT_UNEXPECTED_PDU_PARAMETER)
            if len(encoded) + len(fragment) > COMMAND_BYTES_MAX:
                raise ProtocolViolation("command_set_too_long", abort_reason=dimse.ABORT_INVALID_PDU_PARAMETER_VALUE)
            first_id = context_id
            encoded += fragment
            if control & 2:
                return self._contexts[context_id], parse_command(encoded)

    def _read_dataset_fragment(self, context: AcceptedContext, deadline: float) -> tuple[memoryview, bool]:
        """(fragment, True if it was the last) of the data set that belongs to the command before it."""
        context_id, control, fragment = self._reader.read_fragment(deadline)
        if context_id != context.context_id or control & 1:
            raise ProtocolViolation("dataset_interrupted", abort_reason=dimse.ABORT_UNEXPECTED_PDU_PARAMETER)
        return fragment, bool(control & 2)

    def _drain_dataset(self, context: AcceptedContext, command: Command, deadline: float) -> None:
        drained = 0
        is_last = not command.has_dataset
        while not is_last:
            fragment, is_last = self._read_dataset_fragment(context, deadline)
            drained += len(fragment)
            if drained > self._limits.window_bytes:
                raise ProtocolViolation("dataset_too_large", abort_reason=dimse.ABORT_REASON_NOT_SPECIFIED)
            self._forget_when_full()

    def _forget_when_full(self) -> None:
        # Not after each fragment: what came ahead is moved, up to a MiB, and a fragment may have one byte.
        if self._reader.is_full:
            self._reader.forget()

    # --- C-STORE ---------------------------------------------------------------------------------------------------------

    def _store(self, context: AcceptedContext, command: Command, deadline: float) -> None:
        sop_class, sop_instance = command.uid(0x0002), command.uid(0x1000)
        status = self._status_of_head(context, command, sop_class, sop_instance)
        head = InstanceHead(
            context.sop_class_uid,
            sop_instance.decode("ascii", "replace"),
            context.transfer_syntax_uid,
            command.message_id,
            command.text(0x1030),
            command.number(0x1031, 0) if 0x1031 in command.elements else None,
        )
        if command.has_dataset:
            status = self._receive_dataset(context, head, status, deadline)
        assert status is not None
        if status == dimse.SUCCESS:
            self.instances_kept += 1
        else:
            self._log.warning("instance_refused", status=f"0x{status:04X}", sop_class_uid=context.sop_class_uid)
        self._send(dimse.c_store_response(context.context_id, command.message_id, sop_class, sop_instance, status))

    @staticmethod
    def _status_of_head(context: AcceptedContext, command: Command, sop_class: bytes, sop_instance: bytes) -> int | None:
        """The status that the command alone earns, None if the data set is wanted."""
        is_storage = context.sop_class_uid not in (VERIFICATION, STORAGE_COMMITMENT_PUSH_MODEL)
        if not is_storage or sop_class.decode("ascii", "replace") != context.sop_class_uid:
            return dimse.SOP_CLASS_NOT_SUPPORTED
        if not is_valid_uid(sop_instance):
            return dimse.INVALID_SOP_INSTANCE
        return None if command.has_dataset else dimse.CANNOT_UNDERSTAND

    def _receive_dataset(self, context: AcceptedContext, head: InstanceHead, status: int | None, deadline: float) -> int:
        """Read the data set to its end, whatever becomes of it, and return the status."""
        reader = self._reader
        total, is_last = 0, False
        large: LargeInstance | None = None
        try:
            while not is_last:
                fragment, is_last = self._read_dataset_fragment(context, deadline)
                total += len(fragment)
                if status is None:
                    reader.keep()
                if total > self._limits.instance_bytes_max:
                    if total > 2 * self._limits.instance_bytes_max:
                        raise ProtocolViolation("instance_too_large", abort_reason=dimse.ABORT_REASON_NOT_SPECIFIED)
                    status = dimse.OUT_OF_RESOURCES if status is None else status
                if is_last or not reader.is_full:
                    continue
                if status is None:
                    status, large = self._hand_on(head, large, reader.kept())
                reader.forget()
            if status is None and large is not None:
                status, large = self._hand_on(head, large, reader.kept())
                if status is None and large is not None:
                    finishing, large = large, None
                    status = self._ask(finishing.finish)
            elif status is None:
                status = self._hand_over(head, reader.kept())
        finally:
            if large is not None:
                self._ask(large.discard)
        assert status is not None
        return status

    def _hand_over(self, head: InstanceHead, parts: list[memoryview]) -> int:
        try:
            return self._port.receive_instance(self._session, head, parts)
        except Exception as error:
            return self._status_of(error)
        finally:
            _release(parts)

    def _hand_on(self, head: InstanceHead, large: LargeInstance | None, parts: list[memoryview]) -> tuple[int | None, LargeInstance | None]:
        """Give what the window holds to the port as the next piece: (status that ends the matter, or None, the instance)."""
        try:
            if large is None:
                large = self._port.begin_large_instance(self._session, head)
            large.append(parts)
            return None, large
        except Exception as error:
            return self._status_of(error), large
        finally:
            _release(parts)

    def _ask(self, question: Callable[[], _T]) -> _T | int:
        """What the port answers, or the status of what it raised."""
        try:
            return question()
        except Exception as error:
            return self._status_of(error)

    def _status_of(self, error: Exception) -> int:
        status = dimse.status_of_error(error)
        reason = getattr(error, "reason_code", None) if isinstance(error, ReadgateError) else None
        self._log.warning("port_refused", error_class=type(error).__name__, reason=reason, status=f"0x{status:04X}")
        return status

    # --- Storage Commitment ----------------------------------------------------------------------------------------------

    def _commit(self, context: AcceptedContext, command: Command, deadline: float) -> None:
        status, request = self._read_commitment(context, command, deadline)
        self._send(
            dimse.n_action_response(
                context.context_id, command.message_id, command.uid(0x0003), command.uid(0x1001), command.number(0x1008, 0), status
            )
        )
        if request is None:
            self._log.warning("storage_commitment_refused", status=f"0x{status:04X}")
            return
        wanted = request
        result = self._ask(lambda: self._port.commit_storage(self._session, wanted.transaction_uid, wanted.instances))
        if isinstance(result, int):
            result = wanted.failed_for(dimse.PROCESSING_FAILURE)
        self._log.info("storage_commitment_decided", committed=len(result.committed), failed=len(result.failed))
        self._reports_sent += 1
        message_id = self._reports_sent % 65535 + 1
        self._reports[message_id] = (wanted.transaction_uid, result)
        report = dimse.EventReport(message_id, STORAGE_COMMITMENT_PUSH_MODEL, STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE, event_type_of(result))
        dataset = encode_commitment_result(wanted.transaction_uid, result, context.transfer_syntax_uid)
        self._send(dimse.n_event_report(context.context_id, report, dataset, self._peer_pdu_bytes_max))

    def _read_commitment(self, context: AcceptedContext, command: Command, deadline: float) -> tuple[int, CommitmentRequest | None]:
        encoded, is_last = bytearray(), not command.has_dataset
        while not is_last:
            fragment, is_last = self._read_dataset_fragment(context, deadline)
            encoded += fragment
            self._forget_when_full()
            if len(encoded) > self._limits.window_bytes:
                raise ProtocolViolation("dataset_too_large", abort_reason=dimse.ABORT_REASON_NOT_SPECIFIED)
        if context.sop_class_uid != STORAGE_COMMITMENT_PUSH_MODEL or command.uid(0x0003) != STORAGE_COMMITMENT_PUSH_MODEL.encode():
            return dimse.NO_SUCH_SOP_CLASS, None
        if command.uid(0x1001) != STORAGE_COMMITMENT_PUSH_MODEL_INSTANCE.encode():
            return dimse.NO_SUCH_SOP_INSTANCE, None
        if command.number(0x1008, 0) != 1:
            return dimse.NO_SUCH_ACTION_TYPE, None
        try:
            return dimse.SUCCESS, parse_commitment_request(bytes(encoded), context.transfer_syntax_uid)
        except ReadgateError:
            return dimse.INVALID_ARGUMENT_VALUE, None

    def _report_answered(self, command: Command) -> None:
        message_id, status = command.number(0x0120, 0), command.number(0x0900, dimse.PROCESSING_FAILURE)
        if message_id not in self._reports:
            raise ProtocolViolation("response_unexpected", abort_reason=dimse.ABORT_UNEXPECTED_PDU_PARAMETER)
        if status == dimse.SUCCESS:
            del self._reports[message_id]
        else:
            self._log.warning("storage_commitment_report_refused", status=f"0x{status:04X}")


def _release(parts: list[memoryview]) -> None:
    # Whoever kept a view against the port's contract gets an error at its next use instead of another patient's bytes.
    for part in parts:
        with contextlib.suppress(BufferError):
            part.release()

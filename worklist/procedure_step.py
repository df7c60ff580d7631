"""The states of a Unified Procedure Step and the ways between them: PS3.4 Annex CC as data, no input or output.

Invariants
- A step is created SCHEDULED, and COMPLETED and CANCELED are final (PS3.4 Table CC.1.1-1, CC.1.1-2).
- The Transaction UID is the lock: who made the step IN PROGRESS chose it, and every later change must show it (CC.2.1.2).
- IN PROGRESS never goes back to SCHEDULED. A released or expired claim cancels its step and schedules a successor, so that the
  history of who held a study is in the steps themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from crypto.errors import Conflict


class State(StrEnum):
    """Procedure Step State (0074,1000)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class WorkitemCode(StrEnum):
    """CID 9231 Workitem Definition, coding scheme DCM: one mechanism for every kind of knowledge work."""

    QUALITY_CONTROL = "110002"
    INTERPRETATION = "110005"
    TRANSCRIPTION = "110006"
    REPORT_VERIFICATION = "110007"


class Priority(StrEnum):
    """Scheduled Procedure Step Priority (0074,1200)."""

    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"


@dataclass(frozen=True)
class Transition:
    """What becomes of a request for `to`: allowed, or the status of PS3.4 Table CC.2.1-2 as a reason."""

    is_allowed: bool
    status: int = 0x0000
    reason: str = ""


#: PS3.4 Table CC.1.1-2: (present state, requested state, the right Transaction UID was shown).
TRANSITION_TABLE: dict[tuple[State, State, bool], Transition] = {
    (State.SCHEDULED, State.SCHEDULED, True): Transition(False, 0xC303, "MAY_ONLY_BECOME_SCHEDULED_BY_N_CREATE"),
    (State.SCHEDULED, State.SCHEDULED, False): Transition(False, 0xC303, "MAY_ONLY_BECOME_SCHEDULED_BY_N_CREATE"),
    # A scheduled step has no lock yet: whoever claims it sets the Transaction UID.
    (State.SCHEDULED, State.IN_PROGRESS, True): Transition(True),
    (State.SCHEDULED, State.IN_PROGRESS, False): Transition(False, 0xC301, "TRANSACTION_UID_NOT_PROVIDED"),
    (State.SCHEDULED, State.COMPLETED, True): Transition(False, 0xC310, "NOT_YET_IN_PROGRESS"),
    (State.SCHEDULED, State.COMPLETED, False): Transition(False, 0xC301, "TRANSACTION_UID_NOT_PROVIDED"),
    (State.SCHEDULED, State.CANCELED, True): Transition(False, 0xC310, "NOT_YET_IN_PROGRESS"),
    (State.SCHEDULED, State.CANCELED, False): Transition(False, 0xC301, "TRANSACTION_UID_NOT_PROVIDED"),
    (State.IN_PROGRESS, State.SCHEDULED, True): Transition(False, 0xC303, "MAY_ONLY_BECOME_SCHEDULED_BY_N_CREATE"),
    (State.IN_PROGRESS, State.SCHEDULED, False): Transition(False, 0xC303, "MAY_ONLY_BECOME_SCHEDULED_BY_N_CREATE"),
    (State.IN_PROGRESS, State.IN_PROGRESS, True): Transition(False, 0xC302, "ALREADY_IN_PROGRESS"),
    (State.IN_PROGRESS, State.IN_PROGRESS, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
    (State.IN_PROGRESS, State.COMPLETED, True): Transition(True),
    (State.IN_PROGRESS, State.COMPLETED, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
    (State.IN_PROGRESS, State.CANCELED, True): Transition(True),
    (State.IN_PROGRESS, State.CANCELED, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
    (State.COMPLETED, State.SCHEDULED, True): Transition(False, 0xC303, "MAY_ONLY_BECOME_SCHEDULED_BY_N_CREATE"),
    (State.COMPLETED, State.SCHEDULED, False): Transition(False, 0xC303, "MAY_ONLY_BECOME_SCHEDULED_BY_N_CREATE"),
    (State.COMPLETED, State.IN_PROGRESS, True): Transition(False, 0xC300, "MAY_NO_LONGER_BE_UPDATED"),
    (State.COMPLETED, State.IN_PROGRESS, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
    (State.COMPLETED, State.COMPLETED, True): Transition(False, 0xB306, "ALREADY_IN_REQUESTED_STATE"),
    (State.COMPLETED, State.COMPLETED, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
    (State.COMPLETED, State.CANCELED, True): Transition(False, 0xC300, "MAY_NO_LONGER_BE_UPDATED"),
    (State.COMPLETED, State.CANCELED, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
    (State.CANCELED, State.SCHEDULED, True): Transition(False, 0xC303, "MAY_ONLY_BECOME_SCHEDULED_BY_N_CREATE"),
    (State.CANCELED, State.SCHEDULED, False): Transition(False, 0xC303, "MAY_ONLY_BECOME_SCHEDULED_BY_N_CREATE"),
    (State.CANCELED, State.IN_PROGRESS, True): Transition(False, 0xC300, "MAY_NO_LONGER_BE_UPDATED"),
    (State.CANCELED, State.IN_PROGRESS, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
    (State.CANCELED, State.COMPLETED, True): Transition(False, 0xC300, "MAY_NO_LONGER_BE_UPDATED"),
    (State.CANCELED, State.COMPLETED, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
    (State.CANCELED, State.CANCELED, True): Transition(False, 0xB304, "ALREADY_IN_REQUESTED_STATE"),
    (State.CANCELED, State.CANCELED, False): Transition(False, 0xC301, "TRANSACTION_UID_WRONG"),
}


def require_transition(present: State, requested: State, *, is_transaction_uid_right: bool) -> None:
    """Raises: Conflict with the reason of PS3.4 Table CC.2.1-2 where the step may not go there."""
    transition = TRANSITION_TABLE[present, requested, is_transaction_uid_right]
    if not transition.is_allowed:
        raise Conflict(transition.reason)

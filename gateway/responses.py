"""The one table from errors to what a peer is told: HTTP status, problem type and sentence. No text of an exception leaves here.

DIMSE statuses are in dimse_responses.py, made from the same classes. A test asserts one row per class.
"""

from __future__ import annotations

from dataclasses import dataclass

from crypto.errors import (
    BadInput,
    Conflict,
    IntegrityFailure,
    NotAllowed,
    NotFound,
    PermanentPeerFailure,
    ReadgateError,
    RefusedContent,
    TemporarilyUnable,
)


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    title: str
    #: What the person can do about it.
    advice: str
    may_retry: bool = False


HTTP_ANSWERS: dict[type[ReadgateError], HttpAnswer] = {
    RefusedContent: HttpAnswer(422, "Not acceptable", "Correct what is named and send it again."),
    BadInput: HttpAnswer(400, "Not understood", "Check the request."),
    NotAllowed: HttpAnswer(403, "Not allowed", "Ask your privacy officer if you think you should be."),
    NotFound: HttpAnswer(404, "Not found", "It may have moved, or it is not yours to see."),
    Conflict: HttpAnswer(409, "It has changed meanwhile", "Load the page again and decide anew.", may_retry=True),
    TemporarilyUnable: HttpAnswer(503, "Not now", "Nothing was done. Try again in a moment.", may_retry=True),
    IntegrityFailure: HttpAnswer(500, "Stored data do not agree", "Call the operator; nothing was changed."),
    PermanentPeerFailure: HttpAnswer(502, "The other side refuses", "It waits in the dead letter for a person."),
}
UNKNOWN = HttpAnswer(500, "Something failed here", "Call the operator and name the time.")


def answer_of(error: BaseException) -> HttpAnswer:
    """The row for `error`; a class without a row is an unknown error."""
    for kind in type(error).__mro__:
        if kind in HTTP_ANSWERS:
            return HTTP_ANSWERS[kind]
    return UNKNOWN


def reason_of(error: BaseException) -> str:
    """The constant that names the reason, where the error has one."""
    return str(getattr(error, "reason_code", "")) if isinstance(error, ReadgateError) else ""

"""What can go wrong, grouped by what the caller does next.

Messages carry pseudonymous identifiers, tags and clause names, never an element's value, and never the text of a foreign exception.
They are rendered only at the edge, by the one table in `gateway/responses.py`.
"""

from __future__ import annotations


class ReadgateError(Exception):
    """Root of every error that leaves a public function of Readgate."""


class RefusedContent(ReadgateError):
    """The content can never be accepted as it is; the sender or a person must change it.

    `reason_code` is a constant of the module that refuses; `tag` names the element, "(gggg,eeee)", where there is one.
    """

    def __init__(self, reason_code: str, detail: str = "", *, tag: str | None = None) -> None:
        super().__init__(": ".join(part for part in (reason_code, detail) if part))
        self.reason_code = reason_code
        self.detail = detail
        self.tag = tag


class BadInput(ReadgateError):
    """What an operator typed or configured is wrong; the message says what to do."""


class NotAllowed(ReadgateError):
    """The principal may not do this; nothing was done or shown."""

    def __init__(self, reason_code: str, detail: str = "") -> None:
        super().__init__(": ".join(part for part in (reason_code, detail) if part))
        self.reason_code = reason_code
        self.detail = detail


class NotFound(ReadgateError):
    """There is no such thing, or the principal may not know that there is."""


class Conflict(ReadgateError):
    """The state has moved on; read it again and decide anew."""

    def __init__(self, reason_code: str, detail: str = "") -> None:
        super().__init__(": ".join(part for part in (reason_code, detail) if part))
        self.reason_code = reason_code
        self.detail = detail


class TemporarilyUnable(ReadgateError):
    """Nothing was done; the same call may succeed later."""


class PermanentPeerFailure(ReadgateError):
    """The peer refuses for good; the work belongs in the dead letter, where a person sees it."""


class IntegrityFailure(ReadgateError):
    """Stored bytes, keys or log contradict each other; stop and call a person."""

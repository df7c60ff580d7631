"""A form with one file, as the privacy officer posts it: held in memory, because a file on its way here stands in no temporary file.

The route depends on the officer's role before anything of the body is read; the body's length is bounded by path (`document_bytes_max`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import FormParser, MultiPartException, MultiPartParser
from starlette.types import Scope

from compliance.evidence_document import DOCUMENT_BYTES_MAX
from crypto.errors import BadInput
from gateway.login import Visitor, require_csrf
from gateway.request_context import privacy_officer_of

#: Beside the document: the other fields, a pasted consent among them, and the form's own framing.
_FORM_BYTES = 512 * 1024


@dataclass(frozen=True)
class PostedDocument:
    """The fields of the form, and the file's content where one was chosen. What the file is called stays with its owner."""

    fields: Mapping[str, str]
    content: bytes | None


class _InMemory(MultiPartParser):
    """Larger than any body that passes the limit, so that nothing is ever rolled over to disk."""

    spool_max_size = 2 * DOCUMENT_BYTES_MAX


def document_bytes_max(scope: Scope) -> int | None:
    """How long the body of this request may be where it brings a document of evidence; None where it brings none."""
    if scope["type"] != "http" or scope.get("method") not in ("POST", "PUT"):
        return None
    path = str(scope.get("path", ""))
    is_one = path == "/evidence" or (path.startswith(("/evidence/", "/api/v1/evidence/")) and path.endswith("/document"))
    return DOCUMENT_BYTES_MAX + _FORM_BYTES if is_one else None


async def posted_document(request: Request, officer: Annotated[Visitor, Depends(privacy_officer_of)]) -> PostedDocument:
    """The form, once it has shown the session's CSRF token.

    Raises: NotAllowed(CSRF); BadInput for a form that is none of ours.
    """
    if not request.headers.get("content-type", "").startswith(("multipart/form-data", "application/x-www-form-urlencoded")):
        raise BadInput("the form is not one of ours")
    fields: dict[str, str] = {}
    content: bytes | None = None
    try:
        is_multipart = request.headers["content-type"].startswith("multipart/form-data")
        parser = _InMemory(request.headers, request.stream(), max_files=1, max_fields=40, max_part_size=_FORM_BYTES)
        form = await (parser if is_multipart else FormParser(request.headers, request.stream())).parse()
    except MultiPartException:
        raise BadInput("the form is not one of ours") from None
    try:
        for name, value in form.multi_items():
            if name in fields or "\0" in name or (isinstance(value, str) and "\0" in value):
                raise BadInput("the form is not one of ours")
            if isinstance(value, UploadFile):
                # A browser sends an empty part without a name where no file was chosen.
                content = await value.read() if value.filename or value.size else None
            else:
                fields[name] = value
    finally:
        await form.close()
    require_csrf(officer, request.headers.get("X-CSRF-Token") or fields.get("csrf_token"))
    return PostedDocument(fields, content)


OfficersDocument = Annotated[PostedDocument, Depends(posted_document)]

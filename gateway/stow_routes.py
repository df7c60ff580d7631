"""The HTTP form of STOW-RS (PS3.18 10.5) and of stating how many instances to expect, for a hospital's programs.

- `POST /dicom-web/studies` and `POST /dicom-web/studies/{study}`: multipart/related; type="application/dicom".
- `POST /dicom-web/studies/{study}/expected` and `POST /dicom-web/orders/{accession}/expected`: {"expected_instances": n}.
Every request carries `Authorization: Bearer` with an upload token (upload_credential.py); cookies of people open nothing here.
A body has no length limit of its own, so it has others: uploads at a time by hospital, silence within a body, its whole duration.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from pynetdicom.presentation import AllStoragePresentationContexts
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from crypto.errors import BadInput, NotAllowed, ReadgateError, RefusedContent, TemporarilyUnable
from gateway.application import Application
from gateway.dicom_uids import is_valid_uid
from gateway.expected_instances import expect_instances
from gateway.intake import GatewayIntake
from gateway.intake_limits import HospitalRates
from gateway.intake_rows import UploadCredential
from gateway.multipart_stream import media_type_of
from gateway.request_context import address_of
from gateway.responses import answer_of, reason_of
from gateway.spool_index import SpoolIndex
from gateway.stow import StowOutcome, StowPolicy, StowUpload
from gateway.upload_credential import authorised_upload

UPLOADS_PER_HOSPITAL_MAX = 8
_SILENCE_SECONDS_MAX = 60.0
_UPLOAD_SECONDS_MAX = 7200.0
#: Handed to a thread at a time: a hop to it costs as much as reading some hundred kilobytes.
_CHUNK_BYTES = 1024 * 1024
_STATEMENT_BYTES_MAX = 4096
_PREFIX = "/dicom-web/studies"
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_RETRY = {"Retry-After": "60"}


def is_upload(scope: Scope) -> bool:
    """Whether a request's body is bounded by this file and not by the limit on forms."""
    path = str(scope.get("path", ""))
    return scope["type"] == "http" and scope.get("method") == "POST" and (path == _PREFIX or path.startswith(_PREFIX + "/"))


def stow_routes(app: Application) -> list[Route]:
    """Plain routes, beside the ones that ask for a person's session."""
    gate = UploadGate(app)
    return [
        Route(_PREFIX, gate.guarded(gate.store), methods=["POST"]),
        Route(_PREFIX + "/{study}", gate.guarded(gate.store), methods=["POST"]),
        Route(_PREFIX + "/{study}/expected", gate.guarded(gate.expect), methods=["POST"]),
        Route("/dicom-web/orders/{accession}/expected", gate.guarded(gate.expect), methods=["POST"]),
    ]


class UploadGate:
    """The uploads of one process; its intake is made with the first of them."""

    def __init__(self, app: Application) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self._intake: GatewayIntake | None = None
        classes = {str(context.abstract_syntax) for context in AllStoragePresentationContexts} | set(app.settings.dicom.private_sop_classes)
        self._policy = StowPolicy(frozenset(classes), app.settings.dicom.instance_bytes_max)

    def guarded(self, act: Callable[[Request, UploadCredential], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """`act` for a program that has shown its token; its errors as problem documents (RFC 9457)."""

        async def endpoint(request: Request) -> Response:
            try:
                header = request.headers.get("authorization", "")
                return await act(request, await run_in_threadpool(authorised_upload, self._app.database, header))
            except NotAllowed as refused:
                return _problem(401, "Not authorised", refused.reason_code, {"WWW-Authenticate": "Bearer"})
            except ReadgateError as error:
                answer = answer_of(error)
                return _problem(answer.status, answer.title, reason_of(error), _RETRY if answer.may_retry else {})

        return endpoint

    async def store(self, request: Request, credential: UploadCredential) -> Response:
        """PS3.18 10.5."""
        media_type, parameters = media_type_of(request.headers.get("content-type", ""))
        if media_type != "multipart/related" or parameters.get("type", "application/dicom").lower() != "application/dicom":
            return _problem(415, "Unsupported media type", "MEDIA_TYPE", {})
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            # A compressed body can unfold to a thousand times its size.
            return _problem(415, "Unsupported content encoding", "CONTENT_ENCODING", {})
        study = request.path_params.get("study")
        if study is not None and not is_valid_uid(study.encode("ascii", "replace")):
            raise BadInput("the address names no Study Instance UID (PS3.5 9.1)")
        with self._counted(credential.hospital_id):
            outcome = await self._store(request, credential, parameters.get("boundary", ""), study)
        retry = _RETRY if outcome.http_status == 503 else {}
        return JSONResponse(outcome.dataset(), outcome.http_status, {**_HEADERS, **retry}, media_type="application/dicom+json")

    async def expect(self, request: Request, credential: UploadCredential) -> Response:
        """How many instances a study, or the study of an order, will have."""
        body = b""
        async for chunk in _chunks(request):
            body += chunk
            if len(body) > _STATEMENT_BYTES_MAX:
                raise BadInput("the statement is too long")
        try:
            expected = json.loads(body)["expected_instances"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise BadInput('the statement is {"expected_instances": n}') from None
        if not isinstance(expected, int) or isinstance(expected, bool):
            raise BadInput("expected_instances is a whole number")
        study, accession = request.path_params.get("study", ""), request.path_params.get("accession", "")
        actor = f"upload/{credential.credential_id}"
        await run_in_threadpool(
            lambda: expect_instances(
                self._app, credential.hospital_id, expected, actor=actor, study_instance_uid=study, accession_number=accession
            )
        )
        return Response(status_code=204, headers=_HEADERS)

    async def _store(self, request: Request, credential: UploadCredential, boundary: str, study: str | None) -> StowOutcome:
        intake = await run_in_threadpool(self._ready_intake)
        if not intake.limits.may_associate(credential.hospital_id):
            raise TemporarilyUnable("more uploads a minute than agreed")
        facts: dict[str, str | int] = {"address": address_of(request), "is_tls": int(request.url.scheme == "https")}
        sender = f"upload/{credential.credential_id}"
        session = await run_in_threadpool(intake.session, credential.hospital_id, sender, facts)
        upload = StowUpload(intake, session, self._policy, boundary, study_instance_uid=study)
        try:
            async for chunk in _chunks(request):
                await run_in_threadpool(upload.feed, chunk)
            return await run_in_threadpool(upload.finish)
        finally:
            await run_in_threadpool(upload.close)

    def _ready_intake(self) -> GatewayIntake:
        with self._lock:
            if self._intake is None:
                app = self._app
                index = SpoolIndex(app.database, app.spool)
                index.start()
                self._intake = GatewayIntake(
                    app.database,
                    app.keys,
                    app.spool,
                    index,
                    spool_path=app.data / "spool",
                    ae_title=app.settings.dicom.ae_title,
                    free_bytes_floor=app.settings.dicom.free_bytes_floor,
                    now=app.now,
                    rates=HospitalRates(app.settings.dicom.instances_per_minute_max, app.settings.dicom.associations_per_minute_max),
                )
            return self._intake

    @contextmanager
    def _counted(self, hospital_id: str) -> Iterator[None]:
        with self._lock:
            if self._running[hospital_id] >= UPLOADS_PER_HOSPITAL_MAX:
                raise TemporarilyUnable("the hospital has as many uploads at a time as it may have")
            self._running[hospital_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[hospital_id] -= 1


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body, gathered to pieces worth a thread. Raises: RefusedContent when it stops coming, or comes for too long."""
    deadline = time.monotonic() + _UPLOAD_SECONDS_MAX
    stream = request.stream().__aiter__()
    gathered = bytearray()
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), min(_SILENCE_SECONDS_MAX, max(0.001, deadline - time.monotonic())))
        except StopAsyncIteration:
            break
        except (TimeoutError, ClientDisconnect):
            raise RefusedContent("UPLOAD_INTERRUPTED", "the body stopped coming") from None
        gathered += chunk
        if len(gathered) >= _CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _problem(status: int, title: str, reason: str, headers: dict[str, str]) -> Response:
    body = {"title": title, "status": status, "reason_code": reason}
    return JSONResponse(body, status, {**_HEADERS, **headers}, media_type="application/problem+json")

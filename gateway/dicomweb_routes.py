"""The HTTP form of DICOMweb (PS3.18 chapter 10): paths, headers and status codes around gateway/dicomweb.py."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse

from crypto.errors import BadInput
from gateway import dicomweb
from gateway.application import Application
from gateway.login import Visitor
from gateway.request_context import application_of, natural_number, reader_of

router = APIRouter(prefix="/dicom-web")
Reader = Annotated[Visitor, Depends(reader_of)]
App = Annotated[Application, Depends(application_of)]
#: Pixels and attributes of a patient are in nobody's cache and in nobody's page but ours.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}


class DicomJson(JSONResponse):
    media_type = "application/dicom+json"


@router.get("/studies")
def search_studies(request: Request, app: App, reader: Reader) -> Response:
    query = request.query_params
    uids = [
        uid
        for name in ("StudyInstanceUID", "0020000D")
        for value in query.getlist(name)
        for uid in value.replace("\\", ",").split(",")
        if uid
    ]
    patient_id = query.get("00100020") or query.get("PatientID")
    return _json(
        dicomweb.search_studies(app, reader, study_instance_uids=uids, patient_id=patient_id), query.get("limit"), query.get("offset")
    )


@router.get("/studies/{study}/series")
def search_series(request: Request, app: App, reader: Reader, study: str) -> Response:
    query = request.query_params
    uids = [uid for value in query.getlist("SeriesInstanceUID") for uid in value.replace("\\", ",").split(",") if uid]
    return _json(dicomweb.search_series(app, reader, study, series_instance_uids=uids), query.get("limit"), query.get("offset"))


@router.get("/studies/{study}/series/{series}/instances")
def search_instances(
    app: App,
    reader: Reader,
    study: str,
    series: str,
    limit: Annotated[str | None, Query()] = None,
    offset: Annotated[str | None, Query()] = None,
) -> Response:
    return _json(dicomweb.search_instances(app, reader, study, series), limit, offset)


@router.get("/studies/{study}/metadata")
def retrieve_study_metadata(app: App, reader: Reader, study: str) -> Response:
    return DicomJson(dicomweb.retrieve_study_metadata(app, reader, study), headers=_HEADERS)


@router.get("/studies/{study}/series/{series}/metadata")
def retrieve_series_metadata(app: App, reader: Reader, study: str, series: str) -> Response:
    return DicomJson(dicomweb.retrieve_series_metadata(app, reader, study, series), headers=_HEADERS)


@router.get("/studies/{study}/series/{series}/instances/{instance}")
def retrieve_instance(app: App, reader: Reader, study: str, series: str, instance: str) -> Response:
    return _multipart(dicomweb.retrieve_instance(app, reader, study, series, instance))


@router.get("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}")
def retrieve_frames(app: App, reader: Reader, study: str, series: str, instance: str, frames: str) -> Response:
    try:
        numbers = [int(number) for number in frames.split(",", dicomweb.FRAMES_MAX)]
    except ValueError:
        raise BadInput("frame numbers are whole numbers, separated by commas (PS3.18 10.4.1.1.6)") from None
    return _multipart(dicomweb.retrieve_frames(app, reader, study, series, instance, numbers))


@router.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{tag}")
def retrieve_bulk_data(app: App, reader: Reader, study: str, series: str, instance: str, tag: str) -> Response:
    try:
        number = int(tag, 16)
    except ValueError:
        raise BadInput("a tag is eight hexadecimal digits") from None
    value = dicomweb.retrieve_bulk_data(app, reader, study, series, instance, number)
    return Response(value, media_type="application/octet-stream", headers=_HEADERS)


def _json(rows: list[dict[str, Any]], limit: str | None, offset: str | None) -> Response:
    start = natural_number(offset) or 0
    count = natural_number(limit)
    stop = start + count if count is not None else None
    return DicomJson(rows[start:stop], headers=_HEADERS)


def _multipart(found: dicomweb.Multipart) -> Response:
    return Response(found.body, headers={**_HEADERS, "Content-Type": found.content_type})

"""What the edge stated about a study's de-identification, for the hospital, the privacy officer and the reader: shown, printed, as JSON.

The page names pseudonyms and digests alone, so the same page is everybody's; who may see which study differs.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from sqlmodel import Session, col, select

from compliance.deid_manifest import manifest_document, manifest_facts
from compliance.hospital import require_hospital
from compliance.study import Instance, Study, manifest_of, require_study
from crypto.errors import NotFound
from gateway.application import Application
from gateway.dicomweb import granted_study
from gateway.hospital_studies import own_received_study
from gateway.log_rows import LogFilters, note_reading
from gateway.login import Visitor
from gateway.page_shell import shell_of
from gateway.reason_words import held_words
from gateway.request_context import App, hospital_staff_of, privacy_officer_of, reader_of
from gateway.web.contexts_manifest import DeidManifestPage, InstanceDigest
from gateway.web.rendering import render

router = APIRouter()
#: What a person can look through; the JSON has all of them.
DIGESTS_SHOWN_MAX = 200
_ACTIONS = {
    "C": "cleaned",
    "D": "replaced by a dummy",
    "K": "kept",
    "S": "dates moved",
    "U": "UIDs replaced",
    "X": "removed",
    "Z": "emptied",
}
_FLAGS = {
    "RECOGNIZABLE_VISUAL_FEATURES": "A head in slices: a face could be reconstructed from it. It was not removed.",
    "PIXELS_CLEANED": "Text was blanked in the pixels of at least one image.",
    "UNUSED_BITS_CLEARED": "Bits of the pixels that no viewer shows were set to zero.",
    "DEVICE_MASKED": "A mask for the device was blanked.",
}
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}


@router.get("/studies/{study_key}/deidentification")
def show_to_hospital(request: Request, app: App, staff: Annotated[Visitor, Depends(hospital_staff_of)], study_key: str) -> Response:
    with app.database.reading() as session:
        received = own_received_study(session, staff, study_key)
        if received is None or received.study_instance_uid is None:
            raise NotFound("no such study")
        return _answer(request, app, session, staff, require_study(session, received.study_instance_uid), "/studies")


@router.get("/privacy/studies/{study}/deidentification")
def show_to_officer(request: Request, app: App, officer: Annotated[Visitor, Depends(privacy_officer_of)], study: str) -> Response:
    note_reading(app, officer, LogFilters())
    with app.database.reading() as session:
        return _answer(request, app, session, officer, require_study(session, study), "/privacy/decisions")


@router.get("/dicom-web/studies/{study}/deidentification")
def retrieve(app: App, reader: Annotated[Visitor, Depends(reader_of)], study: str) -> Response:
    """The manifest travels with the images: whoever may retrieve the study may retrieve what was stated about it."""
    row, _ = granted_study(app, reader, study)
    with app.database.reading() as session:
        return JSONResponse(_document(session, row), headers=_HEADERS)


def _answer(request: Request, app: Application, session: Session, visitor: Visitor, study: Study, current: str) -> Response:
    if request.query_params.get("format") == "json":
        return JSONResponse(_document(session, study), headers=_HEADERS)
    facts = manifest_facts(require_hospital(session, study.hospital_id), study)
    instances = _instances(session, study)
    shown = instances[:DIGESTS_SHOWN_MAX] if facts.is_standing else []
    page = DeidManifestPage(
        shell=shell_of(app, visitor, current, title="De-identification"),
        pseudonym=study.patient_pseudonym,
        study_instance_uid=study.study_instance_uid,
        json_href=f"{request.url.path}?format=json",
        facts=facts,
        actions=tuple((f"{code}: {_ACTIONS[code]}" if code in _ACTIONS else code, count) for code, count in facts.actions),
        flags=tuple((code, _FLAGS.get(code, "")) for code in facts.flags),
        held=tuple((code, held_words(code)[0].partition(".")[0], count) for code, count in facts.held),
        instances=tuple(InstanceDigest(one.sop_instance_uid, one.payload_digest, one.pixel_digest or "") for one in shown),
        instance_count=len(instances),
    )
    return render("deid_manifest.html.j2", page)


def _document(session: Session, study: Study) -> dict[str, Any]:
    if not study.deid_manifest:
        raise NotFound("nothing was stated about this study")
    manifest_of(session, study)  # Raises IntegrityFailure where the rows are not those that were stated.
    return manifest_document(study, _instances(session, study))


def _instances(session: Session, study: Study) -> list[Instance]:
    query = select(Instance).where(Instance.study_pk == study.study_pk).order_by(col(Instance.sop_instance_uid))
    return list(session.exec(query).all())

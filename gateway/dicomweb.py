"""View: QIDO-RS and WADO-RS (PS3.18 chapter 10) over what one login was granted, and over nothing else.

1. Who asks has a grant for the study: a claim, an ALLOW of at most fifteen minutes' age, and an audit entry that stands already.
   A grant that ran out while the claim holds is decided anew; a study without a grant is not there (404), whoever knows its UID.
2. What is stored goes out as it is stored; the browser decodes. Nothing is written to a disk and nothing may be kept (no-store).

A search by PatientID crosses studies: it answers from the grants, whatever was asked for.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, select

from compliance.dataset_bytes import elements, encoding_of
from compliance.study import Instance, Series, Study, instances_of_study, open_study_key, series_of, study_by_pk
from crypto.errors import BadInput, NotAllowed, NotFound
from crypto.vault import SealedObject
from gateway.application import Application
from gateway.dicom_uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from gateway.login import Visitor
from gateway.study_registration import open_series_metadata
from worklist.view_grant import ViewGrant, open_view, standing_grants
from worklist.workitem import held_steps

EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_UNCOMPRESSED = {"1.2.840.10008.1.2", EXPLICIT_VR_LITTLE_ENDIAN}
FRAMES_MAX = 500
#: No answer to a request for frames grows beyond this, whatever was asked for.
ANSWER_BYTES_MAX = 512 * 1024 * 1024


@dataclass(frozen=True)
class Multipart:
    """A multipart/related body (RFC 2387) and its content type."""

    content_type: str
    body: bytes


def grants_of(app: Application, visitor: Visitor) -> list[ViewGrant]:
    """The grants that hold now; where a claim holds and its grant ran out, the law is asked again first."""
    now = app.now()
    with app.database.reading() as session:
        standing = standing_grants(session, reader_id=visitor.principal_id, login_digest=visitor.login_digest, now=now)
        held = [step.procedure_step_uid for step in held_steps(session, visitor.principal_id) if step.login_digest == visitor.login_digest]
    covered = {grant.procedure_step_uid for grant in standing}
    for procedure_step_uid in held:
        if procedure_step_uid not in covered:
            try:
                standing += open_view(
                    app.database,
                    app.law,
                    procedure_step_uid=procedure_step_uid,
                    reader_id=visitor.principal_id,
                    login_digest=visitor.login_digest,
                    now=now,
                    keys=app.keys,
                )
            except NotAllowed:
                # Recorded by open_view; the caller finds no grant.
                continue
    return standing


def granted_study(app: Application, visitor: Visitor, study_instance_uid: str) -> tuple[Study, ViewGrant]:
    """The study and the grant to see it. Raises: NotFound, whether there is no such study or no grant."""
    grants = {grant.study_pk: grant for grant in grants_of(app, visitor)}
    with app.database.reading() as session:
        study = session.exec(select(Study).where(Study.study_instance_uid == study_instance_uid)).first()
    if study is None or study.study_pk not in grants:
        raise NotFound("no such study")
    return study, grants[study.study_pk]


def search_studies(
    app: Application, visitor: Visitor, *, study_instance_uids: Sequence[str] = (), patient_id: str | None = None
) -> list[dict[str, Any]]:
    """QIDO-RS studies (10.6): of the granted ones those that match."""
    found = []
    grants = grants_of(app, visitor)
    with app.database.reading() as session:
        for grant in grants:
            study = study_by_pk(session, grant.study_pk)
            if study_instance_uids and study.study_instance_uid not in study_instance_uids:
                continue
            if patient_id is not None and patient_id.strip("*") and study.patient_pseudonym != patient_id.strip("*"):
                continue
            found.append(_study_json(session, study))
    return found


def search_series(
    app: Application, visitor: Visitor, study_instance_uid: str, *, series_instance_uids: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """QIDO-RS series of a study. Raises: NotFound."""
    study, _ = granted_study(app, visitor, study_instance_uid)
    assert study.study_pk is not None
    with app.database.reading() as session:
        return [
            _series_json(study, series)
            for series in series_of(session, study.study_pk)
            if not series_instance_uids or series.series_instance_uid in series_instance_uids
        ]


def search_instances(app: Application, visitor: Visitor, study_instance_uid: str, series_instance_uid: str) -> list[dict[str, Any]]:
    """QIDO-RS instances of a series. Raises: NotFound."""
    study, series, _ = _granted_series(app, visitor, study_instance_uid, series_instance_uid)
    with app.database.reading() as session:
        rows = session.exec(select(Instance).where(Instance.series_pk == series.series_pk)).all()
    return [
        dicom_json(
            {
                0x00080016: ("UI", row.sop_class_uid),
                0x00080018: ("UI", row.sop_instance_uid),
                0x0020000D: ("UI", study.study_instance_uid),
                0x0020000E: ("UI", series_instance_uid),
                0x00200013: ("IS", row.number),
            }
        )
        for row in rows
    ]


def retrieve_study_metadata(app: Application, visitor: Visitor, study_instance_uid: str) -> list[dict[str, Any]]:
    """WADO-RS metadata of a study (10.4.1.1.2). Raises: NotFound."""
    study, _ = granted_study(app, visitor, study_instance_uid)
    assert study.study_pk is not None
    with app.database.reading() as session:
        series = series_of(session, study.study_pk)
    study_key = open_study_key(app.keys, study)
    return [instance for one in series for instance in open_series_metadata(app, study_key, one)]


def retrieve_series_metadata(app: Application, visitor: Visitor, study_instance_uid: str, series_instance_uid: str) -> list[dict[str, Any]]:
    """WADO-RS metadata of a series. Raises: NotFound."""
    study, series, _ = _granted_series(app, visitor, study_instance_uid, series_instance_uid)
    return open_series_metadata(app, open_study_key(app.keys, study), series)


def retrieve_frames(
    app: Application,
    visitor: Visitor,
    study_instance_uid: str,
    series_instance_uid: str,
    sop_instance_uid: str,
    frame_numbers: Sequence[int],
) -> Multipart:
    """WADO-RS frames (10.4.1.1.6), numbered from 1, as stored. Raises: NotFound; BadInput where a frame is asked for twice, or too much."""
    study, instance = _granted_instance(app, visitor, study_instance_uid, series_instance_uid, sop_instance_uid)
    table = instance.frame_table
    if not frame_numbers or len(frame_numbers) > FRAMES_MAX or not all(1 <= number <= len(table) for number in frame_numbers):
        raise NotFound("no such frame")
    if len(set(frame_numbers)) < len(frame_numbers):
        raise BadInput("each frame once (PS3.18 10.4.1.1.6)")
    if sum(table[number - 1][1] for number in frame_numbers) > ANSWER_BYTES_MAX:
        raise BadInput("more than one answer holds; ask for fewer frames at a time")
    study_key, sealed = open_study_key(app.keys, study), _sealed(instance)
    frames = [app.vault.open_range(study_key, sealed, *table[number - 1]) for number in frame_numbers]
    syntax = EXPLICIT_VR_LITTLE_ENDIAN if instance.transfer_syntax_uid in _UNCOMPRESSED else instance.transfer_syntax_uid
    return multipart(frames, f"application/octet-stream; transfer-syntax={syntax}", "application/octet-stream")


def retrieve_instance(
    app: Application, visitor: Visitor, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str
) -> Multipart:
    """WADO-RS instance as a Part 10 file, for objects a viewer reads whole (SEG, RTSTRUCT).

    Raises: NotFound; NotAllowed under VIEW_ONLY or NO_PERSIST.
    """
    _require_copy_allowed(app, visitor, study_instance_uid)
    study, instance = _granted_instance(app, visitor, study_instance_uid, series_instance_uid, sop_instance_uid)
    payload = app.vault.open(open_study_key(app.keys, study), _sealed(instance))
    return multipart([part10(instance, payload)], f"application/dicom; transfer-syntax={instance.transfer_syntax_uid}", "application/dicom")


def retrieve_bulk_data(
    app: Application, visitor: Visitor, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str, tag: int
) -> bytes:
    """The value of one top-level element as it is stored (10.4.1.1.5).

    Raises: NotFound; NotAllowed under VIEW_ONLY or NO_PERSIST: element by element makes a whole file, and whoever looks takes frames.
    """
    _require_copy_allowed(app, visitor, study_instance_uid)
    study, instance = _granted_instance(app, visitor, study_instance_uid, series_instance_uid, sop_instance_uid)
    value = element_value(app.vault.open(open_study_key(app.keys, study), _sealed(instance)), instance.transfer_syntax_uid, tag)
    if value is None:
        raise NotFound("no such element")
    return value


def multipart(parts: Iterable[bytes], part_type: str, root_type: str) -> Multipart:
    boundary = f"readgate-{secrets.token_hex(12)}"
    body = b"".join(f"--{boundary}\r\nContent-Type: {part_type}\r\n\r\n".encode() + part + b"\r\n" for part in parts)
    return Multipart(f'multipart/related; type="{root_type}"; boundary={boundary}', body + f"--{boundary}--\r\n".encode())


def dicom_json(values: Mapping[int, tuple[str, Any]]) -> dict[str, Any]:
    """A PS3.18 F.2 object of {tag: (VR, value or list or None)}."""
    found: dict[str, Any] = {}
    for tag, (vr, value) in sorted(values.items()):
        listed = value if isinstance(value, list) else [value]
        listed = [{"Alphabetic": item} if vr == "PN" else item for item in listed if item not in (None, "")]
        found[f"{tag:08X}"] = {"vr": vr, "Value": listed} if listed else {"vr": vr}
    return found


def part10(instance: Instance, payload: bytes) -> bytes:
    """A Part 10 file (PS3.10 7.1) around a payload: zeroed preamble, minimal file meta."""
    elements = b"".join(
        (
            _meta(0x0001, b"OB", b"\x00\x01"),
            _meta(0x0002, b"UI", instance.sop_class_uid.encode()),
            _meta(0x0003, b"UI", instance.sop_instance_uid.encode()),
            _meta(0x0010, b"UI", instance.transfer_syntax_uid.encode()),
            _meta(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode()),
            _meta(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME.encode()),
        )
    )
    return bytes(128) + b"DICM" + _meta(0x0000, b"UL", len(elements).to_bytes(4, "little")) + elements + payload


def element_value(payload: bytes, transfer_syntax_uid: str, tag: int) -> bytes | None:
    for element in elements(payload, 0, len(payload), encoding_of(transfer_syntax_uid)):
        if element.tag == tag:
            return payload[element.value : element.end]
    return None


def _meta(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    length = b"\0\0" + len(value).to_bytes(4, "little") if vr == b"OB" else len(value).to_bytes(2, "little")
    return b"\x02\x00" + number.to_bytes(2, "little") + vr + length + value


def _granted_series(
    app: Application, visitor: Visitor, study_instance_uid: str, series_instance_uid: str
) -> tuple[Study, Series, ViewGrant]:
    study, grant = granted_study(app, visitor, study_instance_uid)
    with app.database.reading() as session:
        series = session.exec(
            select(Series).where(Series.series_instance_uid == series_instance_uid, Series.study_pk == study.study_pk)
        ).first()
    if series is None:
        raise NotFound("no such series")
    return study, series, grant


def _granted_instance(
    app: Application, visitor: Visitor, study_instance_uid: str, series_instance_uid: str, sop_instance_uid: str
) -> tuple[Study, Instance]:
    study, series, _ = _granted_series(app, visitor, study_instance_uid, series_instance_uid)
    with app.database.reading() as session:
        instance = session.get(Instance, sop_instance_uid)
    if instance is None or instance.series_pk != series.series_pk:
        raise NotFound("no such instance")
    return study, instance


def _require_copy_allowed(app: Application, visitor: Visitor, study_instance_uid: str) -> None:
    _, grant = granted_study(app, visitor, study_instance_uid)
    if {"VIEW_ONLY", "NO_PERSIST"} & set(grant.obligations):
        raise NotAllowed("VIEW_ONLY", "the decision allows looking, not whole files")


def _sealed(instance: Instance) -> SealedObject:
    return SealedObject(instance.object_id, instance.pack_name, instance.pack_offset, instance.sealed_length)


def _study_json(session: Session, study: Study) -> dict[str, Any]:
    assert study.study_pk is not None
    series = series_of(session, study.study_pk)
    return dicom_json(
        {
            0x00080020: ("DA", study.study_date),
            0x00080030: ("TM", study.study_time),
            0x00080050: ("SH", study.accession_pseudonym),
            0x00080061: ("CS", sorted({one.modality for one in series})),
            0x00081030: ("LO", study.description),
            0x00100010: ("PN", study.patient_pseudonym),
            0x00100020: ("LO", study.patient_pseudonym),
            0x00100040: ("CS", study.patient_sex),
            0x0020000D: ("UI", study.study_instance_uid),
            0x00201206: ("IS", len(series)),
            0x00201208: ("IS", len(instances_of_study(session, study.study_pk))),
        }
    )


def _series_json(study: Study, series: Series) -> dict[str, Any]:
    return dicom_json(
        {
            0x00080021: ("DA", series.series_date),
            0x00080031: ("TM", series.series_time),
            0x00080060: ("CS", series.modality),
            0x0008103E: ("LO", series.description),
            0x0020000D: ("UI", study.study_instance_uid),
            0x0020000E: ("UI", series.series_instance_uid),
            0x00200011: ("IS", series.number),
            0x00201209: ("IS", series.instance_count),
        }
    )

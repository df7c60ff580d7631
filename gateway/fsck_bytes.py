"""fsck, the bytes: keys, spool segments and packs against the rows that name them."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlmodel import Session, select

from compliance.hospital import Hospital
from compliance.instance_digest import payload_digest
from compliance.study import Instance, Series, Study, StudyStatus, open_study_key
from crypto.errors import IntegrityFailure, NotFound, ReadgateError
from crypto.keys import StudyKey
from crypto.vault import SealedObject
from gateway.fsck import Fsck
from gateway.received import ReceivedInstance, ReceivedStudy
from gateway.unsettled_packs import UnsettledPack

#: A frame or key younger than this may be about to get its row.
_SETTLE_SECONDS = 60.0
_RECHECK_SECONDS = 0.5


@dataclass(frozen=True)
class _Stored:
    """An object that a row says lies in the vault."""

    owner: str
    key_of: str
    place: SealedObject
    #: "sha256:..." of the payload; "" for originals and metadata, whose seal alone says that they are what was stored.
    digest: str
    frame_table: Sequence[Sequence[int]] = ()


def check_keys(fsck: Fsck, deep: bool) -> None:
    """Every study opens, every shredded one does not, and no SHRED key stands alone."""
    app, report = fsck.app, fsck.report
    with app.database.reading() as session:
        hospitals = session.exec(select(Hospital.hospital_id)).all()
        studies = session.exec(select(Study)).all()
        received = session.exec(select(ReceivedStudy)).all()
    for hospital_id in hospitals:
        with fsck.expecting("hospital_without_kek", f"hospital {hospital_id}", NotFound):
            app.keys.kek_version(hospital_id)
    for study in studies:
        name = f"study {study.study_instance_uid}"
        if study.status == StudyStatus.SHREDDED:
            if app.keys.has_shred_key(study.study_key_id):
                report.add("shredded_study_has_key", name)
            continue
        report.checked["study_keys"] += 1
        with (
            fsck.expecting("study_without_shred_key", name, NotFound),
            fsck.expecting("wrapped_key_damaged", name, IntegrityFailure),
        ):
            open_study_key(app.keys, study)
    known = {study.study_key_id for study in studies}
    for row in received:
        if row.study_key_id is None or row.wrapped_dek is None or row.study_key_id in known:
            continue
        name = f"received/{row.received_study_pk}"
        with (
            fsck.expecting("study_without_shred_key", name, NotFound),
            fsck.expecting("wrapped_key_damaged", name, IntegrityFailure),
        ):
            app.keys.open_study_key(row.hospital_id, row.study_key_id, row.wrapped_dek)
    for key_id in _lonely_keys(fsck):
        report.add("shred_key_without_study", f"key {key_id}")


def _lonely_keys(fsck: Fsck) -> list[str]:
    """SHRED keys that no row names; looked at twice, because a key is made a moment before its row commits."""
    app = fsck.app
    suspects = set(app.keys.shred_key_ids())
    for attempt in range(2):
        with app.database.reading() as session:
            suspects -= set(session.exec(select(Study.study_key_id)).all())
            suspects -= {key_id for key_id in session.exec(select(ReceivedStudy.study_key_id)).all() if key_id is not None}
        if not suspects or fsck.is_alone or attempt:
            break
        time.sleep(_RECHECK_SECONDS)
    return sorted(suspects)


def check_spool(fsck: Fsck, deep: bool) -> None:
    """Every acknowledged frame opens and has its row, and every row that has no pack yet has its frame."""
    app, report = fsck.app, fsck.report
    segments = app.spool.segments()
    with app.database.reading() as session:
        rows = session.exec(select(ReceivedInstance)).all()
    of_segment: dict[str, dict[int, ReceivedInstance]] = defaultdict(dict)
    for row in rows:
        of_segment[row.segment_id][row.frame_offset] = row
    for segment_id in segments:
        found = _read_segment(fsck, segment_id, {*of_segment[segment_id]})
        for offset, row in sorted(of_segment[segment_id].items()):
            if row.pack_name is None and not row.is_duplicate and found is not None and offset not in found:
                report.add("frame_missing", f"instance {row.instance_pk} of received/{row.received_study_pk}, segment {segment_id}")
    # What was archived and swept between the two looks has its pack by now.
    gone = [row for segment_id in of_segment.keys() - set(segments) for row in of_segment[segment_id].values() if not _is_safe(row)]
    with app.database.reading() as session:
        for row in gone:
            now = session.get(ReceivedInstance, row.instance_pk)
            if now is not None and not _is_safe(now):
                report.add("frame_missing", f"instance {row.instance_pk} of received/{row.received_study_pk}, segment {row.segment_id}")


def _is_safe(row: ReceivedInstance) -> bool:
    return row.pack_name is not None or row.is_duplicate


def _read_segment(fsck: Fsck, segment_id: str, known: set[int]) -> set[int] | None:
    """Offsets of the frames that open; None where the segment is gone meanwhile or its header does not open."""
    app, report = fsck.app, fsck.report
    try:
        reader = app.spool.read_segment(segment_id)
    except NotFound:
        return None
    except IntegrityFailure:
        report.add("spool_segment_damaged", f"segment {segment_id}: its header does not open")
        return None
    report.checked["segments"] += 1
    found: set[int] = set()
    lonely = 0
    while True:
        try:
            position, header, _payload = next(reader)
        except StopIteration:
            break
        except IntegrityFailure:
            position = reader.damaged[-1]
            report.add("spool_segment_damaged", f"segment {segment_id} at {position.offset}")
            found.add(position.offset)
            continue
        report.checked["frames"] += 1
        fsck.step()
        found.add(position.offset)
        lonely += "piece" not in header and position.offset not in known
    if lonely and not app.spool.is_open(segment_id) and _is_settled(fsck, segment_id):
        report.add("frame_without_row", f"segment {segment_id}: {lonely} instances")
    return found


def _is_settled(fsck: Fsck, segment_id: str) -> bool:
    if fsck.is_alone:
        return True
    try:
        written = (fsck.app.data / "spool" / f"{segment_id}.segment").stat().st_mtime
    except OSError:
        return False
    return time.time() - written > _SETTLE_SECONDS


def check_packs(fsck: Fsck, deep: bool) -> None:
    """Every row's object lies in its pack, and every pack is named by a row, or is announced or given up and waits to be reclaimed."""
    app, report = fsck.app, fsck.report
    # The packs first, and the unsettled ones on both sides of the rows: what changes between the looks is in one of them.
    sizes = dict(app.vault.pack_names())
    unsettled = _unsettled(fsck)
    with app.database.reading() as session:
        shredded = _shredded_keys(session)
        stored = _stored(fsck, session)
    unsettled |= _unsettled(fsck)
    by_pack: dict[str, list[_Stored]] = defaultdict(list)
    for one in stored:
        by_pack[one.place.pack_name].append(one)
    report.checked["packs"] = len(sizes)
    report.checked["unsettled_packs"] = len(unsettled & sizes.keys())
    for pack_name in sorted(sizes.keys() - by_pack.keys() - unsettled):
        report.add("orphan_pack", f"{pack_name} of {sizes[pack_name]} bytes")
    keys = _OpenedKeys(fsck)
    for pack_name, objects in sorted(by_pack.items()):
        alive = [one for one in objects if one.key_of not in shredded]
        if pack_name not in sizes:
            if alive:
                report.add("missing_pack", f"{pack_name} with {len(alive)} objects of {alive[0].owner}")
        elif not alive:
            report.add("pack_of_shredded_study", f"{pack_name} of {objects[0].owner}")
        else:
            _check_objects(fsck, keys, pack_name, sizes[pack_name], alive, deep)


def _unsettled(fsck: Fsck) -> set[str]:
    with fsck.app.database.reading() as session:
        return set(session.exec(select(UnsettledPack.pack_name)).all())


def _check_objects(fsck: Fsck, keys: _OpenedKeys, pack_name: str, size: int, objects: list[_Stored], deep: bool) -> None:
    try:
        places = set(fsck.app.vault.pack_objects(pack_name))
    except NotFound:
        return
    except IntegrityFailure:
        fsck.report.add("pack_damaged", f"{pack_name} with objects of {objects[0].owner}")
        places = None
    for one in objects:
        fsck.report.checked["objects"] += 1
        where = f"{pack_name} at {one.place.offset}: {one.owner}"
        if one.place.offset + one.place.length > size:
            fsck.report.add("payload_missing", where)
        elif places is not None and (one.place.offset, one.place.length) not in places:
            fsck.report.add("payload_damaged", where)
        elif deep:
            _open(fsck, keys, one, where)
        fsck.step()


def _open(fsck: Fsck, keys: _OpenedKeys, one: _Stored, where: str) -> None:
    study_key = keys.of(one.key_of)
    if study_key is None:
        return  # the key is a finding of its own
    try:
        payload = fsck.app.vault.open(study_key, one.place)
    except (IntegrityFailure, NotFound):
        fsck.report.add("payload_damaged", where)
        return
    fsck.report.checked["opened"] += 1
    if one.digest and not _is_of(payload, one):
        fsck.report.add("payload_damaged", where)


def _is_of(payload: bytes, one: _Stored) -> bool:
    try:
        return payload_digest(payload, one.frame_table) == one.digest
    except IntegrityFailure:
        return False


class _OpenedKeys:
    """Study keys by their id, opened once; None where one does not open."""

    def __init__(self, fsck: Fsck) -> None:
        self._fsck = fsck
        self._rows: dict[str, tuple[str, bytes]] = {}
        with fsck.app.database.reading() as session:
            for received in session.exec(select(ReceivedStudy)).all():
                if received.study_key_id is not None and received.wrapped_dek is not None:
                    self._rows[received.study_key_id] = received.hospital_id, received.wrapped_dek
            for study in session.exec(select(Study)).all():
                self._rows[study.study_key_id] = study.hospital_id, study.wrapped_dek
        self._opened: dict[str, StudyKey | None] = {}

    def of(self, study_key_id: str) -> StudyKey | None:
        if study_key_id not in self._opened:
            self._opened[study_key_id] = self._open(study_key_id)
        return self._opened[study_key_id]

    def _open(self, study_key_id: str) -> StudyKey | None:
        if study_key_id not in self._rows:
            return None
        hospital_id, wrapped = self._rows[study_key_id]
        try:
            return self._fsck.app.keys.open_study_key(hospital_id, study_key_id, wrapped)
        except ReadgateError:
            return None


def _shredded_keys(session: Session) -> set[str]:
    """Keys of shredded studies, and of received ones that were shredded before they became a study."""
    studies = set(session.exec(select(Study.study_key_id).where(Study.status == StudyStatus.SHREDDED)).all())
    received = session.exec(select(ReceivedStudy)).all()
    return studies | {row.study_key_id for row in received if row.study_key_id is not None and row.wrapped_dek is None}


def _stored(fsck: Fsck, session: Session) -> list[_Stored]:
    """Every object that a row says lies in the vault."""
    found: list[_Stored] = []
    studies = {study.study_pk: study for study in session.exec(select(Study)).all()}
    received = {row.received_study_pk: row for row in session.exec(select(ReceivedStudy)).all()}
    for row in session.exec(select(Instance)).all():
        study = studies.get(row.study_pk)
        if study is None:
            fsck.report.add("row_points_nowhere", f"instance {row.sop_instance_uid}: no study {row.study_pk}")
            continue
        place = SealedObject(row.object_id, row.pack_name, row.pack_offset, row.sealed_length)
        found.append(_Stored(f"study {study.study_instance_uid}", study.study_key_id, place, row.payload_digest, row.frame_table))
    for series in session.exec(select(Series)).all():
        study = studies.get(series.study_pk)
        if study is None:
            fsck.report.add("row_points_nowhere", f"series {series.series_instance_uid}: no study {series.study_pk}")
            continue
        at = series.metadata_object
        place = SealedObject(at["object_id"], at["pack_name"], at["offset"], at["length"])
        found.append(_Stored(f"study {study.study_instance_uid}", study.study_key_id, place, ""))
    for original in session.exec(select(ReceivedInstance)).all():
        if original.pack_name is None or original.object_id is None or original.pack_offset is None or original.sealed_length is None:
            continue
        owner = received.get(original.received_study_pk)
        if owner is None:
            fsck.report.add("row_points_nowhere", f"received instance {original.instance_pk}: no received/{original.received_study_pk}")
            continue
        place = SealedObject(original.object_id, original.pack_name, original.pack_offset, original.sealed_length)
        found.append(_Stored(f"received/{owner.received_study_pk}", owner.study_key_id or "", place, ""))
    return found

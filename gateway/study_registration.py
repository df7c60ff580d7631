"""A de-identified study becomes known to the exchange: rows, manifest, series metadata and crosswalk entry, in one transaction."""

from __future__ import annotations

import gzip
import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlmodel import Session, col, func, select

from compliance import audit
from compliance.crosswalk import seal_study_identity
from compliance.deid_manifest import enrol_edge_key, sign_statement, statement_of
from compliance.free_text import TextCleaner
from compliance.identified import DeidentifiedDataset, InstanceAttributes, Pseudonymity
from compliance.order import Order, payer_of
from compliance.study import Instance, Series, Study, instances_of_study, study_manifest
from crypto.canonical import digest, keyed_uid
from crypto.errors import RefusedContent, TemporarilyUnable
from crypto.keys import StudyKey
from crypto.vault import SealedObject
from gateway.application import Application
from gateway.grown_identity import Made, Output
from gateway.order_joining import join_order, note_order_missing
from gateway.received import ReceivedInstance, ReceivedState, locked_received_study
from gateway.storage_decision import require_storage
from gateway.study_holds import ACTOR, INSTANCE_IN_TWO_STUDIES, SERIES_IN_TWO_STUDIES, hold_instances, left_out_count
from gateway.study_identity import ReceivedIdentity
from gateway.unsettled_packs import give_up_packs, seal_unsettled, settle_packs

#: What a reader sees in place of an order text that could not be proved clean.
WITHHELD = "[withheld: the hospital has to clear this text]"
_KEYS_PER_QUERY = 500
_Key = TypeVar("_Key")
#: Objects that are no pictures to read: they do not give the study its modality.
_NOT_IMAGES = {"SR", "PR", "KO", "DOC", "SEG", "REG", "AU", "OT"}


def register_study(
    app: Application,
    received_study_pk: int,
    study_key: StudyKey,
    identity: ReceivedIdentity,
    under: Pseudonymity,
    order: tuple[Order, dict[str, Any]] | None,
    made: Made,
    *,
    generation: int,
) -> str:
    """The study is AVAILABLE under its pseudonymous UID, which is returned; repeated, it stays what it is.

    `generation` is the received study's as its instances were read. When it has moved on, nothing is registered and "" returned: more
    instances came, and the next generation's job takes all of them. Two processes that work on one generation cannot mix their results:
    the second finds instances registered, or series metadata replaced, since it looked.

    The instances that were refused stay behind, listed in the quarantine; the study's row and its signed manifest say how many. One
    that had gone on and is refused under an identity that has grown is withdrawn: its row goes, and manifest and amendment say so.

    Raises: RefusedContent when an instance came out under the UID of another study's, or the law does not let the study be kept here;
    TemporarilyUnable.
    """
    study_instance_uid = keyed_uid(under.uid_secret, identity.study_instance_uid)
    outputs, refusals, withdrawn = made.outputs, made.refusals, made.withdrawn
    metadata, seen = _sealed_metadata(app, study_key, study_instance_uid, outputs, withdrawn)
    order_text = _clean_order_text(under, order[1]) if order is not None else None
    first = next(iter(sorted((output.attributes for _, output, _ in outputs), key=_is_document)), None)
    payer_kind = payer_of(order[1]) if order is not None else None
    place = require_storage(
        app,
        hospital_id=under.hospital_id,
        study_instance_uid=study_instance_uid,
        patient_pseudonym=under.pseudonym,
        modality=(first.modality if first is not None else None) or "OT",
        body_part=first.body_part_examined if first is not None else None,
        payer_kind=payer_kind,
    )
    with app.database.transaction() as session:
        received = locked_received_study(session, received_study_pk)
        if received.generation != generation or received.state != ReceivedState.COMPLETE:
            return received.study_instance_uid or "" if received.state == ReceivedState.AVAILABLE else ""
        received_rows = _require_untouched(session, made, seen)
        settle_packs(session, [*metadata.values(), *(place for _, _, place in outputs)])
        now = app.now()
        study = session.exec(select(Study).where(Study.study_instance_uid == study_instance_uid).with_for_update()).first()
        if study is None:
            assert received.study_key_id is not None and received.wrapped_dek is not None
            study = Study(
                study_instance_uid=study_instance_uid,
                hospital_id=received.hospital_id,
                patient_pseudonym=under.pseudonym,
                accession_pseudonym=under.accession_pseudonym,
                study_key_id=received.study_key_id,
                wrapped_dek=received.wrapped_dek,
                modality="",
                manifest_digest="",
                instance_count=0,
                completed_at=received.complete_at or now,
                available_at=now,
            )
        manifest_before = study.manifest_digest
        if made.is_remade:
            # What the rows say of it was read from outputs that were cleaned of less.
            study.description = ""
        study.storage_country, study.keys_country = place.storage_country, place.keys_country
        _describe(study, [*made.unchanged, *(output.attributes for _, output, _ in outputs)])
        if order is not None and order_text is not None:
            is_new = study.study_pk is None or bool(outputs or withdrawn)
            join_order(session, study, study_key, received_study_pk, order[0], order_text, payer_kind=payer_kind, is_new=is_new, app=app)
        else:
            note_order_missing(session, app, received, identity.accession_number)
        session.add(study)
        session.flush()
        series = _series_rows(session, study, outputs, metadata)
        replaced = [*_instance_rows(session, study, series, outputs, received_rows), *_withdraw(session, withdrawn)]
        give_up_packs(session, [*replaced, *(str(pointer["pack_name"]) for pointer in seen.values())], now=now)
        _count_instances(session, series)
        assert study.study_pk is not None
        rows = instances_of_study(session, study.study_pk)
        study.instance_count, study.manifest_digest = len(rows), digest(study_manifest(study_instance_uid, rows))
        if manifest_before not in ("", study.manifest_digest):
            # What is there to read is another thing than it was: instances came, were made otherwise, or were withdrawn.
            study.amendment += 1
        actions: Counter[str] = Counter(study.deidentification.get("actions", {}))
        for _, output, _ in outputs:
            actions.update(output.action_counts)
        held = hold_instances(session, received, refusals, now=now)
        study.held_instances, study.left_out_instances = sum(held.values()), left_out_count(session, received_study_pk)
        flags = {flag for _, output, _ in outputs for flag in output.flags} | set(study.deidentification.get("flags", []))
        study.deidentification = {
            "profile": under.profile.name,
            "actions": dict(sorted(actions.items())),
            "flags": sorted(flags),
            "held": held,
        }
        key = enrol_edge_key(session, app.keys, study.hospital_id)
        statement = statement_of(study, profile=under.profile, actions=actions, flags=flags, held=held, made_at=now)
        study.deid_manifest = sign_statement(statement, key)
        pseudonym_of = {uid: keyed_uid(under.uid_secret, uid) for uid, _, _ in identity.instances}
        known = {row.sop_instance_uid for row in rows}
        pseudonym_of = {uid: pseudonym for uid, pseudonym in pseudonym_of.items() if pseudonym in known}
        seal_study_identity(session, app.keys, study, received.study_lookup, identity.document(pseudonym_of, order[1] if order else None))
        received.study_instance_uid, received.state = study_instance_uid, ReceivedState.AVAILABLE
        received.terms_digest = made.terms_digest
        session.add_all([study, received])
        session.flush()
        audit.append(
            session,
            audit.AuditEvent(
                event_id=audit.EventId.INSTANCES_ACCESSED,
                event_type=audit.EventType.DEIDENTIFY,
                action=audit.Action.UPDATE,
                actor=ACTOR,
                hospital_id=study.hospital_id,
                study_instance_uid=study_instance_uid,
                object_id=f"received/{received_study_pk}",
                detail={
                    "instances": study.instance_count,
                    "new": sum(row.sop_instance_uid is None for row, _, _ in outputs),
                    "remade": sum(row.sop_instance_uid is not None for row, _, _ in outputs),
                    "withdrawn": len(withdrawn),
                    "manifest": study.manifest_digest,
                    "profile": under.profile.name,
                    "held": study.held_instances,
                    "deid_manifest": study.deid_manifest["digest"],
                    "edge_key": key.key_id,
                },
            ),
            at=now,
        )
    return study_instance_uid


def open_series_metadata(app: Application, study_key: StudyKey, series: Series) -> list[dict[str, Any]]:
    """The instances' PS3.18 F metadata of a series. Raises: IntegrityFailure."""
    place = series.metadata_object
    sealed = SealedObject(place["object_id"], place["pack_name"], place["offset"], place["length"])
    instances: list[dict[str, Any]] = json.loads(gzip.decompress(app.vault.open(study_key, sealed)))
    return instances


def _clean_order_text(under: Pseudonymity, order: Mapping[str, Any]) -> dict[str, str]:
    """The order's texts without identity; one that stays doubtful is withheld, and says so, rather than shown or guessed."""
    cleaner = TextCleaner(under.identity)
    cleaned = {name: cleaner.clean(str(order.get(name) or "")) for name in ("indication", "question", "procedure")}
    return {name: WITHHELD if text.is_doubtful else text.text for name, text in cleaned.items()}


def _sealed_metadata(
    app: Application, study_key: StudyKey, study_instance_uid: str, outputs: Sequence[Output], withdrawn: frozenset[str]
) -> tuple[dict[str, SealedObject], dict[str, dict[str, Any]]]:
    """Per series its metadata, with what an earlier generation had, sealed before the transaction, which only points at it; and per series
    that stood already the pointer that was read.
    """
    seen: dict[str, dict[str, Any]] = {}
    by_series: dict[str, list[dict[str, Any]]] = {}
    for _, output, _ in outputs:
        by_series.setdefault(output.series_instance_uid, []).append(dict(output.dicom_json))
    anew = Counter(output.series_instance_uid for row, output, _ in outputs if row.sop_instance_uid is not None)
    with app.database.reading() as session:
        standing = session.exec(select(Series).join(Study).where(Study.study_instance_uid == study_instance_uid)).all()
        for uid in session.exec(select(Series.series_instance_uid).join(Instance).where(col(Instance.sop_instance_uid).in_(withdrawn))):
            by_series.setdefault(uid, [])
    for series in standing:
        if series.series_instance_uid in by_series:
            fresh = by_series[series.series_instance_uid]
            # By SOP Instance UID: content that took another's place takes its description's place too.
            # What was made anew altogether needs nothing that stood, which may be what was damaged.
            is_all = anew[series.series_instance_uid] >= series.instance_count
            stood = [] if is_all else open_series_metadata(app, study_key, series)
            merged = {_sop_instance_uid(one): one for one in [*stood, *fresh]}
            by_series[series.series_instance_uid] = [one for uid, one in merged.items() if uid not in withdrawn]
            seen[series.series_instance_uid] = dict(series.metadata_object)
    items = [(uuid.uuid4().hex, gzip.compress(json.dumps(instances).encode(), mtime=0)) for instances in by_series.values()]
    return dict(zip(by_series, seal_unsettled(app, study_key, items), strict=True)), seen


def _sop_instance_uid(model: Mapping[str, Any]) -> str:
    return str(model["00080018"]["Value"][0])


def _require_untouched(session: Session, made: Made, seen: Mapping[str, dict[str, Any]]) -> dict[int, ReceivedInstance]:
    """The rows of what was made, as they stand now.

    Raises: TemporarilyUnable when another process registered some of it since it was read; the step is tried again from the rows.
    """
    worked_on = [*(row for row, _, _ in made.outputs), *(row for row, _ in made.refusals)]
    standing: dict[int, ReceivedInstance] = {}
    for keys in _by_so_many([row.instance_pk for row in worked_on]):
        found = session.exec(select(ReceivedInstance).where(col(ReceivedInstance.instance_pk).in_(keys))).all()
        standing.update((row.instance_pk or 0, row) for row in found)
    for received in worked_on:
        row = standing.get(received.instance_pk or 0)
        if row is None or row.sop_instance_uid != received.sop_instance_uid:
            raise TemporarilyUnable("another process registered these instances")
    for uid in {output.series_instance_uid for _, output, _ in made.outputs}:
        series = session.exec(select(Series).where(Series.series_instance_uid == uid)).first()
        if series is not None and dict(series.metadata_object) != seen.get(uid):
            raise TemporarilyUnable("another process registered instances of this series")
    return standing


def _by_so_many(keys: Sequence[_Key]) -> Iterator[Sequence[_Key]]:
    return (keys[start : start + _KEYS_PER_QUERY] for start in range(0, len(keys), _KEYS_PER_QUERY))


def _count_instances(session: Session, series: Mapping[str, Series]) -> None:
    for row in series.values():
        row.instance_count = session.exec(select(func.count()).select_from(Instance).where(Instance.series_pk == row.series_pk)).one()
        session.add(row)
    session.flush()


def _describe(study: Study, attributes: Sequence[InstanceAttributes]) -> None:
    """Fill what the study's rows say of it from the first instances that say it; images before documents."""
    for given in sorted(attributes, key=_is_document):
        study.modality = study.modality or given.modality or ""
        study.body_part = study.body_part or given.body_part_examined
        study.description = study.description or given.study_description or ""
        study.study_date = study.study_date or given.study_date or ""
        study.study_time = study.study_time or given.study_time or ""
        study.patient_sex = study.patient_sex or given.patient_sex or ""
        study.patient_age = study.patient_age or given.patient_age or ""
    study.modality = study.modality or "OT"


def _is_document(attributes: InstanceAttributes) -> bool:
    return (attributes.modality or "OT") in _NOT_IMAGES


def _series_rows(session: Session, study: Study, outputs: Sequence[Output], metadata: Mapping[str, SealedObject]) -> dict[str, Series]:
    assert study.study_pk is not None
    rows: dict[str, Series] = {}
    for _, output, _ in outputs:
        uid, given = output.series_instance_uid, output.attributes
        if uid in rows:
            continue
        row = session.exec(select(Series).where(Series.series_instance_uid == uid)).first()
        place = metadata[uid]
        pointer = {"object_id": place.object_id, "pack_name": place.pack_name, "offset": place.offset, "length": place.length}
        if row is not None and row.study_pk != study.study_pk:
            raise RefusedContent(SERIES_IN_TWO_STUDIES, "one Series Instance UID came under two studies", tag="(0020,000E)")
        if row is None:
            row = Series(
                study_pk=study.study_pk,
                series_instance_uid=uid,
                modality=given.modality or "OT",
                number=given.series_number,
                description=given.series_description or "",
                body_part=given.body_part_examined,
                metadata_object=pointer,
            )
        elif any(other.series_instance_uid == uid and received.sop_instance_uid is not None for received, other, _ in outputs):
            # Read from an output that was cleaned of less.
            row.description = given.series_description or ""
        row.metadata_object = pointer
        session.add(row)
        rows[uid] = row
    for uid in metadata.keys() - rows.keys():
        # Of this series instances were withdrawn and none made.
        row, place = session.exec(select(Series).where(Series.series_instance_uid == uid)).one(), metadata[uid]
        row.metadata_object = {"object_id": place.object_id, "pack_name": place.pack_name, "offset": place.offset, "length": place.length}
        session.add(row)
        rows[uid] = row
    session.flush()
    return rows


def _instance_rows(
    session: Session,
    study: Study,
    series: Mapping[str, Series],
    outputs: Sequence[Output],
    received_rows: Mapping[int, ReceivedInstance],
) -> list[str]:
    """The packs that held what was replaced."""
    assert study.study_pk is not None
    # Asked for together: one by one each question would write what stands in the session first, and forget the row it found.
    standing: dict[str, Instance] = {}
    for uids in _by_so_many([output.sop_instance_uid for _, output, _ in outputs]):
        found = session.exec(select(Instance).where(col(Instance.sop_instance_uid).in_(uids))).all()
        standing.update((row.sop_instance_uid, row) for row in found)
    replaced: list[str] = []
    for received, output, place in outputs:
        series_pk = series[output.series_instance_uid].series_pk
        assert series_pk is not None
        instance = standing.get(output.sop_instance_uid)
        if instance is not None and instance.study_pk != study.study_pk:
            raise RefusedContent(INSTANCE_IN_TWO_STUDIES, "one SOP Instance UID came under two studies", tag="(0008,0018)")
        if instance is None:
            instance = Instance(sop_instance_uid=output.sop_instance_uid, **_place_of(study.study_pk, series_pk, output, place))
            standing[output.sop_instance_uid] = instance
        else:
            # A person chose this content over the one that stood: the row describes what is there now.
            replaced.append(instance.pack_name)
            for name, value in _place_of(study.study_pk, series_pk, output, place).items():
                setattr(instance, name, value)
        session.add(instance)
        kept = received_rows[received.instance_pk or 0]
        kept.sop_instance_uid, kept.held_item_pk, kept.held_detail, kept.held_boxes = output.sop_instance_uid, None, "", []
        session.add(kept)
    session.flush()
    return replaced


def _withdraw(session: Session, withdrawn: frozenset[str]) -> list[str]:
    """The instances are in the study no more; the packs they lay in."""
    packs: list[str] = []
    for uid in withdrawn:
        instance = session.get(Instance, uid)
        if instance is not None:
            packs.append(instance.pack_name)
            session.delete(instance)
        for kept in session.exec(select(ReceivedInstance).where(ReceivedInstance.sop_instance_uid == uid)).all():
            kept.sop_instance_uid = None
            session.add(kept)
    session.flush()
    return packs


def _place_of(study_pk: int, series_pk: int, output: DeidentifiedDataset, place: SealedObject) -> dict[str, Any]:
    """The columns of an instance's row: what it is, where it lies, what its bytes are."""
    return {
        "series_pk": series_pk,
        "study_pk": study_pk,
        "sop_class_uid": output.sop_class_uid,
        "transfer_syntax_uid": output.transfer_syntax_uid,
        "number": output.attributes.instance_number,
        "object_id": place.object_id,
        "pack_name": place.pack_name,
        "pack_offset": place.offset,
        "sealed_length": place.length,
        "payload_bytes": output.payload_bytes,
        "frame_table": [list(frame) for frame in output.frame_table],
        "payload_digest": output.payload_digest,
        "pixel_digest": output.pixel_digest,
    }

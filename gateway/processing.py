"""From received to routed: originals archived, de-identified, sealed, routed. Each step may run twice and comes out once.

1. `archive_originals` (archiving.py): sealed originals move from the spool into the vault under the study's key, bit for bit.
2. `deidentify_study`: instances that pass `deidentify` go on, those that do not are held back one by one, each with its reason; the
   whole study is held where its identity is in doubt (study_holds.py) or where more is missing than would be left.
   If we crash before its commit, packs nobody refers to are left, which are reclaimed (unsettled_packs.py); the step runs again.
3. `route_study`: the study becomes work.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from sqlmodel import Session

from compliance.crosswalk import ensure_patient, uid_secret
from compliance.deid_child import RefusedPixels
from compliance.deid_profile import TELEREAD, DeidProfile, profile_of
from compliance.deidentify import deidentify
from compliance.hospital import require_hospital
from compliance.identified import DeidentifiedDataset, IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityCollector
from compliance.order import Order, find_order
from compliance.pixel_review import PixelDecisions, decisions_for
from compliance.study import require_study
from crypto.canonical import keyed_uid
from crypto.errors import RefusedContent
from crypto.keys import StudyKey
from gateway.application import Application
from gateway.archiving import BATCH_BYTES, BATCH_INSTANCES, archive_originals, batches, original_payload, study_key_of
from gateway.grown_identity import Made, Output, terms_digest
from gateway.header_scan import scan_header
from gateway.pixel_screening import ConfinedDeidentifier, PixelScreener, ReviewedScreen
from gateway.received import (
    ReceivedInstance,
    ReceivedState,
    ReceivedStudy,
    distinct_instances,
    received_study,
)
from gateway.study_holds import ACTOR, DUPLICATE_UID_DIFFERENT_CONTENT, OF_THE_WHOLE_STUDY, Refusal, hold_study, partial_items
from gateway.study_identity import ReceivedIdentity, StudyIdentityReader, order_terms, require_same_patient
from gateway.study_registration import register_study
from gateway.unsettled_packs import OwnPacks
from worklist.routing import Routing, route

__all__ = ["ACTOR", "DUPLICATE_UID_DIFFERENT_CONTENT", "archive_originals", "study_key_of"]
#: Instances of one study de-identified at a time.
DEIDENTIFIED_AT_ONCE = min(4, os.cpu_count() or 1)


class BegunStudy(Protocol):
    """What was de-identified of a study before it was whole (deidentify_ahead.py)."""

    @property
    def reading(self) -> StudyReading: ...
    def made_under(self, names: StudyNames, waiting: Sequence[ReceivedInstance], packs: OwnPacks) -> list[Output]:
        """What of `waiting` was made under exactly these names; its packs are among `packs` now. What is of no use is condemned."""
        ...


def deidentify_study(
    app: Application, received_study_pk: int, screener: PixelScreener | ConfinedDeidentifier, begun: BegunStudy | None = None
) -> str:
    """The study is AVAILABLE (returns its pseudonymous UID) or QUARANTINED (returns ""). Raises: IntegrityFailure, TemporarilyUnable.

    An AVAILABLE study may have instances held back one by one; its row, its manifest and the quarantine say which and why.
    """
    with app.database.reading() as session:
        received = received_study(session, received_study_pk)
        if received.state == ReceivedState.AVAILABLE:
            return received.study_instance_uid or ""
        rows = distinct_instances(session, received_study_pk)
    if received.state != ReceivedState.COMPLETE or not rows:
        return ""
    try:
        return _deidentify(app, received, rows, screener, begun)
    except RefusedContent as refused:
        hold_study(app, received_study_pk, Refusal(refused.reason_code, refused.detail, refused.tag), len(rows))
        return ""


def route_study(app: Application, study_instance_uid: str) -> Routing:
    """The study is on the worklist. Raises: NotFound, TemporarilyUnable."""
    with app.database.transaction() as session:
        return route(session, app.law, require_study(session, study_instance_uid), now=app.now(), new_uid=app.new_uid, keys=app.keys)


def original_of(app: Application, study_key: StudyKey, row: ReceivedInstance) -> IdentifiedDataset:
    """The instance as it was received, bit for bit. Raises: IntegrityFailure, NotFound, TemporarilyUnable."""
    payload = original_payload(app, study_key, row)
    return IdentifiedDataset(
        payload=payload,
        transfer_syntax_uid=row.transfer_syntax_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=scan_header(payload, row.transfer_syntax_uid).sop_instance_uid,
    )


def _deidentify(
    app: Application,
    received: ReceivedStudy,
    rows: list[ReceivedInstance],
    screener: PixelScreener | ConfinedDeidentifier,
    begun: BegunStudy | None,
) -> str:
    assert received.received_study_pk is not None
    if any(row.is_conflicting for row in rows):
        raise RefusedContent(DUPLICATE_UID_DIFFERENT_CONTENT, "one SOP Instance UID came with different content", tag="(0008,0018)")
    study_key = study_key_of(app, received.received_study_pk)
    # 1. What the whole study says of persons: one instance's text is cleaned of what only another's header names.
    #    An instance whose header cannot be read holds the study: without it the identity is not known whole.
    reading = begun.reading if begun is not None and begun.reading.is_start_of(rows) else StudyReading()
    opened = reading.add(app, study_key, rows)
    names = names_of(app, received, reading, rows)
    # 2. The new instances, sealed as they come out; what cannot be proved clean stays behind.
    #    Where the study names more than it did, what went out before is made again: it was cleaned of less.
    digest = terms_digest(app.keys, received.hospital_id, names.under.identity)
    is_grown = digest != received.terms_digest
    waiting = [
        row
        for row in rows
        if (row.sop_instance_uid is None or is_grown) and not row.is_left_out and row.instance_pk not in names.held_before
    ]
    result = Made(digest)
    outputs, refusals = result.outputs, result.refusals
    own_packs = OwnPacks(app)
    if begun is not None:
        # Only what was made under the very same names, masks and terms: anything else is made now.
        outputs += begun.made_under(names, waiting, own_packs)
        made_before = {row.instance_pk for row, _, _ in outputs}
        waiting = [row for row in waiting if row.instance_pk not in made_before]
    maker = Maker(app, study_key, names.under, screener, names.decisions, own_packs, opened)

    def seal(made: list[tuple[ReceivedInstance, DeidentifiedDataset]]) -> list[Output]:
        sealed = own_packs.seal(study_key, [(uuid.uuid4().hex, output.payload) for _, output in made])
        for _, output in made:
            output.let_payload_go()
        return [(row, output, place) for (row, output), place in zip(made, sealed, strict=True)]

    # While one batch is sealed the next is made, never more: two lie in memory.
    with ThreadPoolExecutor(1, thread_name_prefix="seal") as sealer, ThreadPoolExecutor(DEIDENTIFIED_AT_ONCE, "deidentify") as pool:
        sealing: Future[list[Output]] | None = None
        for batch in batches(waiting):
            answers = list(zip(batch, pool.map(maker.make, batch), strict=True))
            if sealing is not None:
                outputs += sealing.result()
            made = [(row, answer) for row, answer in answers if isinstance(answer, DeidentifiedDataset)]
            refusals += [(row, answer) for row, answer in answers if isinstance(answer, Refusal)]
            sealing = sealer.submit(seal, result.without_unchanged(app, received, made))
        if sealing is not None:
            outputs += sealing.result()
    # In the order of arrival, whoever made them when.
    outputs.sort(key=lambda output: output[0].instance_pk or 0)
    is_known = any(row.sop_instance_uid is not None for row in rows)
    if not is_known and (not outputs or len(refusals) > len(outputs)):
        # More is missing than is there: what is left is no study to read.
        hold_study(app, received.received_study_pk, _most_frequent(refusals), len(rows), refusals)
        return ""
    # 3. Everything the exchange will know of it, in one transaction with what is held back.
    return register_study(
        app, received.received_study_pk, study_key, names.identity, names.under, names.order, result, generation=received.generation
    )


@dataclass
class StudyReading:
    """What the instances of a study say of persons, read one after the other in the order of their arrival."""

    collector: IdentityCollector = field(default_factory=IdentityCollector)
    reader: StudyIdentityReader = field(default_factory=StudyIdentityReader)
    read: list[int | None] = field(default_factory=list)

    def is_start_of(self, rows: Sequence[ReceivedInstance]) -> bool:
        """Whether the instances that were read are the first of `rows`, in the same order."""
        return self.read == [row.instance_pk for row in rows[: len(self.read)]]

    def add(self, app: Application, study_key: StudyKey, rows: Sequence[ReceivedInstance]) -> dict[int | None, IdentifiedDataset]:
        """All of `rows`, which begin with those that were read, are read; the last of them, as many as are made together.

        Raises: RefusedContent for a header that cannot be.
        """
        last: dict[int | None, IdentifiedDataset] = {}
        last_bytes = 0
        for row in rows[len(self.read) :]:
            source = original_of(app, study_key, row)
            self.collector.add(source)
            self.reader.add(source)
            self.read.append(row.instance_pk)
            last[row.instance_pk] = source
            last_bytes += len(source.payload)
            while (last_bytes > BATCH_BYTES and len(last) > 1) or len(last) > BATCH_INSTANCES:
                last_bytes -= len(last.pop(next(iter(last))).payload)
        return last


@dataclass(frozen=True)
class StudyNames:
    """Under which names the instances of a study leave, and what else decides how they come out."""

    identity: ReceivedIdentity
    order: tuple[Order, dict[str, Any]] | None
    under: Pseudonymity
    decisions: PixelDecisions
    held_before: frozenset[int | None]


def names_of(app: Application, received: ReceivedStudy, reading: StudyReading, rows: Sequence[ReceivedInstance]) -> StudyNames:
    """What was read of `rows` says. Raises: RefusedContent where the instances read are not one study of one patient; TemporarilyUnable."""
    assert received.received_study_pk is not None
    terms, identity = reading.collector.terms(), reading.reader.identity()
    with app.database.transaction() as session:
        pseudonym, offset = ensure_patient(
            session, app.keys, received.hospital_id, identity.patient_id, identity.issuer_of_patient_id, now=app.now()
        )
        order = find_order(session, app.keys, received.hospital_id, identity.accession_number) if identity.accession_number else None
        profile = deid_profile_of(session, received.hospital_id)
        partial = partial_items(session, received.received_study_pk)
        held_before = frozenset(row.instance_pk for row in rows if row.held_item_pk in partial)
        decisions = decisions_for(session, received.hospital_id, received.received_study_pk)
    if order is not None:
        require_same_patient(order[1], identity)
        terms = terms.merge(order_terms(order[1]))
    under = Pseudonymity(
        hospital_id=received.hospital_id,
        uid_secret=uid_secret(app.keys, received.hospital_id),
        pseudonym=pseudonym,
        date_offset_days=offset,
        accession_pseudonym=accession_pseudonym(app, received.hospital_id, identity.accession_number),
        identity=terms,
        profile=profile,
    )
    return StudyNames(identity, order, under, decisions, held_before)


@dataclass
class Maker:
    """De-identifies single instances of one study, in several threads: half of the time a codec works that needs no interpreter."""

    app: Application
    study_key: StudyKey
    under: Pseudonymity
    screener: PixelScreener | ConfinedDeidentifier
    decisions: PixelDecisions
    own_packs: OwnPacks
    #: Originals that were opened a moment ago, to read who they name.
    opened: dict[int | None, IdentifiedDataset] = field(default_factory=dict)
    _own: threading.local = field(default_factory=threading.local)

    def make(self, row: ReceivedInstance) -> DeidentifiedDataset | Refusal:
        """The new instance, or why it is held back. Raises: RefusedContent for what is wrong with the whole study."""
        # What is remembered from instance to instance is no thread's but its own.
        if not hasattr(self._own, "under"):
            self._own.under = replace(self.under)
        # However long the study takes: what it has sealed so far is still wanted.
        self.own_packs.renew()
        source = self.opened.pop(row.instance_pk, None) or original_of(self.app, self.study_key, row)
        screen: ReviewedScreen | None = None
        try:
            if isinstance(self.screener, ConfinedDeidentifier):
                reviewed = None if row.instance_pk is None else self.decisions.boxes.get(row.instance_pk)
                return self.screener.deidentify(source, self.under, masks=self.decisions.masks, reviewed=reviewed)
            screen = ReviewedScreen(self.screener, self.decisions, row.instance_pk)
            return deidentify(source, self._own.under, screen=screen)
        except RefusedContent as refused:
            if refused.reason_code in OF_THE_WHOLE_STUDY:
                raise
            proposed = screen.proposed if screen is not None else refused.proposed if isinstance(refused, RefusedPixels) else ()
            return Refusal(refused.reason_code, refused.detail, refused.tag, proposed)


def _most_frequent(refusals: list[tuple[ReceivedInstance, Refusal]]) -> Refusal:
    counts = Counter(refusal.reason_code for _, refusal in refusals)
    reason = counts.most_common(1)[0][0] if counts else "NOTHING_TO_READ"
    return next((refusal for _, refusal in refusals if refusal.reason_code == reason), Refusal(reason))


def accession_pseudonym(app: Application, hospital_id: str, accession_number: str) -> str:
    if not accession_number:
        return ""
    return "A" + keyed_uid(uid_secret(app.keys, hospital_id), "accession:" + accession_number)[-12:]


def deid_profile_of(session: Session, hospital_id: str) -> DeidProfile:
    options = require_hospital(session, hospital_id).deidentify_options
    return profile_of(options) if options else TELEREAD

"""The quarantine of one hospital: what is held, why, and what its staff decide about it. No value that was found is ever shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import RedirectResponse
from pydicom.datadict import keyword_for_tag
from pydicom.uid import UID
from sqlmodel import Session, col, func, select

from compliance.hospital import DicomPeer
from compliance.principal import Principal
from compliance.quarantine import QuarantineItem, QuarantineState, decision_note
from crypto.errors import BadInput
from gateway.application import Application
from gateway.login import Visitor
from gateway.page_shell import paging_of, shell_of
from gateway.quarantine_acts import REPAIRS, Said, can_settle, own_item, reject, repair, try_again
from gateway.reason_words import held_words
from gateway.received import ReceivedInstance, ReceivedStudy, received_study
from gateway.request_context import App, PostedForm, hospital_staff_of, page_number, reason_in
from gateway.web.contexts import Choice, Reason, Tone
from gateway.web.contexts_oversight import LifeStep, QuarantineItemPage, QuarantinePage, QuarantineRow
from gateway.web.rendering import render

router = APIRouter(prefix="/quarantine")
Staff = Annotated[Visitor, Depends(hospital_staff_of)]
ITEMS_PER_PAGE = 25
_WORDS: dict[str, tuple[str, Tone]] = {
    QuarantineState.HELD: ("Waiting for you", "warning"),
    QuarantineState.RELEASED: ("Tried again", "neutral"),
    QuarantineState.REJECTED: ("Rejected", "neutral"),
}
STATES = tuple(Choice(state.value, _WORDS[state][0]) for state in QuarantineState)


@router.get("")
def show_quarantine(request: Request, app: App, staff: Staff) -> Response:
    query = {name: request.query_params.get(name, "")[:64] for name in ("state", "reason")}
    page = page_number(request)
    with app.database.reading() as session:
        found = select(QuarantineItem).where(QuarantineItem.hospital_id == staff.principal.hospital_id)
        reasons = session.exec(
            select(QuarantineItem.reason_code).where(QuarantineItem.hospital_id == staff.principal.hospital_id).distinct()
        ).all()
        if query["state"]:
            found = found.where(QuarantineItem.state == query["state"])
        if query["reason"]:
            found = found.where(QuarantineItem.reason_code == query["reason"])
        total = session.exec(select(func.count()).select_from(found.subquery())).one()
        # What waits for a person first, then the newest.
        ordered = found.order_by(col(QuarantineItem.state) != QuarantineState.HELD, col(QuarantineItem.item_pk).desc())
        items = session.exec(ordered.offset((page - 1) * ITEMS_PER_PAGE).limit(ITEMS_PER_PAGE)).all()
        shell = shell_of(app, staff, "/quarantine")
        rows = tuple(_row(session, item, shell.hospital_name or item.hospital_id) for item in items)
    return render(
        "quarantine.html.j2",
        QuarantinePage(
            shell=shell,
            rows=rows,
            paging=paging_of("/quarantine", query, page, total, ITEMS_PER_PAGE, shown=len(rows)),
            state=query["state"],
            states=STATES,
            reason=query["reason"],
            reasons=tuple(Choice(code, _reason_words(code)) for code in sorted(reasons, key=_reason_words)),
        ),
    )


@router.get("/{quarantine_id}")
def show_item(app: App, staff: Staff, quarantine_id: str) -> Response:
    shell = shell_of(app, staff, "/quarantine")
    with app.database.reading() as session:
        item = own_item(session, staff.principal.hospital_id, quarantine_id)
        row = _row(session, item, shell.hospital_name or item.hospital_id)
        received = received_study(session, item.received_study_pk)
        decided_by = session.get(Principal, item.decided_by) if item.decided_by else None
    is_open = can_settle(item, received)
    happened, to_do = held_words(item.reason_code)
    history = [LifeStep("Received", received.first_at, "done"), LifeStep("Held", item.held_at, "failed", _reason_words(item.reason_code))]
    if item.decided_at is not None:
        who = decided_by.display_name if decided_by is not None else item.decided_by or ""
        history.append(LifeStep(_WORDS[item.state][0], item.decided_at, "done", f"{who}: {decision_note(item, app.keys)}"))
    return render(
        "quarantine_item.html.j2",
        QuarantineItemPage(
            shell=shell,
            row=row,
            what_happened=happened,
            what_to_do=to_do,
            facts=(("Detail", item.detail),) if item.detail else (),
            study_href=f"/studies?number={item.received_study_pk}",
            may_release=is_open,
            may_reject=is_open,
            repairs=tuple(Choice(name, words) for name, words in REPAIRS.get(item.reason_code, {}).items()) if is_open else (),
            history=tuple(history),
        ),
    )


@router.post("/{quarantine_id}/release")
def release_item(app: App, staff: Staff, form: PostedForm, quarantine_id: str) -> Response:
    try_again(app.database, app.keys, _said(app, staff, form, quarantine_id))
    return _back_to(quarantine_id)


@router.post("/{quarantine_id}/reject")
def reject_item(app: App, staff: Staff, form: PostedForm, quarantine_id: str) -> Response:
    reject(app.database, app.keys, _said(app, staff, form, quarantine_id))
    return _back_to(quarantine_id)


@router.post("/{quarantine_id}/repair")
def repair_item(app: App, staff: Staff, form: PostedForm, quarantine_id: str) -> Response:
    if "repair" not in form:
        raise BadInput("choose a repair")
    repair(app.database, app.keys, _said(app, staff, form, quarantine_id), form["repair"])
    return _back_to(quarantine_id)


def _said(app: Application, staff: Visitor, form: Mapping[str, str], quarantine_id: str) -> Said:
    return Said(staff.principal.hospital_id, quarantine_id, staff.principal_id, reason_in(form), app.now())


def _back_to(quarantine_id: str) -> Response:
    return RedirectResponse(f"/quarantine/{quarantine_id}", status_code=303)


def _row(session: Session, item: QuarantineItem, hospital_name: str) -> QuarantineRow:
    classes = session.exec(
        select(ReceivedInstance.sop_class_uid).where(ReceivedInstance.received_study_pk == item.received_study_pk).distinct()
    ).all()
    received_at = session.exec(select(ReceivedStudy.first_at).where(ReceivedStudy.received_study_pk == item.received_study_pk)).first()
    senders = session.exec(select(DicomPeer.calling_ae_title).where(DicomPeer.hospital_id == item.hospital_id)).all()
    status, tone = _WORDS[item.state]
    tag = item.element_tag or ""
    return QuarantineRow(
        quarantine_id=str(item.item_pk),
        received_at=received_at or item.held_at,
        hospital_name=hospital_name,
        # A frame names its sender, and a row does not: where a hospital has several, any of them may have sent it.
        calling_ae_title=" or ".join(sorted(senders)),
        reason=Reason(code=item.reason_code, text=_reason_words(item.reason_code)),
        tag=tag,
        keyword=_keyword(tag),
        modality=", ".join(sorted({UID(uid).name.removesuffix(" Storage").removesuffix(" Image") for uid in classes})),
        instance_count=item.instance_count,
        status=status,
        tone=tone,
    )


def _reason_words(code: str) -> str:
    return held_words(code)[0].partition(".")[0]


def _keyword(tag: str) -> str:
    """The keyword of PS3.6 for "(gggg,eeee)"; "" for a private or malformed one."""
    digits = tag.strip("()").replace(",", "")
    try:
        return keyword_for_tag(int(digits, 16))
    except ValueError:
        return ""

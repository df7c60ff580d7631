"""Decisions for the privacy officer: the list, and one printable page (or JSON) per decision that answers why."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import String, cast
from sqlmodel import Session, col, func, or_, select

from compliance.decision_log import DecisionRow, require_decision
from compliance.principal import Principal
from compliance.study import Study
from gateway.decision_explanation import explain, shown_decision
from gateway.log_proof import SubtreeHashes
from gateway.log_rows import LogFilters, note_reading
from gateway.login import Visitor
from gateway.page_shell import paging_of, shell_of
from gateway.request_context import App, page_number, privacy_officer_of
from gateway.web.contexts_oversight import DecisionPage, DecisionsPage
from gateway.web.contexts_oversight import DecisionRow as ShownDecision
from gateway.web.rendering import render

router = APIRouter(prefix="/privacy/decisions")
Officer = Annotated[Visitor, Depends(privacy_officer_of)]
DECISIONS_PER_PAGE = 50
_OUTCOMES = ("ALLOW", "ALLOW_WITH_OBLIGATIONS", "REFER", "DENY")


@router.get("")
def show_decisions(request: Request, app: App, officer: Officer) -> Response:
    q, outcome = request.query_params.get("q", "").strip()[:64], request.query_params.get("outcome", "")
    outcome, page = outcome if outcome in _OUTCOMES else "", page_number(request)
    note_reading(app, officer, LogFilters(q=q, outcome=outcome))
    with app.database.reading() as session:
        rows, total = _listed(session, q, outcome, page)
    return render(
        "decisions.html.j2",
        DecisionsPage(
            shell=shell_of(app, officer, "/privacy/decisions"),
            rows=rows,
            paging=paging_of("/privacy/decisions", {"q": q, "outcome": outcome}, page, total, DECISIONS_PER_PAGE, shown=len(rows)),
            q=q,
            outcome=outcome,
        ),
    )


@router.get("/{digest}")
def show_decision(request: Request, app: App, officer: Officer, digest: str) -> Response:
    note_reading(app, officer, LogFilters())
    hashes = _hashes(request)
    with app.database.reading() as session:
        row = require_decision(session, digest)
        found = explain(session, app.law, app.keys, hashes, row, public_key=app.log_signer.public_key, now=app.now())
        study = session.exec(select(Study.study_instance_uid).where(Study.study_instance_uid == found.row.study_instance_uid)).first()
    if request.query_params.get("format") == "json":
        return JSONResponse(found.as_json(), headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
    proof = found.proof
    return render(
        "decision.html.j2",
        DecisionPage(
            shell=shell_of(app, officer, "/privacy/decisions", title="Decision"),
            decision=found.shown,
            question=found.question,
            gates=found.gates,
            facts=found.facts,
            obligations=found.obligations,
            valid_until=found.row.valid_until,
            law_digest=str(found.document["law"]),
            replay=found.replay,
            today=found.today,
            today_reasons=found.today_reasons,
            about=found.about,
            followed=found.followed,
            study_href=f"/privacy?q={row.study_instance_uid}" if row.study_instance_uid else None,
            others=found.others,
            log_index=proof.index if proof is not None else None,
            log_proof=tuple(node.hex() for node in proof.path) if proof is not None else (),
            log_size=proof.size if proof is not None else None,
            tree_root=proof.root.hex() if proof is not None else "",
            deid_href=f"/privacy/studies/{study}/deidentification" if study else None,
        ),
    )


def _hashes(request: Request) -> SubtreeHashes:
    """Kept with the HTTP application, so that tests with several applications do not share them."""
    state = request.app.state
    if not hasattr(state, "subtree_hashes"):
        state.subtree_hashes = SubtreeHashes()
    kept: SubtreeHashes = state.subtree_hashes
    return kept


def _listed(session: Session, q: str, outcome: str, page: int) -> tuple[tuple[ShownDecision, ...], int]:
    query = select(DecisionRow)
    has_obligations = cast(col(DecisionRow.obligations), String) != "[]"
    if outcome == "ALLOW":
        query = query.where(DecisionRow.outcome == "ALLOW", ~has_obligations)
    elif outcome == "ALLOW_WITH_OBLIGATIONS":
        query = query.where(DecisionRow.outcome == "ALLOW", has_obligations)
    elif outcome:
        query = query.where(DecisionRow.outcome == outcome)
    if q:
        people = select(Principal.principal_id).where(col(Principal.display_name).icontains(q, autoescape=True))
        studies = select(Study.study_instance_uid).where(col(Study.patient_pseudonym).icontains(q, autoescape=True))
        query = query.where(
            or_(
                DecisionRow.reader_id == q,
                col(DecisionRow.reader_id).in_(people),
                col(DecisionRow.study_instance_uid).in_(studies),
                DecisionRow.digest == q,
                cast(col(DecisionRow.reasons), String).icontains(q, autoescape=True),
            )
        )
    total = session.exec(select(func.count()).select_from(query.subquery())).one()
    rows = session.exec(
        query.order_by(col(DecisionRow.decided_at).desc(), col(DecisionRow.digest))
        .offset((page - 1) * DECISIONS_PER_PAGE)
        .limit(DECISIONS_PER_PAGE)
    ).all()
    names = dict(
        session.exec(
            select(Principal.principal_id, Principal.display_name).where(col(Principal.principal_id).in_({row.reader_id for row in rows}))
        ).all()
    )
    pseudonyms = dict(
        session.exec(
            select(Study.study_instance_uid, Study.patient_pseudonym).where(
                col(Study.study_instance_uid).in_({row.study_instance_uid for row in rows})
            )
        ).all()
    )
    shown = (shown_decision(row, names.get(row.reader_id, row.reader_id), pseudonyms.get(row.study_instance_uid, "")) for row in rows)
    return tuple(shown), total

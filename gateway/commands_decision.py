"""`readgate decision`: what was decided, and one decision explained as the privacy officer's page explains it."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, print_json, print_rows

decision_app = typer.Typer(name="decision", help="Decisions on record: list, show.", no_args_is_help=True, rich_markup_mode=None)


def mount(app: typer.Typer) -> None:
    """Adds `decision` to `app`."""
    app.add_typer(decision_app)


@decision_app.command("list")
def list_command(
    data: DataOption = DEFAULT_DATA,
    study: Annotated[str | None, typer.Option("--study", help="Only of this study (pseudonymous UID).")] = None,
    reader: Annotated[str | None, typer.Option("--reader", help="Only about this reader.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000)] = 50,
    as_json: JsonOption = False,
) -> None:
    """The newest decisions first. The reading is an entry of the log."""
    from sqlmodel import col, select

    from compliance.decision_log import DecisionRow
    from gateway.register_note import note_export

    query = select(DecisionRow).order_by(col(DecisionRow.decided_at).desc()).limit(limit)
    if study is not None:
        query = query.where(DecisionRow.study_instance_uid == study)
    if reader is not None:
        query = query.where(DecisionRow.reader_id == reader)
    with deployment(data) as app, app.database.transaction() as session:
        rows = [
            {
                "decided_at": row.decided_at,
                "outcome": row.outcome,
                "action": row.action,
                "reader_id": row.reader_id,
                "study_instance_uid": row.study_instance_uid,
                "reasons": row.reasons,
                "digest": row.digest,
            }
            for row in session.exec(query).all()
        ]
        note_export(session, app.now(), actor(), "decisions", len(rows), None)
    print_rows(rows, as_json=as_json, empty="nothing was decided yet")


@decision_app.command("show")
def show_command(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="From: readgate decision list")],
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Who, what, where, each gate, the obligations and what met them, the other readers, and what today's law would say."""
    from compliance.decision_log import require_decision
    from gateway.decision_explanation import explain
    from gateway.log_proof import SubtreeHashes
    from gateway.register_note import note_export

    with deployment(data, needs_law=True) as app, app.database.transaction() as session:
        row = require_decision(session, digest)
        note_export(session, app.now(), actor(), "a decision", 1, row.hospital_id)
        found = explain(session, app.law, app.keys, SubtreeHashes(), row, public_key=app.log_signer.public_key, now=app.now())
    if as_json:
        print_json(found.as_json())
        return
    typer.echo(f"{found.question}\n{row.outcome}, {row.digest}")
    for name, words in found.about:
        typer.echo(f"  {name}: {words}")
    for reason in found.shown.reasons:
        typer.echo(f"  {reason.text} [{reason.code}]")
    for gate in found.gates:
        typer.echo(f"  {gate.gate} {gate.name}: {gate.outcome} {' '.join(gate.reasons)}".rstrip())
    for one in found.obligations:
        typer.echo(f"  {one.code}: {one.state}. {one.evidence}")
    for other in found.others:
        typer.echo(f"  {other.reader_id}: {other.outcome} {' '.join(reason.code for reason in other.reasons)}".rstrip())
    typer.echo(f"  Replay: {found.replay}\n  Today: {found.today}")

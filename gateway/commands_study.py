"""`readgate study`: what stands between one study and its reader."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, deployment, print_json

study_app = typer.Typer(name="study", help="One study: why.", no_args_is_help=True, rich_markup_mode=None)


@study_app.callback()
def _study() -> None:
    """One study, by its pseudonymous Study Instance UID."""


def mount(app: typer.Typer) -> None:
    """Adds `study` to `app`."""
    app.add_typer(study_app)


@study_app.command("why")
def why_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The pseudonymous Study Instance UID.")],
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Why nobody has claimed it: how many readers may, what keeps them, what stops the others, what would open it soonest."""
    from gateway.study_why import own_study, why_unclaimed_document

    with deployment(data) as app, app.database.reading() as session:
        found = why_unclaimed_document(session, app.law, own_study(session, None, study), now=app.now())
    if as_json:
        print_json(found)
        return
    if not found["waiting"]:
        typer.echo("it does not wait for a reader")
        return
    typer.echo(f"{found['headline']} Due {found['due_at']}{', overdue' if found['is_overdue'] else ''}.")
    for line in (*found["held_up"], *found["nearest"]):
        typer.echo(line["text"])
    for line in found["refused"]:
        typer.echo(f"{line['readers']}: {line['text']} [{line['code']}]")

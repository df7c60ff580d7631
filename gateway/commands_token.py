"""`readgate token`: what programs may do with the registers over HTTP (docs/API.md)."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, print_json, print_rows

token_app = typer.Typer(
    name="token",
    help="Tokens of programs that read or change registers: create, list, revoke.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def mount(app: typer.Typer) -> None:
    """Adds `token` to `app`."""
    app.add_typer(token_app)


@token_app.command("create")
def create_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The program that will use it.")],
    scope: Annotated[
        list[str],
        typer.Option("--scope", help="Repeatable: consents:read, consents:write, studies:read, or credentials:..., evidence:... ."),
    ],
    hospital: Annotated[str | None, typer.Option("--hospital", help="For consents and studies: the one hospital.")] = None,
    days: Annotated[int, typer.Option("--days", help="How long it holds, at most 366.")] = 90,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """A token for one program. It is shown now and never again."""
    from gateway.register_token import create_register_token

    with deployment(data) as app:
        token_id, token = create_register_token(app.database, name, scope, hospital_id=hospital, days=days, actor=actor(), now=app.now())
    if as_json:
        print_json({"token_id": token_id, "token": token})
    else:
        typer.echo(f"{token_id}: {token}")


@token_app.command("list")
def list_command(data: DataOption = DEFAULT_DATA, as_json: JsonOption = False) -> None:
    """The tokens that were not revoked, by id and name."""
    from gateway.register_token import register_tokens

    with deployment(data) as app, app.database.reading() as session:
        rows = [
            {
                "token_id": row.token_id,
                "name": row.name,
                "hospital_id": row.hospital_id,
                "scopes": row.scopes,
                "created_at": row.created_at,
                "expires_at": row.expires_at,
            }
            for row in register_tokens(session)
        ]
    print_rows(rows, as_json=as_json, empty="no tokens; see: readgate token create --help")


@token_app.command("revoke")
def revoke_command(
    token: Annotated[str, typer.Argument(metavar="ID", help="The token's id, not the token.")], data: DataOption = DEFAULT_DATA
) -> None:
    """The token opens nothing any more."""
    from gateway.register_token import revoke_register_token

    with deployment(data) as app:
        revoke_register_token(app.database, token, actor=actor(), now=app.now())
    typer.echo(f"{token} is revoked")

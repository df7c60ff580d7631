"""`readgate upload`: tokens for a hospital's programs (STOW-RS), and where its senders are called back."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, print_json, print_rows

upload_app = typer.Typer(
    name="upload",
    help="Upload tokens: create, list, revoke; callback: where a sender listens.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def mount(app: typer.Typer) -> None:
    """Adds `upload` to `app`."""
    app.add_typer(upload_app)


@upload_app.command("create")
def create_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")],
    name: Annotated[str, typer.Option("--name", help="The program that will use it.")],
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """A token for one program of the hospital. It is shown now and never again."""
    from gateway.upload_credential import create_upload_credential

    with deployment(data) as app:
        credential_id, token = create_upload_credential(app.database, hospital, name, actor=actor(), now=app.now())
    if as_json:
        print_json({"credential_id": credential_id, "hospital_id": hospital, "token": token})
    else:
        typer.echo(f"{credential_id}: {token}")


@upload_app.command("list")
def list_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")], data: DataOption = DEFAULT_DATA, as_json: JsonOption = False
) -> None:
    """The tokens that stand, by id and name."""
    from gateway.upload_credential import upload_credentials

    with deployment(data) as app, app.database.reading() as session:
        found = upload_credentials(session, hospital)
    rows = [{"credential_id": row.credential_id, "name": row.name, "created_at": row.created_at.isoformat()} for row in found]
    print_rows(rows, as_json=as_json)


@upload_app.command("revoke")
def revoke_command(
    credential: Annotated[str, typer.Argument(metavar="ID", help="The credential's id, not the token.")], data: DataOption = DEFAULT_DATA
) -> None:
    """The token opens nothing any more."""
    from gateway.upload_credential import revoke_upload_credential

    with deployment(data) as app:
        revoke_upload_credential(app.database, credential, actor=actor(), now=app.now())
    typer.echo(f"{credential} is revoked")


@upload_app.command("callback")
def callback_command(
    ae_title: Annotated[str, typer.Argument(metavar="AE_TITLE", help="The sender's own AE title.")],
    host: Annotated[str, typer.Option("--host")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)],
    tls: Annotated[bool, typer.Option("--tls/--plaintext", help="How it is called.")] = True,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Where storage commitment results are brought that the sender did not wait for."""
    from gateway.commitment_queue import set_peer_address

    with deployment(data) as app:
        set_peer_address(app.database, ae_title, host, port, is_tls=tls, actor=actor(), now=app.now())
    typer.echo(f"{ae_title} is called at {host} port {port}")

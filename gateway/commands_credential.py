"""`readgate credential`: what readers may show for the law to look at. A running server follows each change within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, instant, print_json, print_rows

credential_app = typer.Typer(
    name="credential",
    help="Readers' credentials: add, suspend, reinstate, revoke, list, import, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_CLAIM_HELP = (
    "NAME=VALUE of what it says (repeatable): jurisdiction=ES, number=28/12345, value=RADIOLOGY, hospital=h1, modalities=CT,MR, "
    "by_proxy=false, territory=DE,ES, register=SCFHS."
)
_Number = Annotated[int, typer.Argument(metavar="NUMBER", help="From: readgate credential list")]
_Reason = Annotated[str, typer.Option("--reason", help="Why, for the log; kept sealed.")]


def mount(app: typer.Typer) -> None:
    """Adds `credential` to `app`."""
    app.add_typer(credential_app)


@credential_app.command("add")
def add_command(
    reader: Annotated[str, typer.Argument(metavar="READER")],
    kind: Annotated[str, typer.Option("--kind", help="LICENCE, SPECIALTY, BOARD, PRIVILEGE, REGISTRATION, COVER or EXCLUSION_CHECK.")],
    issued: Annotated[str, typer.Option("--issued", help="ISO 8601.")],
    expires: Annotated[str, typer.Option("--expires", help="ISO 8601: the first instant at which it no longer holds.")],
    verified: Annotated[str, typer.Option("--verified", help="When the issuer itself was asked; ISO 8601.")],
    method: Annotated[str, typer.Option("--method", help="How: register, letter, call-back.")],
    claim: Annotated[list[str] | None, typer.Option("--claim", help=_CLAIM_HELP)] = None,
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Put a credential on file with its primary-source verification. It counts at once."""
    from compliance.credential import Credential
    from crypto.errors import BadInput
    from gateway.register_entries import add_credential
    from gateway.typed_input import credential_claim

    if not method.strip():
        raise BadInput("--method: say how the issuer was asked")
    with deployment(data) as app:
        row = Credential(
            reader_id=reader,
            kind=kind,
            claim=credential_claim(kind, claim or []),
            issued_at=instant(issued),
            expires_at=instant(expires),
            verified_at=instant(verified),
            verification_method=method.strip()[:200],
            verified_by=actor(),
            recorded_at=app.now(),
        )
        number = add_credential(app, actor(), row)
    if as_json:
        print_json({"number": number})
        return
    typer.echo(f"credential {number} of {reader} is on file")


@credential_app.command("suspend")
def suspend_command(number: _Number, reason: _Reason, data: DataOption = DEFAULT_DATA) -> None:
    """The credential counts no longer until it is reinstated; claims that stood on it end within seconds."""
    _change(data, number, "SUSPENDED", reason)


@credential_app.command("reinstate")
def reinstate_command(number: _Number, reason: _Reason, data: DataOption = DEFAULT_DATA) -> None:
    """A suspended credential counts again."""
    _change(data, number, "ACTIVE", reason)


@credential_app.command("revoke")
def revoke_command(number: _Number, reason: _Reason, data: DataOption = DEFAULT_DATA) -> None:
    """The issuer took it back: it counts no longer, and only a new credential counts again."""
    _change(data, number, "REVOKED", reason)


@credential_app.command("list")
def list_command(
    data: DataOption = DEFAULT_DATA,
    reader: Annotated[str | None, typer.Option("--reader", help="Only of this reader.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The standing credentials with what they say and how they were verified."""
    from sqlmodel import col, select

    from compliance.credential import Credential

    query = select(Credential).where(col(Credential.superseded_at).is_(None)).order_by(col(Credential.reader_id), col(Credential.kind))
    if reader is not None:
        query = query.where(Credential.reader_id == reader)
    with deployment(data) as app, app.database.reading() as session:
        rows = [
            {
                "number": row.credential_pk,
                "reader_id": row.reader_id,
                "kind": row.kind,
                "claim": row.claim,
                "status": row.status if row.expires_at > app.now() else f"{row.status}, EXPIRED",
                "issued_at": row.issued_at,
                "expires_at": row.expires_at,
                "verified_at": row.verified_at,
                "verification_method": row.verification_method,
                "verified_by": row.verified_by,
            }
            for row in session.exec(query).all()
        ]
    print_rows(rows, as_json=as_json, empty="nothing on file; see: readgate credential add --help")


@credential_app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON as `export` writes it.")],
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """What the file says counts from now on, all of it or nothing; what is on file already stays as it is."""
    from gateway.register_exchange import import_credentials
    from gateway.strict_json import read_json

    with deployment(data) as app:
        numbers = import_credentials(app, actor(), read_json(file.read_bytes()), has_effect=False)
    if as_json:
        print_json({"numbers": numbers})
        return
    typer.echo(f"{len(numbers)} {'credential is' if len(numbers) == 1 else 'credentials are'} on file")


@credential_app.command("export")
def export_command(
    data: DataOption = DEFAULT_DATA,
    reader: Annotated[str | None, typer.Option("--reader", help="Only of this reader.")] = None,
) -> None:
    """The standing credentials as JSON on stdout; `import` takes it. The export is an entry of the log."""
    from gateway.register_exchange import export_credentials
    from gateway.register_note import note_export

    with deployment(data) as app, app.database.transaction() as session:
        document = export_credentials(session, reader_id=reader)
        note_export(session, app.now(), actor(), "credentials", len(document["credentials"]), None)
    print_json(document)


def _change(data: Path, number: int, status: str, reason: str) -> None:
    from crypto.errors import BadInput
    from gateway.register_entries import change_credential_status, require_change

    if len(reason.strip()) < 3:
        raise BadInput("--reason: say why, in three characters at least")
    with deployment(data) as app:
        with app.database.reading() as session:
            require_change(session, number, status)
        reader = change_credential_status(app, actor(), number, status, reason=reason.strip()[:500])
    typer.echo(f"credential of {reader} is {status}")

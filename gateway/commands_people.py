"""`readgate principal` and `readgate reader`: who may log in, and what readers may be believed to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, instant, print_json, print_rows, secret_input

principal_app = typer.Typer(name="principal", help="People who log in: add, disable, list.", no_args_is_help=True, rich_markup_mode=None)
reader_app = typer.Typer(name="reader", help="Readers: add, credential, list.", no_args_is_help=True, rich_markup_mode=None)

PasswordFile = Annotated[Path | None, typer.Option("--password-file", help="File of one line; by default it is typed.")]
_CLAIM_HELP = "NAME=VALUE of what it says (repeatable): jurisdiction=ES, value=RADIOLOGY, hospital=h1, modalities=CT,MR, by_proxy=false."


def mount(app: typer.Typer) -> None:
    """Adds `principal` and `reader` to `app`."""
    app.add_typer(principal_app)
    app.add_typer(reader_app)


@principal_app.command("add")
def add_principal_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the person types to log in.")],
    role: Annotated[str, typer.Option("--role", help="READER, HOSPITAL_STAFF, PRIVACY_OFFICER or OPERATOR.")],
    display_name: Annotated[str, typer.Option("--display-name")],
    data: DataOption = DEFAULT_DATA,
    hospital: Annotated[str | None, typer.Option("--hospital", help="For hospital staff: their one hospital.")] = None,
    password_file: PasswordFile = None,
    as_json: JsonOption = False,
) -> None:
    """Register somebody who may log in; prints their second factor once."""
    from compliance.hospital import require_hospital
    from compliance.principal import Role
    from crypto.errors import BadInput
    from crypto.passwords import totp_uri
    from gateway.enrolment import add_principal
    from gateway.typed_input import identifier

    identifier("NAME", name)
    if role not in set(Role):
        raise BadInput(f"--role is one of {', '.join(Role)}, not {role}")
    password = secret_input(f"password of {name}", password_file)
    with deployment(data) as app:
        if hospital is not None:
            with app.database.reading() as session:
                require_hospital(session, hospital)
        made = add_principal(
            app, actor(), principal_id=name, role=Role(role), display_name=display_name, password=password, hospital_id=hospital
        )
    uri = totp_uri(made.totp_secret, name)
    if as_json:
        print_json({"principal_id": name, "totp_secret": made.totp_secret, "totp_uri": uri})
        return
    typer.echo(f"{name} can log in. Authenticator app, shown this once: {uri}")


@principal_app.command("disable")
def disable_command(name: Annotated[str, typer.Argument(metavar="NAME")], data: DataOption = DEFAULT_DATA) -> None:
    """The person can no longer log in, and every session of theirs is over."""
    from gateway.enrolment import end_access

    with deployment(data) as app:
        end_access(app, actor(), name)
    typer.echo(f"{name} is locked out; their claims end within seconds")


@principal_app.command("list")
def list_principals_command(data: DataOption = DEFAULT_DATA, as_json: JsonOption = False) -> None:
    """Everybody who may log in, or could."""
    from sqlmodel import select

    from compliance.principal import Principal

    with deployment(data) as app, app.database.reading() as session:
        rows = [
            {
                "principal_id": row.principal_id,
                "role": row.role,
                "display_name": row.display_name,
                "hospital_id": row.hospital_id,
                "is_active": row.is_active,
                "device_slots": row.device_slots,
                "created_at": row.created_at,
            }
            for row in session.exec(select(Principal).order_by(Principal.principal_id)).all()
        ]
    print_rows(rows, as_json=as_json, empty="nobody yet; see: readgate principal add --help")


@reader_app.command("add")
def add_reader_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A principal in the role READER.")],
    employer: Annotated[str, typer.Option("--employer", help="Id of the firm; a new one needs the next two.")],
    establishment: Annotated[str, typer.Option("--establishment", help="Where the reader is established: ISO 3166-1 or -2.")],
    data: DataOption = DEFAULT_DATA,
    employer_name: Annotated[str | None, typer.Option("--employer-name")] = None,
    employer_country: Annotated[str | None, typer.Option("--employer-country")] = None,
    residence: Annotated[str, typer.Option("--residence", help="By default the establishment's country.")] = "",
    citizenship: Annotated[str, typer.Option("--citizenship", help="By default the establishment's country.")] = "",
    qualification: Annotated[str, typer.Option("--qualification", help="As it stands under reports.")] = "",
    network: Annotated[str | None, typer.Option("--network", help="Their office's network (CIDR), vouched for by you.")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="The READER's own passphrase; by default the reader types it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a principal a reader, with a signing key that only the reader's passphrase opens."""
    from compliance.credential import Employer
    from compliance.principal import RegisteredNetwork
    from crypto.errors import BadInput
    from gateway.enrolment import add_network, add_reader
    from gateway.typed_input import code, identifier
    from gateway.typed_input import network as checked_network

    identifier("--employer", employer)
    for what, value in (("--establishment", establishment), ("--residence", residence), ("--citizenship", citizenship)):
        if value:
            code(what, value)
    if network is not None:
        network = checked_network(network)
    with deployment(data) as app:
        with app.database.reading() as session:
            firm = session.get(Employer, employer)
        if firm is None:
            if employer_name is None or employer_country is None:
                raise BadInput(f"{employer} is no known employer; a new one needs --employer-name and --employer-country")
            code("--employer-country", employer_country)
            firm = Employer(employer_id=employer, name=employer_name, country=employer_country)
        add_reader(
            app,
            actor(),
            reader_id=name,
            employer=firm,
            establishment=establishment,
            residence=residence or establishment[:2],
            citizenship=citizenship or establishment[:2],
            qualification=qualification,
            passphrase=secret_input(f"passphrase of {name} for signing", passphrase_file),
        )
        if network is not None:
            add_network(app, actor(), RegisteredNetwork(principal_id=name, cidr=network, country=establishment[:2], kind="BUSINESS"))
    if as_json:
        print_json({"reader_id": name, "employer_id": employer})
        return
    typer.echo(f"{name} is a reader; next: readgate reader credential {name} --kind LICENCE ...")


@reader_app.command("credential")
def credential_command(
    reader: Annotated[str, typer.Argument(metavar="READER")],
    data: DataOption = DEFAULT_DATA,
    kind: Annotated[
        str | None, typer.Option("--kind", help="LICENCE, SPECIALTY, PRIVILEGE, REGISTRATION, COVER or EXCLUSION_CHECK.")
    ] = None,
    claim: Annotated[list[str] | None, typer.Option("--claim", help=_CLAIM_HELP)] = None,
    issued: Annotated[str | None, typer.Option("--issued", help="ISO 8601.")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="ISO 8601.")] = None,
    verified: Annotated[str | None, typer.Option("--verified", help="When the issuer was asked; ISO 8601; by default now.")] = None,
    method: Annotated[str, typer.Option("--method", help="How: register, letter, call-back.")] = "",
    status: Annotated[str | None, typer.Option("--status", help="With --number: ACTIVE, SUSPENDED, REVOKED, LAPSED, EXCLUDED.")] = None,
    number: Annotated[int | None, typer.Option("--number", help="A credential on file, from: readgate reader list --json")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a credential on file, or change the status of one. It counts at once, and its loss ends claims within seconds."""
    from compliance.credential import Credential, require_reader
    from compliance.facts_vocabulary import CREDENTIAL_STATUSES
    from crypto.errors import BadInput
    from gateway.register_entries import add_credential, change_credential_status
    from gateway.typed_input import credential_claim, word

    if status is not None:
        word("--status", status, CREDENTIAL_STATUSES)

    with deployment(data) as app:
        with app.database.reading() as session:
            require_reader(session, reader)
            standing = session.get(Credential, number) if number is not None else None
        if number is not None:
            if status is None or standing is None or standing.reader_id != reader:
                raise BadInput(f"--number names a credential of {reader} and comes with --status")
            change_credential_status(app, actor(), number, status)
            credential_pk = number
        else:
            if kind is None or issued is None or expires is None:
                raise BadInput("a new credential needs --kind, --issued and --expires")
            row = Credential(
                reader_id=reader,
                kind=kind,
                claim=credential_claim(kind, claim or []),
                status=status or "ACTIVE",
                issued_at=instant(issued),
                expires_at=instant(expires),
                verified_at=instant(verified) if verified is not None else app.now(),
                verification_method=method,
                verified_by=actor(),
                recorded_at=app.now(),
            )
            credential_pk = add_credential(app, actor(), row)
    if as_json:
        print_json({"credential_pk": credential_pk})
        return
    typer.echo(f"credential {credential_pk} of {reader} is on file")


@reader_app.command("list")
def list_readers_command(data: DataOption = DEFAULT_DATA, as_json: JsonOption = False) -> None:
    """Readers with their standing credentials."""
    from sqlmodel import select

    from compliance.credential import Reader, standing_credentials

    with deployment(data) as app, app.database.reading() as session:
        now = app.now()
        rows = []
        for reader in session.exec(select(Reader).order_by(Reader.reader_id)).all():
            credentials = standing_credentials(session, reader.reader_id)
            shown: list[Any] = [
                {
                    "number": one.credential_pk,
                    "kind": one.kind,
                    "claim": one.claim,
                    "status": one.status,
                    "expires_at": one.expires_at,
                    "verified_at": one.verified_at,
                }
                for one in credentials
            ]
            if not as_json:
                shown = [f"{one.kind}{'' if one.status == 'ACTIVE' and one.expires_at > now else '!'}" for one in credentials]
            rows.append(
                {
                    "reader_id": reader.reader_id,
                    "employer_id": reader.employer_id,
                    "establishment": reader.establishment,
                    "qualification": reader.qualification,
                    "credentials": shown,
                }
            )
    print_rows(rows, as_json=as_json, empty="no reader yet; see: readgate reader add --help")

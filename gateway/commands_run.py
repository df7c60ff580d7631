"""`readgate init`, `serve`, `demo` and `otp`: making a deployment and running it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer

from crypto.errors import BadInput
from gateway.console import DEFAULT_DATA, DataOption, JsonOption, print_json, require_data_folder


class RoleName(StrEnum):
    """As gateway/server.py ProcessRole, whose import is slow."""

    ALL = "all"
    RECEIVER = "receiver"
    WORKER = "worker"
    WEB = "web"


def mount(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    app.command("demo")(demo_command)
    app.command("serve")(serve_command)
    app.command("init")(init_command)
    app.command("otp")(otp_command)


def demo_command(
    data: DataOption = DEFAULT_DATA,
    once: Annotated[bool, typer.Option("--once", help="Play all nine steps without a person, verify, and end.")] = False,
    as_json: JsonOption = False,
    http_port: Annotated[int, typer.Option("--http-port", min=0, max=65535, help="Pages.")] = 8080,
    dicom_port: Annotated[int, typer.Option("--dicom-port", min=0, max=65535, help="DICOM in plaintext, loopback only.")] = 11112,
    dicom_tls_port: Annotated[int, typer.Option("--dicom-tls-port", min=0, max=65535, help="DICOM over TLS.")] = 2762,
) -> None:
    """Two hospitals, five readers and sample studies on this machine; prints the addresses and logins."""
    try:
        from gateway import demo
    except ModuleNotFoundError as missing:
        if missing.name != "gateway.demo":
            raise
        raise BadInput("this build has no demonstration") from None
    os.umask(0o077)
    raise typer.Exit(
        demo.demo_command(data=data, once=once, as_json=as_json, http_port=http_port, dicom_port=dicom_port, dicom_tls_port=dicom_tls_port)
    )


def serve_command(
    data: DataOption = DEFAULT_DATA,
    role: Annotated[RoleName, typer.Option("--role", help="What this process does.")] = RoleName.ALL,
    receiver: Annotated[int | None, typer.Option("--receiver", hidden=True, help="Which of several receivers this one is.")] = None,
    ready: Annotated[int | None, typer.Option("--ready", hidden=True, help="Descriptor that is closed once it listens.")] = None,
    listening: Annotated[list[int] | None, typer.Option("--listening", hidden=True, help="Socket shared with other receivers.")] = None,
) -> None:
    """Receive, work and serve pages, until SIGTERM or Ctrl-C; stopping drains what is on its way."""
    require_data_folder(data)
    from gateway.serving import serve

    raise typer.Exit(serve(data, role, receiver=receiver, ready=ready, listening=listening or ()))


def init_command(
    data: DataOption = DEFAULT_DATA,
    name: Annotated[str, typer.Option("--name", help="Name of this deployment, in its certificates.")] = "Readgate",
    dns: Annotated[list[str] | None, typer.Option("--dns", help="Name of this host, for the DICOM TLS certificate (repeatable).")] = None,
    ip: Annotated[list[str] | None, typer.Option("--ip", help="Address of this host, for the same (repeatable).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make the data folder: configuration, database, key store, certificate authority and server certificate."""
    from gateway.initialising import initialise

    os.umask(0o077)
    made = initialise(data, name=name, dns=dns or [], ips=ip or [])
    if as_json:
        print_json(made.document())
        return
    for line in made.lines():
        typer.echo(line)


def otp_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A person of the demonstration.")],
    data: DataOption = DEFAULT_DATA,
) -> None:
    """The six-digit code of a person of the demonstration, now. A deployment's own codes are in its people's hands alone."""
    from crypto.passwords import totp_now

    require_data_folder(data)
    path = data / "demo-logins.json"
    if not path.is_file():
        raise BadInput(f"{data} is no demonstration's data folder; codes of real people are known to them alone")
    logins = {entry["principal_id"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    if name not in logins:
        raise BadInput(f"nobody is called {name}; there are {', '.join(sorted(logins))}")
    typer.echo(totp_now(logins[name]["totp_secret"], datetime.now(UTC)))

"""`readgate audit`: verify the log, keep its checkpoints, export it, send it, and the reports it has to yield."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, instant, print_json

audit_app = typer.Typer(name="audit", help="The audit log.", no_args_is_help=True, rich_markup_mode=None)
Hospital = Annotated[str | None, typer.Option("--hospital", help="Only this hospital's entries.")]


def mount(app: typer.Typer) -> None:
    """Adds `audit` to `app`."""
    app.add_typer(audit_app)


@audit_app.command("verify")
def verify_command(
    data: DataOption = DEFAULT_DATA,
    checkpoint: Annotated[list[Path] | None, typer.Option("--checkpoint", help="A checkpoint that a witness kept (repeatable).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Every entry, every checkpoint, the head. Exit 0 if they agree, 1 if not. Only kept checkpoints tell a log rewritten whole."""
    from compliance.audit_checkpoint import verify_log

    kept = [path.read_bytes().decode("utf-8", "replace") for path in checkpoint or []]
    with deployment(data) as app, app.database.reading() as session:
        result = verify_log(session, app.log_signer.public_key, witnessed=kept)
    if as_json:
        print_json(
            {
                "sound": result.is_sound,
                "size": result.size,
                "root": result.root,
                "checkpoints": result.checkpoints,
                "findings": result.findings,
            }
        )
    else:
        for finding in result.findings:
            typer.echo(finding)
        typer.echo(
            f"{'sound' if result.is_sound else 'NOT SOUND'}: {result.size} entries, {result.checkpoints} checkpoints, root {result.root}"
        )
    if not result.is_sound:
        typer.echo("stop, keep the database as it is, and compare with the checkpoints of your witnesses", err=True)
    raise typer.Exit(0 if result.is_sound else 1)


@audit_app.command("checkpoint")
def checkpoint_command(
    data: DataOption = DEFAULT_DATA,
    into: Annotated[Path | None, typer.Option("--into", help="File for the note; by default it is printed.")] = None,
) -> None:
    """Sign the log as it is now (C2SP checkpoint). Give it to a witness: hospital, privacy officer; keep it where we cannot reach."""
    from gateway.audit_export import checkpoint_now

    with deployment(data) as app:
        note = checkpoint_now(app).note
    if into is None:
        typer.echo(note, nl=False)
    else:
        into.write_bytes(note.encode())
        typer.echo(f"{into}: keep it where nobody who runs this deployment can change it", err=True)


@audit_app.command("export")
def export_command(
    data: DataOption = DEFAULT_DATA,
    into: Annotated[Path | None, typer.Option("--into", help="File; by default it is printed.")] = None,
    form: Annotated[
        str, typer.Option("--format", help="bundle (checked by docs/verify_audit.py), dicom (XML lines) or fhir (NDJSON).")
    ] = "bundle",
    hospital: Hospital = None,
    study: Annotated[str | None, typer.Option("--study", help="Only entries of this pseudonymous Study Instance UID.")] = None,
) -> None:
    """The log as a file. A bundle of the whole log proves itself; one of a part proves each entry it shows."""
    from compliance.audit_fhir import audit_event
    from compliance.audit_rendering import AuditSource, audit_message
    from crypto.canonical import canonical_json
    from gateway.audit_export import Selection, export_bundle, note_reading, selected
    from gateway.typed_input import word

    word("--format", form, ("bundle", "dicom", "fhir"))
    selection = Selection(hospital, study)
    with deployment(data) as app, _output(into) as file:
        if form == "bundle":
            exported = export_bundle(app, file.write, selection, actor=actor())
            typer.echo(f"{exported.entries} of {exported.size} entries, root {exported.root}", err=True)
            typer.echo(f"check it with: python3 docs/verify_audit.py FILE --key {app.log_signer.verifier_key}", err=True)
            return
        note_reading(app, actor(), selection, form)
        source = AuditSource(source_id=app.log_signer.origin)
        count = 0
        with app.database.reading() as session:
            for entry, pseudonym in selected(session, selection):
                if form == "dicom":
                    line = audit_message(entry, source, patient_pseudonym=pseudonym)
                else:
                    line = canonical_json(audit_event(entry, source, patient_pseudonym=pseudonym))
                file.write(line + b"\n")
                count += 1
        typer.echo(f"{count} entries", err=True)


@audit_app.command("report")
def report_command(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="disclosures (45 CFR 164.528) or processing (GDPR Art. 30).")],
    hospital: Annotated[str, typer.Option("--hospital")],
    data: DataOption = DEFAULT_DATA,
    patient: Annotated[str | None, typer.Option("--patient", help="Pseudonym, for disclosures.")] = None,
    since: Annotated[str | None, typer.Option("--since", help="ISO 8601; by default six years ago.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="ISO 8601; by default now.")] = None,
    without_tpo: Annotated[bool, typer.Option("--without-tpo", help="Leave out treatment, payment and operations.")] = False,
    contact: Annotated[
        list[str] | None,
        typer.Option("--contact", help="controller=..., controller_dpo=..., processor=..., processor_dpo=... (repeatable)."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Who was shown what and why, or what is processed and on which safeguards; made of the log and the registers."""
    from gateway.audit_export import Selection, note_reading
    from gateway.audit_reports import accounting_of_disclosures, readable, records_of_processing
    from gateway.typed_input import word

    word("KIND", kind, ("disclosures", "processing"))
    contacts = dict(pair.split("=", 1) for pair in contact or [] if "=" in pair)
    with deployment(data) as app:
        note_reading(app, actor(), Selection(hospital), kind)
        with app.database.reading() as session:
            if kind == "disclosures":
                report = accounting_of_disclosures(
                    session,
                    hospital,
                    until=instant(until) if until is not None else app.now(),
                    since=instant(since) if since is not None else None,
                    patient_pseudonym=patient,
                    without_tpo=without_tpo,
                )
            else:
                report = records_of_processing(session, hospital, app.law, at=app.now(), contact=contacts)
    if as_json:
        print_json(report)
    else:
        typer.echo(readable(report), nl=False)


@audit_app.command("send")
def send_command(
    host: Annotated[str, typer.Option("--host", help="The audit repository.")],
    ca: Annotated[Path, typer.Option("--ca", help="PEM of the authority of its certificate.")],
    certificate: Annotated[Path, typer.Option("--certificate", help="Our client certificate (PEM).")],
    key: Annotated[Path, typer.Option("--key", help="Its private key (PEM).")],
    data: DataOption = DEFAULT_DATA,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 6514,
    sink: Annotated[str, typer.Option("--sink", help="Name of the repository: each has its own position.")] = "atna",
    follow: Annotated[float, typer.Option("--follow", min=0.0, help="Stay, and send what is new every so many seconds.")] = 0.0,
) -> None:
    """Send what is new to an ATNA repository: syslog (RFC 5424) over TLS (RFC 5425). While it is down, nothing is lost."""
    from compliance.audit_rendering import AuditSource
    from crypto.errors import TemporarilyUnable
    from gateway.audit_syslog import SyslogTarget, send_pending
    from gateway.dicom_tls import TlsMaterial, client_context

    tls = client_context(TlsMaterial(certificate.read_bytes(), key.read_bytes(), ca.read_bytes()))
    with deployment(data) as app:
        target, source = SyslogTarget(sink, host, port, tls), AuditSource(app.log_signer.origin)
        while True:
            try:
                sent = send_pending(app.database, target, source, now=app.now())
                typer.echo(f"{sent} entries sent to {sink}", err=True)
            except TemporarilyUnable as away:
                if not follow:
                    raise
                typer.echo(f"{away}; trying again in {follow:g} s", err=True)
            if not follow:
                return
            time.sleep(follow)


@contextlib.contextmanager
def _output(into: Path | None) -> Iterator[IO[bytes]]:
    """Standard output, or a file of ours alone that is whole or not there."""
    if into is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    temporary = into.with_name(into.name + ".new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(into)

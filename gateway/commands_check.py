"""`readgate fsck` and `readgate report verify`: checks that end in an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, print_json, print_rows, progress, require_data_folder

report_app = typer.Typer(name="report", help="Delivered reports: verify.", no_args_is_help=True, rich_markup_mode=None)


def mount(app: typer.Typer) -> None:
    """Adds `fsck` and `report` to `app`."""
    app.command("fsck")(fsck_command)
    app.add_typer(report_app)


@report_app.callback()
def _report() -> None:
    """Delivered reports: verify."""


def fsck_command(
    data: DataOption = DEFAULT_DATA,
    deep: Annotated[bool, typer.Option("--deep", help="Open every payload and compare it with its digest.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Delete orphan packs older than an hour, nothing else.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Nothing else runs: count and delete young orphans too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rows, packs, spool, keys and log against each other. Exit 0 if they agree, 1 if not; says what to do about each finding."""
    from gateway.fsck import Fsck, note_repair

    with deployment(data) as app:
        with progress() as bar:
            task = bar.add_task("checking", total=None)
            fsck = Fsck(app, is_alone=now, step=lambda: bar.advance(task))
            report = fsck.run(deep=deep)
            repaired = fsck.repair() if repair else []
        if repaired:
            note_repair(app, actor(), repaired)
    if as_json:
        print_json(report.document())
    else:
        for finding in report.findings:
            typer.echo(f"{finding.kind}: {finding.what}\n    {finding.advice}")
        for name in repaired:
            typer.echo(f"deleted: {name}")
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(report.checked.items()))
        typer.echo(f"{len(report.findings)} findings; checked {counts}")
    raise typer.Exit(1 if report.findings else 0)


@report_app.command("verify")
def verify_command(
    file: Annotated[Path, typer.Argument(metavar="FILE.pdf", help="A report as the hospital received it.")],
    data: DataOption = DEFAULT_DATA,
    root: Annotated[list[Path] | None, typer.Option("--root", help="Certificate (PEM) to trust for the seal, instead of --data.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Seal, reader's signature, same clinical text, same images. Exit 0 if the chain holds, 1 if not.

    With --data the reader's key is compared with those registered; with --root alone everything else is checked, offline.
    """
    from crypto.errors import BadInput
    from reporting.verification import verify_report_pdf

    if not file.is_file():
        raise BadInput(f"{file}: there is no such file")
    document = file.read_bytes()
    known: set[str] | None = None
    if root:
        roots = [path.read_bytes() for path in root]
    else:
        require_data_folder(data)
        roots, known = _trusted(data)
    verification = verify_report_pdf(document, roots, reader_key_fingerprints=known)
    if as_json:
        print_json(verification.document())
    else:
        rows: list[dict[str, Any]] = [
            {"check": check.name, "result": check.result.value, "detail": check.detail} for check in verification.checks
        ]
        print_rows(rows, as_json=False)
        typer.echo("VALID" if verification.is_valid else "INVALID")
    if not verification.is_valid:
        failed = ", ".join(check.name for check in verification.checks if check.result.value != "PASSED")
        typer.echo(f"{file}: the report does not verify ({failed}); do not use it, ask the hospital's privacy officer", err=True)
    raise typer.Exit(0 if verification.is_valid else 1)


def _trusted(data: Path) -> tuple[list[bytes], set[str]]:
    """The roots this deployment trusts, and the fingerprints of its readers' keys."""
    from sqlmodel import select

    from compliance.credential import Reader
    from reporting.signed_report import public_key_fingerprint

    with deployment(data) as app, app.database.reading() as session:
        keys = {public_key_fingerprint(pem) for pem in session.exec(select(Reader.public_key_pem)).all()}
        return app.certificates.trust_roots(), keys

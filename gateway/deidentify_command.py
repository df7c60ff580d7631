"""`readgate deidentify`: what a reader would get of these files, and what would be held back and why.

Under --secret the same input gives the same output for ever; without it every run has a secret of its own, so that nothing links two runs.
"""

from __future__ import annotations

import csv
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Annotated, TextIO

import typer

from compliance.deid_profile import profile_of
from crypto.errors import BadInput
from gateway.deidentify_run import DeidentifyRun
from gateway.logs import configure_logs


def mount(app: typer.Typer) -> None:
    """Adds `deidentify` to `app`."""
    app.command("deidentify")(deidentify_command)


def deidentify_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A DICOM file, a bare dataset, a folder or a tar archive.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder for what may leave; made where it is missing.")],
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Option of PS3.15 Annex E by name; 'basic' for none; default: teleread.")
    ] = None,
    secret: Annotated[Path | None, typer.Option("--secret", help="File of at least 16 bytes; makes the output repeatable.")] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="Folder for uid_mapping.csv and patid_mapping.csv: they identify patients.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="File for the JSON report.")] = None,
    native: Annotated[bool, typer.Option("--native", help="Leave uncompressed pixels so, instead of lossless HTJ2K.")] = False,
) -> None:
    """De-identify files as a reader would get them. Exit 0 if any instance passed, 1 if none did, 2 on bad input."""
    configure_logs(as_json=False, level=logging.WARNING)
    try:
        run = DeidentifyRun(profile_of(option or []), _secret_of(secret), compress=not native)
        summary = run.folder(source, destination)
        if mapping is not None:
            write_mapping(run, mapping)
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            with _private(report) as file:
                file.write(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    except BadInput as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(2) from None
    except OSError as problem:
        typer.echo(f"cannot read or write {problem.filename or 'a file'}: {problem.strerror}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{summary['passed']} de-identified, {sum(summary['reasons'].values())} quarantined", err=True)
    for reason, count in sorted(summary["reasons"].items()):
        typer.echo(f"  {count} {reason}", err=True)
    raise typer.Exit(0 if summary["passed"] else 1)


def _secret_of(path: Path | None) -> bytes:
    if path is None:
        return secrets.token_bytes(32)
    try:
        value = path.read_bytes().strip()
    except OSError:
        raise BadInput(f"the secret {path} cannot be read; give a file of at least 16 bytes") from None
    if len(value) < 16:
        raise BadInput(f"the secret {path} is shorter than 16 bytes")
    return value


def write_mapping(run: DeidentifyRun, folder: Path) -> None:
    """uid_mapping.csv and patid_mapping.csv with the columns id_old, id_new."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in (("uid_mapping.csv", run.uids), ("patid_mapping.csv", run.patients)):
        with _private(folder / name) as file:
            writer = csv.writer(file)
            writer.writerow(("id_old", "id_new"))
            writer.writerows(sorted(pairs.items()))


def _private(path: Path) -> TextIO:
    """The file, empty and for its owner alone: what is written here says who the patients are, and names of sources may."""
    file = open(path, "w", newline="", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600))  # noqa: SIM115
    if path.is_file():
        # It may have stood there before, for everybody to read.
        os.fchmod(file.fileno(), 0o600)
    return file

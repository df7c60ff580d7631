"""What every command of `readgate` shares: the data folder, tables, progress, and errors as one clear line.

Exit codes: 0 done, 1 a check failed or something is not possible now, 2 what was typed or configured is wrong.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from crypto.errors import BadInput, Conflict, IntegrityFailure, NotAllowed, NotFound, ReadgateError, RefusedContent, TemporarilyUnable
from gateway.logs import configure_logs

if TYPE_CHECKING:
    from rich.progress import Progress

    from gateway.application import Application

DEFAULT_DATA = Path("readgate-data")
DataOption = Annotated[Path, typer.Option("--data", help="The deployment's data folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
_BAD_INPUT = (BadInput, RefusedContent, NotFound, NotAllowed, Conflict)
#: What to do, by the constant that an error names.
_ADVICE = {
    "HOSPITAL_EXISTS": "a hospital of that id exists already; see: readgate site list",
    "AE_TITLE_TAKEN": "another hospital calls under that AE title; choose another one",
    "PRINCIPAL_EXISTS": "a person of that id exists already; see: readgate principal list",
    "READER_EXISTS": "that reader exists already; see: readgate reader list",
    "EVIDENCE_EXISTS": "evidence of that id is on file already; give the new document an id of its own",
    "ALREADY_SETTLED": "somebody decided on it before you; see: readgate quarantine list",
    "NOT_QUARANTINED": "the study is not held any more; see: readgate quarantine list",
    "NOT_A_DEAD_LETTER": "it is not in the dead letter; see: readgate deliveries list",
    "REPORTS_UNDELIVERED": "a signed report of the study has not reached the hospital; deliver it first, or repeat with --force",
    "STUDY_IN_SPOOL": "an instance of the study is still only in the spool; let the worker finish, then repeat",
    "KEK_IN_USE": "something still needs an older key; let the worker empty the spool, then: readgate keys rotate HOSPITAL --retire-only",
    "kek-rotated-meanwhile": "somebody rotated in the same moment; see: readgate keys status",
}


class Commands(TyperGroup):
    """A group whose commands end in one line on stderr whatever happened, never in a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ReadgateError as error:
            stop(sentence_of(error), EXIT_BAD_INPUT if isinstance(error, _BAD_INPUT) else EXIT_FAILED)
        except BrokenPipeError:
            raise
        except (TimeoutError, ConnectionError):
            stop("a peer did not answer in time, or hung up; see that it runs and is not overloaded, then repeat", EXIT_FAILED)
        except OSError as error:
            stop(f"cannot read or write {error.filename or 'a file'}: {error.strerror or type(error).__name__}", EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            stop("stopped", 130)
        except Exception as error:
            if type(error).__module__.startswith("typer"):
                _stop_on_usage_error(error)
                raise
            if os.environ.get("READGATE_TRACEBACK") == "1":
                raise
            # The text of a foreign exception may quote what it was given; its kind does not.
            stop(
                f"something failed here ({type(error).__name__}); nothing more is told because it might name a patient. "
                "With READGATE_TRACEBACK=1 the whole trace is printed",
                EXIT_FAILED,
            )


def sentence_of(error: ReadgateError) -> str:
    """One line for a person at a terminal: what is wrong and what to do."""
    advice = _ADVICE.get(getattr(error, "reason_code", ""))
    text = " ".join(str(error).split())
    if advice is not None:
        return f"{text}: {advice}"
    if isinstance(error, TemporarilyUnable):
        return f"{text}; nothing was done, try again in a moment"
    if isinstance(error, IntegrityFailure):
        return f"{text}; stored data do not agree: run readgate fsck before anything else"
    return text


def _stop_on_usage_error(error: Exception) -> None:
    """Typer ends commands by exceptions of its own; one that complains about the words typed becomes one line too."""
    complaint = getattr(error, "format_message", None)
    context = getattr(error, "ctx", None)
    if complaint is None or context is None or type(error).__name__ == "NoArgsIsHelpError":
        return
    stop(f"{' '.join(complaint().split())} See: {context.command_path} --help", EXIT_BAD_INPUT)


def stop(message: str, code: int) -> NoReturn:
    """`message` stands on stderr and the command ends with `code`."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def actor() -> str:
    """Who runs the command, as the audit log names them: the account on this machine."""
    try:
        return f"cli/{getpass.getuser()}"
    except (KeyError, OSError):
        return f"cli/{os.getuid()}"


@contextmanager
def deployment(data: Path, *, needs_law: bool = False) -> Iterator[Application]:
    """The deployment in `data`, opened for one command and closed after it.

    Administration must be possible before the law is confirmed; without `needs_law` an unconfirmed deployment opens, and no rule grants.
    """
    from compliance.lawbook import load_packs
    from gateway.application import open_application
    from gateway.config import load_settings

    require_data_folder(data)
    settings = load_settings(data)
    configure_logs(as_json=False, level=logging.WARNING)
    is_confirmed = settings.law.confirmations is not None or settings.law.demo_confirmations
    if is_confirmed or needs_law:
        app = open_application(data, settings=settings)
    else:
        app = open_application(data, settings=settings, law=load_packs(settings.law.directory))
    try:
        yield app
    finally:
        app.close()


def require_data_folder(data: Path) -> None:
    """Raises: BadInput where there is no deployment to work on."""
    if not data.is_dir():
        raise BadInput(f"{data} is no data folder; make one with: readgate init --data {data}")


def print_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, columns: Sequence[str] | None = None, empty: str = "nothing") -> None:
    """`rows` as a JSON array, or as aligned columns for a person."""
    if as_json:
        print_json([dict(row) for row in rows])
        return
    if not rows:
        typer.echo(empty)
        return
    names = list(columns if columns is not None else rows[0])
    table = [[name.replace("_", " ").upper() for name in names], *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[number]) for line in table) for number in range(len(names))]
    for line in table:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """`value` as indented JSON; instants in UTC."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False, default=_plain))


def progress() -> Progress:
    """A progress bar on a terminal, and nothing anywhere else."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def ask(question: str, *, is_agreed: bool) -> None:
    """The person agreed, by --yes or at the terminal. Raises: BadInput where there is nobody to ask."""
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise BadInput(f"{question} Say so with --yes")
    if not typer.confirm(question):
        stop("nothing was done", EXIT_FAILED)


def secret_input(what: str, file: Path | None) -> str:
    """A secret from a file of one line, or typed twice at the terminal; never from an argument, which every process could read."""
    if file is not None:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    if not sys.stdin.isatty():
        raise BadInput(f"there is no terminal to type the {what} at; give it in a file")
    return str(typer.prompt(what.capitalize(), hide_input=True, confirmation_prompt=True))


def instant(text: str) -> datetime:
    """An ISO 8601 date or instant; without a zone it is UTC. Raises: BadInput."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"{text} is no date or instant; write 2026-11-22 or 2026-11-22T10:00:00+00:00") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%MZ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(str(item) for item in value) or "-"
    if isinstance(value, dict):
        return " ".join(f"{name}={_cell(item)}" for name, item in value.items()) or "-"
    return " ".join(str(value).split()) or "-"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")

"""The command `readgate`. Commands live by noun in `commands_*.py`; this file only puts them together."""

from __future__ import annotations

import typer

from gateway import (
    commands_audit,
    commands_check,
    commands_consent,
    commands_credential,
    commands_decision,
    commands_evidence,
    commands_intake,
    commands_keys,
    commands_people,
    commands_run,
    commands_site,
    commands_study,
    commands_token,
    commands_upload,
    deidentify_command,
    law_commands,
)
from gateway.console import Commands

app = typer.Typer(
    name="readgate",
    cls=Commands,
    help="DICOM gateway for teleradiology: studies go out de-identified, signed reports come back under the patient's own name.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _commands in (
    commands_run,
    commands_site,
    commands_people,
    commands_credential,
    commands_evidence,
    commands_consent,
    commands_study,
    commands_decision,
    commands_intake,
    commands_upload,
    commands_token,
    commands_keys,
    deidentify_command,
    law_commands,
    commands_check,
    commands_audit,
):
    _commands.mount(app)


def main() -> None:
    """The entry point."""
    app(prog_name="readgate")


if __name__ == "__main__":
    main()

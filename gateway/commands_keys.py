"""`readgate keys`: rotate a hospital's KEK, shred a study, see which versions are in use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, YesOption, actor, ask, deployment, print_json, print_rows

keys_app = typer.Typer(name="keys", help="Keys: rotate, shred, status.", no_args_is_help=True, rich_markup_mode=None)


def mount(app: typer.Typer) -> None:
    """Adds `keys` to `app`."""
    app.add_typer(keys_app)


@keys_app.command("rotate")
def rotate_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")],
    data: DataOption = DEFAULT_DATA,
    retire: Annotated[bool, typer.Option("--retire", help="Then destroy the older versions, if nothing needs them any more.")] = False,
    retire_only: Annotated[bool, typer.Option("--retire-only", help="Make no new version; wrap anew and destroy the older ones.")] = False,
    as_json: JsonOption = False,
) -> None:
    """A new key-encryption key for the hospital; every study's key is wrapped anew, no payload is touched."""
    from gateway.key_rotation import Rotation, retire_old_keks, rewrap_hospital, rotate_hospital_kek

    with deployment(data) as app:
        if retire_only:
            rewrapped = rewrap_hospital(app, hospital, actor=actor())
            rotation = Rotation(hospital, app.keys.kek_version(hospital), rewrapped)
        else:
            rotation = rotate_hospital_kek(app, hospital, actor=actor())
        retired = retire_old_keks(app, hospital, actor=actor()) if retire or retire_only else []
    if as_json:
        print_json({**asdict(rotation), "retired": retired})
        return
    typer.echo(f"{hospital}: KEK version {rotation.version}, {rotation.rewrapped} study keys wrapped anew")
    if retired:
        typer.echo(f"destroyed: version {', '.join(map(str, retired))}")


@keys_app.command("shred")
def shred_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Pseudonymous Study Instance UID, or received/<number>.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the audit log; a code, never a name.")],
    data: DataOption = DEFAULT_DATA,
    force: Annotated[bool, typer.Option("--force", help="Although a signed report has not reached the hospital.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Destroy the study's key: nobody can read it again, from no backup of database and vault either."""
    from gateway.shredding import shred_study

    ask(f"Study {study} will be unreadable for ever. Go on?", is_agreed=yes)
    with deployment(data) as app:
        result = shred_study(app, study, actor=actor(), reason=reason, force=force)
    if as_json:
        print_json(asdict(result))
        return
    typer.echo(f"{study} is shredded: {result.packs_deleted} packs deleted, {result.claims_ended} claims ended")
    if result.segments_left:
        typer.echo(f"{len(result.segments_left)} spool segments still hold its originals beside other studies' and go when those are done")
    typer.echo("backups of the key store older than this bring it back: destroy them within 30 days")


@keys_app.command("status")
def status_command(data: DataOption = DEFAULT_DATA, as_json: JsonOption = False) -> None:
    """KEK versions of each hospital and how many wrapped keys need each."""
    from gateway.key_rotation import hospital_ids, key_status

    with deployment(data) as app:
        with app.database.reading() as session:
            ids = hospital_ids(session)
        rows = [asdict(key_status(app, hospital_id)) for hospital_id in ids]
    print_rows(rows, as_json=as_json, empty="no hospital yet; see: readgate site add")

"""`readgate import`, `expect`, `quarantine`, `deliveries`: what comes in by file, what is to come, what waits for a person or to go out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, print_json, print_rows

if TYPE_CHECKING:
    from gateway.application import Application
    from gateway.quarantine_acts import Said

quarantine_app = typer.Typer(name="quarantine", help="Studies that are held.", no_args_is_help=True, rich_markup_mode=None)
deliveries_app = typer.Typer(name="deliveries", help="Reports on their way: list, release.", no_args_is_help=True, rich_markup_mode=None)
Note = Annotated[str, typer.Option("--note", help="Why, for the record; no names.")]


def mount(app: typer.Typer) -> None:
    """Adds `import`, `quarantine` and `deliveries` to `app`."""
    app.command("import")(import_command)
    app.command("expect")(expect_command)
    app.add_typer(quarantine_app)
    app.add_typer(deliveries_app)


def import_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A DICOM file, a folder of them, or a medium with a DICOMDIR.")],
    hospital: Annotated[str, typer.Option("--hospital", help="Whose studies they are.")],
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Take files in as if the hospital had sent them. Exit 0 if all were taken, 1 if some were refused, 2 if there was nothing to take."""
    from gateway.file_import import import_files

    with deployment(data) as app:
        result = import_files(app, source, hospital, actor=actor())
    if as_json:
        print_json(result.document())
    else:
        typer.echo(f"{result.received} instances received for {hospital}")
        if result.not_dicom:
            typer.echo(f"{result.not_dicom} files are no DICOM instances and were left out")
        for reason, count in sorted(result.refused.items()):
            typer.echo(f"{count} refused: {reason}", err=True)
    raise typer.Exit(0 if result.received and not result.refused else 1 if result.received or result.refused else 2)


def expect_command(
    count: Annotated[int, typer.Argument(metavar="COUNT", help="How many images the study will have.")],
    hospital: Annotated[str, typer.Option("--hospital", help="Whose study it is.")],
    study: Annotated[str, typer.Option("--study", help="Its Study Instance UID, as the hospital knows it.")] = "",
    accession: Annotated[str, typer.Option("--accession", help="Or the accession number of its order.")] = "",
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Say how many images a study will have: once they are there it is processed without any quiet time."""
    from compliance.hospital import require_hospital
    from gateway.expected_instances import expect_instances

    with deployment(data) as app:
        with app.database.reading() as session:
            require_hospital(session, hospital)
        there = expect_instances(app, hospital, count, actor=actor(), study_instance_uid=study, accession_number=accession)
    if as_json:
        print_json({"expected": count, "received": there})
        return
    typer.echo(f"{count} expected; " + ("nothing of it has come yet" if there is None else f"{there} have come"))


@quarantine_app.command("list")
def list_quarantine_command(
    data: DataOption = DEFAULT_DATA,
    hospital: Annotated[str | None, typer.Option("--hospital")] = None,
    every: Annotated[bool, typer.Option("--all", help="Settled ones too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What is held, and why."""
    from sqlmodel import col, select

    from compliance.quarantine import QuarantineItem, QuarantineState

    query = select(QuarantineItem).order_by(col(QuarantineItem.item_pk))
    if not every:
        query = query.where(QuarantineItem.state == QuarantineState.HELD)
    if hospital is not None:
        query = query.where(QuarantineItem.hospital_id == hospital)
    with deployment(data) as app, app.database.reading() as session:
        rows = [
            {
                "number": row.item_pk,
                "hospital_id": row.hospital_id,
                "study": f"received/{row.received_study_pk}",
                "reason": row.reason_code,
                "element": row.element_tag,
                "instances": row.instance_count,
                "state": row.state,
                "held_at": row.held_at,
            }
            for row in session.exec(query).all()
        ]
    print_rows(rows, as_json=as_json, empty="nothing is held")


@quarantine_app.command("show")
def show_command(
    number: Annotated[int, typer.Argument(metavar="NUMBER")], data: DataOption = DEFAULT_DATA, as_json: JsonOption = False
) -> None:
    """One held study: what happened and what to do. No value that was found is ever shown."""
    from compliance.quarantine import QuarantineItem, decision_note
    from crypto.errors import NotFound
    from gateway.quarantine_acts import REPAIRS, can_settle
    from gateway.reason_words import held_words
    from gateway.received import received_study

    with deployment(data) as app, app.database.reading() as session:
        row = session.get(QuarantineItem, number)
        if row is None:
            raise NotFound(f"no quarantine item {number}; see: readgate quarantine list")
        received = received_study(session, row.received_study_pk)
        happened, to_do = held_words(row.reason_code)
        document = {
            "number": row.item_pk,
            "hospital_id": row.hospital_id,
            "study": f"received/{row.received_study_pk}",
            "study_state": received.state,
            "reason": row.reason_code,
            "element": row.element_tag,
            "detail": row.detail,
            "what_happened": happened,
            "what_to_do": to_do,
            "repairs": ", ".join(REPAIRS.get(row.reason_code, {})) if can_settle(row, received) else "",
            "instances": row.instance_count,
            "state": row.state,
            "held_at": row.held_at,
            "decided_at": row.decided_at,
            "decided_by": row.decided_by,
            "decision_note": decision_note(row, app.keys),
        }
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if value not in (None, ""):
            typer.echo(f"{key.replace('_', ' '):14} {value}")


@quarantine_app.command("release")
def release_command(number: Annotated[int, typer.Argument(metavar="NUMBER")], note: Note, data: DataOption = DEFAULT_DATA) -> None:
    """De-identify the study again from its sealed originals; what does not pass is held again."""
    from gateway.quarantine_acts import try_again

    with deployment(data) as app:
        try_again(app.database, app.keys, _said(app, number, note))
    typer.echo(f"item {number} is released; a worker tries the study again")


@quarantine_app.command("repair")
def repair_command(
    number: Annotated[int, typer.Argument(metavar="NUMBER")],
    choice: Annotated[str, typer.Option("--choose", help="Which repair: KEEP_FIRST or KEEP_LAST of two contents under one UID.")],
    note: Note,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """Settle what can be settled here, and de-identify the study again. Which repairs an item has, `show` says."""
    from gateway.quarantine_acts import repair

    with deployment(data) as app:
        repair(app.database, app.keys, _said(app, number, note), choice)
    typer.echo(f"item {number} is repaired; a worker tries the study again")


@quarantine_app.command("reject")
def reject_command(number: Annotated[int, typer.Argument(metavar="NUMBER")], note: Note, data: DataOption = DEFAULT_DATA) -> None:
    """The study is never read. Its sealed originals stay until: readgate keys shred received/<number>."""
    from gateway.quarantine_acts import reject

    with deployment(data) as app:
        reject(app.database, app.keys, _said(app, number, note))
    typer.echo(f"item {number} is rejected")


@quarantine_app.command("masks")
def masks_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")],
    data: DataOption = DEFAULT_DATA,
    every: Annotated[bool, typer.Option("--all", help="Withdrawn ones too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The device masks that the hospital's staff made: what is blanked in every image of a device and size."""
    from compliance.hospital import require_hospital
    from compliance.pixel_review import mask_note, masks_of

    with deployment(data) as app, app.database.reading() as session:
        require_hospital(session, hospital)
        found = masks_of(session, hospital) + (masks_of(session, hospital, withdrawn=True) if every else [])
        rows = [
            {
                "number": row.mask_pk,
                "where": "; ".join(f"{one['attribute']} = {one['equals'][0]}" for one in row.mask["where"]),
                "boxes": "; ".join(" ".join(map(str, box)) for box in row.mask["boxes"]),
                "state": "IN FORCE" if row.is_active else "WITHDRAWN",
                "decided_at": row.decided_at,
                "decided_by": row.decided_by,
                "note": mask_note(row, app.keys),
            }
            for row in found
        ]
    print_rows(rows, as_json=as_json, empty="the hospital has made no mask")


@quarantine_app.command("withdraw-mask")
def withdraw_mask_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")],
    number: Annotated[int, typer.Argument(metavar="NUMBER")],
    note: Note,
    data: DataOption = DEFAULT_DATA,
) -> None:
    """The mask no longer fires; what was blanked under it stays blanked."""
    from compliance.pixel_review import withdraw_mask
    from crypto.errors import NotFound

    with deployment(data) as app, app.database.transaction() as session:
        if not withdraw_mask(session, app.keys, hospital_id=hospital, mask_pk=number, actor=actor(), note=note, now=app.now()):
            raise NotFound(f"no mask {number} of {hospital} is in force; see: readgate quarantine masks {hospital}")
    typer.echo(f"mask {number} is withdrawn")


@deliveries_app.command("list")
def list_deliveries_command(
    data: DataOption = DEFAULT_DATA,
    every: Annotated[bool, typer.Option("--all", help="Delivered ones too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """What is queued and what lies in the dead letter."""
    from sqlmodel import col, select

    from reporting.delivery_queue import Delivery, DeliveryState

    query = select(Delivery).order_by(col(Delivery.delivery_pk))
    if not every:
        query = query.where(Delivery.state != DeliveryState.DELIVERED)
    with deployment(data) as app, app.database.reading() as session:
        rows = [
            {
                "number": row.delivery_pk,
                "hospital_id": row.hospital_id,
                "report_uid": row.report_uid,
                "kind": row.kind,
                "target": row.target_pk,
                "state": row.state,
                "attempts": row.attempts,
                "next_attempt_at": row.next_attempt_at if row.state == DeliveryState.QUEUED else None,
                "last_reason": row.last_reason,
                "delivered_at": row.delivered_at,
            }
            for row in session.exec(query).all()
        ]
    print_rows(rows, as_json=as_json, empty="everything is delivered")


@deliveries_app.command("release")
def release_delivery_command(number: Annotated[int, typer.Argument(metavar="NUMBER")], data: DataOption = DEFAULT_DATA) -> None:
    """Send a dead letter again, from its first attempt."""
    from reporting.delivery_queue import release_dead_letter

    with deployment(data) as app, app.database.transaction() as session:
        release_dead_letter(session, number, actor=actor(), now=app.now())
    typer.echo(f"delivery {number} is queued again")


def _said(app: Application, number: int, note: str) -> Said:
    from compliance.quarantine import QuarantineItem
    from crypto.errors import NotFound
    from gateway.quarantine_acts import Said

    with app.database.reading() as session:
        item = session.get(QuarantineItem, number)
    if item is None:
        raise NotFound(f"no quarantine item {number}; see: readgate quarantine list")
    return Said(item.hospital_id, str(number), actor(), note, app.now())

"""`readgate consent`: what patients said, by pseudonym; in and out as FHIR R4 Consent. A running server follows within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, instant, print_json, print_rows

consent_app = typer.Typer(
    name="consent", help="Patients' consents: add, withdraw, list, import, export.", no_args_is_help=True, rich_markup_mode=None
)
_Hospital = Annotated[str, typer.Argument(metavar="HOSPITAL")]
_Pseudonym = Annotated[str, typer.Argument(metavar="PSEUDONYM", help="The patient's, as the hospital's pages show it.")]


def mount(app: typer.Typer) -> None:
    """Adds `consent` to `app`."""
    app.add_typer(consent_app)


@consent_app.command("add")
def add_command(
    hospital: _Hospital,
    pseudonym: _Pseudonym,
    kind: Annotated[str, typer.Option("--kind", help="SHARING, SEPARATE, INFORMED or TRANSFER.")],
    data: DataOption = DEFAULT_DATA,
    status: Annotated[str, typer.Option("--status", help="ACTIVE or REFUSED.")] = "ACTIVE",
    given: Annotated[str | None, typer.Option("--given", help="ISO 8601; by default now.")] = None,
    as_json: JsonOption = False,
) -> None:
    """A new version of the patient's consent counts from now on."""
    from gateway.typed_input import fact, word

    word("--status", status, ("ACTIVE", "REFUSED"))
    fact("--kind", "consent.kind", kind)
    _record(data, hospital, pseudonym, status, kind, given, "", as_json)


@consent_app.command("withdraw")
def withdraw_command(
    hospital: _Hospital,
    pseudonym: _Pseudonym,
    data: DataOption = DEFAULT_DATA,
    kind: Annotated[str | None, typer.Option("--kind", help="Which one, where several are on record.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log; kept sealed.")] = "",
    as_json: JsonOption = False,
) -> None:
    """The patient withdrew: open viewers of their studies lose the right within seconds."""
    from compliance.credential import standing_consents
    from crypto.errors import BadInput, NotFound

    with deployment(data) as app, app.database.reading() as session:
        kinds = [row.kind for row in standing_consents(session, hospital, pseudonym) if kind is None or row.kind == kind]
    if not kinds:
        raise NotFound(f"no consent of {pseudonym} at {hospital} is on record")
    if len(kinds) > 1:
        raise BadInput(f"{pseudonym} has consents of several kinds ({', '.join(sorted(kinds))}): say which with --kind")
    _record(data, hospital, pseudonym, "WITHDRAWN", kinds[0], None, reason, as_json)


@consent_app.command("list")
def list_command(
    data: DataOption = DEFAULT_DATA,
    hospital: Annotated[str | None, typer.Option("--hospital", help="Only of this hospital.")] = None,
    pseudonym: Annotated[str | None, typer.Option("--patient", help="Only of this pseudonym.")] = None,
    as_json: JsonOption = False,
) -> None:
    """The newest word of each patient, one line for each kind."""
    from gateway.register_exchange import newest_consents

    with deployment(data) as app, app.database.reading() as session:
        rows = [
            {
                "hospital_id": row.hospital_id,
                "patient_pseudonym": row.patient_pseudonym,
                "kind": row.kind,
                "status": row.status,
                "version": row.version,
                "given_at": row.given_at,
                "withdrawn_at": row.withdrawn_at,
                "expires_at": row.expires_at,
                "is_limited": row.terms is not None,
            }
            for row in newest_consents(session, hospital_id=hospital, patient_pseudonym=pseudonym)
        ]
    print_rows(rows, as_json=as_json, empty="nothing on record; see: readgate consent add --help")


@consent_app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A FHIR R4 Consent, or a Bundle of them, as JSON.")],
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """What the file says counts from now on, all of it or nothing; what is not understood refuses it with its path."""
    from gateway.register_exchange import import_consent
    from gateway.strict_json import read_json

    with deployment(data) as app:
        versions = import_consent(app, actor(), read_json(file.read_bytes()), has_effect=False)
    if as_json:
        print_json({"versions": versions})
        return
    typer.echo(f"{len(versions)} {'consent is' if len(versions) == 1 else 'consents are'} on record")


@consent_app.command("export")
def export_command(
    data: DataOption = DEFAULT_DATA,
    hospital: Annotated[str | None, typer.Option("--hospital", help="Only of this hospital.")] = None,
    pseudonym: Annotated[str | None, typer.Option("--patient", help="Only of this pseudonym.")] = None,
) -> None:
    """The newest consents as a FHIR R4 Bundle on stdout; `import` takes it. The export is an entry of the log."""
    from gateway.register_exchange import export_consents
    from gateway.register_note import note_export

    with deployment(data) as app, app.database.transaction() as session:
        bundle = export_consents(session, hospital_id=hospital, patient_pseudonym=pseudonym)
        note_export(session, app.now(), actor(), "consents", len(bundle["entry"]), hospital)
    print_json(bundle)


def _record(data: Path, hospital: str, pseudonym: str, status: str, kind: str, given: str | None, reason: str, as_json: bool) -> None:
    from sqlmodel import select

    from compliance.crosswalk import PatientLink
    from compliance.hospital import require_hospital
    from crypto.errors import NotFound
    from gateway.register_entries import record_consent

    with deployment(data) as app:
        with app.database.reading() as session:
            require_hospital(session, hospital)
            link = session.exec(select(PatientLink).where(PatientLink.pseudonym == pseudonym)).first()
        if link is None or link.hospital_id != hospital:
            raise NotFound(f"no patient {pseudonym} at {hospital}")
        given_at = instant(given) if given is not None else (app.now() if status == "ACTIVE" else None)
        version = record_consent(
            app, actor(), hospital_id=hospital, patient_pseudonym=pseudonym, status=status, kind=kind, given_at=given_at, reason=reason
        )
    if as_json:
        print_json({"hospital_id": hospital, "patient_pseudonym": pseudonym, "status": status, "version": version})
        return
    typer.echo(f"consent of {pseudonym}, version {version}: {status}")

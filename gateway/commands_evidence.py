"""`readgate evidence` and `readgate consent`: the papers and permissions that decisions stand on; every change counts at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, instant, print_json, print_rows

evidence_app = typer.Typer(
    name="evidence", help="Agreements and approvals: add, withdraw, list.", no_args_is_help=True, rich_markup_mode=None
)
consent_app = typer.Typer(name="consent", help="Patients' consents: add, withdraw.", no_args_is_help=True, rich_markup_mode=None)


def mount(app: typer.Typer) -> None:
    """Adds `evidence` and `consent` to `app`."""
    app.add_typer(evidence_app)
    app.add_typer(consent_app)


@evidence_app.command("add")
def add_command(
    evidence: Annotated[str, typer.Argument(metavar="ID", help="An id of your own for this document.")],
    kind: Annotated[str, typer.Option("--type", help="As the law packs name it: DPA, BAA, SCC, TIA, PROXY_AGREEMENT, ...")],
    party: Annotated[list[str], typer.Option("--party", help="A hospital or employer it binds (repeatable).")],
    issued: Annotated[str, typer.Option("--issued", help="ISO 8601.")],
    expires: Annotated[str, typer.Option("--expires", help="ISO 8601.")],
    verified_by: Annotated[str, typer.Option("--verified-by", help="Who looked at it.")],
    data: DataOption = DEFAULT_DATA,
    document: Annotated[Path | None, typer.Option("--document", help="The document; its SHA-256 goes on record.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a document on file."""
    from compliance.credential import Evidence
    from crypto.errors import BadInput
    from gateway.enrolment import add_evidence
    from gateway.typed_input import identifier, name

    identifier("ID", evidence)
    for what, value in (("--type", kind), ("--verified-by", verified_by), *(("--party", one) for one in party)):
        name(what, value)
    issued_at, expires_at = instant(issued), instant(expires)
    if expires_at <= issued_at:
        raise BadInput("--expires lies before --issued")
    document_digest = None if document is None else "sha256:" + hashlib.sha256(document.read_bytes()).hexdigest()
    with deployment(data) as app:
        add_evidence(
            app,
            actor(),
            Evidence(
                evidence_id=evidence,
                evidence_type=kind,
                parties=party,
                issued_at=issued_at,
                expires_at=expires_at,
                verified_by=verified_by,
                document_digest=document_digest,
                recorded_at=app.now(),
            ),
        )
    if as_json:
        print_json({"evidence_id": evidence, "document_digest": document_digest})
        return
    typer.echo(f"{evidence} is on file")


@evidence_app.command("withdraw")
def withdraw_command(evidence: Annotated[str, typer.Argument(metavar="ID")], data: DataOption = DEFAULT_DATA) -> None:
    """The document counts no longer; claims that stood on it end within seconds."""
    from gateway.enrolment import withdraw_evidence

    with deployment(data) as app:
        withdraw_evidence(app, actor(), evidence)
    typer.echo(f"{evidence} is withdrawn")


@evidence_app.command("list")
def list_command(data: DataOption = DEFAULT_DATA, as_json: JsonOption = False) -> None:
    """What is on file, withdrawn documents included."""
    from sqlmodel import select

    from compliance.credential import Evidence

    with deployment(data) as app, app.database.reading() as session:
        rows = [
            {
                "evidence_id": row.evidence_id,
                "evidence_type": row.evidence_type,
                "parties": row.parties,
                "issued_at": row.issued_at,
                "expires_at": row.expires_at,
                "verified_by": row.verified_by,
                "withdrawn_at": row.withdrawn_at,
                "document_digest": row.document_digest,
            }
            for row in session.exec(select(Evidence).order_by(Evidence.evidence_id)).all()
        ]
    columns = ["evidence_id", "evidence_type", "parties", "issued_at", "expires_at", "verified_by", "withdrawn_at"]
    print_rows(rows, as_json=as_json, columns=columns, empty="nothing on file; see: readgate evidence add --help")


@consent_app.command("add")
def add_consent_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")],
    pseudonym: Annotated[str, typer.Argument(metavar="PSEUDONYM", help="The patient's, as the hospital's pages show it.")],
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
    _record(data, hospital, pseudonym, status, kind, given, as_json)


@consent_app.command("withdraw")
def withdraw_consent_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")],
    pseudonym: Annotated[str, typer.Argument(metavar="PSEUDONYM")],
    data: DataOption = DEFAULT_DATA,
    kind: Annotated[str | None, typer.Option("--kind", help="Which one, where several are on record.")] = None,
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
    _record(data, hospital, pseudonym, "WITHDRAWN", kinds[0], None, as_json)


def _record(data: Path, hospital: str, pseudonym: str, status: str, kind: str, given: str | None, as_json: bool) -> None:
    from sqlmodel import select

    from compliance.crosswalk import PatientLink
    from compliance.hospital import require_hospital
    from crypto.errors import NotFound
    from gateway.enrolment import record_consent

    with deployment(data) as app:
        with app.database.reading() as session:
            require_hospital(session, hospital)
            link = session.exec(select(PatientLink).where(PatientLink.pseudonym == pseudonym)).first()
        if link is None or link.hospital_id != hospital:
            raise NotFound(f"no patient {pseudonym} at {hospital}")
        given_at = instant(given) if given is not None else (app.now() if status == "ACTIVE" else None)
        version = record_consent(
            app, actor(), hospital_id=hospital, patient_pseudonym=pseudonym, status=status, kind=kind, given_at=given_at
        )
    if as_json:
        print_json({"hospital_id": hospital, "patient_pseudonym": pseudonym, "status": status, "version": version})
        return
    typer.echo(f"consent of {pseudonym}, version {version}: {status}")

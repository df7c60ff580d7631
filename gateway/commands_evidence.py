"""`readgate evidence`: the papers that decisions stand on, and their sealed copies. A running server follows each change within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, instant, print_json, print_rows

evidence_app = typer.Typer(
    name="evidence",
    help="Agreements and approvals: add, document, withdraw, list, import, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def mount(app: typer.Typer) -> None:
    """Adds `evidence` to `app`."""
    app.add_typer(evidence_app)


@evidence_app.command("add")
def add_command(
    evidence: Annotated[str, typer.Argument(metavar="ID", help="An id of your own for this document.")],
    kind: Annotated[str, typer.Option("--type", help="As the law packs name it: DPA, BAA, SCC, TIA, PROXY_AGREEMENT, ...")],
    party: Annotated[list[str], typer.Option("--party", help="A hospital or employer it binds (repeatable).")],
    issued: Annotated[str, typer.Option("--issued", help="ISO 8601.")],
    expires: Annotated[str, typer.Option("--expires", help="ISO 8601.")],
    verified_by: Annotated[str, typer.Option("--verified-by", help="Who looked at it.")],
    data: DataOption = DEFAULT_DATA,
    document: Annotated[
        Path | None, typer.Option("--document", help="The document; it is kept sealed, its SHA-256 goes on record.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put a document on file."""
    from compliance.credential import Evidence
    from crypto.errors import BadInput
    from gateway.register_entries import add_evidence
    from gateway.typed_input import identifier, name

    identifier("ID", evidence)
    for what, value in (("--type", kind), ("--verified-by", verified_by), *(("--party", one) for one in party)):
        name(what, value)
    issued_at, expires_at = instant(issued), instant(expires)
    if expires_at <= issued_at:
        raise BadInput("--expires lies before --issued")
    content = None if document is None else document.read_bytes()
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
                recorded_at=app.now(),
            ),
            document=content,
        )
        with app.database.reading() as session:
            document_digest = session.get_one(Evidence, evidence).document_digest
    if as_json:
        print_json({"evidence_id": evidence, "document_digest": document_digest})
        return
    typer.echo(f"{evidence} is on file")


@evidence_app.command("document")
def document_command(
    evidence: Annotated[str, typer.Argument(metavar="ID")],
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """Keep the document behind evidence sealed. Once kept it is not replaced, and only the privacy officer opens it, on the page."""
    from compliance.evidence_document import keep_document

    with deployment(data) as app, app.database.transaction() as session:
        digest = keep_document(session, app.keys, evidence, file.read_bytes(), actor=actor(), now=app.now())
    if as_json:
        print_json({"evidence_id": evidence, "document_digest": digest})
        return
    typer.echo(f"the document of {evidence} is kept sealed, SHA-256 {digest}")


@evidence_app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON as `export` writes it.")],
    data: DataOption = DEFAULT_DATA,
    as_json: JsonOption = False,
) -> None:
    """What the file says is on file from now on, all of it or nothing."""
    from gateway.register_exchange import import_evidence
    from gateway.strict_json import read_json

    with deployment(data) as app:
        ids = import_evidence(app, actor(), read_json(file.read_bytes()), has_effect=False)
    if as_json:
        print_json({"evidence_ids": ids})
        return
    typer.echo(f"{', '.join(ids) or 'nothing'} on file")


@evidence_app.command("export")
def export_command(data: DataOption = DEFAULT_DATA) -> None:
    """The evidence that counts, as JSON on stdout; `import` takes it. The export is an entry of the log."""
    from gateway.register_exchange import export_evidence
    from gateway.register_note import note_export

    with deployment(data) as app, app.database.transaction() as session:
        document = export_evidence(session)
        note_export(session, app.now(), actor(), "evidence", len(document["evidence"]), None)
    print_json(document)


@evidence_app.command("withdraw")
def withdraw_command(
    evidence: Annotated[str, typer.Argument(metavar="ID")],
    data: DataOption = DEFAULT_DATA,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log; kept sealed.")] = "",
) -> None:
    """The document counts no longer; claims that stood on it end within seconds."""
    from gateway.register_entries import withdraw_evidence

    with deployment(data) as app:
        withdraw_evidence(app, actor(), evidence, reason=reason.strip()[:500])
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

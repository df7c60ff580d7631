"""`readgate site`: hospitals, their DICOM senders, and where their reports go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.console import DEFAULT_DATA, DataOption, JsonOption, actor, deployment, print_json, print_rows

site_app = typer.Typer(name="site", help="Hospitals: add, list, sender, target.", no_args_is_help=True, rich_markup_mode=None)


def mount(app: typer.Typer) -> None:
    """Adds `site` to `app`."""
    app.add_typer(site_app)


@site_app.command("add")
def add_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL", help="A short id: letters, digits, - and _.")],
    name: Annotated[str, typer.Option("--name", help="As it stands on its reports.")],
    jurisdiction: Annotated[str, typer.Option("--jurisdiction", help="Where patients are cared for: ISO 3166-1 or -2 (DE, US-TX).")],
    data: DataOption = DEFAULT_DATA,
    address: Annotated[list[str] | None, typer.Option("--address", help="A line of its address (repeatable).")] = None,
    storage_country: Annotated[str, typer.Option("--storage-country", help="Where its ciphertext lies; by default its country.")] = "",
    sector: Annotated[str, typer.Option("--sector", help="PUBLIC or PRIVATE.")] = "PUBLIC",
    payer: Annotated[str, typer.Option("--payer", help="PUBLIC, COMMERCIAL, MEDICARE, MEDICAID or SELF.")] = "PUBLIC",
    flag: Annotated[list[str] | None, typer.Option("--flag", help="A flag that the law packs know (repeatable).")] = None,
    quiet_seconds: Annotated[float, typer.Option("--quiet-seconds", min=0.1, help="A study is complete after so long a silence.")] = 10.0,
    option: Annotated[list[str] | None, typer.Option("--option", help="De-identification option of PS3.15 Annex E (repeatable).")] = None,
    quota_bytes: Annotated[int | None, typer.Option("--quota-bytes", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Register a hospital: its key-encryption key and its seal are made."""
    from compliance.deid_profile import profile_of
    from compliance.hospital import Hospital
    from gateway import typed_input
    from gateway.enrolment import add_hospital

    typed_input.identifier("HOSPITAL", hospital)
    typed_input.code("--jurisdiction", jurisdiction)
    typed_input.code("--storage-country", storage_country or jurisdiction[:2])
    typed_input.fact("--sector", "origin.sector", sector)
    typed_input.fact("--payer", "payer.kind", payer)
    if option:
        profile_of(option)
    with deployment(data) as app:
        row = Hospital(
            hospital_id=hospital,
            name=name,
            address="\n".join(address or []),
            jurisdiction=jurisdiction,
            sector=sector,
            payer_kind=payer,
            flags=typed_input.flags(flag or []),
            storage_country=storage_country or jurisdiction[:2],
            quiet_seconds=quiet_seconds,
            deidentify_options=option or [],
            quota_bytes=quota_bytes,
            created_at=app.now(),
        )
        add_hospital(app, actor(), row)
        seal = app.certificates.path(f"seal-{hospital}", ".pem")
    if as_json:
        print_json({"hospital_id": hospital, "seal_certificate": seal})
        return
    typer.echo(f"hospital {hospital} is registered; its reports are sealed with {seal}, replace it by the hospital's own certificate")


@site_app.command("list")
def list_command(data: DataOption = DEFAULT_DATA, as_json: JsonOption = False) -> None:
    """Hospitals with their senders and targets."""
    from sqlmodel import select

    from compliance.hospital import DicomPeer, Hospital, report_targets

    with deployment(data) as app, app.database.reading() as session:
        rows = []
        for hospital in session.exec(select(Hospital).order_by(Hospital.hospital_id)).all():
            senders = session.exec(select(DicomPeer).where(DicomPeer.hospital_id == hospital.hospital_id)).all()
            targets = report_targets(session, hospital.hospital_id)
            rows.append(
                {
                    "hospital_id": hospital.hospital_id,
                    "name": hospital.name,
                    "jurisdiction": hospital.jurisdiction,
                    "storage_country": hospital.storage_country,
                    "senders": [
                        f"{one.calling_ae_title}{'' if one.certificate_sha256 else ' (no TLS)'}{'+plaintext' * one.is_plaintext_allowed}"
                        for one in senders
                    ],
                    "targets": [f"{one.target_pk}:{one.kind} {one.host}:{one.port}" for one in targets],
                }
            )
    print_rows(rows, as_json=as_json, empty="no hospital yet; see: readgate site add --help")


@site_app.command("sender")
def sender_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")],
    ae_title: Annotated[str, typer.Argument(metavar="AE_TITLE", help="As it calls, 1 to 16 characters.")],
    data: DataOption = DEFAULT_DATA,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="Its TLS certificate (PEM); no other one is accepted.")] = None,
    issue: Annotated[bool, typer.Option("--issue", help="Issue one by this deployment's authority.")] = False,
    plaintext: Annotated[bool, typer.Option("--plaintext", help="It may also come without TLS, by the plaintext port.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register who may send for the hospital; again to change it."""
    from compliance.hospital import require_hospital
    from crypto.errors import BadInput
    from gateway.enrolment import add_sender

    if (certificate is not None) + issue + plaintext == 0:
        raise BadInput("give the sender's --certificate, let one be issued with --issue, or allow --plaintext")
    if certificate is not None and issue:
        raise BadInput("--certificate and --issue exclude each other")
    with deployment(data) as app:
        with app.database.reading() as session:
            require_hospital(session, hospital)
        issued: list[Path] = []
        pem = certificate.read_bytes() if certificate is not None else None
        if issue:
            pem = app.certificates.enrol_client(ae_title).certificate_pem
            issued = [app.certificates.path(f"client-{ae_title}", suffix) for suffix in (".pem", ".key")]
        add_sender(app, actor(), hospital_id=hospital, ae_title=ae_title, certificate_pem=pem, is_plaintext_allowed=plaintext)
    if as_json:
        print_json({"ae_title": ae_title, "hospital_id": hospital, "issued": issued})
        return
    typer.echo(f"{ae_title} sends for {hospital}")
    if issued:
        typer.echo(f"hand these to the sender, and remove the key here: {', '.join(str(path) for path in issued)}")


@site_app.command("target")
def target_command(
    hospital: Annotated[str, typer.Argument(metavar="HOSPITAL")],
    kind: Annotated[str, typer.Option("--kind", help="DICOM (Encapsulated PDF by C-STORE) or MLLP (ORU^R01).")],
    host: Annotated[str, typer.Option("--host")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)],
    data: DataOption = DEFAULT_DATA,
    ae_title: Annotated[str | None, typer.Option("--ae-title", help="Called AE title, for DICOM.")] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Mutual TLS; beyond loopback nothing else is taken.")] = False,
    plaintext: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext-beyond-loopback", help="Send reports, which name the patient, without TLS: a tunnel protects them."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Register where the hospital's signed reports go, from the next one on."""
    from compliance.hospital import PLAINTEXT_ALLOWED, ReportTarget, TargetKind, require_hospital
    from crypto.errors import BadInput
    from gateway.enrolment import add_target

    if kind not in set(TargetKind):
        raise BadInput(f"--kind is {' or '.join(TargetKind)}, not {kind}")
    if (kind == TargetKind.DICOM) != (ae_title is not None):
        raise BadInput("a DICOM target, and no other, has an --ae-title")
    with deployment(data) as app:
        with app.database.reading() as session:
            require_hospital(session, hospital)
        target = ReportTarget(hospital_id=hospital, kind=kind, host=host, port=port, ae_title=ae_title, is_tls=tls)
        target.settings = {PLAINTEXT_ALLOWED: True} if plaintext else {}
        target_pk = add_target(app, actor(), target)
    if as_json:
        print_json({"target_pk": target_pk})
        return
    typer.echo(f"reports of {hospital} go to {host}:{port} (target {target_pk})")

"""`readgate init`: a data folder with configuration, database, key store and certificates. Running it again adds what is missing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import select

from compliance.audit import EventType
from compliance.hospital import Hospital
from crypto.certificates import fingerprint
from gateway.config import CONFIG_NAME
from gateway.console import actor, deployment
from gateway.register_note import note

_TEMPLATE = """\
# Readgate: what an operator decides. Every setting can also come from the environment, READGATE_<SECTION>__<NAME>, which wins.
# A commented line shows the default. Settings that loosen a protection are named for it and are never a default.

# SQLite in this folder by default; PostgreSQL in production.
# database_url = "postgresql+psycopg://readgate:...@db.example/readgate"
# One JSON object per line; false prints for people.
# log_json = true

[dicom]
# ae_title = "READGATE"
# host = "127.0.0.1"
# DICOM over TLS with client certificates. 0 takes any free port.
# tls_port = 2762
# Plaintext is not opened unless a port stands here, and refuses to bind beyond loopback unless the next line says so aloud.
# plaintext_port = 11112
# allow_plaintext_beyond_loopback = false
# Processes that share the ports; unset, two where there are two cores.
# receivers = 2
# associations_max = 200
# instance_bytes_max = 2000000000
# Below this much free space on the spool's disk instances are refused (0xA700).
# free_bytes_floor = 2000000000
# Files of 16 MiB that are filled before they are needed, so that acknowledging an instance need not wait for the file system's journal.
# blank_segments = 32
# How long running associations may go on after SIGTERM.
# drain_seconds = 30.0
# private_sop_classes = []

[http]
# host = "127.0.0.1"
# port = 8080
# How browsers reach it, "https://..." behind a proxy that ends TLS.
# public_url = ""
# tls_certificate = "server.pem"
# tls_key = "server.key"

# Orders by MLLP; one listener per hospital, because HL7 v2 does not say who speaks.
# [[orders]]
# hospital_id = "h1"
# host = "127.0.0.1"
# port = 2575
# allow_plaintext_beyond_loopback = false

[vault]
# "local" is a folder here; "s3" needs a bucket.
# kind = "local"
# bucket = ""
# endpoint = ""
# region = ""

[law]
# The packs of the distribution, or a folder.
# directory = "law"
# REQUIRED before `readgate serve`: the file that this deployment's privacy officer and counsel signed with `readgate law confirm`.
# confirmations = "confirmations.json"

[jobs]
# The same on every start of a process that works, another one for each such process.
# executor_id = "readgate-1"
# workers = 2
# poll_seconds = 0.5
# database_url = "postgresql+psycopg://..."
"""


@dataclass
class Initialised:
    """What `initialise` made, and what an operator hands on."""

    data: Path
    made: list[str] = field(default_factory=list)
    authority: Path = Path()
    server_fingerprint: str = ""
    log_verifier_key: str = ""
    hospitals: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return {
            "data": str(self.data),
            "made": self.made,
            "authority": str(self.authority),
            "server_certificate_sha256": self.server_fingerprint,
            "log_verifier_key": self.log_verifier_key,
            "hospitals": self.hospitals,
        }

    def lines(self) -> list[str]:
        return [
            f"made: {', '.join(self.made) or 'nothing, everything was there'}",
            f"authority for senders and seals: {self.authority}",
            f"server certificate (SHA-256): {self.server_fingerprint}",
            f"audit log's key, for witnesses: {self.log_verifier_key}",
            f"next: edit {self.data / CONFIG_NAME}, confirm the law (readgate law confirm), then readgate site add, reader add, serve",
        ]


def initialise(data: Path, *, name: str, dns: list[str], ips: list[str]) -> Initialised:
    """The deployment in `data` can be configured and filled; it serves once its law is confirmed. Raises: BadInput, OSError."""
    result = Initialised(data)
    if not data.is_dir():
        data.mkdir(mode=0o700, parents=True)
        result.made.append("data folder")
    config = data / CONFIG_NAME
    if not config.exists():
        descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_TEMPLATE)
        result.made.append(CONFIG_NAME)
    had_keys = (data / "keys" / "secret").is_dir()
    with deployment(data) as app:
        if not had_keys:
            result.made.append("database, key store, spool and vault")
        certificates = app.certificates
        for kind in ("authority", "server"):
            if not certificates.path(kind, ".pem").exists():
                result.made.append(f"{kind} certificate")
        certificates.enrol_authority(f"{name} authority")
        server = certificates.enrol_server(dns or ["localhost"], ips or ["127.0.0.1"])
        with app.database.transaction() as session:
            result.hospitals = list(session.exec(select(Hospital.hospital_id)).all())
            for hospital_id in result.hospitals:
                # A hospital whose keys were lost with the key store cannot receive; its old studies stay lost, and fsck says so.
                app.keys.create_kek(hospital_id)
            if result.made:
                note(session, app.now(), actor(), EventType.SECURITY_CONFIGURATION, None, {"initialised": result.made})
        result.authority = certificates.path("authority", ".pem")
        result.server_fingerprint = fingerprint(server.certificate_pem)
        result.log_verifier_key = app.log_signer.verifier_key
    return result

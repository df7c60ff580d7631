"""One running deployment: its database, keys, spool, vault and law, opened from a data folder and passed on, never imported."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from compliance.database import Database
from compliance.lawbook import LawBundle
from crypto.certificates import KeyAndCertificate
from crypto.checkpoint import LogSigner
from crypto.errors import BadInput
from crypto.keys import FileKeyStore, KeyStore
from crypto.spool import Spool
from crypto.vault import Vault, local_vault, s3_vault
from gateway.certificate_store import CertificateStore
from gateway.config import Settings, VaultSettings, load_settings
from gateway.law_files import law_at_start
from gateway.login_gate import LoginGate
from gateway.schema import migrate

LOG_ORIGIN = "readgate.audit"


@dataclass
class Application:
    """Everything that functions are handed. Made once per process by `open_application`."""

    data: Path
    settings: Settings
    database: Database
    keys: KeyStore
    spool: Spool
    vault: Vault
    law: LawBundle
    certificates: CertificateStore
    log_signer: LogSigner
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    new_uid: Callable[[], str] = lambda: f"2.25.{uuid.uuid4().int}"
    #: Why the configured law was refused; the last good one is in force then.
    law_refusal: str | None = None
    #: Set when the process is asked to stop; long loops look at it.
    stopping: threading.Event = field(default_factory=threading.Event)
    login_gate: LoginGate = field(default_factory=LoginGate)

    def document_signer(self, hospital_id: str) -> KeyAndCertificate:
        """The hospital's sealing key. Raises: BadInput where none was enrolled."""
        return self.certificates.document_signer(hospital_id)

    def close(self) -> None:
        self.stopping.set()
        self.database.close()


def open_application(data: Path, *, settings: Settings | None = None, law: LawBundle | None = None) -> Application:
    """The deployment in `data`, with its database at the newest schema and its law in force on record.

    With `law` that one is used and nothing comes into force: administration before anybody confirmed a rule.

    Raises: BadInput naming the setting where the deployment is half-configured.
    """
    if not data.is_dir():
        raise BadInput(f"{data} is no data folder; make one with: readgate init --data {data}")
    chosen = settings if settings is not None else load_settings(data)
    database = Database(database_url(data, chosen))
    migrate(database)
    keys = FileKeyStore(data / "keys")
    return Application(
        data=data,
        settings=chosen,
        database=database,
        keys=keys,
        spool=Spool(data / "spool", keys),
        vault=open_vault(data, chosen.vault),
        law=law if law is not None else law_at_start(database, data, chosen.law, now=datetime.now(UTC)),
        certificates=CertificateStore(data / "certificates"),
        log_signer=LogSigner(LOG_ORIGIN, keys.secret("audit-log-signing")),
    )


def database_url(data: Path, settings: Settings) -> str:
    return settings.database_url.get_secret_value() if settings.database_url is not None else f"sqlite:///{data / 'readgate.sqlite3'}"


def jobs_url(data: Path, settings: Settings) -> str:
    """Where the jobs are kept: beside the rows on PostgreSQL (in a schema of their own), in a file of their own on SQLite."""
    chosen = settings.jobs.database_url or settings.database_url
    if chosen is None or (settings.jobs.database_url is None and chosen.get_secret_value().startswith("sqlite")):
        return f"sqlite:///{data / 'jobs.sqlite3'}"
    return chosen.get_secret_value()


def open_vault(data: Path, settings: VaultSettings) -> Vault:
    """Raises: BadInput."""
    if settings.kind == "local":
        return local_vault(data / "vault")
    if settings.kind != "s3" or not settings.bucket:
        raise BadInput("vault.kind is local or s3; s3 needs vault.bucket")
    secret = settings.secret_access_key
    access = settings.access_key_id
    return s3_vault(
        settings.bucket,
        endpoint=settings.endpoint or None,
        region=settings.region or None,
        access_key_id=access.get_secret_value() if access is not None else None,
        secret_access_key=secret.get_secret_value() if secret is not None else None,
    )

"""Settings of one deployment: `readgate.toml` in the data folder, then READGATE_* variables over it.

A setting that loosens a protection is a word in the configuration, never a default: `allow_plaintext_beyond_loopback`,
`demo_confirmations`.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from crypto.errors import BadInput

CONFIG_NAME = "readgate.toml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DicomSettings(_Section):
    ae_title: str = "READGATE"
    host: str = "127.0.0.1"
    #: 0 takes any free port, None opens no such listener.
    plaintext_port: int | None = None
    tls_port: int | None = 2762
    #: Said aloud: without it the plaintext listener refuses to bind to anything but loopback.
    allow_plaintext_beyond_loopback: bool = False
    #: Processes that share the ports. Unset: two where there are two cores, one where a port is left to chance.
    receivers: int | None = Field(default=None, ge=1, le=64)
    associations_max: int = 200
    #: Of one hospital at a time, and in one minute (uploads by STOW-RS counted among them); None is without bound.
    associations_per_hospital_max: int = 64
    associations_per_minute_max: int | None = Field(default=1200, ge=1)
    #: Of one hospital; beyond it 0xA700. None: a scanner never waits for us.
    instances_per_minute_max: int | None = Field(default=None, ge=1)
    instance_bytes_max: int = 2_000_000_000
    #: Below this much free space on the spool's disk instances are refused with 0xA700.
    free_bytes_floor: int = 2_000_000_000
    #: Files of 16 MiB on the spool's disk, filled before they are needed: a sync then need not wait for the file system's journal.
    blank_segments: int = Field(default=32, ge=0, le=1024)
    drain_seconds: float = 30.0
    private_sop_classes: list[str] = Field(default_factory=list)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of each DICOM port, plaintext first."""
        return [(self.host, port) for port in (self.plaintext_port, self.tls_port) if port is not None]

    @property
    def receiver_processes(self) -> int:
        """How many `readgate serve` keeps running."""
        if self.receivers is not None:
            return self.receivers
        return 1 if 0 in (self.tls_port, self.plaintext_port) else min(2, os.cpu_count() or 1)


class HttpSettings(_Section):
    host: str = "127.0.0.1"
    port: int = 8080
    #: Who may ask for /metrics.
    metrics_networks: list[str] = Field(default_factory=lambda: ["127.0.0.0/8", "::1/128"])
    #: Proxies before us, as networks. Only from them is the last hop of X-Forwarded-For taken for the address of who asks.
    trusted_proxies: list[str] = Field(default_factory=list)
    #: How browsers reach it; decides the cookie's Secure flag.
    public_url: str = ""
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class OrdersSettings(_Section):
    """The MLLP listener for orders (ORM^O01, OMG^O19, OMI^O23)."""

    host: str = "127.0.0.1"
    port: int
    #: Which hospital speaks on this port: HL7 v2 has no authentication of its own.
    hospital_id: str
    allow_plaintext_beyond_loopback: bool = False


class VaultSettings(_Section):
    #: "local" (DIR/vault) or "s3".
    kind: str = "local"
    #: Where the vault stands, and the key store (ISO 3166-1): a study is kept only where its hospital's storage was agreed to be and the
    #: law lets it be. Unset, the hospital's own word is taken for the vault, and the vault's place for the keys.
    country: str = Field(default="", pattern=r"^([A-Z]{2})?$")
    keys_country: str = Field(default="", pattern=r"^([A-Z]{2})?$")
    bucket: str = ""
    endpoint: str = ""
    region: str = ""
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None


class LawSettings(_Section):
    """Which law is in force: the shipped packs, or a folder; confirmed by whom."""

    directory: Path | None = None
    confirmations: Path | None = None
    #: The example confirmations by invented people; for demonstrations only.
    demo_confirmations: bool = False
    #: Role (PRIVACY_OFFICER, COUNSEL) -> the one public key (PEM) whose signature counts for it. Without them any two keys would do.
    trusted_keys: dict[str, str] = Field(default_factory=dict)


class JobSettings(_Section):
    database_url: SecretStr | None = None
    executor_id: str = "readgate-1"
    poll_seconds: float = 0.5
    #: Studies processed at a time. More than cores: one whose pixels are being read for text waits for its child, not for a core.
    workers: int = 4
    #: De-identify instances while their study comes in. What one worker made ahead another cannot use: with several, it is work for nothing
    #: wherever another one gets the job.
    ahead: bool = True


class Settings(BaseSettings):
    """Everything an operator decides; the data folder is an argument, not a setting."""

    model_config = SettingsConfigDict(env_prefix="READGATE_", env_nested_delimiter="__", extra="forbid")

    database_url: SecretStr | None = None
    dicom: DicomSettings = DicomSettings()
    http: HttpSettings = HttpSettings()
    orders: list[OrdersSettings] = Field(default_factory=list)
    vault: VaultSettings = VaultSettings()
    law: LawSettings = LawSettings()
    jobs: JobSettings = JobSettings()
    log_json: bool = True

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = settings_cls.model_config.get("toml_file")
        toml = (TomlConfigSettingsSource(settings_cls),) if path else ()
        return (init_settings, env_settings, *toml)


def load_settings(data: Path, **overrides: Any) -> Settings:
    """The settings of the deployment in `data`. Raises: BadInput naming the file and the setting."""
    path = data / CONFIG_NAME

    class FileSettings(Settings):
        model_config = SettingsConfigDict(
            env_prefix="READGATE_", env_nested_delimiter="__", extra="forbid", toml_file=path if path.exists() else None
        )

    try:
        return _beside(data, FileSettings(**overrides))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: setting {'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from None


def _beside(data: Path, settings: Settings) -> Settings:
    """Paths of the configuration file are relative to its folder, not to wherever a command was typed."""
    for section, names in ((settings.law, ("directory", "confirmations")), (settings.http, ("tls_certificate", "tls_key"))):
        for name in names:
            path = getattr(section, name)
            if path is not None and not path.is_absolute():
                setattr(section, name, data / path)
    return settings

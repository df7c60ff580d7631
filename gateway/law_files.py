"""The files of the law: what the settings name, and every bundle that was ever in force, kept in DIR/law/<digest>.

- At the start the configured bundle comes into force if it may follow the one on record; where it may not (rolled back, unsigned, another
  bundle, malformed), the last good one is taken from DIR/law and the refusal is an alert in the log.
- Decisions made under a law of the past are replayed with --law and --confirmations of its folder there.
"""

from __future__ import annotations

import shutil
import uuid
from datetime import datetime
from pathlib import Path

import structlog

from compliance.database import Database
from compliance.law_in_force import ACTOR, LawInForce, bring_into_force, law_in_force, note_refusal, require_successor
from compliance.lawbook import DEMO_CONFIRMATIONS, OWN_CONFIRMATIONS, SHIPPED_LAW, LawBundle, load_law
from crypto.errors import BadInput, Conflict
from gateway.config import LawSettings

log = structlog.get_logger()
FOLDER_NAME = "law"


def configured_law(settings: LawSettings) -> LawBundle:
    """The bundle the settings name, with its confirmations verified. Raises: BadInput."""
    if settings.confirmations is None and not settings.demo_confirmations:
        raise BadInput(
            "law.confirmations is not set: no rule is in force until this deployment's privacy officer and counsel confirmed it "
            "(readgate law confirm); for a demonstration set law.demo_confirmations = true"
        )
    return load_law(settings.directory, settings.confirmations, settings.trusted_keys or None)


def law_at_start(database: Database, data: Path, settings: LawSettings, *, now: datetime) -> LawBundle:
    """The law in force, on record and on disk.

    Raises: BadInput where there is neither an acceptable bundle nor a last good one.
    """
    with database.reading() as session:
        standing = law_in_force(session)
    try:
        offered = configured_law(settings)
        require_successor(standing, offered)
    except (BadInput, Conflict) as problem:
        if standing is None:
            raise BadInput(str(problem)) from None
        refuse_law(database, str(problem), now=now)
        return kept_law(data, standing)
    bring_law(database, data, settings, offered, now=now)
    return offered


def kept_law(data: Path, standing: LawInForce) -> LawBundle:
    """A law that is or was in force, as it was kept. Raises: BadInput where its files are gone or are not those."""
    folder = data / FOLDER_NAME / standing.law_digest.removeprefix("sha256:")
    confirmations = folder / OWN_CONFIRMATIONS
    law = load_law(folder, confirmations if confirmations.is_file() else None)
    if law.digest != standing.law_digest:
        raise BadInput(f"{folder}: these are not the packs that were in force")
    return law


def bring_law(database: Database, data: Path, settings: LawSettings, law: LawBundle, *, now: datetime) -> None:
    """`law` is in force. Kept on disk first: a law on record without its files could not be gone back to. Raises: Conflict."""
    _keep(data, settings, law)
    with database.reading() as session:
        standing = law_in_force(session)
    if standing is not None and standing.law_digest == law.digest:
        return
    with database.transaction() as session:
        bring_into_force(session, law, actor=ACTOR, now=now)


def refuse_law(database: Database, reason: str, *, now: datetime) -> None:
    """The refusal is on record."""
    log.warning("law_refused", reason=reason)
    with database.transaction() as session:
        note_refusal(session, reason, actor=ACTOR, now=now)


def law_signature(settings: LawSettings) -> tuple[tuple[str, int, int], ...]:
    """What tells that files changed without reading them: names, sizes and times."""
    source = settings.directory if settings.directory is not None else SHIPPED_LAW
    paths = [*source.glob("*.yaml"), *source.glob("*.json"), *([settings.confirmations] if settings.confirmations is not None else [])]
    found = []
    for path in sorted(paths):
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_size, status.st_mtime_ns))
    return tuple(found)


def _keep(data: Path, settings: LawSettings, law: LawBundle) -> None:
    folder = data / FOLDER_NAME / law.digest.removeprefix("sha256:")
    if folder.is_dir():
        return
    source = settings.directory if settings.directory is not None else SHIPPED_LAW
    made = data / FOLDER_NAME / f".{uuid.uuid4().hex}"
    made.mkdir(parents=True)
    for path in sorted(source.glob("*.yaml")):
        shutil.copyfile(path, made / path.name)
    confirmations = settings.confirmations
    if confirmations is None:
        confirmations = next((path for name in (OWN_CONFIRMATIONS, DEMO_CONFIRMATIONS) if (path := source / name).is_file()), None)
    if law.confirmations is not None and confirmations is not None:
        shutil.copyfile(confirmations, made / OWN_CONFIRMATIONS)
    try:
        made.rename(folder)
    except OSError:
        # Another process kept the same law first.
        shutil.rmtree(made)

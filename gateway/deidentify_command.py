"""`readgate deidentify`: what a reader would get of these files, and what would be held back and why.

Two passes: the first gathers each study's identity from all of its instances, the second de-identifies them one by one. Under --secret
the same input gives the same output for ever; without it every run has a secret of its own, so that nothing links two runs.
Output names are pseudonymous UIDs: a folder or file name of the source may name a patient.
"""

from __future__ import annotations

import csv
import json
import secrets
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compliance.character_sets import codecs_of, decode
from compliance.dataset_bytes import elements, encoding_of
from compliance.deid_profile import DeidProfile, Option, profile_of
from compliance.deidentify import PixelScreen, deidentify
from compliance.identified import IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityCollector
from compliance.part10 import file_of, instance_of_file
from compliance.pixel_child import PixelChild
from compliance.profile_table import load_table
from crypto.canonical import keyed_digest
from crypto.errors import BadInput, ReadgateError, RefusedContent

_FILE_BYTES_MAX = 4 << 30
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
_MEMOS_MAX = 4
_CHARSET, _PATIENT_ID, _STUDY_UID = 0x00080005, 0x00100020, 0x0020000D
_REPORT_FORMAT = "readgate-deidentify-report/1"


def mount(app: typer.Typer) -> None:
    """Adds `deidentify` to `app`."""
    app.command("deidentify")(deidentify_command)


def deidentify_command(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A DICOM file, a bare dataset, a folder or a tar archive.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder for what may leave; made where it is missing.")],
    option: Annotated[
        list[str] | None, typer.Option("--option", help="Option of PS3.15 Annex E by name; 'basic' for none; default: teleread.")
    ] = None,
    secret: Annotated[Path | None, typer.Option("--secret", help="File of at least 16 bytes; makes the output repeatable.")] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="Folder for uid_mapping.csv and patid_mapping.csv: they identify patients.")
    ] = None,
    report: Annotated[Path | None, typer.Option("--report", help="File for the JSON report.")] = None,
) -> None:
    """De-identify files as a reader would get them. Exit 0 if any instance passed, 1 if none did, 2 on bad input."""
    try:
        run = DeidentifyRun(profile_of(option or []), _secret_of(secret))
        summary = run.folder(source, destination)
        if mapping is not None:
            run.write_mapping(mapping)
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except BadInput as problem:
        typer.echo(str(problem), err=True)
        raise typer.Exit(2) from None
    except OSError as problem:
        typer.echo(f"cannot read or write {problem.filename or 'a file'}: {problem.strerror}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{summary['passed']} de-identified, {len(summary['quarantined'])} quarantined", err=True)
    for reason, count in sorted(summary["reasons"].items()):
        typer.echo(f"  {count} {reason}", err=True)
    raise typer.Exit(0 if summary["passed"] else 1)


def _secret_of(path: Path | None) -> bytes:
    if path is None:
        return secrets.token_bytes(32)
    try:
        value = path.read_bytes().strip()
    except OSError:
        raise BadInput(f"the secret {path} cannot be read; give a file of at least 16 bytes") from None
    if len(value) < 16:
        raise BadInput(f"the secret {path} is shorter than 16 bytes")
    return value


@dataclass
class _Study:
    """What pass one learns of a study."""

    patient_id: str
    collector: IdentityCollector = field(default_factory=IdentityCollector)
    accession: str = ""
    under: Pseudonymity | None = None


class DeidentifyRun:
    """One run over files under one profile and secret; `screen` defaults to the pixel step in its own process."""

    def __init__(self, profile: DeidProfile, secret: bytes, screen: PixelScreen | None = None) -> None:
        self._profile = profile
        self._secret = secret
        self._child: PixelChild | None = None
        self._screen = screen
        if screen is None and profile.has(Option.CLEAN_PIXEL_DATA):
            self._child = PixelChild()
            self._screen = self._child.screen
        self._studies: dict[str, _Study] = {}
        self._recent: list[Pseudonymity] = []
        self.uids: dict[str, str] = {}
        self.patients: dict[str, str] = {}

    def folder(self, source: Path, destination: Path) -> dict[str, Any]:
        """De-identify everything under `source` into `destination` and return the report.

        Raises:
            BadInput: there is nothing to read.
        """
        count = 0
        quarantined: list[dict[str, str]] = []
        actions: Counter[str] = Counter()
        passed = 0
        try:
            with _progress() as progress:
                task = progress.add_task("reading identities", total=None)
                for _, read in entries(source, destination):
                    self._learn(read)
                    count += 1
                    progress.advance(task)
                if not count:
                    raise BadInput(f"{source} holds no file")
                progress.update(task, description="de-identifying", total=count, completed=0)
                for name, read in entries(source, destination):
                    try:
                        actions.update(self._one(read(), destination))
                        passed += 1
                    except RefusedContent as refused:
                        entry = {"source": name, "reason": refused.reason_code, "detail": refused.detail}
                        quarantined.append(entry | ({"tag": refused.tag} if refused.tag else {}))
                    progress.advance(task)
        finally:
            if self._child is not None:
                self._child.close()
        self._forget(0)
        return {
            "format": _REPORT_FORMAT,
            "profile": {"name": self._profile.name, "options": sorted(self._profile.options)},
            "table_edition": load_table().edition,
            "passed": passed,
            "quarantined": quarantined,
            "reasons": dict(Counter(entry["reason"] for entry in quarantined)),
            "actions": dict(sorted(actions.items())),
        }

    def _learn(self, read: Callable[[], bytes]) -> None:
        try:
            instance = instance_of_file(read())
            key, patient_id, accession = _belongs_to(instance)
        except ReadgateError:
            return
        study = self._studies.setdefault(key, _Study(patient_id))
        study.accession = study.accession or accession
        study.collector.add(instance)

    def _one(self, data: bytes, destination: Path) -> dict[str, int]:
        instance = instance_of_file(data)
        under = self._names_for(_belongs_to(instance)[0])
        made = deidentify(instance, under, screen=self._screen)
        folder = destination / made.study_instance_uid / made.series_instance_uid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{made.sop_instance_uid}.dcm").write_bytes(file_of(made))
        return dict(made.action_counts)

    def _names_for(self, key: str) -> Pseudonymity:
        study = self._studies[key]
        if study.under is None:
            name = keyed_digest(self._secret, "patient", study.patient_id)
            pseudonym = "RG-" + name[:12].upper()
            # Between one and ten years back, the same for all of a patient's studies.
            offset = -(1 + int(keyed_digest(self._secret, "offset", study.patient_id)[:8], 16) % 3650)
            accession = keyed_digest(self._secret, "accession", study.accession)[:12].upper() if study.accession else ""
            study.under = Pseudonymity(
                "files", self._secret, pseudonym, offset, accession and "RG" + accession, study.collector.terms(), self._profile
            )
            if study.patient_id:
                self.patients[study.patient_id] = pseudonym
        if study.under not in self._recent:
            self._recent.append(study.under)
            self._forget(_MEMOS_MAX)
        return study.under

    def _forget(self, keep: int) -> None:
        """Empty the caches of all but the last `keep` studies; their UIDs go to the mapping first."""
        while len(self._recent) > keep:
            old = self._recent.pop(0)
            self.uids.update(old.memo.get("uids", {}))
            old.memo.clear()

    def write_mapping(self, folder: Path) -> None:
        """uid_mapping.csv and patid_mapping.csv with the columns id_old, id_new."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, pairs in (("uid_mapping.csv", self.uids), ("patid_mapping.csv", self.patients)):
            with (folder / name).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("id_old", "id_new"))
                writer.writerows(sorted(pairs.items()))


def _belongs_to(instance: IdentifiedDataset) -> tuple[str, str, str]:
    """(study instance UID, patient id, accession number) of an instance as received."""
    payload = instance.payload
    found: dict[int, bytes] = {}
    for element in elements(payload, 0, len(payload), encoding_of(instance.transfer_syntax_uid)):
        if element.tag in (_CHARSET, _PATIENT_ID, _STUDY_UID, 0x00080050):
            found[element.tag] = payload[element.value : element.end].strip(b"\0 ")
    charset = tuple(part.strip() for part in found.get(_CHARSET, b"").decode("latin-1").split("\\"))
    codecs = codecs_of(charset)
    texts = {tag: decode(value, codecs) or "" for tag, value in found.items() if tag != _CHARSET}
    study = texts.get(_STUDY_UID, "")
    if not study:
        raise RefusedContent("MISSING_UID", "the study is not named")
    return study, texts.get(_PATIENT_ID, ""), texts.get(0x00080050, "")


def entries(source: Path, destination: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(name, how to read it) of every file of `source`: itself, a folder's, or a tar archive's members; nothing under `destination`.

    Raises BadInput where there is nothing to read.
    """
    if source.is_dir():
        inside = destination.resolve()
        for path in sorted(source.rglob("*")):
            if path.is_file() and not path.resolve().is_relative_to(inside):
                yield from _of_file(path, str(path.relative_to(source)))
    elif source.is_file():
        yield from _of_file(source, source.name)
    else:
        raise BadInput(f"{source} is neither a file nor a folder")


def _of_file(path: Path, name: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    if not path.name.lower().endswith(_TAR_SUFFIXES):
        yield name, lambda: _bounded(path)
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    yield f"{name}:{member.name}", lambda member=member: _member(archive, member)  # type: ignore[misc]
    except tarfile.TarError:
        raise BadInput(f"{path} is not a tar archive that can be read") from None


def _bounded(path: Path) -> bytes:
    if path.stat().st_size > _FILE_BYTES_MAX:
        raise RefusedContent("PIXELS_TOO_LARGE", "the file is larger than an instance may be")
    return path.read_bytes()


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > _FILE_BYTES_MAX:
        raise RefusedContent("PIXELS_TOO_LARGE", "the file is larger than an instance may be")
    file = archive.extractfile(member)
    return b"" if file is None else file.read()


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not sys.stderr.isatty(),
        transient=True,
    )

"""`readgate deidentify`: what a reader would get of these files, and what would be held back and why.

Two passes: the first gathers each study's identity from all of its instances, the second de-identifies them one by one. Under --secret
the same input gives the same output for ever; without it every run has a secret of its own, so that nothing links two runs.
Output names are pseudonymous UIDs: a folder or file name of the source may name a patient.
"""

from __future__ import annotations

import csv
import gc
import json
import os
import secrets
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compliance.character_sets import codecs_of, decode
from compliance.dataset_bytes import encoding_of
from compliance.deid_profile import DeidProfile, Option, profile_of
from compliance.deidentify import PixelScreen, deidentify
from compliance.element_runs import HeaderValues, Part
from compliance.identified import IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityCollector
from compliance.part10 import dataset_of_file, file_head
from compliance.pixel_child import PixelChild
from compliance.profile_table import load_table
from crypto.canonical import keyed_digest
from crypto.errors import BadInput, ReadgateError, RefusedContent
from gateway.file_sources import Read, entries

#: Enough for most headers: pass one needs no pixels. From the first header on that is longer, as much as the second is read.
_HEAD_BYTES, _LONG_HEAD_BYTES = 1 << 14, 1 << 16
#: Files whose names from pass one are remembered for pass two; of more, the later ones are looked at again.
_KNOWN_MAX = 50_000
_CHANGED = "the file is not the one that was read at first"
_MEMOS_MAX = 4
_CHARSET, _PATIENT_ID, _STUDY_UID, _ACCESSION = 0x00080005, 0x00100020, 0x0020000D, 0x00080050
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
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
    native: Annotated[bool, typer.Option("--native", help="Leave uncompressed pixels so, instead of lossless HTJ2K.")] = False,
) -> None:
    """De-identify files as a reader would get them. Exit 0 if any instance passed, 1 if none did, 2 on bad input."""
    try:
        run = DeidentifyRun(profile_of(option or []), _secret_of(secret), compress=not native)
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


class _Known(NamedTuple):
    """What pass one learns of a file: its dataset begins at `start`."""

    study_instance_uid: str
    start: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str


class DeidentifyRun:
    """One run over files under one profile and secret; `screen` defaults to the pixel step in its own process."""

    def __init__(self, profile: DeidProfile, secret: bytes, screen: PixelScreen | None = None, *, compress: bool = True) -> None:
        self._profile = profile
        self._secret = secret
        self._compress = compress
        self._child: PixelChild | None = None
        self._screen = screen
        if screen is None and profile.has(Option.CLEAN_PIXEL_DATA):
            self._child = PixelChild()
            self._screen = self._child.screen
        self._studies: dict[str, _Study] = {}
        self._warm: list[_Study] = []
        self._recent: list[Pseudonymity] = []
        self._values = HeaderValues((_CHARSET, _PATIENT_ID, _STUDY_UID, _ACCESSION, _SOP_CLASS, _SOP_INSTANCE))
        self._known: dict[str, _Known | None] = {}
        self._head_bytes = _HEAD_BYTES
        self._folders: set[str] = set()
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
            with _progress() as progress, _rare_collection():
                task = progress.add_task("reading identities", total=None)
                tick = _nothing if progress.disable else partial(progress.advance, task)
                for name, read in entries(source, destination):
                    self._learn(name, read)
                    count += 1
                    tick()
                if not count:
                    raise BadInput(f"{source} holds no file")
                self._warm.clear()
                progress.update(task, description="de-identifying", total=count, completed=0)
                for name, read in entries(source, destination):
                    try:
                        actions.update(self._one(name, read, destination))
                        passed += 1
                    except RefusedContent as refused:
                        entry = {"source": name, "reason": refused.reason_code, "detail": refused.detail}
                        quarantined.append(entry | ({"tag": refused.tag} if refused.tag else {}))
                    tick()
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

    def _learn(self, name: str, read: Read) -> None:
        try:
            data = read(self._head_bytes)
            found = self._instance(data, self._head_bytes)
            if found is None and self._head_bytes < _LONG_HEAD_BYTES:
                self._head_bytes = _LONG_HEAD_BYTES
                data = read(self._head_bytes)
                found = self._instance(data, self._head_bytes)
            if found is None:
                data = read(None)
                found = self._instance(data)
        except ReadgateError:
            return
        assert found is not None
        instance, (key, patient_id, accession), parts = found
        if len(self._known) < _KNOWN_MAX:
            # An archive may hold one name twice: then neither is known by it.
            start = len(data) - len(instance.payload)
            what = _Known(key, start, instance.transfer_syntax_uid, instance.sop_class_uid, instance.sop_instance_uid)
            self._known[name] = None if name in self._known else what
        study = self._studies.setdefault(key, _Study(patient_id))
        study.accession = study.accession or accession
        if not any(study is one for one in self._warm):
            self._warm.append(study)
            if len(self._warm) > _MEMOS_MAX:
                self._warm.pop(0).collector.let_speed_go()
        try:
            study.collector.add_parts(instance.payload, parts, encoding_of(instance.transfer_syntax_uid))
        except RefusedContent:
            # A sequence that does not parse inside: the instance will be refused, what stood before it counts.
            return

    def _one(self, name: str, read: Read, destination: Path) -> Mapping[str, int]:
        known = self._known.get(name)
        if known is not None:
            # `deidentify` holds the file to these names, and the study is compared below: a file that changed meanwhile is refused.
            key = known.study_instance_uid
            payload = read(None, known.start)
            instance = IdentifiedDataset(payload, known.transfer_syntax_uid, known.sop_class_uid, known.sop_instance_uid)
        else:
            found = self._instance(read(None))
            assert found is not None
            instance, (key, _, _), _ = found
        under = self._names_for(key)
        made = deidentify(instance, under, screen=self._screen, compress=self._compress)
        if made.study_instance_uid != under.memo["uids"].get(key, key):
            raise RefusedContent("UID_MISMATCH", _CHANGED)
        folder = f"{destination}/{made.study_instance_uid}/{made.series_instance_uid}"
        if folder not in self._folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        _write(f"{folder}/{made.sop_instance_uid}.dcm", [file_head(made), *made.pieces])
        return made.action_counts

    def _instance(self, data: bytes, limit: int = -1) -> tuple[IdentifiedDataset, tuple[str, str, str], list[Part]] | None:
        """(instance, (study instance UID, patient id, accession number), header); None where `data`, read up to `limit`, end before its
        pixel data."""
        payload, syntax = dataset_of_file(data)
        header = self._values.of(payload, encoding_of(syntax), is_whole=len(data) != limit)
        if header is None:
            return None
        values, parts = header
        names = {tag: values.get(tag, b"").decode("latin-1").strip("\0 ") for tag in (_SOP_CLASS, _SOP_INSTANCE)}
        if not all(names.values()):
            raise RefusedContent("MISSING_UID", "SOP class and instance must be named")
        return IdentifiedDataset(payload, syntax, names[_SOP_CLASS], names[_SOP_INSTANCE]), _belongs_to(values), parts

    def _names_for(self, key: str) -> Pseudonymity:
        study = self._studies.get(key)
        if study is None:
            raise RefusedContent("UID_MISMATCH", _CHANGED)
        if study.under is None:
            name = keyed_digest(self._secret, "patient", study.patient_id)
            pseudonym = "RG-" + name[:12].upper()
            # Between one and ten years back, the same for all of a patient's studies.
            offset = -(1 + int(keyed_digest(self._secret, "offset", study.patient_id)[:8], 16) % 3650)
            accession = keyed_digest(self._secret, "accession", study.accession)[:12].upper() if study.accession else ""
            study.under = Pseudonymity(
                "files", self._secret, pseudonym, offset, accession and "RG" + accession, study.collector.terms(), self._profile
            )
            study.collector = IdentityCollector()
            if study.patient_id:
                self.patients[study.patient_id] = pseudonym
        if not any(study.under is one for one in self._recent):
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


def _belongs_to(values: Mapping[int, bytes]) -> tuple[str, str, str]:
    """(study instance UID, patient id, accession number) of an instance as received, from the values of its elements."""
    charset = tuple(part.strip() for part in values.get(_CHARSET, b"").strip(b"\0 ").decode("latin-1").split("\\"))
    codecs = codecs_of(charset)
    study, patient_id, accession = (
        decode(values.get(tag, b"").strip(b"\0 "), codecs) or "" for tag in (_STUDY_UID, _PATIENT_ID, _ACCESSION)
    )
    if not study:
        raise RefusedContent("MISSING_UID", "the study is not named")
    return study, patient_id, accession


@contextmanager
def _rare_collection() -> Iterator[None]:
    """Next to nothing made for an instance is cyclic: looking for that after every few hundred objects costs a tenth of the work."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _nothing() -> None:
    """No progress is shown where nobody looks."""


def _write(path: str, pieces: Iterable[bytes | memoryview]) -> None:
    """The file is what the pieces are, one after the other."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        rest = [memoryview(piece) for piece in pieces]
        while rest:
            # One call may take less, on a full disk or of more than 2 GiB.
            count = os.writev(file, rest)
            while rest and count >= len(rest[0]):
                count -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][count:]
    finally:
        os.close(file)


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

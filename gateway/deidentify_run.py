"""One run of `readgate deidentify`: what lies where, who each study is, and what is named how. What is in the files a confined child reads.

Two passes: the first gathers each study's identity from all of its instances, the second de-identifies them one by one. Under one secret
the same input gives the same output for ever. Output names are pseudonymous UIDs: a folder or file name of the source may name a patient.

A file that kills the child, or takes too long, is tried once more alone, then refused, and the rest goes on. An archive that breaks is
refused whole: what was in the rest of it nobody knows, and whom it named.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compliance.deid_profile import DeidProfile
from compliance.file_child import ChildGone, FileChild, FileLimits, Passes, counts_said, names_said, refusal_said
from compliance.profile_table import load_table
from crypto.errors import BadInput, RefusedContent
from gateway.file_sources import Entry, entries
from gateway.file_studies import FileStudies, Known
from gateway.output_files import OutputFiles

if TYPE_CHECKING:
    from compliance.deidentify import PixelScreen
    from compliance.file_passes import FilePasses

REPORT_FORMAT = "readgate-deidentify-report/1"
#: Files that go to the child with one question; half as many where each has one to write to.
_AT_ONCE = 32
#: Files that the report names as quarantined; of more it says how many.
_LISTED_MAX = 100_000
#: Members of one archive that may kill the child before the archive is given up.
_DEATHS_MAX = 16


@dataclass
class _Outcome:
    passed: int = 0
    quarantined: list[dict[str, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)

    def refuse(self, name: str, refused: RefusedContent) -> None:
        self.reasons[refused.reason_code] += 1
        if len(self.quarantined) < _LISTED_MAX:
            # A name on a disk or in an archive is any bytes; a report is UTF-8.
            readable = name.encode("utf-8", "backslashreplace").decode()
            entry = {"source": readable, "reason": refused.reason_code, "detail": refused.detail}
            self.quarantined.append(entry | ({"tag": refused.tag} if refused.tag else {}))


class DeidentifyRun:
    """One run over files under one profile and secret. With a `screen` no child is started: files are read in this process."""

    def __init__(
        self,
        profile: DeidProfile,
        secret: bytes,
        screen: PixelScreen | None = None,
        *,
        compress: bool = True,
        limits: FileLimits | None = None,
    ) -> None:
        self._profile = profile
        # For the report; read before the first file rather than behind the last.
        self._table_edition = load_table().edition
        studies = self._studies = FileStudies(secret)
        self._passes: Passes
        #: The process that reads what is in the files.
        self.child: FileChild | None = None
        if screen is None:
            self._passes = self.child = FileChild(
                profile, compress=compress, pseudonym_of=studies.pseudonym_of, study_of=studies.study_of, limits=limits
            )
        else:
            from compliance.file_passes import FilePasses

            self._passes = _Here(FilePasses(profile, studies.told, screen=screen, allow=lambda _: None, compress=compress))
        self._dead: dict[str, RefusedContent] = {}
        self._suspects: set[str] = set()
        self._outcome = _Outcome()
        self._outputs = OutputFiles(Path())
        self._tick: Callable[[], object] = _nothing
        #: Pseudonyms by what was there before.
        self.uids, self.patients = studies.uids, studies.patients

    def folder(self, source: Path, destination: Path) -> dict[str, Any]:
        """De-identify everything under `source` into `destination` and return the report.

        Raises:
            BadInput: there is nothing to read, or the archive that is to be read is none.
            OSError: a file cannot be read or written.
        """
        self._outcome, self._outputs = _Outcome(), OutputFiles(destination)
        try:
            with _progress() as progress:
                task = progress.add_task("reading identities", total=None)
                counted = Counter[str]()

                def tick() -> None:
                    counted["files"] += 1
                    if not progress.disable:
                        progress.advance(task)

                self._tick = tick
                self._pass(entries(source, destination), is_making=False)
                if source.is_file() and source.name in self._dead and Entry(source.name, str(source)).is_archive:
                    refused = self._dead[source.name]
                    raise BadInput(f"{source.name} is refused: {refused.detail}")
                if not counted["files"] and not self._dead:
                    raise BadInput(f"{source} holds no file")
                progress.update(task, description="de-identifying", total=counted["files"], completed=0)
                self._tick = _nothing if progress.disable else partial(progress.advance, task)
                self._suspects.clear()
                self._pass(entries(source, destination), is_making=True)
        finally:
            self._passes.close()
            self._outputs.drop()
        return self._report()

    def _report(self) -> dict[str, Any]:
        outcome = self._outcome
        unlisted = sum(outcome.reasons.values()) - len(outcome.quarantined)
        return {
            "format": REPORT_FORMAT,
            "profile": {"name": self._profile.name, "options": sorted(self._profile.options)},
            "table_edition": self._table_edition,
            "passed": outcome.passed,
            "quarantined": outcome.quarantined,
            **({"quarantined_unlisted": unlisted} if unlisted else {}),
            "reasons": dict(outcome.reasons),
            "actions": dict(sorted(outcome.actions.items())),
        }

    # -- through all there is

    def _pass(self, found: Iterator[Entry], *, is_making: bool) -> None:
        batch: list[Entry] = []
        for entry in found:
            if is_making and (entry.name in self._dead or not entry.is_file):
                self._settle(batch, is_making)
                batch = []
                self._outcome.refuse(entry.name, self._dead.get(entry.name) or _no_file())
            elif entry.is_archive:
                self._settle(batch, is_making)
                batch = []
                self._archive(entry, is_making)
            elif entry.is_file:
                batch.append(entry)
                if len(batch) == (_AT_ONCE // 2 if is_making else _AT_ONCE):
                    self._settle(batch, is_making)
                    batch = []
        self._settle(batch, is_making)

    def _settle(self, batch: Sequence[Entry], is_making: bool) -> None:
        """All of these, and alone those that did not come back from it together."""
        settled = 0
        try:
            if batch:
                for _ in self._made(batch) if is_making else self._learnt(batch):
                    settled += 1
                    self._tick()
            return
        except ChildGone as gone:
            self._outputs.drop()
            rest = batch[settled:]
            if not rest:
                return
            if len(rest) == 1 and rest[0].name in self._suspects:
                if is_making:
                    self._outcome.refuse(rest[0].name, gone.refusal)
                else:
                    self._dead[rest[0].name] = gone.refusal
                self._tick()
                return
        self._suspects.update(entry.name for entry in rest)
        for entry in rest:
            self._settle([entry], is_making)

    def _archive(self, entry: Entry, is_making: bool) -> None:
        """Its members, so many at a time; alone what did not come back, and not one more than so many of those."""
        index = deaths = 0
        is_alone, is_new = False, True
        while True:
            start = index
            try:
                for item in self._members(entry, index, 1 if is_alone else _AT_ONCE // 2, is_new, is_making):
                    if isinstance(item, RefusedContent):
                        self._give_up(entry, item, is_making)
                    elif item == "over":
                        start = -1
                    else:
                        name, result = item
                        self._settle_member(entry, index, name, result, is_making)
                        index += 1
                if start < 0 or entry.name in self._dead:
                    return
                is_alone = is_new = False
            except ChildGone as gone:
                self._outputs.drop()
                deaths, is_new = deaths + 1, True
                if deaths > _DEATHS_MAX:
                    self._give_up(entry, gone.refusal, is_making)
                    return
                if is_alone and index == start:
                    self._settle_member(entry, index, f"member {index + 1}", gone.refusal, is_making)
                    index += 1
                    is_alone = False
                else:
                    is_alone = True

    def _members(self, entry: Entry, index: int, count: int, is_new: bool, is_making: bool) -> Iterator[Any]:
        """(name, result) of each, "over" behind the last, a refusal where the archive is broken."""
        question: dict[str, Any] = {"archive": index} if is_new else {"go_on": True}
        if is_making:
            known = [self._studies.known(entry.name, number) for number in range(index, index + count)]
            question |= {"make": count, **self._studies.told_of(known)}
        else:
            question["learn"] = count
        with _opened([entry] if is_new else []) as files:
            for item in self._results(question, [*files, *(self._outputs.wanted(count) if is_making else [])]):
                with self._believing():
                    if item is None or item == "over":
                        said = item
                    elif isinstance(item, dict):
                        said = refusal_said(item["broken"])
                    else:
                        name, result = item
                        said = (str(name), result)
                if said is not None:
                    yield said
        self._outputs.settle()

    def _settle_member(self, entry: Entry, number: int, name: str, result: Any, is_making: bool) -> None:
        if result == "folder":
            return
        if not is_making:
            if not isinstance(result, RefusedContent):
                self._noted(entry.name, number, result)
        elif isinstance(result, RefusedContent):
            self._outcome.refuse(f"{entry.name}:{name}", result)
        else:
            self._take(f"{entry.name}:{name}", self._studies.known(entry.name, number), result)
        self._tick()

    def _give_up(self, entry: Entry, refused: RefusedContent, is_making: bool) -> None:
        self._dead[entry.name] = refused
        if is_making:
            self._outcome.refuse(entry.name, refused)

    def _results(self, question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[Any]:
        for answer in self._passes.asked(question, descriptors):
            yield from answer["results"]
            with self._believing():
                for study, terms in answer["terms"].items():
                    self._studies.gather(study, terms)

    @contextmanager
    def _believing(self) -> Iterator[None]:
        """What a child says must be what it may say."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            self._passes.close()
            raise ChildGone("WORKER_DIED") from None

    # -- pass one

    def _learnt(self, batch: Sequence[Entry]) -> Iterator[None]:
        with _opened(batch) as files:
            results = self._results({"learn": len(batch)}, files)
            for entry, result in zip(batch, results, strict=False):
                self._noted(entry.name, -1, result)
                yield
            self._end(results)

    def _noted(self, name: str, number: int, result: Any) -> None:
        with self._believing():
            self._studies.note(name, number, result)

    def _end(self, results: Iterator[Any]) -> None:
        """All that were asked for have come, and nothing else does."""
        for _ in results:
            self._passes.close()
            raise ChildGone("WORKER_DIED")

    # -- pass two

    def _made(self, batch: Sequence[Entry]) -> Iterator[None]:
        known = [self._studies.known(entry.name, -1) for entry in batch]
        with _opened(batch) as files:
            question = {"make": len(batch), **self._studies.told_of(known)}
            results = self._results(question, [*files, *self._outputs.wanted(len(batch))])
            for entry, what, result in zip(batch, known, results, strict=False):
                self._take(entry.name, what, result)
                yield
            self._end(results)
        self._outputs.settle()

    def _take(self, name: str, known: Known | None, result: Any) -> None:
        with self._believing():
            if "refused" in result:
                self._outcome.refuse(name, refusal_said(result["refused"]))
                return
            if "failed" in result:
                problem = OSError(int(result["failed"]), os.strerror(int(result["failed"])), name)
            else:
                *said, counts, number = result["made"]
                study, series, instance = names_said(said)
                counted = counts_said(counts)
                problem = None
        if problem is not None:
            raise problem
        with self._believing():
            self._outputs.name(number, f"{study}/{series}", f"{instance}.dcm")
        self._studies.took(known, instance)
        self._outcome.passed += 1
        self._outcome.actions.update(counted)


class _Here:
    """The passes in this process, for who brings a pixel step of its own."""

    def __init__(self, passes: FilePasses) -> None:
        self._passes = passes

    def asked(self, question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        return self._passes.answers(question, [os.dup(one) for one in descriptors])

    def close(self) -> None:
        self._passes.close()


@contextmanager
def _opened(batch: Sequence[Entry]) -> Iterator[list[int]]:
    """Raises OSError where one cannot be opened."""
    files: list[int] = []
    try:
        for entry in batch:
            # A pipe that was put in the file's place meanwhile must not be waited for.
            files.append(os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
        yield files
    finally:
        for file in files:
            os.close(file)


def _no_file() -> RefusedContent:
    return RefusedContent("NOT_A_FILE", "a link or a device")


def _nothing() -> None:
    """No progress is shown where nobody looks."""


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

"""One run of `readgate deidentify`: what lies where, who each study is, and what is named how. What is in the files a confined child reads.

Two passes: the first gathers each study's identity from all of its instances, the second de-identifies them one by one. Under one secret
the same input gives the same output for ever. Output names are pseudonymous UIDs: a folder or file name of the source may name a patient.

A file that kills the child, or takes too long, is tried once more alone, then refused, and the rest goes on; where that is in pass one,
without the studies that it may belong to (file_studies.py), for nobody knows whom it names. An archive that breaks is refused whole: what
was in the rest of it nobody knows, and whom it named.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from compliance.deid_profile import DeidProfile
from compliance.file_child import ChildGone, FileChild, FileLimits, Passes, counts_said, names_said, refusal_said
from compliance.profile_table import load_table
from crypto.errors import BadInput, RefusedContent
from gateway.deidentify_report import Outcome
from gateway.file_sources import Entry, entries, no_file, opened
from gateway.file_studies import FileStudies
from gateway.output_files import OutputFiles

if TYPE_CHECKING:
    from compliance.deidentify import PixelScreen
    from compliance.file_passes import FilePasses

#: Files that go to the child with one question; half as many where each has one to write to.
_AT_ONCE = 32
#: Members of one archive that may kill the child before the archive is given up.
_DEATHS_MAX = 16
#: An archive refused for these says nothing else the next time; whatever else it is given up for, nobody knows whom the rest of it names.
_ALWAYS = frozenset({"BROKEN_ARCHIVE", "ARCHIVE_EXPANDS"})
_END = object()


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
        self._outcome = Outcome()
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
        self._outcome, self._outputs = Outcome(), OutputFiles(destination)
        # Once: it may be a link, and lead elsewhere at the second look.
        root = source.resolve()
        try:
            with _progress() as progress:
                task = progress.add_task("reading identities", total=None)
                counted = Counter[str]()

                def tick() -> None:
                    counted["files"] += 1
                    if not progress.disable:
                        progress.advance(task)

                self._tick = tick
                self._pass(entries(root, destination, source.name), is_making=False)
                self._studies.close()
                if source.is_file() and source.name in self._dead and Entry(source.name, str(source)).is_archive:
                    refused = self._dead[source.name]
                    raise BadInput(f"{source.name} is refused: {refused.detail}")
                if not counted["files"] and not self._dead:
                    raise BadInput(f"{source} holds no file")
                progress.update(task, description="de-identifying", total=counted["files"], completed=0)
                self._tick = _nothing if progress.disable else partial(progress.advance, task)
                self._suspects.clear()
                self._pass(entries(root, destination, source.name), is_making=True)
        finally:
            self._passes.close()
            self._outputs.drop()
        return self._outcome.report(self._profile, self._table_edition)

    # -- through all there is

    def _pass(self, found: Iterator[Entry], *, is_making: bool) -> None:
        batch: list[Entry] = []
        for entry in found:
            if is_making and (entry.name in self._dead or not entry.is_file):
                self._settle(batch, is_making)
                batch = []
                self._outcome.refuse(entry.name, self._dead.get(entry.name) or no_file())
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
        with opened(batch) as (files, unopened):
            for entry, refused in unopened.items():
                self._settle_refused(entry, refused, is_making)
            batch = list(files)
            try:
                if batch:
                    found = list(files.values())
                    for _ in self._made(batch, found) if is_making else self._learnt(batch, found):
                        settled += 1
                        self._tick()
                return
            except ChildGone as gone:
                self._outputs.drop()
                rest = batch[settled:]
                if not rest:
                    return
                if len(rest) == 1 and rest[0].name in self._suspects:
                    self._settle_refused(rest[0], gone.refusal, is_making)
                    return
        self._suspects.update(entry.name for entry in rest)
        for entry in rest:
            self._settle([entry], is_making)

    def _settle_refused(self, entry: Entry, refused: RefusedContent, is_making: bool) -> None:
        if is_making:
            self._outcome.refuse(entry.name, refused)
        else:
            self._dead[entry.name] = refused
            self._studies.miss(entry.name, -1, refused)
        self._tick()

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
        members, is_ended = 0, False
        with opened([entry] if is_new else []) as (files, unopened):
            if unopened:
                yield unopened[entry]
                return
            for item in self._results(question, [*files.values(), *(self._outputs.wanted(count) if is_making else [])]):
                with self._believing():
                    if item is None or item == "over":
                        said = item
                    elif isinstance(item, dict):
                        said = refusal_said(item["broken"])
                    else:
                        name, result = item
                        said = (str(name), result)
                        members += 1
                    if is_ended or members > count:
                        raise ValueError("more than was asked for")
                    is_ended = item == "over" or isinstance(item, dict)
                if said is not None:
                    yield said
            with self._believing():
                if not is_ended and members < count:
                    raise ValueError("less than was asked for")
        self._outputs.settle()

    def _settle_member(self, entry: Entry, number: int, name: str, result: Any, is_making: bool) -> None:
        if result == "folder":
            return
        if not is_making:
            if isinstance(result, RefusedContent):
                self._studies.miss(entry.name, number, result)
            else:
                self._noted(entry.name, number, result)
        elif isinstance(result, RefusedContent):
            self._outcome.refuse(f"{entry.name}:{name}", result)
        else:
            self._take(f"{entry.name}:{name}", (entry.name, number), result)
        self._tick()

    def _give_up(self, entry: Entry, refused: RefusedContent, is_making: bool) -> None:
        self._dead[entry.name] = refused
        if is_making:
            self._outcome.refuse(entry.name, refused)
        elif refused.reason_code not in _ALWAYS:
            self._studies.miss(entry.name, 0, refused)

    def _results(self, question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[Any]:
        for answer in self._passes.asked(question, descriptors):
            with self._believing():
                # Before a result is settled: what is settled is not asked for again.
                for study, terms in answer["terms"].items():
                    self._studies.gather(study, terms)
            yield from answer["results"]

    @contextmanager
    def _believing(self) -> Iterator[None]:
        """What a child says must be what it may say."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            self._passes.close()
            raise ChildGone("WORKER_DIED") from None

    # -- pass one

    def _learnt(self, batch: Sequence[Entry], files: Sequence[int]) -> Iterator[None]:
        results = self._results({"learn": len(batch)}, files)
        for entry, result in self._each(batch, results):
            self._noted(entry.name, -1, result)
            yield

    def _noted(self, name: str, number: int, result: Any) -> None:
        with self._believing():
            self._studies.note(name, number, result)

    def _each(self, batch: Sequence[Entry], results: Iterator[Any]) -> Iterator[tuple[Entry, Any]]:
        """Each with its result: none is passed over, and nothing comes that was not asked for. Raises ChildGone."""
        for entry in batch:
            result = next(results, _END)
            if result is _END:
                break
            yield entry, result
        else:
            if next(results, _END) is _END:
                return
        self._passes.close()
        raise ChildGone("WORKER_DIED")

    # -- pass two

    def _made(self, batch: Sequence[Entry], files: Sequence[int]) -> Iterator[None]:
        known = [self._studies.known(entry.name, -1) for entry in batch]
        question = {"make": len(batch), **self._studies.told_of(known)}
        results = self._results(question, [*files, *self._outputs.wanted(len(batch))])
        for entry, result in self._each(batch, results):
            self._take(entry.name, (entry.name, -1), result)
            yield
        self._outputs.settle()

    def _take(self, name: str, file: tuple[str, int], result: Any) -> None:
        """`file` as the studies know it, `name` as the report does."""
        problem = None
        with self._believing():
            if "refused" in result:
                said_of_it = refusal_said(result["refused"])
                self._outcome.refuse(name, self._studies.missed(*file) or said_of_it)
                return
            if "failed" in result:
                problem = OSError(int(result["failed"]), os.strerror(int(result["failed"])), name)
            else:
                *said, counts, number = result["made"]
                study, series, instance = names_said(said)
                counted = counts_said(counts)
        if problem is not None:
            raise problem
        refused = self._studies.why_not(*file)
        try:
            with self._believing():
                if refused is not None:
                    self._outputs.discard(number)
                    raise refused
                self._outputs.name(number, f"{study}/{series}", f"{instance}.dcm")
        except RefusedContent as problem_of_file:
            self._outcome.refuse(name, problem_of_file)
            return
        self._studies.took(self._studies.known(*file), instance)
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

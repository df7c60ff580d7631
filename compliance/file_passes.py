"""Both passes of `readgate deidentify` over open files and archives: what pass one learns of their studies, what pass two makes of them.

It runs where a stranger's bytes may do harm (file_serve.py): it is handed descriptors, never a path or the secret.

Questions and their results, one for each file or member in order; what it has it says at least every second
- {"learn": n} with n files: [study, patient id, accession number, where the dataset starts, transfer syntax, class, instance] of each, null
  where it does not parse, {"refused": [reason, detail, tag], "study": its study or null} where it may name somebody whom this did not see;
  beside the results stands what was new of identity, by study.
- {"make": n, "known": such a list or null for each, "pseudonyms": of instances named there} with n files to read and n to write to:
  {"made": [study, series, instance, counts, which file was written to]}, {"refused": [reason, detail, tag]} or {"failed": errno}.
- Either with "archive", the number of members to leave out, and the archive before the other files: n members at most, each result as
  [name, result], "folder" for a folder, and behind the last "over" or {"broken": [reason, detail, tag]}; null stands for one left out.
  With "go_on" in place of "archive" it is the archive of the question before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from compliance.archive_members import Archive, Member, Read, reader_of
from compliance.character_sets import codecs_of, decode
from compliance.dataset_bytes import encoding_of
from compliance.deid_profile import DeidProfile
from compliance.deid_serve import identity_json, identity_of_json
from compliance.deidentify import PixelScreen, deidentify
from compliance.element_runs import HeaderValues, Part
from compliance.identified import IdentifiedDataset, Pseudonymity
from compliance.identity_terms import IdentityCollector
from compliance.part10 import dataset_of_file, file_head
from crypto.errors import RefusedContent

#: Enough for most headers: pass one needs no pixels. From the first header on that is longer, as much as the second is read.
_HEAD_BYTES, _LONG_HEAD_BYTES = 1 << 14, 1 << 16
_CHANGED = "the file is not the one that was read at first"
_NO_FILE = ["NOT_A_FILE", "a link or a device", None]
_LIMIT = ["WORKER_LIMIT", "it takes more memory than an instance of its size may", None]
_UNREADABLE = "FILE_UNREADABLE"
#: Behind these nothing more of an archive can be read.
_OF_ARCHIVES = frozenset({"BROKEN_ARCHIVE", "ARCHIVE_EXPANDS", "ARCHIVE_UNREADABLE"})
_MEMOS_MAX = 4
_SECONDS_OF_SILENCE = 1.0
_CHARSET, _PATIENT_ID, _STUDY_UID, _ACCESSION = 0x00080005, 0x00100020, 0x0020000D, 0x00080050
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
Answer = dict[str, Any]
Sinks = Iterator[tuple[int, int]]


class _Pseudonyms(dict[str, str]):
    """Of UIDs, those that the instances of a study named; asked for when first needed, where nobody told them before."""

    def __init__(self, passes: FilePasses) -> None:
        super().__init__()
        self._passes = passes

    def get(self, original: str, default: Any = None) -> Any:
        found = super().get(original)
        if found is None:
            found = self[original] = self._passes.pseudonym_of(original)
        return found


class FilePasses:
    """One run. `ask` reaches whoever holds the secret; `allow` is called with the size of what is worked on next."""

    def __init__(
        self,
        profile: DeidProfile,
        ask: Callable[[Answer], Any],
        *,
        screen: PixelScreen | None,
        allow: Callable[[int], None],
        compress: bool,
    ) -> None:
        self._profile, self._ask, self._screen, self._allow, self._compress = profile, ask, screen, allow, compress
        self._values = HeaderValues((_CHARSET, _PATIENT_ID, _STUDY_UID, _ACCESSION, _SOP_CLASS, _SOP_INSTANCE))
        self._head_bytes = _HEAD_BYTES
        self._collectors: dict[str, IdentityCollector] = {}
        self._recent: dict[str, Pseudonymity] = {}
        self._told: dict[str, str] = {}
        self._archive: Archive | None = None

    def answers(self, question: Answer, descriptors: list[int]) -> Iterator[Answer]:
        """The answers to one question, the last with "end"; the descriptors are closed then."""
        self._told = question.get("pseudonyms", {})
        self._allow(0)
        open_ones = list(descriptors)
        try:
            if "archive" in question:
                self.close()
                results = self._of_archive(question, open_ones.pop(0), open_ones)
            elif "go_on" in question:
                results = self._of_members(question, open_ones)
            elif "learn" in question:
                results = (self._learnt(reader_of(one), os.fstat(one).st_size) for one in open_ones)
            else:
                half = len(open_ones) // 2
                sinks = iter(list(enumerate(open_ones[half:])))
                results = (
                    self._made(reader_of(one), os.fstat(one).st_size, known, sinks)
                    for one, known in zip(open_ones[:half], question["known"], strict=True)
                )
            yield from self._said(results)
        finally:
            for one in open_ones:
                os.close(one)

    def close(self) -> None:
        """No archive is open."""
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def pseudonym_of(self, original: str) -> str:
        """The UID's pseudonym under the secret of the run."""
        return self._told.get(original) or str(self._ask({"ask": original}))

    def _said(self, results: Iterable[Any]) -> Iterator[Answer]:
        said: list[Any] = []
        since = time.monotonic()
        for result in results:
            said.append(result)
            if time.monotonic() - since > _SECONDS_OF_SILENCE:
                yield {"results": said, "terms": self._terms()}
                said, since = [], time.monotonic()
        yield {"results": said, "terms": self._terms(), "end": True}

    # -- archives

    def _of_archive(self, question: Answer, archive: int, sinks: list[int]) -> Iterator[Any]:
        try:
            self._archive = Archive(archive)
            for _ in range(question["archive"]):
                if self._archive.next() is None:
                    self.close()
                    yield "over"
                    return
                yield None
        except (RefusedContent, MemoryError) as problem:
            self.close()
            yield {"broken": _refusal_of(problem)}
            return
        yield from self._of_members(question, sinks)

    def _of_members(self, question: Answer, sinks: list[int]) -> Iterator[Any]:
        assert self._archive is not None
        known, numbered = iter(question.get("known", ())), iter(list(enumerate(sinks)))
        for _ in range(question.get("learn") or question["make"]):
            try:
                member = self._archive.next()
                if member is None:
                    self.close()
                    yield "over"
                    return
                result = self._of_member(member, known, numbered) if "make" in question else self._learnt_of_member(member)
            except (RefusedContent, MemoryError) as problem:
                self.close()
                yield {"broken": _refusal_of(problem)}
                return
            yield [member.name, result]

    def _of_member(self, member: Member, known: Iterator[Any], sinks: Sinks) -> Any:
        what = next(known, None)
        if member.read is None:
            return "folder" if member.is_folder else {"refused": _NO_FILE}
        return self._made(member.read, member.size, what, sinks)

    def _learnt_of_member(self, member: Member) -> list[Any] | Answer | None:
        return None if member.read is None else self._learnt(member.read, member.size)

    # -- pass one

    def _learnt(self, read: Read, size: int) -> list[Any] | Answer | None:
        study = None
        try:
            data = read(self._head_bytes)
            found = self._instance(data, self._head_bytes)
            if found is None and self._head_bytes < _LONG_HEAD_BYTES:
                self._head_bytes = _LONG_HEAD_BYTES
                data = read(self._head_bytes)
                found = self._instance(data, self._head_bytes)
            if found is None:
                self._allow(size)
                data = read(None)
                found = self._instance(data)
            assert found is not None
            instance, (study, patient_id, accession), parts = found
            collector = self._collectors.get(study)
            if collector is None:
                collector = self._collectors[study] = IdentityCollector()
            collector.add_parts(instance.payload, parts, encoding_of(instance.transfer_syntax_uid))
        except RefusedContent as refused:
            if refused.reason_code in _OF_ARCHIVES:
                raise
            # What does not parse does not parse the next time either. Whom it names in the rest of a header of this study nobody knows.
            return None if study is None and refused.reason_code != _UNREADABLE else {"refused": _refusal_of(refused), "study": study}
        except (MemoryError, RecursionError):
            return {"refused": _LIMIT, "study": study}
        start = len(data) - len(instance.payload)
        return [study, patient_id, accession, start, instance.transfer_syntax_uid, instance.sop_class_uid, instance.sop_instance_uid]

    def _terms(self) -> dict[str, Any]:
        """What was new of identity since the last time, by study; what was met in the last studies stays known as met."""
        found = {}
        for study, collector in self._collectors.items():
            new = {kind: values for kind, values in identity_json(collector.take()).items() if values}
            if new:
                found[study] = new
        while len(self._collectors) > _MEMOS_MAX:
            del self._collectors[next(iter(self._collectors))]
        return found

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

    # -- pass two

    def _made(self, read: Read, size: int, known: list[Any] | None, sinks: Sinks) -> Answer:
        try:
            self._allow(size)
            return self._made_of(read, known, sinks)
        except RefusedContent as refused:
            if refused.reason_code in _OF_ARCHIVES:
                raise
            return {"refused": _refusal_of(refused)}
        except (MemoryError, RecursionError):
            return {"refused": _LIMIT}
        except OSError as problem:
            return {"failed": problem.errno}

    def _made_of(self, read: Read, known: list[Any] | None, sinks: Sinks) -> Answer:
        if known is not None:
            # `deidentify` holds the file to these names, and the study is compared below: a file that changed meanwhile is refused.
            study, start, *names = known
            instance = IdentifiedDataset(read(None, start), *names)
        else:
            found = self._instance(read(None))
            assert found is not None
            instance, (study, _, _), _ = found
        under = self._under(study)
        made = deidentify(instance, under, screen=self._screen, compress=self._compress)
        if made.study_instance_uid != dict.get(under.memo["uids"], study, study):
            raise RefusedContent("UID_MISMATCH", _CHANGED)
        number, sink = next(sinks)
        _write(sink, [file_head(made), *made.pieces])
        names = [made.study_instance_uid, made.series_instance_uid, made.sop_instance_uid]
        return {"made": [*names, dict(made.action_counts), number]}

    def _under(self, study: str) -> Pseudonymity:
        under = self._recent.get(study)
        if under is None:
            said = self._ask({"study": study})
            if said is None:
                raise RefusedContent("UID_MISMATCH", _CHANGED)
            if "held" in said:
                raise RefusedContent("IDENTITY_INCOMPLETE", said["held"])
            identity = identity_of_json(said["identity"])
            names = (said["pseudonym"], said["date_offset_days"], said["accession_pseudonym"])
            under = self._recent[study] = Pseudonymity(said["hospital_id"], b"", *names, identity, self._profile)
            under.memo["uids"] = _Pseudonyms(self)
            if len(self._recent) > _MEMOS_MAX:
                self._recent.pop(next(iter(self._recent))).memo.clear()
        return under


def _refusal_of(problem: RefusedContent | MemoryError) -> list[Any]:
    return [problem.reason_code, problem.detail, problem.tag] if isinstance(problem, RefusedContent) else _LIMIT


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


def _write(file: int, pieces: Iterable[bytes | memoryview]) -> None:
    """The file is what the pieces are, one after the other."""
    rest = [memoryview(piece) for piece in pieces]
    while rest:
        # One call may take less, on a full disk or of more than 2 GiB.
        count = os.writev(file, rest)
        while rest and count >= len(rest[0]):
            count -= len(rest.pop(0))
        if rest:
            rest[0] = rest[0][count:]

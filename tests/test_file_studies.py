"""What gave no identity in pass one of `readgate deidentify` does not leave in pass two, nor does the study that it may belong to."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from compliance.deid_profile import TELEREAD, profile_of
from compliance.identity_terms import IdentityCollector
from crypto.errors import RefusedContent
from gateway import file_studies
from gateway.deidentify_run import DeidentifyRun
from gateway.file_studies import FileStudies
from tests.builders import make_ct_study, part10_of
from tests.deid_samples import SECRET, clean_screen
from tests.faulty_disk import no_names
from tests.test_archive_attacks import member, tar_of
from tests.test_file_child import outputs, refused

NAME = b"vistgaardsen"


def two_slices(number: int = 0) -> list[bytes]:
    """Only the second says in a name who the text of both is about."""
    datasets: list[Dataset] = make_ct_study(2, number=number)
    for dataset in datasets:
        dataset.StudyDescription = "CT qvistgaardsen"
    datasets[1].OperatorsName = datasets[1].PatientName = "Qvistgaardsen^Thorvald"
    return [part10_of(dataset) for dataset in datasets]


def studies_in(folder: Path) -> None:
    """One study in `a` that leaks where its second slice is not learnt, another in `b`."""
    for name, number in (("a", 0), ("b", 7)):
        (folder / name).mkdir(parents=True)
        for index, data in enumerate(two_slices(number)):
            (folder / name / f"{index}.dcm").write_bytes(data)


def assert_held(report: dict[str, Any], folder: Path, expected: dict[str, str], passed: int) -> None:
    assert (refused(report), report["passed"]) == (expected, passed)
    made = outputs(folder) if folder.exists() else {}
    assert len(made) == passed and not any(NAME in data for data in made.values())


def in_pass_one(monkeypatch: pytest.MonkeyPatch, path: Path, raised: Callable[[], BaseException]) -> None:
    """Reading the file fails, once."""
    inode, real, times = path.stat().st_ino, os.pread, [0]

    def failing(descriptor: int, count: int, at: int) -> bytes:
        if os.fstat(descriptor).st_ino == inode and not times[0]:
            times[0] += 1
            raise raised()
        return real(descriptor, count, at)

    monkeypatch.setattr(os, "pread", failing)


FAILURES: dict[str, Callable[[], BaseException]] = {"FILE_UNREADABLE": lambda: OSError(errno.EIO, "injected"), "WORKER_LIMIT": MemoryError}


@pytest.mark.parametrize("reason", FAILURES)
def test_a_file_missed_at_first_holds_the_study_that_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    studies_in(tmp_path / "in")
    in_pass_one(monkeypatch, tmp_path / "in" / "a" / "1.dcm", FAILURES[reason])
    report = DeidentifyRun(TELEREAD, SECRET, clean_screen).folder(tmp_path / "in", tmp_path / "out")
    assert_held(report, tmp_path / "out", {"a/0.dcm": "IDENTITY_INCOMPLETE", "a/1.dcm": reason}, 2)


def test_a_folder_missed_holds_what_may_belong_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies_in(tmp_path / "in")
    (tmp_path / "in" / "c").mkdir()
    no_names(monkeypatch, tmp_path / "in" / "c")
    report = DeidentifyRun(TELEREAD, SECRET, clean_screen).folder(tmp_path / "in", tmp_path / "out")
    assert report["passed"] == 0 and refused(report).pop("c/") == "FILE_UNREADABLE"
    assert {*refused(report).values()} == {"FILE_UNREADABLE", "IDENTITY_INCOMPLETE"}


def test_what_fails_beside_the_names_holds_the_study_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the rest of it lies: here each slice has a folder of its own."""
    for index, data in enumerate([*two_slices(), *two_slices(7)]):
        (tmp_path / "in" / str(index)).mkdir(parents=True)
        (tmp_path / "in" / str(index) / "x").write_bytes(data)
    add_parts, times = IdentityCollector.add_parts, [0]

    def failing(collector: Any, *given: Any) -> None:
        times[0] += 1
        if times[0] == 2:
            raise MemoryError
        add_parts(collector, *given)

    monkeypatch.setattr(IdentityCollector, "add_parts", failing)
    report = DeidentifyRun(TELEREAD, SECRET, clean_screen).folder(tmp_path / "in", tmp_path / "out")
    assert_held(report, tmp_path / "out", {"0/x": "IDENTITY_INCOMPLETE", "1/x": "WORKER_LIMIT"}, 2)


def test_a_member_that_killed_at_first_holds_what_is_in_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(tar_of([member(str(index), data) for index, data in enumerate(two_slices())]))
    (tmp_path / "in" / "z.dcm").write_bytes(two_slices(7)[1])
    run = DeidentifyRun(profile_of(["basic"]), SECRET)
    child, times = run.child, [0]
    assert child is not None
    asked = child.asked

    def mortal(question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        times[0] += "learn" in question
        # All at once, then the first alone, which comes back; then the second with the rest, and alone.
        if "learn" in question and times[0] in (1, 3, 4):
            child.start()
            os.kill(child.pid or -1, signal.SIGKILL)
        return asked(question, descriptors)

    monkeypatch.setattr(child, "asked", mortal)
    report = run.folder(tmp_path / "in", tmp_path / "out")
    assert_held(report, tmp_path / "out", {"a.tar:0": "IDENTITY_INCOMPLETE", "a.tar:1": "WORKER_DIED"}, 1)


@pytest.mark.parametrize("known_max", [50_000, 0])
def test_a_file_that_was_none_at_first_does_not_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_max: int) -> None:
    """What does not parse holds nothing; what parses at the second look was never read for names."""
    monkeypatch.setattr(file_studies, "_KNOWN_MAX", known_max)
    studies_in(tmp_path / "in")
    late = tmp_path / "in" / "a" / "1.dcm"
    whole = late.read_bytes()
    late.write_bytes(b"not DICOM, so far")
    run = DeidentifyRun(TELEREAD, SECRET, clean_screen)
    close = run._studies.close

    def close_and_write() -> None:
        close()
        late.write_bytes(whole)

    monkeypatch.setattr(run._studies, "close", close_and_write)
    report = run.folder(tmp_path / "in", tmp_path / "out")
    assert (refused(report), report["passed"]) == ({"a/1.dcm": "UID_MISMATCH"}, 3)


def test_what_never_parses_holds_nothing(tmp_path: Path) -> None:
    studies_in(tmp_path / "in")
    (tmp_path / "in" / "a" / "notes").write_text("not DICOM at all")
    report = DeidentifyRun(TELEREAD, SECRET, clean_screen).folder(tmp_path / "in", tmp_path / "out")
    assert (refused(report), report["passed"]) == ({"a/notes": "MALFORMED_DATASET"}, 4)


@pytest.mark.parametrize(
    ("missed", "held"),
    [
        (("p/s1/1/x", -1), {"A"}),
        (("p/s1/9/x", -1), {"A", "B"}),
        (("p/s9/1/x", -1), {"A", "B", "C"}),
        (("p/s2/x.tar", 3), {"C"}),
        (("elsewhere/x", -1), {"A", "B", "C", "D"}),
        (("x", -1), {"A", "B", "C", "D"}),
    ],
)
def test_what_a_missed_file_holds(missed: tuple[str, int], held: set[str]) -> None:
    studies = FileStudies(SECRET)
    for name, number, study in (("p/s1/1/y", -1, "A"), ("p/s1/2/y", -1, "B"), ("p/s2/x.tar", 0, "C"), ("q/1", -1, "D")):
        studies.note(name, number, [study, "", "", 0, "", "", ""])
    studies.miss(*missed, RefusedContent("WORKER_DIED"))
    studies.close()
    assert {one for one in "ABCD" if "held" in (studies.study_of(one) or {})} == held


@pytest.mark.parametrize(
    "said", [{}, {"refused": ["A_NAME", "", None], "study": None}, {"refused": ["WORKER_LIMIT", "", None], "study": 7}]
)
def test_what_a_child_says_of_what_it_missed_is_of_closed_lists(said: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        FileStudies(SECRET).note("x", -1, said)

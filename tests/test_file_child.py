"""`readgate deidentify` reads in a process that may die: that costs one file; no secret or path is told, no name leads elsewhere."""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from compliance import file_passes, file_serve
from compliance.deid_profile import TELEREAD, Option, profile_of
from compliance.file_child import FileChild, FileLimits, counts_said, names_said, refusal_said
from compliance.identity_terms import IdentityTerms
from gateway.deidentify_command import mount
from gateway.deidentify_run import DeidentifyRun
from gateway.file_studies import TERMS
from gateway.output_files import OutputFiles
from tests.builders import make_ct_study, part10_of
from tests.deid_children import told_by_wire
from tests.deid_samples import SECRET, clean_screen

BASIC = profile_of(["basic"])
app = typer.Typer()
mount(app)


@app.callback()
def root() -> None:
    """One more command than one, so that the name must be given."""


def slices_in(folder: Path, count: int) -> list[str]:
    """Files 0.dcm and so on; their SOP Instance UIDs."""
    folder.mkdir()
    datasets = make_ct_study(count)
    for number, dataset in enumerate(datasets):
        (folder / f"{number}.dcm").write_bytes(part10_of(dataset))
    return [str(dataset.SOPInstanceUID) for dataset in datasets]


def packed(source: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w") as opened:
        for path in sorted(source.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            opened.addfile(member, io.BytesIO(path.read_bytes()))
    return archive


def outputs(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(report: dict[str, Any]) -> dict[str, str]:
    return {entry["source"]: entry["reason"] for entry in report["quarantined"]}


def deadly(run: DeidentifyRun, names: set[str], monkeypatch: pytest.MonkeyPatch, deaths: int = 99) -> list[int]:
    """The child of `run` dies in pass two of every question that is about one of these instances, so many times; counts in the list."""
    child, counted = run.child, [0]
    assert child is not None
    asked = child.asked

    def mortal(question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        known = [one for one in question.get("known", []) if one]
        if names & {one[-1] for one in known} and counted[0] < deaths:
            counted[0] += 1
            child.start()
            os.kill(child.pid or -1, signal.SIGKILL)
        return asked(question, descriptors)

    monkeypatch.setattr(child, "asked", mortal)
    return counted


def test_what_comes_of_the_child_is_what_comes_of_this_process(tmp_path: Path) -> None:
    slices_in(tmp_path / "in", 3)
    (tmp_path / "in" / "notes").write_text("not DICOM at all")
    packed(tmp_path / "in", tmp_path / "in" / "x.tar")
    here, there = (DeidentifyRun(TELEREAD, SECRET, screen) for screen in (clean_screen, None))
    reports = [run.folder(tmp_path / "in", tmp_path / f"out{number}") for number, run in enumerate((here, there))]
    assert reports[0] == reports[1] and reports[0]["passed"] == 6
    assert outputs(tmp_path / "out0") == outputs(tmp_path / "out1") and (here.uids, here.patients) == (there.uids, there.patients)


def test_a_death_costs_the_file_alone_and_one_that_was_no_fault_of_its_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = slices_in(tmp_path / "in", 5)
    run = DeidentifyRun(BASIC, SECRET)
    counted = deadly(run, {names[2]}, monkeypatch)
    report = run.folder(tmp_path / "in", tmp_path / "out")
    assert (report["passed"], refused(report), counted) == (4, {"2.dcm": "WORKER_DIED"}, [2])
    run = DeidentifyRun(BASIC, SECRET)
    deadly(run, {names[2]}, monkeypatch, deaths=1)
    assert run.folder(tmp_path / "in", tmp_path / "again")["passed"] == 5


def test_a_death_in_an_archive_costs_the_member_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = slices_in(tmp_path / "in", 20)
    archive = packed(tmp_path / "in", tmp_path / "x.tar")
    run = DeidentifyRun(BASIC, SECRET)
    # Names are packed in the order of the folder: 0, 1, 10, 11 and so on.
    deadly(run, {names[1], names[10], names[9]}, monkeypatch)
    report = run.folder(archive, tmp_path / "out")
    gone = {"x.tar:member 2": "WORKER_DIED", "x.tar:member 3": "WORKER_DIED", "x.tar:member 20": "WORKER_DIED"}
    assert (report["passed"], refused(report)) == (17, gone)


def test_an_archive_that_kills_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.deidentify_run._DEATHS_MAX", 3)
    (tmp_path / "in").mkdir()
    names = slices_in(tmp_path / "in" / "apart", 8)
    (tmp_path / "in" / "beside").mkdir()
    packed(tmp_path / "in" / "apart", tmp_path / "in" / "beside" / "a.tar")
    # Whom an archive names that nobody could read is not known: what lies beside it waits.
    (tmp_path / "in" / "beside" / "b.dcm").write_bytes(part10_of(make_ct_study(1, number=7)[0]))
    run = DeidentifyRun(BASIC, SECRET)
    child = run.child
    assert child is not None
    asked = child.asked

    def mortal(question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        if "archive" in question or "go_on" in question:
            child.start()
            os.kill(child.pid or -1, signal.SIGKILL)
        return asked(question, descriptors)

    monkeypatch.setattr(child, "asked", mortal)
    report = run.folder(tmp_path / "in", tmp_path / "out")
    assert (report["passed"], refused(report)) == (len(names), {"beside/a.tar": "WORKER_DIED", "beside/b.dcm": "IDENTITY_INCOMPLETE"})


def test_a_late_child_is_replaced_and_the_file_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = slices_in(tmp_path / "in", 2)
    run = DeidentifyRun(BASIC, SECRET)
    child = run.child
    assert child is not None
    asked, deadline = child.asked, child._deadline

    def late(question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        is_late = any(one and one[-1] == names[0] for one in question.get("known", []))
        child.start()
        monkeypatch.setattr(child, "_deadline", time.monotonic if is_late else deadline)
        return asked(question, descriptors)

    monkeypatch.setattr(child, "asked", late)
    report = run.folder(tmp_path / "in", tmp_path / "out")
    assert (report["passed"], refused(report)) == (1, {"0.dcm": "WORKER_LATE"})


def test_neither_secret_nor_path_is_told_to_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = told_by_wire(monkeypatch)
    slices_in(tmp_path / "in", 2)
    run = DeidentifyRun(TELEREAD, SECRET)
    assert run.child is not None
    run.child.start()
    arguments = Path(f"/proc/{run.child.pid}/cmdline").read_bytes()
    opened = {os.readlink(one) for one in Path(f"/proc/{run.child.pid}/fd").iterdir()}
    assert run.folder(tmp_path / "in", tmp_path / "out")["passed"] == 2
    everything = b"".join(told) + arguments
    assert b"RG-" in everything and b"2.25." in everything
    for hidden in (SECRET, SECRET.hex().encode(), str(tmp_path).encode(), b"0.dcm"):
        assert hidden not in everything
    assert not any(str(tmp_path) in one for one in opened)


# -- what a child that was taken over may say


def lying(run: DeidentifyRun, monkeypatch: pytest.MonkeyPatch, result: Any) -> None:
    """Whatever is made, who made it for `run` says this of it."""
    asked = run._passes.asked

    def lie(question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        for answer in asked(question, descriptors):
            yield answer | {"results": [result for _ in answer["results"]]} if "make" in question else answer

    monkeypatch.setattr(run._passes, "asked", lie)


LIES: list[Any] = [
    {"made": ["../../..", "2.25.1", "2.25.2", {}, 0]},
    {"made": ["2.25.1", "2.25.1", "/tmp/x", {}, 0]},
    {"made": ["2.25.1", "2.25.1", "", {}, 0]},
    {"made": ["2.25.1", "2.25.1", "2.25.1", {}, 99]},
    {"made": ["2.25.1", "2.25.1", "2.25.1", {}, -1]},
    {"made": ["2.25.1", "2.25.1", "2.25.1", {}, True]},
    {"made": ["2.25.1", "2.25.1", "2.25.1", {}, 1]},
    {"made": ["2.25.1", "2.25.1", "2.25.1", {"a name": 1}, 0]},
    {"made": ["2.25.1", "2.25.1", "2.25.1", {"K": "a name"}, 0]},
    {"made": "nothing"},
    {"refused": ["A_NAME", "", None]},
    {"refused": ["MISSING_UID", "", "a name"]},
    {"failed": "a name"},
    ["made"],
    None,
    7,
]


@pytest.mark.parametrize("lie", LIES, ids=str)
def test_a_lie_of_the_child_is_its_death_and_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: Any) -> None:
    slices_in(tmp_path / "in", 1)
    run = DeidentifyRun(BASIC, SECRET, clean_screen)
    lying(run, monkeypatch, lie)
    report = run.folder(tmp_path / "in", tmp_path / "in" / "out")
    assert (report["passed"], report["reasons"]) == (0, {"WORKER_DIED": 1})
    assert outputs(tmp_path) == {"in/0.dcm": (tmp_path / "in" / "0.dcm").read_bytes()}


def test_words_of_a_child_are_of_closed_lists() -> None:
    for names in (["1.2", "1.2", ".."], ["1.2", "1..2", "1.2"], ["1" * 65, "1", "1"], ["1.2/3", "1", "1"], ["1", "1"], [1, 1, 1]):
        with pytest.raises((ValueError, TypeError)):
            names_said(names)
    for counts in ({"Q": 1}, {"K": -1}, {"K": True}, [["K", 1]]):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            counts_said(counts)
    assert refusal_said(["MISSING_UID", "Zorvathine", None]).detail == ""


def test_kinds_of_terms_are_those_of_an_identity() -> None:
    assert set(TERMS) == set(IdentityTerms.__dataclass_fields__)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uids_that_are_kept_name_no_path(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number, uid in enumerate(("../../../outside", "1.2.3/../../../outside", "/tmp/outside", "1.2..3", ".", "1.2.3\\4")):
        (dataset,) = make_ct_study(1, number=number)
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        dataset.SOPInstanceUID = dataset.StudyInstanceUID = dataset.SeriesInstanceUID = uid
        (tmp_path / "in" / f"{number}.dcm").write_bytes(part10_of(dataset))
    before = outputs(tmp_path)
    for screen in (clean_screen, None):
        report = DeidentifyRun(profile_of([Option.RETAIN_UIDS.value]), SECRET, screen).folder(tmp_path / "in", tmp_path / "in" / "out")
        assert (report["passed"], len(report["quarantined"])) == (0, 6) and outputs(tmp_path) == before


# -- what is written


def test_a_full_disk_ends_the_run_by_name_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices_in(tmp_path / "in", 3)
    write, count = file_passes._write, [0]

    def full(file: int, pieces: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            os.write(file, b"half")
            raise OSError(errno.ENOSPC, "injected")
        write(file, pieces)

    monkeypatch.setattr(file_passes, "_write", full)
    with pytest.raises(OSError) as failed:
        DeidentifyRun(BASIC, SECRET, clean_screen).folder(tmp_path / "in", tmp_path / "out")
    assert (failed.value.errno, failed.value.filename) == (errno.ENOSPC, "1.dcm")
    assert len(outputs(tmp_path / "out")) == 1


@pytest.mark.parametrize("has_nameless", [True, False])
def test_a_file_has_its_name_when_it_is_whole_in_place_of_what_had_it(tmp_path: Path, has_nameless: bool) -> None:
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "b").symlink_to(precious)
    (tmp_path / "out" / "a" / "c").write_text("older")
    files = OutputFiles(tmp_path / "out")
    files._has_nameless = files._has_nameless and has_nameless
    first, second, third = files.wanted(3)
    for descriptor in (first, second, third):
        os.write(descriptor, b"newer")
    files.name(0, "a", "b")
    files.name(1, "a", "c")
    files.settle()
    files.drop()
    assert outputs(tmp_path / "out") == {"a/b": b"newer", "a/c": b"newer"}
    assert precious.read_text() == "untouched" and not (tmp_path / "out" / "a" / "b").is_symlink()
    with pytest.raises(OSError):
        os.fstat(third)


@pytest.mark.parametrize(("content", "code", "words"), [(b"no archive" * 100, 2, "not a tar archive"), (b"", 2, "not a tar archive")])
def test_the_command_says_what_an_archive_is_refused_for(tmp_path: Path, content: bytes, code: int, words: str) -> None:
    (tmp_path / "x.tar.gz").write_bytes(content)
    ended = CliRunner().invoke(app, ["deidentify", str(tmp_path / "x.tar.gz"), str(tmp_path / "out"), "--option", "basic"])
    assert ended.exit_code == code and words in ended.output and not (tmp_path / "out").exists()


def test_files_that_did_not_all_come_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_serve, "DESCRIPTORS_MAX", 1)
    ours, its = socket.socketpair()
    with ours, its, open(os.devnull) as one:
        socket.send_fds(ours, [b"\0"], [one.fileno()])
        (came,) = file_serve._handed(its) or [-1]
        os.close(came)
        socket.send_fds(ours, [b"\0"], [one.fileno()] * 3)
        with pytest.raises(EOFError):
            file_serve._handed(its)
        ours.close()
        assert file_serve._handed(its) is None


def test_limits_reach_the_child() -> None:
    limits = FileLimits(address_space_bytes=3 << 30, seconds_per_instance=7.0)
    child = FileChild(BASIC, compress=False, pseudonym_of=str, study_of=lambda _: None, limits=limits)
    child.start()
    said = Path(f"/proc/{child.pid}/limits").read_text()
    child.close()
    line = next(one for one in said.splitlines() if one.startswith("Max address space"))
    assert line.split()[-2] == str(3 << 30) and child.pid is None

"""What `readgate deidentify` names is its own: whoever wrote it changes nothing of it afterwards, and no name is given twice."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from compliance.deid_profile import TELEREAD
from crypto.errors import RefusedContent
from gateway.deidentify_run import DeidentifyRun
from gateway.output_files import OutputFiles
from tests.builders import make_ct_study, part10_of
from tests.deid_samples import SECRET, clean_screen
from tests.test_file_child import outputs, refused, slices_in


@pytest.mark.parametrize("has_nameless", [True, False])
@pytest.mark.parametrize("kernel", ["copies", "refuses", "cannot"])
def test_who_wrote_a_file_has_no_hand_on_it_when_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_nameless: bool, kernel: str
) -> None:
    def refusing(*_: Any) -> int:
        raise OSError(errno.EXDEV, "injected")

    if kernel == "refuses":
        monkeypatch.setattr(os, "copy_file_range", refusing)
    elif kernel == "cannot":
        # macOS has no such call.
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    files = OutputFiles(tmp_path / "out")
    files._has_nameless = files._has_nameless and has_nameless
    written = os.urandom(3 << 20)
    (descriptor,) = files.wanted(1)
    os.write(descriptor, written)
    os.fchmod(descriptor, 0o4777)
    os.utime(descriptor, (0, 0))
    files.name(0, "a", "b")
    os.pwrite(descriptor, b"late", 0)
    os.ftruncate(descriptor, 10)
    named = tmp_path / "out" / "a" / "b"
    (tmp_path / "plain").touch()
    mode, plain = named.stat(), (tmp_path / "plain").stat()
    assert named.read_bytes() == written and mode.st_mode == plain.st_mode and stat.S_ISREG(mode.st_mode)
    assert (mode.st_uid, mode.st_nlink) == (plain.st_uid, 1) and mode.st_mtime > 1e9
    files.drop()
    assert list(outputs(tmp_path / "out")) == ["a/b"]


def test_what_is_handed_out_again_is_empty(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path)
    for round_ in (b"a longer one", b"short"):
        first, second = files.wanted(2)
        os.write(first, round_)
        os.write(second, b"never named")
        files.name(0, "a", round_.decode())
        files.settle()
    files.drop()
    assert outputs(tmp_path) == {"a/a longer one": b"a longer one", "a/short": b"short"}


@pytest.mark.parametrize("number", [-1, 2, True, "0", 0.0, None])
def test_only_what_was_wanted_is_named_and_once(tmp_path: Path, number: Any) -> None:
    files = OutputFiles(tmp_path)
    files.wanted(3)
    files.settle()
    files.wanted(2)
    with pytest.raises(IndexError):
        files.name(number, "a", "b")
    files.discard(0)
    files.name(1, "a", "c")
    for taken in (0, 1):
        with pytest.raises(IndexError):
            files.name(taken, "a", "b")
    files.drop()
    assert outputs(tmp_path) == {"a/c": b""}


def test_a_name_is_given_once_and_the_same_again_is_nothing(tmp_path: Path) -> None:
    files = OutputFiles(tmp_path)
    for number, descriptor in enumerate(files.wanted(3)):
        os.write(descriptor, b"another one" if number == 2 else b"the same")
    files.name(0, "a", "b")
    files.name(1, "a", "b")
    with pytest.raises(RefusedContent, match="DUPLICATE_UID_DIFFERENT_CONTENT"):
        files.name(2, "a", "b")
    files.drop()
    assert outputs(tmp_path) == {"a/b": b"the same"}


def test_two_instances_of_one_uid_are_one_that_passes_and_one_that_does_not(tmp_path: Path) -> None:
    (first,) = make_ct_study(1)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / name).write_bytes(part10_of(first))
    first.PixelData = bytes(len(first.PixelData))
    (tmp_path / "in" / "c").write_bytes(part10_of(first))
    for _ in range(2):
        report = DeidentifyRun(TELEREAD, SECRET, clean_screen).folder(tmp_path / "in", tmp_path / "out")
        assert (report["passed"], refused(report)) == (2, {"c": "DUPLICATE_UID_DIFFERENT_CONTENT"})
        assert len(outputs(tmp_path / "out")) == 1


@pytest.mark.parametrize("kind", ["learn", "make"])
@pytest.mark.parametrize("is_archive", [True, False])
def test_a_child_that_says_nothing_of_a_file_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_archive: bool) -> None:
    from tests.test_file_child import packed

    slices_in(tmp_path / "in", 3)
    source = packed(tmp_path / "in", tmp_path / "x.tar") if is_archive else tmp_path / "in"
    run = DeidentifyRun(TELEREAD, SECRET, clean_screen)
    asked, times = run._passes.asked, [0]

    def fewer(question: dict[str, Any], descriptors: Sequence[int]) -> Iterator[dict[str, Any]]:
        for answer in asked(question, descriptors):
            times[0] += kind in question
            yield answer | {"results": answer["results"][:1]} if kind in question and times[0] == 1 else answer

    monkeypatch.setattr(run._passes, "asked", fewer)
    report = run.folder(source, tmp_path / "out")
    assert (report["passed"], report["quarantined"]) == (3, [])


def test_what_a_killed_run_left_does_not_stop_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    left = OutputFiles(tmp_path)
    left._has_nameless = False
    descriptors = [left._made()[0]]
    again = OutputFiles(tmp_path)
    again._has_nameless = False
    descriptors.append(again._made()[0])
    assert len(list(tmp_path.iterdir())) == 2
    for one in descriptors:
        os.close(one)

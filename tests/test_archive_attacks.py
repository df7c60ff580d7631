"""Archives made to hurt: bombs, holes, headers without end, names that lead elsewhere; each is refused by name, nothing else with it."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import pytest

from compliance.deid_profile import profile_of
from crypto.errors import BadInput
from gateway import deidentify_report
from gateway.deidentify_run import DeidentifyRun
from gateway.file_sources import Entry, opened
from tests.builders import make_ct_study, part10_of
from tests.deid_samples import SECRET, clean_screen

MEMORY_BYTES_MAX = 512 << 20
MIB = 1 << 20
BASIC = profile_of(["basic"])


def report_of(source: Path, destination: Path, **options: Any) -> dict[str, Any]:
    return DeidentifyRun(BASIC, SECRET, **options).folder(source, destination)


def refused(report: dict[str, Any]) -> dict[str, str]:
    return {entry["source"]: entry["reason"] for entry in report["quarantined"]}


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar_of(members: Sequence[tuple[tarfile.TarInfo, bytes]], format_: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def slices(count: int) -> list[bytes]:
    return [part10_of(dataset) for dataset in make_ct_study(count)]


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# -- what is in an archive


@pytest.mark.parametrize(
    "name", ["../../outside.dcm", "/tmp/outside.dcm", "a/../../../outside", "..", "x" * 5000, "nul\udcff\nname", "C:\\outside"]
)
def test_the_name_of_a_member_leads_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    good, bad = slices(1)[0], b"not DICOM at all"
    (tmp_path / "in" / "a.tar").write_bytes(tar_of([member(name, good), member(name, bad)]))
    before = everything_in(tmp_path)
    report = report_of(tmp_path / "in", tmp_path / "in" / "out", screen=clean_screen)
    assert (report["passed"], list(report["reasons"])) == (1, ["MALFORMED_DATASET"])
    made = everything_in(tmp_path) - before
    files = {one for one in made if one.endswith(".dcm")}
    assert len(files) == 1 and all(one.startswith("in/out") for one in made)
    assert all(part.startswith("2.25.") for part in Path(files.pop()).parts[2:])
    json.dumps(report, ensure_ascii=False).encode()


def test_links_devices_and_folders_are_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(slices(1)[0])
    kinds = {
        "symbolic": member("symbolic", kind=tarfile.SYMTYPE, linkname=str(tmp_path / "secret")),
        "hard": member("hard", kind=tarfile.LNKTYPE, linkname="one.dcm"),
        "device": member("device", kind=tarfile.CHRTYPE, devmajor=1, devminor=5),
        "block": member("block", kind=tarfile.BLKTYPE, devmajor=7, devminor=0),
        "pipe": member("pipe", kind=tarfile.FIFOTYPE),
    }
    (tmp_path / "a.tar").write_bytes(tar_of([member("one.dcm", slices(1)[0]), member("folder", kind=tarfile.DIRTYPE), *kinds.values()]))
    report = report_of(tmp_path / "a.tar", tmp_path / "out", screen=clean_screen)
    assert (report["passed"], refused(report)) == (1, {f"a.tar:{name}": "NOT_A_FILE" for name in kinds})
    assert all(stat.S_ISREG(path.lstat().st_mode) or path.is_dir() for path in (tmp_path / "out").rglob("*"))


def test_what_is_no_file_in_a_folder_is_named_and_not_waited_for(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "one.dcm").write_bytes(slices(1)[0])
    os.mkfifo(source / "pipe")
    (source / "loop").symlink_to(source)
    (source / "nowhere").symlink_to(tmp_path / "missing")
    report = report_of(source, tmp_path / "out", screen=clean_screen)
    assert (report["passed"], refused(report)) == (1, dict.fromkeys(("loop", "nowhere", "pipe"), "NOT_A_FILE"))


def test_archives_in_archives_are_not_opened(tmp_path: Path) -> None:
    inside = gzip.compress(tar_of([member("one.dcm", slices(1)[0])]))
    (tmp_path / "a.tar").write_bytes(tar_of([member("b.tar.gz", inside), member("one.dcm", slices(1)[0])]))
    report = report_of(tmp_path / "a.tar", tmp_path / "out", screen=clean_screen)
    assert (report["passed"], refused(report)) == (1, {"a.tar:b.tar.gz": "MALFORMED_DATASET"})


def test_a_link_to_a_file_is_not_followed_and_one_that_is_the_source_itself_is(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (tmp_path / "elsewhere").write_bytes(slices(1)[0])
    (source / "one.dcm").write_bytes(part10_of(make_ct_study(1, number=7)[0]))
    (source / "outside").symlink_to(tmp_path / "elsewhere")
    # It says that it is a file, and is the memory of whoever opens it.
    (source / "memory").symlink_to("/proc/self/mem")
    (tmp_path / "way").symlink_to(source)
    (tmp_path / "way.dcm").symlink_to(source / "one.dcm")
    for number, screen in enumerate((clean_screen, None)):
        report = report_of(tmp_path / "way", tmp_path / f"out{number}", screen=screen)
        assert (report["passed"], refused(report)) == (1, dict.fromkeys(("outside", "memory"), "NOT_A_FILE"))
    assert report_of(tmp_path / "way.dcm", tmp_path / "alone", screen=clean_screen)["passed"] == 1


def test_what_takes_the_place_of_a_file_is_not_opened(tmp_path: Path) -> None:
    good, link, pipe, below = (tmp_path / name for name in ("good", "link", "pipe", "below"))
    good.write_bytes(b"1")
    link.symlink_to(good)
    os.mkfifo(pipe)
    below.symlink_to("/proc/self")
    found = [Entry(path.name, str(path)) for path in (good, link, pipe, below / "mem", tmp_path, tmp_path / "gone")]
    with opened(found) as (files, problems):
        (descriptor,) = files.values()
        assert list(files) == found[:1] and not os.get_inheritable(descriptor)
    assert [one.reason_code for one in problems.values()] == ["NOT_A_FILE"] * 3 + ["FILE_UNREADABLE"] * 2
    with pytest.raises(OSError):
        os.fstat(descriptor)


# -- archives that are none


def _cut(whole: bytes, at: int) -> bytes:
    return whole[:at]


def _spoilt(whole: bytes) -> bytes:
    """With a header in the middle that is none, which `tarfile` takes for the end."""
    second = 512 + (len(slices(1)[0]) + 511) // 512 * 512
    return whole[:second] + b"\xff" * 512 + whole[second + 512 :]


def _pax_of(fields: dict[str, str]) -> bytes:
    return tar_of([member("one.dcm", slices(1)[0], pax_headers=fields), member("two.dcm", slices(2)[1])], tarfile.PAX_FORMAT)


def _long_names(count: int) -> bytes:
    """A header that says the next one has a long name, and so on."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    return (info.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")) * count


def _huge_header(kind: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 3 << 30
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(MIB)


def _without_end(whole: bytes) -> bytes:
    """The members alone: no block of zeros behind them."""
    return whole[: len(whole.rstrip(b"\0")) + 511 & ~511]


WHOLE = tar_of([member(f"{number}.dcm", data) for number, data in enumerate(slices(3))])
BROKEN: dict[str, Callable[[], bytes]] = {
    "cut in a member": lambda: _cut(WHOLE, len(WHOLE) // 2),
    "cut in a header": lambda: _cut(WHOLE, 512 + (len(slices(1)[0]) + 511) // 512 * 512 + 100),
    "cut between members": lambda: _cut(WHOLE, 512 + (len(slices(1)[0]) + 511) // 512 * 512),
    "a header that is none": lambda: _spoilt(WHOLE),
    "empty": lambda: b"",
    "no archive": lambda: b"no archive at all" * 100,
    "an end mark of one block": lambda: _without_end(WHOLE) + bytes(512),
    "a block of zeros between members": lambda: _without_end(WHOLE) + bytes(512) + WHOLE,
    "two archives, one behind the other": lambda: WHOLE + WHOLE,
    "a byte far behind the end": lambda: WHOLE + bytes(3 * MIB) + b"x",
    "two archives in one that is packed": lambda: gzip.compress(WHOLE + WHOLE),
    "two archives packed one by one": lambda: gzip.compress(WHOLE) + gzip.compress(WHOLE),
    "an end mark of one block when packed": lambda: gzip.compress(_without_end(WHOLE) + bytes(512)),
    "cut when packed": lambda: gzip.compress(WHOLE)[:-2000],
    "spoilt when packed": lambda: gzip.compress(WHOLE)[:5000] + b"\0" * 200 + gzip.compress(WHOLE)[5200:],
    "a size below nothing": lambda: _pax_of({"size": "-1024"}),
    "long names of long names": lambda: _long_names(5000),
    "a long name of 3 GB": lambda: _huge_header(tarfile.GNUTYPE_LONGNAME),
    "an extended header of 3 GB": lambda: _huge_header(tarfile.XHDTYPE),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_archive_is_refused_whole_and_the_rest_of_the_folder_goes_on(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "broken.tar").write_bytes(BROKEN[kind]())
    (source / "z.dcm").write_bytes(slices(1)[0])
    report = report_of(source, tmp_path / "out", screen=clean_screen)
    assert (report["passed"], refused(report)) == (1, {"broken.tar": "BROKEN_ARCHIVE"})
    with pytest.raises(BadInput, match="not a tar archive that can be read to its end"):
        report_of(source / "broken.tar", tmp_path / "alone", screen=clean_screen)
    assert not (tmp_path / "alone").exists()


# -- what swells: in the child, whose memory and the command's are measured together

MEASURED = """
import json, sys
from pathlib import Path
from compliance.deid_profile import profile_of
from gateway.deidentify_run import DeidentifyRun
def peak(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
run = DeidentifyRun(profile_of(["basic"]), bytes(16))
peaks, close = [0], run.child.close
def close_and_tell():
    if run.child.pid:
        peaks.append(peak(run.child.pid))
    close()
run.child.close = close_and_tell
report = run.folder(Path(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps([max(peaks), peak("self"), report]))
"""


def measured(source: Path, destination: Path) -> dict[str, Any]:
    """The report of a run whose command and child stayed small."""
    run = subprocess.run([sys.executable, "-c", MEASURED, str(source), str(destination)], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
    child, command, report = json.loads(run.stdout.splitlines()[-1])
    print(f"child {child >> 20} MB, command {command >> 20} MB")
    assert child < MEMORY_BYTES_MAX and command < MEMORY_BYTES_MAX
    assert isinstance(report, dict)
    return report


def zeros(opened: IO[bytes], size: int, head: bytes = b"") -> None:
    """A tar with one member of `size` zero bytes, and a good one behind it."""
    info = tarfile.TarInfo("zeros.dcm")
    info.size = size
    opened.write(info.tobuf(tarfile.GNU_FORMAT) + head)
    for _ in range((size - len(head) + 511) // 512 * 512 // MIB):
        opened.write(bytes(MIB))
    opened.write(tar_of([member("one.dcm", slices(1)[0])]))


def packed_zeros(path: Path, size: int) -> None:
    with gzip.open(path, "wb", 1) as file:
        zeros(file, size)


def many_zeros(path: Path) -> None:
    """Ten gigabytes, which one gzip member of ten megabytes says, and again."""
    info = tarfile.TarInfo("zeros.dcm")
    info.size = 10 << 30
    piece = gzip.compress(bytes(64 * MIB), 9)
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)) + piece * 160 + gzip.compress(tar_of([])))


def wide_window(path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 256 * MIB, "preset": 1}]
    with lzma.open(path, "wb", filters=filters) as file:
        zeros(file, 512 * MIB)


def holes(path: Path) -> None:
    """Four gigabytes less one of holes, as old GNU tar says them."""
    size = (4 << 30) - 1
    info = tarfile.TarInfo("holes.dcm")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (size - 512, 512)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(bytes(header) + bytes(512) + tar_of([member("one.dcm", slices(1)[0])]))


def a_large_file_of_nothing(path: Path) -> None:
    with path.open("wb") as file:
        file.write(part10_of(make_ct_study(1)[0])[:200])
        file.truncate(3 << 30)


def elements_without_end(path: Path) -> None:
    head = part10_of(make_ct_study(1)[0])
    start = head.index(b"\x08\x00\x05\x00CS")
    path.write_bytes(head[:start] + struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * (32 * MIB // 8))


#: What is written, its name, and the reason by which it goes.
BOMBS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "10 GB of zeros packed": (many_zeros, "bomb.tar.gz", "ARCHIVE_EXPANDS"),
    "600 MB of zeros packed": (lambda path: packed_zeros(path, 600 * MIB), "bomb.tgz", "ARCHIVE_EXPANDS"),
    "a window of 256 MB": (wide_window, "bomb.tar.xz", "ARCHIVE_EXPANDS"),
    "4 GB of holes": (holes, "bomb.tar:holes.dcm", "PIXELS_TOO_LARGE"),
    "3 GB of nothing": (a_large_file_of_nothing, "bomb.dcm", "PIXELS_TOO_LARGE"),
    "4 million elements": (elements_without_end, "bomb.dcm", "MALFORMED_DATASET"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_in_bounded_memory_and_the_rest_goes_on(tmp_path: Path, kind: str) -> None:
    make, name, reason = BOMBS[kind]
    source = tmp_path / "in"
    source.mkdir()
    make(source / name.partition(":")[0])
    (source / "z.dcm").write_bytes(slices(1)[0])
    report = measured(source, tmp_path / "out")
    assert report["passed"] >= 1 and refused(report)[name] in (reason, "WORKER_LIMIT") and len(report["quarantined"]) == 1
    (source / name.partition(":")[0]).unlink()


@pytest.mark.slow
def test_members_without_number_are_bounded(tmp_path: Path) -> None:
    """A tenth of what was measured by hand: memory does not grow with their number, and the report names no more than it may."""
    one = tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)
    with gzip.open(tmp_path / "many.tar.gz", "wb", 1) as file:
        for _ in range(100):
            file.write(one * 1000)
        file.write(tar_of([member("one.dcm", slices(1)[0])]))
    report = measured(tmp_path / "many.tar.gz", tmp_path / "out")
    assert (report["passed"], report["reasons"]) == (1, {"MALFORMED_DATASET": 100_000})


def test_a_report_names_no_more_files_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deidentify_report, "_LISTED_MAX", 3)
    (tmp_path / "a.tar").write_bytes(tar_of([member(f"{number}", b"nothing") for number in range(5)]))
    report = report_of(tmp_path / "a.tar", tmp_path / "out", screen=clean_screen)
    assert (len(report["quarantined"]), report["quarantined_unlisted"], report["reasons"]) == (3, 2, {"MALFORMED_DATASET": 5})

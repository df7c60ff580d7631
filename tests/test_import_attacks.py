"""`readgate import` of a medium that was made to hurt: nothing is opened but files, none takes much memory, and the rest is taken in."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlmodel import select

from compliance.part10 import dataset_of_file
from crypto.errors import BadInput, TemporarilyUnable
from gateway import file_import, intake_limits
from gateway.file_import import Import, import_files
from gateway.processing import original_of, study_key_of
from gateway.received import ReceivedInstance
from tests.builders import make_ct_study, part10_of, payload_of
from tests.faulty_disk import no_names
from tests.gateway_site import GatewaySite, gateway_site

MEMORY_BYTES_MAX = 512 << 20
MIB = 1 << 20


@pytest.fixture
def site(tmp_path: Path) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path / "site", has_study=False) as made:
        dicom = made.app.settings.dicom.model_copy(update={"free_bytes_floor": 1})
        made.app.settings = made.app.settings.model_copy(update={"dicom": dicom})
        yield made


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """With one good slice on it."""
    folder = tmp_path / "medium"
    folder.mkdir()
    (folder / "good.dcm").write_bytes(part10_of(make_ct_study(1)[0]))
    return folder


def taken(site: GatewaySite, medium: Path) -> Import:
    return import_files(site.app, medium, "h1", actor="op")


def kept(site: GatewaySite) -> set[str]:
    """Digests of what is in the spool."""
    with site.app.database.reading() as session:
        rows = session.exec(select(ReceivedInstance)).all()
    payloads = [original_of(site.app, study_key_of(site.app, row.received_study_pk), row).payload for row in rows]
    return {hashlib.sha256(payload).hexdigest() for payload in payloads}


def _tar(folder: Path) -> None:
    with tarfile.open(folder / "more.tar.gz", "w:gz") as archive:
        archive.add(folder / "good.dcm", "../../outside.dcm")


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "more.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "good.dcm", "../../outside.dcm")
        archive.writestr("zeros", bytes(64 * MIB))


def _bomb(folder: Path) -> None:
    (folder / "bomb.gz").write_bytes(gzip.compress(bytes(64 * MIB), 9) * 20)


@pytest.mark.parametrize("make", [_tar, _zip, _bomb])
def test_archives_are_not_opened(site: GatewaySite, medium: Path, make: Callable[[Path], None]) -> None:
    make(medium)
    before = {path for path in medium.parent.rglob("*") if not path.is_relative_to(medium.parent / "site")}
    result = taken(site, medium)
    assert (result.received, result.not_dicom, result.refused) == (1, 1, {})
    assert {path for path in medium.parent.rglob("*") if not path.is_relative_to(medium.parent / "site")} == before


def test_links_pipes_and_folders_without_end_are_left_alone(site: GatewaySite, medium: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.dcm").write_bytes(part10_of(make_ct_study(1, number=7)[0]))
    (medium / "link.dcm").symlink_to(tmp_path / "outside.dcm")
    (medium / "loop").symlink_to(medium)
    os.mkfifo(medium / "pipe")
    # Deeper than functions may call one another.
    folder = os.open(medium, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=folder)
        inner = os.open("d", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    try:
        result = taken(site, medium)
    finally:
        # pytest, for one, could not remove them.
        subprocess.run(["rm", "-r", str(medium / "d")], check=True)
    assert (result.received, result.not_dicom, result.refused) == (1, 0, {})


@pytest.mark.parametrize("is_bare", [False, True])
@pytest.mark.parametrize("over", [-1, 0, 1, 100])
def test_a_file_of_more_than_a_window_is_kept_bit_for_bit(
    site: GatewaySite, medium: Path, monkeypatch: pytest.MonkeyPatch, is_bare: bool, over: int
) -> None:
    dataset = make_ct_study(1, 128, 128, number=5)[0]
    dataset.PixelData = np.random.default_rng(1).integers(0, 255, len(dataset.PixelData), np.uint8).tobytes()
    content = payload_of(dataset) if is_bare else part10_of(dataset)
    monkeypatch.setattr(file_import, "WINDOW_BYTES", len(content) // 3 if over == 100 else len(content) - over)
    (medium / "large").write_bytes(content)
    assert taken(site, medium).received == 2
    assert hashlib.sha256(dataset_of_file(content)[0]).hexdigest() in kept(site)
    assert taken(site, medium).received == 2 and len(kept(site)) == 2


def test_a_large_file_that_names_another_instance_or_none_is_not_taken(
    site: GatewaySite, medium: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_import, "WINDOW_BYTES", 4096)
    dataset = make_ct_study(1, 128, 128, number=5)[0]
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    (medium / "other.dcm").write_bytes(part10_of(dataset))
    (medium / "noise").write_bytes(np.random.default_rng(2).bytes(20_000))
    (medium / "zeros").write_bytes(bytes(20_000))
    result = taken(site, medium)
    assert (result.received, result.not_dicom, result.refused) == (1, 2, {"UID_MISMATCH": 1})


def test_a_file_that_cannot_be_read_is_one_file(site: GatewaySite, medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (medium / "a scratch.dcm").write_bytes(part10_of(make_ct_study(1, number=5)[0]))
    window = file_import._window

    def scratched(file: Any) -> bytes:
        if "scratch" in str(file.name):
            raise OSError(errno.EIO, "injected")
        return window(file)

    monkeypatch.setattr(file_import, "_window", scratched)
    result = taken(site, medium)
    assert (result.received, result.refused) == (1, {"FILE_UNREADABLE": 1})


def test_a_folder_that_cannot_be_read_is_one_file(site: GatewaySite, medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (medium / "scratched" / "below").mkdir(parents=True)
    no_names(monkeypatch, medium / "scratched")
    result = taken(site, medium)
    assert (result.received, result.refused) == (1, {"FILE_UNREADABLE": 1})
    no_names(monkeypatch, medium)
    with pytest.raises(BadInput, match="cannot be read"):
        taken(site, medium)


def test_a_failing_disk_of_ours_is_not_the_mediums_fault(site: GatewaySite, medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted as the medium's, a whole medium would be "unreadable", and the import a success."""

    def failed(_path: Path) -> int:
        raise OSError(errno.EIO, "statvfs of the spool")

    monkeypatch.setattr(intake_limits, "free_bytes", failed)
    with pytest.raises(TemporarilyUnable):
        taken(site, medium)
    monkeypatch.undo()
    assert taken(site, medium).received == 1


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_file_that_is_another_thing_once_it_is_opened_is_one_file(
    site: GatewaySite, medium: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    """Between the look at its folder and its opening. A pipe would be waited for without end, a link reach out of the medium."""
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(part10_of(make_ct_study(1, number=7)[0]))
    other = medium / "other.dcm"
    other.symlink_to(outside) if kind == "link" else os.mkfifo(other)
    monkeypatch.setattr(file_import, "regular_files", lambda _source: iter(sorted(medium.iterdir())))
    result = taken(site, medium)
    assert (result.received, result.refused) == (1, {"FILE_UNREADABLE": 1})


def test_a_link_that_the_operator_names_is_followed(site: GatewaySite, medium: Path, tmp_path: Path) -> None:
    (tmp_path / "link.dcm").symlink_to(medium / "good.dcm")
    assert taken(site, tmp_path / "link.dcm").received == 1


def test_a_file_that_grows_over_the_bound_is_refused(site: GatewaySite, medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_import, "WINDOW_BYTES", 4096)
    (medium / "good.dcm").unlink()
    (medium / "grows.dcm").write_bytes(content := part10_of(make_ct_study(1, 128, 128)[0]))
    dicom = site.app.settings.dicom.model_copy(update={"instance_bytes_max": len(content)})
    site.app.settings = site.app.settings.model_copy(update={"dicom": dicom})
    begin = file_import.instance_of_head

    def grow(data: bytes) -> Any:
        with (medium / "grows.dcm").open("ab") as file:
            file.write(bytes(100))
        return begin(data)

    monkeypatch.setattr(file_import, "instance_of_head", grow)
    result = taken(site, medium)
    assert (result.received, result.refused) == (0, {"INSTANCE_TOO_LARGE": 1})
    assert kept(site) == set()


MEASURED = """
import json, sys
from pathlib import Path
from gateway.file_import import import_files
from tests.gateway_site import gateway_site
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
with gateway_site(Path(sys.argv[2]), has_study=False) as site:
    dicom = site.app.settings.dicom.model_copy(update={"free_bytes_floor": 1})
    site.app.settings = site.app.settings.model_copy(update={"dicom": dicom})
    result = import_files(site.app, Path(sys.argv[1]), "h1", actor="op")
    print(json.dumps([peak(), result.document()]))
"""


def _elements(path: Path) -> None:
    head = part10_of(make_ct_study(1)[0])
    start = head.index(b"\x08\x00\x05\x00CS")
    path.write_bytes(head[:start] + struct.pack("<HH2sH", 0x0009, 0x0010, b"LO", 0) * (15 * MIB // 8))


def _holes(path: Path) -> None:
    with path.open("wb") as file:
        file.write(part10_of(make_ct_study(1, number=9)[0])[:200])
        file.truncate(1900 * 1000 * 1000)


def _large(path: Path) -> None:
    """A good multi-frame of 400 MB, its pixels left out on the disk."""
    payload = payload_of(make_ct_study(1, number=9)[0])
    at = payload.index(b"\xe0\x7f\x10\x00")
    with path.open("wb") as file:
        file.write(payload[:at] + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 400 * MIB))
        file.truncate(at + 12 + 400 * MIB)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "received", "left_out"), [(_elements, 1, 1), (_holes, 1, 1), (_large, 2, 0)], ids=["2 million elements", "holes", "400 MB"]
)
def test_no_file_takes_more_memory_than_some_windows(
    medium: Path, tmp_path: Path, make: Callable[[Path], None], received: int, left_out: int
) -> None:
    make(medium / "large")
    run = subprocess.run([sys.executable, "-c", MEASURED, str(medium), str(tmp_path / "site")], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
    peak, document = json.loads(run.stdout.splitlines()[-1])
    print(f"peak {peak >> 20} MB")
    assert peak < MEMORY_BYTES_MAX and document == {"received": received, "not_dicom": left_out, "refused": {}}

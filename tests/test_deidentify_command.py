"""`readgate deidentify`: files, folders and archives in, pseudonymous files, mapping and report out."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import typer
from pydicom import dcmread
from typer.testing import CliRunner

from compliance.deid_profile import TELEREAD
from crypto.errors import BadInput
from gateway.deidentify_command import mount, write_mapping
from gateway.deidentify_run import DeidentifyRun
from tests.builders import make_ct_study, part10_of, payload_of
from tests.deid_samples import SECRET, clean_screen

app = typer.Typer()
mount(app)


@app.callback()
def root() -> None:
    """One more command than one, so that the name must be given."""


def sample_folder(folder: Path) -> Path:
    (folder / "MUSTERMANN").mkdir(parents=True)
    one, two = make_ct_study(2)
    (folder / "MUSTERMANN" / "one.dcm").write_bytes(part10_of(one))
    (folder / "MUSTERMANN" / "bare").write_bytes(payload_of(two))
    (folder / "notes.txt").write_text("not DICOM at all")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.dcm")}


def test_folder_with_secret_gives_the_same_output_twice_and_lists_the_rest(tmp_path: Path) -> None:
    source = sample_folder(tmp_path / "in")
    runs = []
    for name in ("a", "b"):
        run = DeidentifyRun(TELEREAD, SECRET, clean_screen)
        report = run.folder(source, tmp_path / name)
        assert (report["passed"], [entry["reason"] for entry in report["quarantined"]]) == (2, ["MALFORMED_DATASET"])
        runs.append(files_of(tmp_path / name))
    assert runs[0] == runs[1] and len(runs[0]) == 2
    assert not any("MUSTERMANN" in name for name in runs[0])


def test_archive_and_mapping(tmp_path: Path) -> None:
    dataset = make_ct_study(1)[0]
    data = part10_of(dataset)
    with tarfile.open(tmp_path / "in.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("x/y.dcm")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    run = DeidentifyRun(TELEREAD, SECRET, clean_screen)
    assert run.folder(tmp_path / "in.tar.gz", tmp_path / "out")["passed"] == 1
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "uid_mapping.csv").touch(mode=0o644)
    write_mapping(run, tmp_path / "map")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "map").iterdir()} == {0o600}
    with (tmp_path / "map" / "uid_mapping.csv").open() as file:
        uids = {row["id_old"]: row["id_new"] for row in csv.DictReader(file)}
    with (tmp_path / "map" / "patid_mapping.csv").open() as file:
        patients = {row["id_old"]: row["id_new"] for row in csv.DictReader(file)}
    output = dcmread(next((tmp_path / "out").rglob("*.dcm")))
    assert uids[dataset.SOPInstanceUID] == output.SOPInstanceUID
    assert patients == {dataset.PatientID: output.PatientID}


def test_command_reports_and_exits_by_outcome(tmp_path: Path) -> None:
    source = sample_folder(tmp_path / "in")
    runner = CliRunner()
    (tmp_path / "secret").write_bytes(SECRET)
    arguments = [
        "deidentify",
        str(source),
        str(tmp_path / "out"),
        "--secret",
        str(tmp_path / "secret"),
        "--report",
        str(tmp_path / "r.json"),
    ]
    assert runner.invoke(app, arguments).exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())["table_edition"] == "2026c"
    assert runner.invoke(app, ["deidentify", str(tmp_path / "none"), str(tmp_path / "o")]).exit_code == 2
    assert runner.invoke(app, [*arguments, "--option", "nonsense"]).exit_code == 2
    only_text = tmp_path / "text"
    only_text.mkdir()
    (only_text / "a").write_text("nothing")
    assert runner.invoke(app, ["deidentify", str(only_text), str(tmp_path / "o"), "--option", "basic"]).exit_code == 1


def test_empty_folder_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput):
        DeidentifyRun(TELEREAD, SECRET, clean_screen).folder(tmp_path / "empty", tmp_path / "out")


def test_archives_plain_and_packed_headers_long_and_cut_give_what_files_give(tmp_path: Path) -> None:
    """Pass one reads the beginning of a file only: a header longer than that, and a file cut in its pixels, must not be lost by it."""
    datasets = make_ct_study(4, 128, 128)
    datasets[2].add_new(0x00190010, "LO", "SOMEBODY")
    datasets[2].add_new(0x00191001, "OB", b"\0\1" * 40_000)
    files = {f"{number}.dcm": part10_of(dataset) for number, dataset in enumerate(datasets)}
    files["3.dcm"] = files["3.dcm"][:-100]
    (tmp_path / "in").mkdir()
    for name, data in files.items():
        (tmp_path / "in" / name).write_bytes(data)
    for kind, mode in (("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")):
        with tarfile.open(tmp_path / f"in.{kind}", mode) as archive:  # type: ignore[call-overload]
            archive.add(tmp_path / "in", "in")
    outputs = []
    for source in ("in", "in.tar", "in.tar.gz", "in.tar.xz"):
        run = DeidentifyRun(TELEREAD, SECRET, clean_screen, compress=source == "in.tar.gz")
        report = run.folder(tmp_path / source, tmp_path / f"out of {source}")
        assert (report["passed"], report["reasons"]) == (3, {"MALFORMED_DATASET": 1}), source
        outputs.append(files_of(tmp_path / f"out of {source}"))
    assert outputs[0] == outputs[1] == outputs[3] != outputs[2]
    assert outputs[0].keys() == outputs[2].keys()


def test_a_broken_archive_is_bad_input(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("one.dcm")
        data = part10_of(make_ct_study(1)[0])
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match="not a tar archive that can be read to its end"):
        DeidentifyRun(TELEREAD, SECRET, clean_screen).folder(tmp_path / "cut.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("is_same_instance", [False, True])
def test_a_file_that_is_another_one_at_the_second_look_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_same_instance: bool
) -> None:
    one, two = make_ct_study(1)[0], make_ct_study(1, number=7)[0]
    if is_same_instance:
        two.SOPInstanceUID = one.SOPInstanceUID
    (tmp_path / "one.dcm").write_bytes(part10_of(one))
    run = DeidentifyRun(TELEREAD, SECRET, clean_screen)
    noted = run._noted

    def note_and_replace(name: str, number: int, result: Any) -> None:
        noted(name, number, result)
        (tmp_path / "one.dcm").write_bytes(part10_of(two))

    monkeypatch.setattr(run, "_noted", note_and_replace)
    report = run.folder(tmp_path / "one.dcm", tmp_path / "out")
    assert (report["passed"], report["reasons"]) == (0, {"UID_MISMATCH": 1})


def test_one_name_twice_in_an_archive_is_two_files(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        for dataset in make_ct_study(3):
            member = tarfile.TarInfo("slice.dcm")
            data = part10_of(dataset)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    report = DeidentifyRun(TELEREAD, SECRET, clean_screen).folder(tmp_path / "in.tar", tmp_path / "out")
    assert (report["passed"], report["reasons"]) == (3, {})

"""DICOM that nobody here wrote: a whole third-party study through all nine steps, and every loose file passed or refused with a reason."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlmodel import Session, col, select

from compliance.archive_members import Archive
from compliance.audit_checkpoint import verify_log
from compliance.burned_in import PixelScreening, screen_pixels
from compliance.deid_profile import profile_of
from compliance.pixel_child import PixelChild, PixelLimits
from compliance.quarantine import QuarantineItem
from compliance.study import Instance, Series, Study, series_of
from crypto.canonical import keyed_uid
from gateway.deidentify_run import DeidentifyRun
from gateway.demo_reader import DemoReader
from gateway.received import ReceivedInstance
from reporting.verification import verify_report_pdf
from tests.peers import corpus_dir, require_peer
from tests.running_site import RunningSite, eventually, running_site

pytestmark = pytest.mark.corpus

_SECRET = b"a secret of this test alone"
_NOT_DICOM = {".xz", ".md", ".json"}
_PIXELS_READ = 20
#: The patient of these is called Perfusion, so that this value of Image Type goes with the name.
_NAMED_LIKE_A_VALUE = "CT0012"


# --- a whole study -----------------------------------------------------------------------------------------------------------


def phantom() -> list[Dataset]:
    """One CT study of a plastic head: scout, 28 and 140 slices, and an exam summary with text in its pixels."""
    archive = next((corpus_dir() / "series").glob("*Philips_CT174*"))
    found: list[Dataset] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile():
                file = tar.extractfile(member)
                assert file is not None
                dataset = dcmread(io.BytesIO(file.read()))
                # A DIRFILE is a media directory: no instance, and no Storage SOP Class.
                if "SOPClassUID" in dataset:
                    found.append(dataset)
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_phantom_goes_through_all_nine_steps_and_its_summary_pages_do_not_hold_it_up(tmp_path: Path) -> None:
    sent = phantom()
    slices = {number: [one for one in sent if one.SeriesNumber == number] for number in (100, 201, 202)}
    assert [len(slices[number]) for number in (100, 201, 202)] == [1, 28, 140]
    with running_site(tmp_path) as site:
        # 1. to 4. received, de-identified, sealed, routed
        site.send(sent)
        uid = str(sent[0].StudyInstanceUID)
        study, step = site.routed(uid, seconds=600)
        with site.app.database.reading() as session:
            held = held_instances(session, site, uid)
            by_number = {series.number: series for series in series_of(session, study.study_pk or 0)}
        # Of the whole study only pages of text may be missing, each with its reason, and the reader is told how many.
        summary = {str(one.SOPClassUID) for one in sent if one.SeriesNumber == 401}
        assert study.instance_count + study.held_instances == len(sent) == 175
        assert {row.sop_class_uid for row, _ in held} <= summary and len(held) == study.held_instances
        assert all((item.reason_code, item.is_partial) == ("BURNED_IN_TEXT", True) for _, item in held)
        assert [by_number[number].instance_count for number in (100, 201, 202)] == [1, 28, 140]
        # 5. and 6. claimed, viewed: what the reader gets is what the scanner made, bit for bit
        reader = site.claim(step.procedure_step_uid)
        for number in (100, 201, 202):
            assert_same_pixels(site, reader, study, by_number[number], slices[number][len(slices[number]) // 2])
        # 7. and 8. written, signed
        site.sign(reader, step.procedure_step_uid)
        # 9. delivered under the phantom's own name and UID
        delivered = eventually(lambda: next(iter((site.received / "h1").glob("*.pdf")), None), 90, "the report was not delivered")
        eventually(lambda: next(iter((site.received / "h1").glob("*.hl7")), None), 90, "no ORU was delivered")
        verification = verify_report_pdf(delivered.read_bytes(), site.app.certificates.trust_roots())
        assert verification.is_valid and verification.source is not None, verification.checks
        assert verification.source.study.study_instance_uid == uid
        assert verification.source.patient.name.split("=")[0] == str(sent[0].PatientName)
        with site.app.database.reading() as session:
            assert verify_log(session, site.app.log_signer.public_key).is_sound


def held_instances(session: Session, site: RunningSite, uid: str) -> list[tuple[ReceivedInstance, QuarantineItem]]:
    received = site.received_study(session, uid)
    assert received is not None
    rows = session.exec(
        select(ReceivedInstance).where(
            ReceivedInstance.received_study_pk == received.received_study_pk, col(ReceivedInstance.held_item_pk).is_not(None)
        )
    ).all()
    items = {item.item_pk: item for item in session.exec(select(QuarantineItem)).all()}
    return [(row, items[row.held_item_pk]) for row in rows]


def assert_same_pixels(site: RunningSite, reader: DemoReader, study: Study, series: Series, original: Dataset) -> None:
    sop_instance_uid = keyed_uid(site.app.keys.secret("uid/h1"), str(original.SOPInstanceUID))
    with site.app.database.reading() as session:
        assert session.get(Instance, sop_instance_uid) is not None
    path = f"/dicom-web/studies/{study.study_instance_uid}/series/{series.series_instance_uid}/instances/{sop_instance_uid}/frames/1"
    shown = imagecodecs.htj2k_decode(reader.get_part(path))
    assert np.array_equal(shown.astype(np.int64) & 0xFFFF, original.pixel_array.astype(np.int64) & 0xFFFF)


# --- every loose file --------------------------------------------------------------------------------------------------------


def loose_files() -> list[Path]:
    return sorted(path for path in corpus_dir().rglob("*") if path.is_file() and path.suffix not in _NOT_DICOM)


def unread(dataset: Dataset, identity: Sequence[str]) -> PixelScreening:
    """The pixel step without a text detector: what is at risk is held, and no codec runs in this process."""
    return screen_pixels(dataset, list(identity), None)


def outcome_of(path: Path, folder: Path, screen: object) -> tuple[str, str]:
    """("passed", "") or (reason, detail) of one file alone; any other end fails the test by its own exception."""
    run = DeidentifyRun(profile_of([]), _SECRET, screen)  # type: ignore[arg-type]
    summary = run.folder(path, folder)
    assert summary["passed"] + len(summary["quarantined"]) == 1
    return ("passed", "") if summary["passed"] else (summary["quarantined"][0]["reason"], summary["quarantined"][0]["detail"])


def test_every_loose_file_alone_is_deidentified_or_refused_with_a_reason(tmp_path: Path) -> None:
    reasons: Counter[str] = Counter()
    for path in loose_files():
        reason, _ = outcome_of(path, tmp_path / "out", unread)
        assert reason == "passed" or re.fullmatch(r"[A-Z][A-Z_]+", reason), path.name
        reasons[reason] += 1
    # Half of them are whole, and no more than a few may be taken for damaged.
    assert reasons["passed"] > 150
    assert reasons["MALFORMED_DATASET"] < 15
    made = [dcmread(path) for path in sorted((tmp_path / "out").rglob("*.dcm"))]
    assert made and all(dataset.PatientIdentityRemoved == "YES" and str(dataset.SOPInstanceUID).startswith("2.25.") for dataset in made)


def test_pixels_of_loose_files_are_read_in_a_child_that_may_die_and_never_ends_the_run(tmp_path: Path) -> None:
    at_risk = [path for path in loose_files() if outcome_of(path, tmp_path / "first", unread)[1] == "OCR_UNAVAILABLE"]
    small = [path for path in at_risk if path.stat().st_size < 100_000]
    sample = small[:: max(1, len(small) // _PIXELS_READ)][:_PIXELS_READ]
    read_and_settled(sample, tmp_path / "second", seconds_per_instance=20)


@pytest.mark.slow
@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_pixels_of_every_loose_file_are_read_or_held(tmp_path: Path) -> None:
    read_and_settled(loose_files(), tmp_path, seconds_per_instance=30)


def read_and_settled(paths: Sequence[Path], folder: Path, *, seconds_per_instance: float) -> None:
    with PixelChild(PixelLimits(seconds_per_instance=seconds_per_instance)) as child:
        outcomes = {path.name: outcome_of(path, folder, child.screen) for path in paths}
    assert all(reason == "passed" or re.fullmatch(r"[A-Z][A-Z_]+", reason) for reason, _ in outcomes.values())
    assert "PIXEL_WORKER_DIED" not in {detail for _, detail in outcomes.values()}, outcomes


@pytest.mark.interop
def test_dciodvfy_finds_no_new_errors_in_what_passed(tmp_path: Path) -> None:
    program = require_peer("dciodvfy")
    passed = [path for path in loose_files() if outcome_of(path, tmp_path / "all", unread)[0] == "passed"]
    for number, path in enumerate(passed[:: max(1, len(passed) // 30)]):
        out = tmp_path / str(number)
        outcome_of(path, out, unread)
        made = next(out.rglob("*.dcm"))
        is_htj2k = dcmread(made, stop_before_pixels=True).file_meta.TransferSyntaxUID.startswith("1.2.840.10008.1.2.4.20")
        if is_htj2k or path.name.startswith(_NAMED_LIKE_A_VALUE):
            # dciodvfy knows no HTJ2K and reads nothing of such a file.
            continue
        new = errors(program, made) - errors(program, path)
        assert not new, (path.name, new)


def errors(program: str, path: Path) -> set[str]:
    """What dciodvfy calls an error, without the UIDs it quotes."""
    said = subprocess.run([program, str(path)], capture_output=True, timeout=60, check=False).stderr.decode("latin-1")
    return {re.sub(r"[0-9]+(\.[0-9]+){2,}", "UID", line) for line in said.splitlines() if line.startswith("Error")}


def test_archive_members_are_named_without_being_unpacked_to_disk() -> None:
    archive = Archive(os.open(next((corpus_dir() / "series").glob("*MR16*")), os.O_RDONLY))
    members = list(iter(archive.next, None))
    archive.close()
    assert len([one for one in members if one.read is not None]) >= 16

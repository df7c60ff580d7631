"""Whose an instance is, at every door by which it can come: C-STORE, STOW-RS and import refuse or hold the same things."""

from __future__ import annotations

import copy
import itertools
import socket
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import cast

import pydicom
import pytest
from pydicom.dataset import Dataset
from sqlmodel import select

from compliance.crosswalk import study_lookup
from compliance.quarantine import QuarantineItem, QuarantineState
from compliance.study import Study
from gateway.file_import import import_files
from gateway.processing import original_of, study_key_of
from gateway.received import ReceivedInstance, ReceivedState, ReceivedStudy
from gateway.server import make_receiver
from gateway.spool_index import SpoolIndex
from gateway.upload_credential import create_upload_credential
from tests.builders import make_ct_study, payload_of
from tests.dicom_peers import EXPLICIT_LE, associate_rq, c_store_rq, pdu, pdv
from tests.gateway_site import PAGE, GatewaySite, gateway_site
from tests.kill_sender import _read_pdu, _status
from tests.test_stow import element, multipart, post

EXPLICIT = "1.2.840.10008.1.2.1"
MR = "1.2.840.10008.5.1.4.1.1.4"
#: Sends files; how many of them were taken.
Door = Callable[[Sequence[bytes]], int]
DOORS = ["C-STORE", "STOW-RS", "import"]
_numbers = itertools.count(900)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path_factory.mktemp("doors") / "site", has_study=False) as made:
        yield made


@pytest.fixture(scope="module")
def doors(site: GatewaySite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Door]]:
    app = site.app
    dicom = app.settings.dicom.model_copy(update={"plaintext_port": 0, "tls_port": None, "free_bytes_floor": 1})
    app.settings = app.settings.model_copy(update={"dicom": dicom})
    index = SpoolIndex(app.database, app.spool)
    index.start()
    receiver = make_receiver(app, index)
    receiver.start()
    host, port = receiver.addresses[0]
    _, token = create_upload_credential(app.database, "h1", "archive", actor="op", now=app.now())

    def associate(files: Sequence[bytes]) -> int:
        statuses = [_c_store(host, port, content) for content in files]
        assert index.flush()
        return statuses.count(0x0000)

    def upload(files: Sequence[bytes]) -> int:
        answer = post(site, token, multipart(*files))
        assert answer.status_code in (200, 202, 409), answer.text
        return len(answer.json().get("00081199", {}).get("Value", []))

    def take_in(files: Sequence[bytes]) -> int:
        folder = tmp_path_factory.mktemp("medium")
        for number, content in enumerate(files):
            (folder / f"{number}.dcm").write_bytes(content)
        return import_files(app, folder, "h1", actor="op").received

    yield {"C-STORE": associate, "STOW-RS": upload, "import": take_in}
    receiver.stop(1.0)
    index.stop()


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    return doors[request.param]


def _c_store(host: str, port: int, content: bytes) -> int:
    """The status of the instance in this file, sent under the class and UID that its file meta information says."""
    meta = pydicom.dcmread(BytesIO(content), stop_before_pixels=True).file_meta
    payload = content[content.index(b"DICM") + 16 + meta.FileMetaInformationGroupLength :]
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(associate_rq({1: (meta.MediaStorageSOPClassUID, [EXPLICIT_LE])}, calling="H1_PACS"))
        assert _read_pdu(connection)[0] == 2
        message = pdu(4, pdv(1, 3, c_store_rq(meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID)))
        connection.sendall(message + pdu(4, pdv(1, 2, payload)))
        return _status(_read_pdu(connection))


def study(instances: int = 2) -> list[Dataset]:
    return make_ct_study(instances=instances, number=next(_numbers))


def file_of(dataset: Dataset, *, instance: str = "", sop_class: str = "") -> bytes:
    """A Part 10 file whose file meta information, and so the C-STORE command, may say something else than its data set."""
    meta = element(1, b"OB", b"\0\1") + element(2, b"UI", (sop_class or dataset.SOPClassUID).encode())
    meta += element(3, b"UI", (instance or dataset.SOPInstanceUID).encode()) + element(0x10, b"UI", EXPLICIT.encode())
    return bytes(128) + b"DICM" + element(0, b"UL", len(meta).to_bytes(4, "little")) + meta + payload_of(dataset)


def received(site: GatewaySite, dataset: Dataset) -> tuple[ReceivedStudy | None, list[ReceivedInstance]]:
    lookup = study_lookup(site.app.keys, "h1", dataset.StudyInstanceUID)
    with site.app.database.reading() as session:
        found = session.exec(select(ReceivedStudy).where(ReceivedStudy.study_lookup == lookup)).first()
        pk = found.received_study_pk if found is not None else None
        return found, list(session.exec(select(ReceivedInstance).where(ReceivedInstance.received_study_pk == pk)).all())


def process(site: GatewaySite, dataset: Dataset) -> str:
    found, _ = received(site, dataset)
    assert found is not None and found.received_study_pk is not None
    with site.app.database.transaction() as session:
        row = session.get(ReceivedStudy, found.received_study_pk)
        assert row is not None
        if row.state == ReceivedState.RECEIVING:
            row.state, row.complete_at = ReceivedState.COMPLETE, site.app.now()
            session.add(row)
    return site.process(found.received_study_pk)


def item(site: GatewaySite, dataset: Dataset) -> QuarantineItem:
    found, _ = received(site, dataset)
    assert found is not None
    with site.app.database.reading() as session:
        return session.exec(
            select(QuarantineItem).where(
                QuarantineItem.received_study_pk == found.received_study_pk, QuarantineItem.state == QuarantineState.HELD
            )
        ).one()


def page_of(site: GatewaySite, held: QuarantineItem) -> str:
    return cast(str, site.client("h1").get(f"/quarantine/{held.item_pk}", headers=PAGE).text)


def test_several_patients_in_one_study_are_held_whole(site: GatewaySite, door: Door) -> None:
    datasets = study(3)
    datasets[2].PatientID = "SOMEBODY-ELSE"
    assert door([file_of(one) for one in datasets]) == 3
    assert process(site, datasets[0]) == ""
    held = item(site, datasets[0])
    assert (held.reason_code, held.element_tag, held.instance_count, held.is_partial) == ("SEVERAL_PATIENT_IDS", "(0010,0020)", 3, False)
    page = page_of(site, held)
    assert "name different patients" in page and "SOMEBODY-ELSE" not in page


def test_one_instance_uid_under_two_patients_is_held_and_the_first_study_stays_as_it_is(site: GatewaySite, door: Door) -> None:
    first, second = study(1), study(2)
    second[0].SOPInstanceUID = first[0].SOPInstanceUID
    for one in second:
        one.PatientID = "SOMEBODY-ELSE"
    assert door([file_of(one) for one in first]) == 1
    standing = process(site, first[0])
    assert standing
    with site.app.database.reading() as session:
        before = session.exec(select(Study.manifest_digest).where(Study.study_instance_uid == standing)).one()
    assert door([file_of(one) for one in second]) == 2
    assert process(site, second[0]) == ""
    assert item(site, second[0]).reason_code == "DUPLICATE_UID_DIFFERENT_CONTENT"
    with site.app.database.reading() as session:
        assert session.exec(select(Study.manifest_digest).where(Study.study_instance_uid == standing)).one() == before


@pytest.mark.parametrize("what", ["instance", "sop_class"])
def test_other_uid_or_class_than_the_data_sets_is_refused_and_kept_nowhere(site: GatewaySite, door: Door, what: str) -> None:
    dataset = study(1)[0]
    wrong = {"instance": dataset.SOPInstanceUID + ".1"} if what == "instance" else {"sop_class": MR}
    assert door([file_of(dataset, **wrong)]) == 0
    assert received(site, dataset) == (None, [])


def test_same_bytes_again_are_no_second_instance(site: GatewaySite, door: Door) -> None:
    datasets = study(2)
    files = [file_of(one) for one in datasets]
    assert door(files) == 2 and door(files[:1]) == 1
    found, rows = received(site, datasets[0])
    assert found is not None and found.instance_count == 2
    assert sorted(row.is_duplicate for row in rows) == [False] * 2 + [True] * (len(rows) - 2) and not any(
        row.is_conflicting for row in rows
    )
    assert process(site, datasets[0])


def test_other_bytes_under_one_uid_are_kept_apart_shown_and_settled_by_a_person(site: GatewaySite, door: Door) -> None:
    datasets = study(2)
    other = copy.deepcopy(datasets[0])
    other.ImageComments = "Another one."
    assert door([file_of(one) for one in datasets]) == 2 and door([file_of(other)]) == 1
    found, rows = received(site, datasets[0])
    assert found is not None and found.received_study_pk is not None and len(rows) == 3
    assert sum(row.is_conflicting for row in rows) >= 1 and not any(row.is_duplicate for row in rows)
    key = study_key_of(site.app, found.received_study_pk)
    assert {original_of(site.app, key, row).payload for row in rows} == {payload_of(one) for one in (*datasets, other)}
    assert process(site, datasets[0]) == ""
    held = item(site, datasets[0])
    page = page_of(site, held)
    assert held.reason_code == "DUPLICATE_UID_DIFFERENT_CONTENT" and "Both are kept" in page and 'value="KEEP_LAST"' in page
    assert site.post("h1", f"/quarantine/{held.item_pk}/repair", repair="KEEP_LAST", reason="sent again").status_code == 303
    assert process(site, datasets[0])
    kept = [row for row in received(site, datasets[0])[1] if not row.is_duplicate]
    assert {original_of(site.app, key, row).payload for row in kept} == {payload_of(other), payload_of(datasets[1])}


def test_files_of_two_hospitals_do_not_meet(site: GatewaySite, tmp_path: Path) -> None:
    """One UID at two hospitals is two instances: nothing of one tells anything about the other."""
    dataset = study(1)[0]
    (tmp_path / "a.dcm").write_bytes(file_of(dataset))
    for hospital_id in ("h1", "h2"):
        assert import_files(site.app, tmp_path, hospital_id, actor="op").received == 1
    with site.app.database.reading() as session:
        studies = session.exec(select(ReceivedStudy).where(ReceivedStudy.state == ReceivedState.RECEIVING)).all()
    assert {row.hospital_id for row in studies if row.instance_count == 1} >= {"h1", "h2"}

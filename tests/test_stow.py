"""STOW-RS: the hospital's programs upload over HTTP what its scanners send by C-STORE, with the same guarantees."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from sqlmodel import select

from compliance.audit import AuditEntry
from compliance.crosswalk import study_lookup
from crypto.errors import BadInput, NotAllowed, NotFound, RefusedContent
from gateway.intake import read_spooled_payload
from gateway.multipart_stream import MultipartReader, PartBegins, PartBytes, PartEnds, media_type_of
from gateway.part10_stream import read_part10_head
from gateway.received import ReceivedInstance, ReceivedStudy
from gateway.upload_credential import authorised_upload, create_upload_credential, revoke_upload_credential, upload_credentials
from tests.builders import make_ct_study as ct_study
from tests.builders import payload_of
from tests.gateway_site import EXPLICIT, GatewaySite, gateway_site

BOUNDARY = "0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1"
STUDIES = "/dicom-web/studies"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewaySite]:
    with gateway_site(tmp_path_factory.mktemp("stow"), has_study=False) as made:
        yield made


@pytest.fixture(scope="module")
def token(site: GatewaySite) -> str:
    return create_upload_credential(site.app.database, "h1", "archive", actor="op", now=site.clock())[1]


_numbers = itertools.count(700)


def make_ct_study(instances: int) -> list[Dataset]:
    """A study of its own each time."""
    return ct_study(instances=instances, number=next(_numbers))


def element(number: int, vr: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    head = struct.pack("<HH2s", 2, number, vr)
    return head + (struct.pack("<HI", 0, len(value)) if vr == b"OB" else struct.pack("<H", len(value))) + value


def part10(
    dataset: Dataset, *, syntax: str = EXPLICIT, preamble: bytes = bytes(128), payload: bytes | None = None, instance: str | None = None
) -> bytes:
    meta = element(1, b"OB", b"\0\1") + element(2, b"UI", dataset.SOPClassUID.encode())
    meta += element(3, b"UI", (instance or dataset.SOPInstanceUID).encode()) + element(0x10, b"UI", syntax.encode())
    body = payload_of(dataset) if payload is None else payload
    return preamble + b"DICM" + element(0, b"UL", struct.pack("<I", len(meta))) + meta + body


def multipart(*parts: bytes, media_type: str = "application/dicom") -> bytes:
    body = b"".join(b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (BOUNDARY.encode(), media_type.encode(), part) for part in parts)
    return body + b"--%s--\r\n" % BOUNDARY.encode()


def post(site: GatewaySite, token: str, body: bytes, path: str = STUDIES, **headers: str) -> Any:
    content_type = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
    fields = {"Authorization": f"Bearer {token}", "Content-Type": content_type, **headers}
    return site.anonymous().post(path, content=body, headers=fields)


def rows_of(site: GatewaySite, dataset: Dataset) -> list[ReceivedInstance]:
    lookup = study_lookup(site.app.keys, "h1", dataset.StudyInstanceUID)
    with site.app.database.reading() as session:
        study = session.exec(select(ReceivedStudy).where(ReceivedStudy.study_lookup == lookup)).first()
        if study is None:
            return []
        return list(session.exec(select(ReceivedInstance).where(ReceivedInstance.received_study_pk == study.received_study_pk)).all())


def failures(answer: Any, tag: str = "00081198") -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer.json()[tag]["Value"]]


def test_instances_are_kept_bit_for_bit_and_named_in_the_answer(site: GatewaySite, token: str) -> None:
    study = make_ct_study(instances=3)
    answer = post(site, token, multipart(*(part10(one) for one in study)))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+json")
    named = [item["00081155"]["Value"][0] for item in answer.json()["00081199"]["Value"]]
    assert named == [one.SOPInstanceUID for one in study]
    rows = rows_of(site, study[0])
    kept = {read_spooled_payload(site.app.spool, _position(row)) for row in rows}
    assert kept == {payload_of(one) for one in study}


def test_preamble_with_a_program_in_it_is_stored_nowhere(site: GatewaySite, token: str) -> None:
    (dataset,) = make_ct_study(instances=1)
    program = (b"MZ" + b"\x90" * 126)[:128]
    assert post(site, token, multipart(part10(dataset, preamble=program))).status_code == 200
    (row,) = rows_of(site, dataset)
    assert read_spooled_payload(site.app.spool, _position(row)) == payload_of(dataset)


def test_one_bad_instance_fails_alone_with_its_reason(site: GatewaySite, token: str) -> None:
    good, swapped = make_ct_study(instances=2)
    answer = post(site, token, multipart(part10(good), part10(swapped, instance="2.25.999"), b"no DICOM file" * 20))
    assert answer.status_code == 202
    assert failures(answer) == [0xA900]
    assert failures(answer, "0008119A") == [0xC000]
    assert len(rows_of(site, good)) == 1


@pytest.mark.parametrize(
    ("syntax", "sop_class", "reason"),
    [("1.2.840.10008.1.2.1.99", None, 0xC122), (EXPLICIT, "1.2.840.10008.1.3.10", 0x0122), (EXPLICIT, "1.2.3.4", 0x0122)],
    ids=["deflated", "dicomdir", "private class"],
)
def test_what_no_association_would_negotiate_is_refused(
    site: GatewaySite, token: str, syntax: str, sop_class: str | None, reason: int
) -> None:
    (dataset,) = make_ct_study(instances=1)
    if sop_class:
        dataset.SOPClassUID = sop_class
    answer = post(site, token, multipart(part10(dataset, syntax=syntax)))
    assert (answer.status_code, failures(answer)) == (409, [reason])
    assert not rows_of(site, dataset)


def test_study_of_the_address_is_the_study_of_the_instances(site: GatewaySite, token: str) -> None:
    (dataset,) = make_ct_study(instances=1)
    assert failures(post(site, token, multipart(part10(dataset)), f"{STUDIES}/2.25.1")) == [0xC409]
    assert post(site, token, multipart(part10(dataset)), f"{STUDIES}/{dataset.StudyInstanceUID}").status_code == 200
    assert post(site, token, multipart(part10(dataset)), f"{STUDIES}/..%2f..").status_code in (400, 404)


def test_instance_larger_than_the_window_is_kept_whole(site: GatewaySite, token: str) -> None:
    (dataset,) = make_ct_study(instances=1)
    dataset.add_new(0x7FE00010, "OW", bytes(40 * 1024 * 1024))
    body = multipart(part10(dataset))

    def pieces() -> Iterator[bytes]:
        view = memoryview(body)
        for start in range(0, len(body), 65536):
            yield bytes(view[start : start + 65536])

    fields = {"Authorization": f"Bearer {token}", "Content-Type": f'multipart/related; type="application/dicom"; boundary="{BOUNDARY}"'}
    answer = site.anonymous().post(STUDIES, content=pieces(), headers=fields)
    assert answer.status_code == 200
    (row,) = rows_of(site, dataset)
    assert read_spooled_payload(site.app.spool, _position(row)) == payload_of(dataset)


def test_same_upload_again_adds_nothing(site: GatewaySite, token: str) -> None:
    (dataset,) = make_ct_study(instances=1)
    for _ in range(2):
        assert post(site, token, multipart(part10(dataset))).status_code == 200
    assert sorted(row.is_duplicate for row in rows_of(site, dataset)) == [False, True]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/dicom"}, 415),
        ({"Content-Type": f'multipart/related; type="application/dicom+json"; boundary={BOUNDARY}'}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "multipart/related; type=application/dicom"}, 422),
        ({"Content-Type": "multipart/related; boundary=" + "x" * 71}, 422),
        ({"Authorization": "Bearer rgu_wrong"}, 401),
        ({"Authorization": "Basic cmd1Og=="}, 401),
    ],
)
def test_request_that_is_none_is_refused_before_anything_is_kept(
    site: GatewaySite, token: str, headers: dict[str, str], status: int
) -> None:
    (dataset,) = make_ct_study(instances=1)
    answer = post(site, token, multipart(part10(dataset)), **headers)
    assert answer.status_code == status
    assert not rows_of(site, dataset)


def test_body_cut_short_keeps_what_was_whole_and_says_so(site: GatewaySite, token: str) -> None:
    first, second = make_ct_study(instances=2)
    answer = post(site, token, multipart(part10(first), part10(second))[:-200])
    assert (answer.status_code, answer.json()["reason_code"]) == (422, "multipart_malformed")


def test_token_is_shown_once_audited_and_revocable(site: GatewaySite) -> None:
    database, now = site.app.database, site.clock()
    credential_id, token = create_upload_credential(database, "h2", "ris", actor="op", now=now)
    assert authorised_upload(database, f"Bearer {token}").hospital_id == "h2"
    with database.reading() as session:
        assert [row.credential_id for row in upload_credentials(session, "h2")] == [credential_id]
        assert token not in str(session.exec(select(AuditEntry)).all()) + str(upload_credentials(session, "h2"))
    for _ in range(2):
        revoke_upload_credential(database, credential_id, actor="op", now=now)
    with pytest.raises(NotAllowed):
        authorised_upload(database, f"Bearer {token}")
    with pytest.raises(NotFound):
        revoke_upload_credential(database, "nobody", actor="op", now=now)
    with pytest.raises(NotFound):
        create_upload_credential(database, "h9", "x", actor="op", now=now)
    with pytest.raises(BadInput):
        create_upload_credential(database, "h1", " ", actor="op", now=now)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_division_of_a_body_gives_the_same_parts(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.binary(max_size=200) | st.just(b"\r\n--" + BOUNDARY[:-1].encode()), min_size=1, max_size=4))
    body = b"preamble\r\n" + multipart(*parts)
    reader, found, position = MultipartReader(BOUNDARY), list[bytes](), 0
    while position < len(body):
        step = data.draw(st.integers(1, 120))
        for event in reader.feed(body[position : position + step]):
            if isinstance(event, PartBegins):
                assert event.headers["content-type"] == "application/dicom"
                found.append(b"")
            elif isinstance(event, PartBytes):
                found[-1] += event.data
            else:
                assert isinstance(event, PartEnds)
        position += step
    assert reader.is_complete
    assert found == parts


@given(st.lists(st.binary(max_size=300), max_size=5))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_end_in_events_or_refusal(pieces: list[bytes]) -> None:
    reader = MultipartReader("b")
    try:
        for piece in pieces:
            list(reader.feed(piece.replace(b"\x01", b"\r\n--b")))
    except RefusedContent:
        pass


@pytest.mark.parametrize("noise", [b"x" * 20_000, b"\r\n--b" + b"y" * 20_000, b"--b\r\nA: " + b"z" * 20_000])
def test_framing_is_bounded(noise: bytes) -> None:
    with pytest.raises(RefusedContent):
        list(MultipartReader("b").feed(noise))


def test_media_type_is_read_leniently_and_never_raises() -> None:
    assert media_type_of('Multipart/Related; TYPE="application/dicom"; boundary="a b"') == (
        "multipart/related",
        {"type": "application/dicom", "boundary": "a b"},
    )
    for nonsense in ("", ";;;", "text", "\x00/\xff;=", "a/b;\r\nc"):
        media_type_of(nonsense)


@given(st.binary(max_size=600))
@settings(max_examples=150, deadline=None)
def test_arbitrary_file_meta_is_refused_or_read(noise: bytes) -> None:
    for data in (noise, bytes(128) + b"DICM" + noise, bytes(128) + b"DICM" + element(0, b"UL", struct.pack("<I", len(noise))) + noise):
        try:
            head = read_part10_head(data)
        except RefusedContent:
            continue
        assert head is None or head.dataset_start <= len(data)


def _position(row: ReceivedInstance) -> Any:
    from crypto.spool import FramePosition

    return FramePosition(row.segment_id, row.frame_offset, row.frame_length)

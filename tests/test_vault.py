"""The vault, on a local folder and on S3: durable, write-once, and closed to every other key."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.aead_stream import CHUNK_BYTES
from crypto.errors import BadInput, IntegrityFailure, NotFound, TemporarilyUnable
from crypto.keys import FileKeyStore, StudyKey
from crypto.vault import PACK_HEADER, SealedObject, Vault, local_vault, s3_vault
from tests.faulty_disk import FaultyDisk, fail_every

KEY = StudyKey("h1", "study", bytes(range(32)))
OTHER_KEY = StudyKey("h1", "other", bytes(range(32)))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="the S3 server for tests is not installed")
    pytest.importorskip("flask", reason="the S3 server for tests is not installed")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    client.create_bucket(Bucket="packs")
    yield endpoint
    server.stop()


@pytest.fixture(params=["local", "s3"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Vault:
    if request.param == "local":
        return local_vault(tmp_path / "vault", pack_bytes_max=3_000_000)
    return s3_vault(
        "packs",
        prefix=os.urandom(4).hex(),
        endpoint=request.getfixturevalue("s3_endpoint"),
        region="us-east-1",
        access_key_id="test",
        secret_access_key="test",
        pack_bytes_max=3_000_000,
    )


def items(*lengths: int) -> list[tuple[str, bytes]]:
    return [(f"object{number}", os.urandom(length)) for number, length in enumerate(lengths)]


def test_objects_come_back_from_packs_of_bounded_length(vault: Vault) -> None:
    given_items = items(1000, 0, 1_000_000, 1_999_000, 5_000_000, 10, 2_000_000)
    sealed = vault.seal(KEY, iter(given_items))
    assert [one.object_id for one in sealed] == [object_id for object_id, _ in given_items]
    assert [vault.open(KEY, one) for one in sealed] == [payload for _, payload in given_items]
    packs = dict(vault.pack_names())
    assert {one.pack_name for one in sealed} == packs.keys()
    # The object that is longer than a pack may be has one to itself.
    assert sorted(length > 3_000_000 for length in packs.values()) == [False] * 3 + [True]
    for name, length in packs.items():
        inside = [(one.offset, one.length) for one in sealed if one.pack_name == name]
        assert list(vault.pack_objects(name)) == inside
        assert sum(size for _, size in inside) + len(PACK_HEADER) == length


def test_ranges_equal_slices(vault: Vault) -> None:
    payload = os.urandom(2 * CHUNK_BYTES + 500)
    small, large = vault.seal(KEY, [("small", payload[:900]), ("large", payload)])
    for start, length in [(0, 10), (CHUNK_BYTES - 5, 10), (2 * CHUNK_BYTES + 490, 100), (0, len(payload)), (10**9, 5), (7, 0)]:
        assert vault.open_range(KEY, large, start, length) == payload[start : start + length]
        assert vault.open_range(KEY, small, start, length) == payload[:900][start : start + length]


def test_nothing_to_seal_writes_nothing(vault: Vault) -> None:
    assert vault.seal(KEY, []) == []
    assert list(vault.pack_names()) == []


def test_deleted_pack_is_not_found_and_may_be_deleted_again(vault: Vault) -> None:
    (sealed,) = vault.seal(KEY, items(100))
    vault.delete_pack(sealed.pack_name)
    vault.delete_pack(sealed.pack_name)
    for act in (lambda: vault.open(KEY, sealed), lambda: list(vault.pack_objects(sealed.pack_name))):
        with pytest.raises(NotFound):
            act()


def test_wrong_key_place_or_name_opens_nothing(vault: Vault) -> None:
    one, two = vault.seal(KEY, items(5000, 5000))
    wrong: list[tuple[StudyKey, SealedObject]] = [
        (OTHER_KEY, one),
        (replace(KEY, tenant="h2"), one),
        (replace(KEY, _dek=bytes(32)), one),
        (KEY, replace(one, object_id="object1")),
        (KEY, replace(one, offset=two.offset)),
        (KEY, replace(one, offset=one.offset + 1)),
        (KEY, replace(one, length=one.length - 1)),
        (KEY, replace(two, length=two.length + 1)),
        (KEY, replace(two, offset=10**9)),
    ]
    for key, sealed in wrong:
        for act in (vault.open, lambda key, sealed: vault.open_range(key, sealed, 0, 10)):
            with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
                act(key, sealed)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "ab/" + "c" * 31, "AB/" + "C" * 32, "ab//" + "c" * 32])
def test_foreign_pack_names_reach_no_file(vault: Vault, name: str) -> None:
    sealed = SealedObject("o", name, 0, 10)
    for act in (lambda: vault.open(KEY, sealed), lambda: vault.delete_pack(name), lambda: list(vault.pack_objects(name))):
        with pytest.raises(NotFound):
            act()


def test_packs_are_written_once(vault: Vault) -> None:
    (sealed,) = vault.seal(KEY, items(100))
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(vault._store, sealed.pack_name, b"other", mode="create", use_multipart=False)
    vault.open(KEY, sealed)


def test_a_name_that_is_taken_is_neither_overwritten_nor_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = local_vault(tmp_path / "vault")
    (sealed,) = vault.seal(KEY, [("first", b"first")])
    content = (tmp_path / "vault" / sealed.pack_name).read_bytes()
    token = bytes.fromhex(sealed.pack_name[3:])
    random = os.urandom
    monkeypatch.setattr(os, "urandom", lambda count: token if count == 16 else random(count))
    with pytest.raises(TemporarilyUnable):
        vault.seal(KEY, [("second", b"second")])
    assert (tmp_path / "vault" / sealed.pack_name).read_bytes() == content


def test_names_and_content_tell_nothing(tmp_path: Path) -> None:
    vault = local_vault(tmp_path / "vault")
    key = StudyKey("CANARY_TENANT", "CANARY_STUDY", bytes(32))
    (sealed,) = vault.seal(key, [("CANARY_OBJECT", b"CANARY^PATIENT")])
    assert re.fullmatch(r"([0-9a-f]{2})/\1[0-9a-f]{30}", sealed.pack_name)
    for path in (tmp_path / "vault").rglob("*"):
        assert "CANARY" not in str(path.relative_to(tmp_path))
        assert not path.is_file() or b"CANARY" not in path.read_bytes()
    assert (tmp_path / "vault").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "vault" / sealed.pack_name).stat().st_mode & 0o777 == 0o600


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_flipped_bit_of_a_pack_spoils_the_object_it_hits_only(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("vault")
    vault = local_vault(root)
    given_items = items(300, 400, 500)
    sealed = vault.seal(KEY, given_items)
    path = root / sealed[0].pack_name
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(len(PACK_HEADER), len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    for one, (_, payload) in zip(sealed, given_items, strict=True):
        if one.offset <= place < one.offset + one.length:
            with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
                vault.open(KEY, one)
        else:
            assert vault.open(KEY, one) == payload


def test_shredded_study_opens_nothing_though_its_packs_remain(tmp_path: Path) -> None:
    keys = FileKeyStore(tmp_path / "keys")
    keys.create_kek("h1")
    study_key, wrapped = keys.create_study_key("h1", "study")
    vault = local_vault(tmp_path / "vault")
    (sealed,) = vault.seal(study_key, items(100))
    vault.open(keys.open_study_key("h1", "study", wrapped), sealed)
    keys.shred_study_key("study")
    with pytest.raises(NotFound):
        keys.open_study_key("h1", "study", wrapped)
    assert dict(vault.pack_names())


# -- durability on a local folder


def test_local_packs_are_synced_with_both_directories(tmp_path: Path) -> None:
    disk = FaultyDisk()
    vault = local_vault(tmp_path / "vault", disk=disk)
    disk.effects.clear()
    vault.seal(KEY, items(100))
    assert disk.effects == ["fdatasync", "fsync_directory", "fsync_directory"]


@pytest.mark.parametrize("effect", ["fdatasync", "fsync_directory"])
@pytest.mark.parametrize("persisted", [False, True])
def test_pack_that_cannot_be_made_durable_is_taken_back(tmp_path: Path, effect: str, persisted: bool) -> None:
    disk = FaultyDisk()
    vault = local_vault(tmp_path / "vault", disk=disk, pack_bytes_max=1000)
    disk.plan = fail_every(effect, persisted=persisted, code=errno.EIO)
    with pytest.raises(TemporarilyUnable):
        vault.seal(KEY, items(800, 800))
    disk.plan = lambda _: (True, None)
    assert list(vault.pack_names()) == []


def test_failure_of_a_later_pack_takes_the_earlier_ones_back(tmp_path: Path) -> None:
    vault = local_vault(tmp_path / "vault", pack_bytes_max=1000)

    def failing() -> Iterator[tuple[str, bytes]]:
        yield from items(800, 800, 800)
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        vault.seal(KEY, failing())
    assert list(vault.pack_names()) == []


def test_truncated_pack_is_an_integrity_failure(tmp_path: Path) -> None:
    vault = local_vault(tmp_path / "vault")
    one, two = vault.seal(KEY, items(100, 100))
    path = tmp_path / "vault" / one.pack_name
    path.write_bytes(path.read_bytes()[: one.offset + one.length])
    vault.open(KEY, one)
    with pytest.raises(IntegrityFailure):
        vault.open(KEY, two)
    assert list(vault.pack_objects(one.pack_name)) == [(one.offset, one.length)]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityFailure):
        list(vault.pack_objects(one.pack_name))


def test_store_that_does_not_answer_is_temporarily_unable() -> None:
    store: Any = obstore.store.S3Store(
        "packs",
        config={"endpoint": "http://127.0.0.1:9", "access_key_id": "x", "secret_access_key": "x", "region": "us-east-1"},
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    vault = Vault(store)
    sealed = SealedObject("o", "ab/ab" + "0" * 30, 0, 10)
    for act in (lambda: vault.seal(KEY, items(1)), lambda: vault.open(KEY, sealed), lambda: list(vault.pack_names())):
        with pytest.raises(TemporarilyUnable):
            act()


def test_local_store_without_a_folder_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        Vault(obstore.store.LocalStore())
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput):
        local_vault(tmp_path / "file" / "vault")

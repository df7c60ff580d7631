"""The key store: who can open what, and that what was destroyed stays destroyed."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import BadInput, Conflict, IntegrityFailure, NotFound, ReadgateError, TemporarilyUnable
from crypto.keys import FileKeyStore, KeyStore, _file_name, wrapped_kek_version
from tests.faulty_disk import FaultyDisk, fail_every, fail_nth

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def keys(tmp_path: Path) -> FileKeyStore:
    store = FileKeyStore(tmp_path / "keys")
    store.create_kek("h1")
    store.create_kek("h2")
    return store


def test_study_key_comes_back_in_another_process(keys: FileKeyStore, tmp_path: Path) -> None:
    study_key, wrapped = keys.create_study_key("h1", "a" * 32)
    again: KeyStore = FileKeyStore(tmp_path / "keys")
    assert again.open_study_key("h1", "a" * 32, wrapped) == study_key
    assert again.hospitals() == ["h1", "h2"]


def test_derived_keys_are_all_different(keys: FileKeyStore) -> None:
    one, _ = keys.create_study_key("h1", "one")
    two, _ = keys.create_study_key("h1", "two")
    derived = [
        *(key.object_key(name) for key in (one, two) for name in ("a", "b")),
        *(key.purpose_key(name) for key in (one, two) for name in ("a", "b")),
    ]
    assert len(set(derived)) == 8
    assert all(len(key) == 32 for key in derived)


def test_study_key_shows_and_pickles_nothing(keys: FileKeyStore) -> None:
    study_key, _ = keys.create_study_key("h1", "study")
    assert study_key._dek.hex() not in repr(study_key)
    assert repr(study_key._dek) not in repr(study_key)
    with pytest.raises(TypeError):
        pickle.dumps(study_key)


@pytest.mark.parametrize(("hospital_id", "study_key_id"), [("h2", "study"), ("h1", "other")])
def test_wrapped_key_of_another_hospital_or_study_is_refused(keys: FileKeyStore, hospital_id: str, study_key_id: str) -> None:
    _, wrapped = keys.create_study_key("h1", "study")
    keys.create_study_key("h1", "other")
    with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
        keys.open_study_key(hospital_id, study_key_id, wrapped)


def test_every_changed_byte_of_a_wrapped_key_is_refused(keys: FileKeyStore) -> None:
    _, wrapped = keys.create_study_key("h1", "study")
    for position in range(len(wrapped)):
        changed = bytearray(wrapped)
        changed[position] ^= 1
        with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
            keys.open_study_key("h1", "study", bytes(changed))
    for cut in (b"", wrapped[:-1], wrapped + b"\0"):
        with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
            keys.open_study_key("h1", "study", cut)


def test_rotation_rewraps_and_retirement_ends_the_old_version(keys: FileKeyStore) -> None:
    study_key, wrapped = keys.create_study_key("h1", "study")
    segment_key, wrapped_segment = keys.wrap_segment_key("h1", "segment")
    assert (keys.kek_version("h1"), keys.rotate_kek("h1"), keys.kek_version("h1")) == (1, 2, 2)
    assert keys.kek_version("h2") == 1
    assert keys.open_study_key("h1", "study", wrapped) == study_key

    rewrapped = keys.rewrap_study_key("h1", "study", wrapped)
    assert (wrapped_kek_version(wrapped), wrapped_kek_version(rewrapped)) == (1, 2)
    assert keys.open_segment_key("h1", "segment", wrapped_segment) == segment_key
    keys.retire_kek("h1", 1)
    keys.retire_kek("h1", 1)
    assert keys.kek_versions("h1") == [2]
    assert keys.open_study_key("h1", "study", rewrapped) == study_key
    with pytest.raises(IntegrityFailure, match=r"^cannot be opened$"):
        keys.open_study_key("h1", "study", wrapped)
    with pytest.raises(Conflict):
        keys.retire_kek("h1", 2)
    # A version number is never used again, even after a retirement.
    assert keys.rotate_kek("h1") == 3


def test_shredding_ends_a_study_even_for_a_backup_of_everything_else(keys: FileKeyStore, tmp_path: Path) -> None:
    study_key, wrapped = keys.create_study_key("h1", "study")
    other_key, other_wrapped = keys.create_study_key("h1", "other")
    assert sorted(keys.shred_key_ids()) == ["other", "study"]
    backup = tmp_path / "backup-of-keks"
    shutil.copytree(tmp_path / "keys" / "kek", backup)

    keys.shred_study_key("study")
    keys.shred_study_key("study")
    assert (keys.has_shred_key("study"), keys.has_shred_key("other")) == (False, True)
    assert list(keys.shred_key_ids()) == ["other"]
    for act in (keys.open_study_key, keys.rewrap_study_key):
        with pytest.raises(NotFound):
            act("h1", "study", wrapped)
    assert keys.open_study_key("h1", "other", other_wrapped) == other_key

    # Made anew under the same id, with the same KEK restored: still another key.
    anew, _ = keys.create_study_key("h1", "study")
    assert anew.object_key("x") != study_key.object_key("x")
    with pytest.raises(IntegrityFailure):
        keys.open_study_key("h1", "study", wrapped)


def test_shredding_overwrites_the_file_before_its_name_goes(keys: FileKeyStore, tmp_path: Path) -> None:
    keys.create_study_key("h1", "study")
    (path,) = (tmp_path / "keys" / "shred").rglob("*.key")
    kept = tmp_path / "second-name"
    os.link(path, kept)
    before = kept.read_bytes()
    keys.shred_study_key("study")
    assert not path.exists()
    assert len(kept.read_bytes()) == len(before)
    assert before[4:36] not in kept.read_bytes()


def test_a_study_key_is_never_overwritten(keys: FileKeyStore) -> None:
    study_key, wrapped = keys.create_study_key("h1", "study")
    with pytest.raises(Conflict):
        keys.create_study_key("h1", "study")
    assert keys.open_study_key("h1", "study", wrapped) == study_key


def test_create_kek_leaves_an_existing_one(keys: FileKeyStore) -> None:
    _, wrapped = keys.create_study_key("h1", "study")
    assert keys.create_kek("h1") == 1
    keys.open_study_key("h1", "study", wrapped)


def test_hospital_without_a_kek_is_not_found(keys: FileKeyStore) -> None:
    for act in (keys.kek_version, keys.rotate_kek):
        with pytest.raises(NotFound):
            act("h3")
    with pytest.raises(NotFound):
        keys.create_study_key("h3", "study")


def test_secret_is_made_once_and_shredded_for_good(keys: FileKeyStore, tmp_path: Path) -> None:
    first = keys.secret("uid/h1")
    assert len(first) == 32
    assert first == keys.secret("uid/h1") == FileKeyStore(tmp_path / "keys").secret("uid/h1")
    assert first != keys.secret("uid/h2")
    assert len(keys.secret("long", 64)) == 64
    with pytest.raises(Conflict):
        keys.secret("long", 32)
    keys.shred_secret("uid/h1")
    assert keys.secret("uid/h1") != first


def test_processes_that_race_for_a_secret_agree(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from crypto.keys import FileKeyStore; sys.stdin.read();"
        "keys = FileKeyStore(Path(sys.argv[1])); keys.create_kek('h1');"
        "secrets = [keys.secret(f's/{n}').hex() for n in range(20)];"
        "print(secrets, keys.open_segment_key('h1', 's', keys.wrap_segment_key('h1', 's')[1]) != b'')"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "keys")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY, text=True) for _ in range(4)]
    answers = [process.communicate("", timeout=60)[0] for process in processes]
    assert len(set(answers)) == 1
    assert answers[0].endswith("True\n")


HOSTILE = ["../../x", "/etc/passwd", "..", ".", "a/b", "a\\b", "%2e%2e", "x\0y", "ä" * 20]
HOSTILE += ["CON", "a.key", ".hidden", "~root", "*", "\u202eabc"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_inside_and_come_back(keys: FileKeyStore, tmp_path: Path, name: str) -> None:
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "keys")}
    keys.create_study_key("h1", name)
    keys.secret(name)
    keys.create_kek(name)
    assert list(keys.shred_key_ids()) == [name]
    assert name in keys.hospitals()
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "keys")} == before
    keys.shred_study_key(name)
    assert list(keys.shred_key_ids()) == []


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_different_names_have_different_files(one: str, other: str) -> None:
    try:
        names = _file_name(one), _file_name(other)
    except (BadInput, UnicodeEncodeError):
        return
    assert (names[0] == names[1]) == (one == other)
    assert all(name.isascii() and "/" not in name and not name.startswith(".") for name in names)


@pytest.mark.parametrize("name", ["", "x" * 201])
def test_impossible_names_are_bad_input(keys: FileKeyStore, name: str) -> None:
    with pytest.raises(BadInput):
        keys.secret(name)


def test_files_are_for_our_user_alone(keys: FileKeyStore, tmp_path: Path) -> None:
    keys.create_study_key("h1", "study")
    keys.secret("name")
    for path in (tmp_path / "keys", *(tmp_path / "keys").rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_damaged_or_misplaced_key_file_is_told(keys: FileKeyStore, tmp_path: Path) -> None:
    keys.rotate_kek("h1")
    one, two = (tmp_path / "keys" / "kek" / "h1" / f"{version}.key" for version in (1, 2))
    _, wrapped = keys.create_study_key("h1", "study")
    two.write_bytes(one.read_bytes())
    with pytest.raises(IntegrityFailure, match="damaged"):
        keys.open_study_key("h1", "study", wrapped)
    content = bytearray(one.read_bytes())
    content[10] ^= 1
    two.write_bytes(content)
    with pytest.raises(IntegrityFailure, match="damaged"):
        keys.open_study_key("h1", "study", wrapped)


@pytest.mark.parametrize("persisted", [False, True], ids=["not-persisted", "persisted"])
def test_a_failure_of_any_effect_leaves_whole_keys_or_none(tmp_path: Path, persisted: bool) -> None:
    disk = FaultyDisk()
    keys = FileKeyStore(tmp_path / "keys", disk=disk)
    keys.create_kek("h1")
    keys.secret("name")
    number, failures = 0, 0
    while True:
        disk.plan = fail_nth(number, persisted=persisted)
        done = len(disk.effects)
        study_key_id = f"study{number}"
        wrapped = None
        try:
            _, wrapped = keys.create_study_key("h1", study_key_id)
            keys.shred_study_key(study_key_id)
        except TemporarilyUnable:
            failures += 1
        disk.plan = lambda _: (True, None)
        # What a failed creation left is a whole key or none; what a failed destruction left may be overwritten, and is never the old key.
        for remaining in keys.shred_key_ids() if wrapped is None else ():
            keys._read(keys._shred_path(remaining), "")
        keys.shred_study_key(study_key_id)
        assert not keys.has_shred_key(study_key_id)
        if wrapped is not None:
            with pytest.raises(NotFound):
                keys.open_study_key("h1", study_key_id, wrapped)
        if number >= len(disk.effects) - done:
            break
        number += 1
    assert number >= 8
    assert failures >= 6
    assert list(keys.shred_key_ids()) == []


def test_shredding_that_cannot_be_made_durable_is_told(tmp_path: Path) -> None:
    disk = FaultyDisk()
    keys = FileKeyStore(tmp_path / "keys", disk=disk)
    keys.create_kek("h1")
    keys.create_study_key("h1", "study")
    disk.plan = fail_every("fsync_directory")
    for _ in range(2):
        with pytest.raises(TemporarilyUnable):
            keys.shred_study_key("study")


def test_only_our_errors_come_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ReadgateError):
        FileKeyStore(tmp_path / "file" / "keys")

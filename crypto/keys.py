"""Keys at rest: one key-encryption key (KEK) per hospital, one shred key (SHRED) and one data key (DEK) per study, and named secrets.

Invariants
- A DEK leaves this module only inside a `StudyKey`, or wrapped (AES-KW, RFC 3394) under HKDF(KEK, salt = SHRED): it takes both.
- SHRED lives in the key store alone. Once it is destroyed no backup of database, vault or KEK opens the study again.
- Rotation makes a new KEK version and re-wraps; it never re-encrypts. A wrapped key names its version, which stays until `retire_kek`.
- A key file is published whole or not at all, durably, and is never changed afterwards; it is checked against its own name when read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from crypto.canonical import length_prefixed
from crypto.disk import DIRECTORY_MODE, Disk
from crypto.errors import BadInput, Conflict, IntegrityFailure, NotFound, TemporarilyUnable

KEY_BYTES = 32
SECRET_BYTES_MAX = 1024
NAME_BYTES_MAX = 200

_MAGIC = b"RGK1"
_CHECK_BYTES = 8
_WRAPPED = struct.Struct(">BI40s")
_WRAPPED_FORMAT = 1


@dataclass(frozen=True)
class StudyKey:
    """An opened DEK: whoever holds it reads this one study. Derives keys and prints none of them."""

    tenant: str
    study_key_id: str
    _dek: bytes = field(repr=False)

    def object_key(self, object_id: str) -> bytes:
        """The 32-byte key of one object of the study."""
        return self._expand("object", object_id)

    def purpose_key(self, purpose: str) -> bytes:
        """The 32-byte key for what is no object: a draft, a column; `purpose` is a constant of the module that uses it."""
        return self._expand("purpose", purpose)

    def _expand(self, kind: str, name: str) -> bytes:
        info = b"readgate study v1\0" + length_prefixed(kind, self.tenant, self.study_key_id, name)
        return HKDFExpand(algorithm=hashes.SHA256(), length=KEY_BYTES, info=info).derive(self._dek)

    def __reduce__(self) -> str:
        raise TypeError("a study key is not written anywhere")


class KeyStore(Protocol):
    """Where hospitals' keys live: files here, an HSM or a cloud KMS in production."""

    def create_kek(self, hospital_id: str) -> int: ...
    def kek_version(self, hospital_id: str) -> int: ...
    def rotate_kek(self, hospital_id: str) -> int: ...
    def retire_kek(self, hospital_id: str, version: int) -> None: ...
    def hospitals(self) -> list[str]: ...
    def create_study_key(self, hospital_id: str, study_key_id: str) -> tuple[StudyKey, bytes]: ...
    def open_study_key(self, hospital_id: str, study_key_id: str, wrapped: bytes) -> StudyKey: ...
    def rewrap_study_key(self, hospital_id: str, study_key_id: str, wrapped: bytes) -> bytes: ...
    def shred_study_key(self, study_key_id: str) -> None: ...
    def has_shred_key(self, study_key_id: str) -> bool: ...
    def shred_key_ids(self) -> Iterator[str]: ...
    def secret(self, name: str, length: int = KEY_BYTES) -> bytes: ...
    def shred_secret(self, name: str) -> None: ...
    def wrap_segment_key(self, hospital_id: str, segment_id: str) -> tuple[bytes, bytes]: ...
    def open_segment_key(self, hospital_id: str, segment_id: str, wrapped: bytes) -> bytes: ...


def wrapped_kek_version(wrapped: bytes) -> int:
    """The KEK version a wrapped key needs: what has to be re-wrapped before that version may retire.

    Raises:
        IntegrityFailure: not a wrapped key.
    """
    if len(wrapped) != _WRAPPED.size or wrapped[0] != _WRAPPED_FORMAT:
        raise IntegrityFailure("cannot be opened")
    version: int = _WRAPPED.unpack(wrapped)[1]
    return version


class FileKeyStore:
    """Keys as files under `root`, 0600 in directories 0700.

    `kek/<hospital>/<version>.key`, `shred/<2 hex>/<study key id>.key`, `secret/<name>.key`.
    Safe between threads and processes on one file system.
    """

    def __init__(self, root: Path, *, disk: Disk | None = None) -> None:
        self._root = root
        self._disk = disk or Disk()
        try:
            for part in ("kek", "shred", "secret"):
                self._disk.make_directory(root / part)
            root.chmod(DIRECTORY_MODE)
        except OSError:
            raise BadInput("the key store's directory cannot be made or secured; check its owner and the file system") from None

    # -- key-encryption keys

    def create_kek(self, hospital_id: str) -> int:
        """The hospital has a KEK; returns the current version, 1 where it is new. An existing one is left as it is."""
        self._make_directory(self._kek_directory(hospital_id))
        if not self._kek_versions(hospital_id):
            self._publish(self._kek_path(hospital_id, 1), os.urandom(KEY_BYTES))
        return self.kek_version(hospital_id)

    def kek_version(self, hospital_id: str) -> int:
        """The version that wraps from now on.

        Raises:
            NotFound: the hospital has no KEK.
        """
        versions = self._kek_versions(hospital_id)
        if not versions:
            raise NotFound("the hospital has no key-encryption key")
        return versions[-1]

    def kek_versions(self, hospital_id: str) -> list[int]:
        """The versions still held, oldest first."""
        return self._kek_versions(hospital_id)

    def rotate_kek(self, hospital_id: str) -> int:
        """A new version wraps from now on; what older ones wrapped still opens.

        Raises:
            NotFound: the hospital has no KEK.
            Conflict: another process rotated in the same moment.
        """
        version = self.kek_version(hospital_id) + 1
        if not self._publish(self._kek_path(hospital_id, version), os.urandom(KEY_BYTES)):
            raise Conflict("kek-rotated-meanwhile")
        return version

    def retire_kek(self, hospital_id: str, version: int) -> None:
        """`version` is destroyed. The caller has re-wrapped everything that named it; what was forgotten is lost.

        Raises:
            Conflict: it is the current version.
        """
        if version == self.kek_version(hospital_id):
            raise Conflict("kek-is-current", "rotate before retiring")
        self._destroy(self._kek_path(hospital_id, version))

    def hospitals(self) -> list[str]:
        """The hospitals that have a KEK, sorted."""
        names = (unquote(path.name) for path in (self._root / "kek").iterdir() if path.is_dir())
        return sorted(name for name in names if self._kek_versions(name))

    # -- study keys

    def create_study_key(self, hospital_id: str, study_key_id: str) -> tuple[StudyKey, bytes]:
        """A new study key, its SHRED durable here, and the wrapped DEK for the caller to store.

        If the caller crashes before storing it, the SHRED is an orphan that `shred_key_ids` shows.

        Raises:
            Conflict: `study_key_id` was used before and not shredded.
            NotFound: the hospital has no KEK.
        """
        version, kek = self._current_kek(hospital_id)
        shred, dek = os.urandom(KEY_BYTES), os.urandom(KEY_BYTES)
        path = self._shred_path(study_key_id)
        self._make_directory(path.parent)
        if not self._publish(path, shred):
            raise Conflict("study-key-exists", study_key_id)
        wrapping = _study_wrapping_key(kek, version, shred, hospital_id, study_key_id)
        return StudyKey(hospital_id, study_key_id, dek), _wrap(wrapping, version, dek)

    def open_study_key(self, hospital_id: str, study_key_id: str, wrapped: bytes) -> StudyKey:
        """The study key that `wrapped` holds.

        Raises:
            NotFound: its SHRED was destroyed, or never was.
            IntegrityFailure: `wrapped` is another study's or hospital's, was changed, or names a retired KEK.
        """
        shred = self._read(self._shred_path(study_key_id), "the study's key was destroyed or never existed")
        version = wrapped_kek_version(wrapped)
        wrapping = _study_wrapping_key(self._kek(hospital_id, version), version, shred, hospital_id, study_key_id)
        return StudyKey(hospital_id, study_key_id, _unwrap(wrapping, wrapped))

    def rewrap_study_key(self, hospital_id: str, study_key_id: str, wrapped: bytes) -> bytes:
        """The same DEK wrapped under the current KEK. Raises as `open_study_key`."""
        dek = self.open_study_key(hospital_id, study_key_id, wrapped)._dek
        version, kek = self._current_kek(hospital_id)
        shred = self._read(self._shred_path(study_key_id), "the study's key was destroyed or never existed")
        return _wrap(_study_wrapping_key(kek, version, shred, hospital_id, study_key_id), version, dek)

    def shred_study_key(self, study_key_id: str) -> None:
        """The study can never be opened again, by anyone, from any backup that lacks this key store. May be called again."""
        self._destroy(self._shred_path(study_key_id))

    def has_shred_key(self, study_key_id: str) -> bool:
        """Whether the study can still be opened."""
        return self._shred_path(study_key_id).exists()

    def shred_key_ids(self) -> Iterator[str]:
        """The study key ids that can still be opened, in no order."""
        for shard in (self._root / "shred").iterdir():
            for path in shard.glob("[!.]*.key"):
                yield unquote(path.name.removesuffix(".key"))

    # -- named secrets

    def secret(self, name: str, length: int = KEY_BYTES) -> bytes:
        """The secret of that name, made of `length` random bytes when first asked for; the same for every process afterwards.

        Raises:
            Conflict: it exists with another length.
        """
        if not 16 <= length <= SECRET_BYTES_MAX:
            raise ValueError("a secret has 16 to 1024 bytes")
        path = self._root / "secret" / f"{_file_name(name)}.key"
        if not path.exists():
            self._publish(path, os.urandom(length))
        value = self._read(path, "the secret was destroyed")
        if len(value) != length:
            raise Conflict("secret-length", "the secret exists with another length")
        return value

    def shred_secret(self, name: str) -> None:
        """The secret is destroyed; asked for again, its name gets a new one. May be called again."""
        self._destroy(self._root / "secret" / f"{_file_name(name)}.key")

    # -- spool segments

    def wrap_segment_key(self, hospital_id: str, segment_id: str) -> tuple[bytes, bytes]:
        """A new 32-byte key for a spool segment, and the same wrapped under the hospital's KEK, for the segment's header."""
        version, kek = self._current_kek(hospital_id)
        key = os.urandom(KEY_BYTES)
        return key, _wrap(_segment_wrapping_key(kek, version, hospital_id, segment_id), version, key)

    def open_segment_key(self, hospital_id: str, segment_id: str, wrapped: bytes) -> bytes:
        """The segment's key. Raises `IntegrityFailure` as `open_study_key` does."""
        version = wrapped_kek_version(wrapped)
        return _unwrap(_segment_wrapping_key(self._kek(hospital_id, version), version, hospital_id, segment_id), wrapped)

    # -- files

    def _kek_directory(self, hospital_id: str) -> Path:
        return self._root / "kek" / _file_name(hospital_id)

    def _kek_path(self, hospital_id: str, version: int) -> Path:
        return self._kek_directory(hospital_id) / f"{version}.key"

    def _kek_versions(self, hospital_id: str) -> list[int]:
        stems = (path.stem for path in self._kek_directory(hospital_id).glob("[!.]*.key"))
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def _current_kek(self, hospital_id: str) -> tuple[int, bytes]:
        version = self.kek_version(hospital_id)
        return version, self._kek(hospital_id, version)

    def _kek(self, hospital_id: str, version: int) -> bytes:
        try:
            return self._read(self._kek_path(hospital_id, version), "")
        except NotFound:
            # A retired or foreign version is told no differently from a changed byte.
            raise IntegrityFailure("cannot be opened") from None

    def _shred_path(self, study_key_id: str) -> Path:
        shard = hashlib.sha256(study_key_id.encode()).hexdigest()[:2]
        return self._root / "shred" / shard / f"{_file_name(study_key_id)}.key"

    def _make_directory(self, path: Path) -> None:
        try:
            self._disk.make_directory(path)
        except OSError:
            raise TemporarilyUnable("the key store cannot be written") from None

    def _publish(self, path: Path, key: bytes) -> bool:
        try:
            return self._disk.publish(path, _MAGIC + key + self._check(path, key))
        except OSError:
            raise TemporarilyUnable("the key store cannot be written") from None

    def _read(self, path: Path, missing: str) -> bytes:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(missing) from None
        except OSError:
            raise TemporarilyUnable("the key store cannot be read") from None
        key = content[len(_MAGIC) : -_CHECK_BYTES]
        if not content.startswith(_MAGIC) or not hmac.compare_digest(content[-_CHECK_BYTES:], self._check(path, key)):
            raise IntegrityFailure("a key file is damaged or not in its place")
        return key

    def _check(self, path: Path, key: bytes) -> bytes:
        """Eight bytes that tell a flipped bit or a misplaced file at once; against random keys they give nothing away."""
        place = path.relative_to(self._root).as_posix()
        return hashlib.sha256(b"readgate key file v1\0" + length_prefixed(place, key)).digest()[:_CHECK_BYTES]

    def _destroy(self, path: Path) -> None:
        try:
            self._disk.destroy(path)
        except OSError:
            raise TemporarilyUnable("the key store cannot be written; the key may still exist") from None


def _file_name(name: str) -> str:
    """`name` as one path component that can be read back; no name reaches outside its directory or hides in it."""
    encoded = quote(name, safe="").replace(".", "%2E").replace("~", "%7E")
    if not name or len(encoded) > NAME_BYTES_MAX:
        raise BadInput("a key's name has 1 to 200 bytes")
    return encoded


def _study_wrapping_key(kek: bytes, version: int, shred: bytes, hospital_id: str, study_key_id: str) -> bytes:
    info = b"readgate study key v1\0" + length_prefixed(hospital_id, study_key_id, version.to_bytes(4, "big"))
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=shred, info=info).derive(kek)


def _segment_wrapping_key(kek: bytes, version: int, hospital_id: str, segment_id: str) -> bytes:
    info = b"readgate segment key v1\0" + length_prefixed(hospital_id, segment_id, version.to_bytes(4, "big"))
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(kek)


def _wrap(wrapping: bytes, version: int, key: bytes) -> bytes:
    return _WRAPPED.pack(_WRAPPED_FORMAT, version, aes_key_wrap(wrapping, key))


def _unwrap(wrapping: bytes, wrapped: bytes) -> bytes:
    try:
        return aes_key_unwrap(wrapping, _WRAPPED.unpack(wrapped)[2])
    except InvalidUnwrap:
        raise IntegrityFailure("cannot be opened") from None

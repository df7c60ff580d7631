"""The vault: de-identified instances at rest, each sealed on its own under its study's key, many to a pack.

Invariants
- What `seal` returned is durable. obstore's LocalStore does not sync what it writes (checked by strace, 0.12.1), so for it we do.
- A pack is written once, whole, under a random name, and never changed; it is deleted when nothing in it is wanted.
- A pack's name and content tell nothing: no UID, no tenant, no key id. Which object lies where only the caller's rows know.

Pack: "RGPK", version u8 = 1, 3 zero bytes, then sealed objects (`crypto/aead_stream.py`) one after another; the header of each
tells its length.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, S3Store

from crypto.aead_stream import CHUNK_BYTES, HEADER_BYTES, TAG_BYTES, ObjectContext, declared_sealed_length, open_, open_range, seal
from crypto.disk import FILE_MODE, Disk
from crypto.errors import BadInput, IntegrityFailure, NotFound, TemporarilyUnable
from crypto.keys import StudyKey

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PACK_BYTES_MAX = 64 * 1024 * 1024
PACK_HEADER = b"RGPK\x01\0\0\0"
_PACK_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}")
_HEADERS_REMEMBERED = 4096


@dataclass(frozen=True)
class SealedObject:
    """Where one sealed object lies: what a row keeps."""

    object_id: str
    pack_name: str
    offset: int
    length: int


class Vault:
    """Sealed packs in an object store: a local folder or S3. Safe between threads."""

    def __init__(self, store: ObjectStore, *, pack_bytes_max: int = PACK_BYTES_MAX, disk: Disk | None = None) -> None:
        """A `LocalStore` must have a prefix.

        Raises:
            BadInput: it has none.
        """
        self._store = store
        self._pack_bytes_max = pack_bytes_max
        self._disk = disk or Disk()
        self._local_root: Path | None = None
        if isinstance(store, LocalStore):
            if store.prefix is None:
                raise BadInput("a local vault needs a directory")
            self._local_root = Path(store.prefix)
        self._lock = threading.Lock()
        self._headers: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def seal(
        self, study_key: StudyKey, items: Iterable[tuple[str, bytes]], *, announce: Callable[[str], None] = lambda _: None
    ) -> list[SealedObject]:
        """Every item (object id, payload) is sealed under its own key and durable.

        Packs hold at most `pack_bytes_max` bytes, except that a longer object has a pack of its own. `announce` is told the name of each
        pack before it is put: if we crash from there on, or this raises, the pack may remain though no row names it.

        Raises:
            TemporarilyUnable: the store failed; what this call wrote was deleted as far as the store allowed.
        """
        sealed: list[SealedObject] = []
        pack = _Pack()
        try:
            for object_id, payload in items:
                ciphertext = seal(study_key.object_key(object_id), payload, _context(study_key, object_id))
                if pack.objects and pack.length + len(ciphertext) > self._pack_bytes_max:
                    sealed += self._write(pack, announce)
                    pack = _Pack()
                pack.add(object_id, ciphertext)
            if pack.objects:
                sealed += self._write(pack, announce)
        except BaseException:
            self._forget({one.pack_name for one in sealed})
            raise
        return sealed

    def open(self, study_key: StudyKey, sealed: SealedObject) -> bytes:
        """The object's payload, by one range read.

        Raises:
            NotFound: its pack does not exist.
            IntegrityFailure: it cannot be opened with this study's key.
            TemporarilyUnable: the store failed.
        """
        content = self._read(sealed.pack_name, sealed.offset, sealed.length)
        return open_(study_key.object_key(sealed.object_id), content, _context(study_key, sealed.object_id))

    def open_range(self, study_key: StudyKey, sealed: SealedObject, start: int, length: int) -> bytes:
        """`length` bytes of the payload from `start`, shortened at its end, reading only the chunks that hold them. Raises as `open`."""
        if start < 0 or length < 0:
            raise ValueError("a range starts and extends at or above 0")
        if sealed.length <= HEADER_BYTES + CHUNK_BYTES + TAG_BYTES:
            return self.open(study_key, sealed)[start : start + length]
        read = partial(self._read_within, sealed)
        key = study_key.object_key(sealed.object_id)
        return open_range(key, read, sealed.length, _context(study_key, sealed.object_id), start, length)

    def pack_names(self) -> Iterator[tuple[str, int]]:
        """Name and length of every pack, in no order."""
        try:
            for batch in obstore.list(self._store):
                for found in batch:
                    if _PACK_NAME.fullmatch(found["path"]):
                        yield found["path"], found["size"]
        except (BaseError, OSError):
            raise TemporarilyUnable("the vault cannot be listed") from None

    def pack_objects(self, pack_name: str) -> Iterator[tuple[int, int]]:
        """Offset and length of every object in a pack, by their headers alone: no key is needed, and nothing is proved.

        Raises:
            IntegrityFailure: the pack's framing is broken.
        """
        length = self._length(pack_name)
        if length < len(PACK_HEADER) or self._read(pack_name, 0, len(PACK_HEADER)) != PACK_HEADER:
            raise IntegrityFailure("the pack's framing is broken")
        offset = len(PACK_HEADER)
        while offset < length:
            header = self._read(pack_name, offset, min(HEADER_BYTES, length - offset))
            object_length = declared_sealed_length(header)
            if object_length is None or offset + object_length > length:
                raise IntegrityFailure("the pack's framing is broken")
            yield offset, object_length
            offset += object_length

    def pack_written_at(self, pack_name: str) -> datetime:
        """When the pack was written, by the store's clock.

        Raises:
            NotFound: it does not exist.
            TemporarilyUnable: the store failed.
        """
        _check_name(pack_name)
        try:
            written: datetime = obstore.head(self._store, pack_name)["last_modified"]
        except (FileNotFoundError, NotFoundError):
            raise NotFound("no such pack in the vault") from None
        except (BaseError, OSError):
            raise TemporarilyUnable("the vault cannot be read") from None
        return written

    def delete_pack(self, pack_name: str) -> None:
        """The pack is gone. May be called again.

        Raises:
            TemporarilyUnable: the store failed; the pack may be there or not.
        """
        _check_name(pack_name)
        try:
            obstore.delete(self._store, pack_name)
            if self._local_root is not None:
                self._disk.fsync_directory((self._local_root / pack_name).parent)
        except (FileNotFoundError, NotFoundError):
            return
        except (BaseError, OSError):
            raise TemporarilyUnable("the vault cannot be written") from None

    def _write(self, pack: _Pack, announce: Callable[[str], None]) -> list[SealedObject]:
        token = os.urandom(16).hex()
        name = f"{token[:2]}/{token}"
        announce(name)
        try:
            obstore.put(self._store, name, pack.joined(), mode="create", use_multipart=False)
            if self._local_root is not None:
                self._settle(self._local_root / name)
        except AlreadyExistsError:
            # Another's pack, or ours by an attempt whose answer was lost: not ours to delete here.
            raise TemporarilyUnable("the vault has a pack of that name") from None
        except (BaseError, OSError):
            # It may have been written all the same.
            self._forget({name})
            raise TemporarilyUnable("the vault cannot be written") from None
        return [SealedObject(object_id, name, offset, length) for object_id, offset, length in pack.objects]

    def _settle(self, path: Path) -> None:
        """The file, its name and its directory's name survive power loss; LocalStore leaves all three to the page cache."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, FILE_MODE)
            self._disk.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._disk.fsync_directory(path.parent)
        self._disk.fsync_directory(path.parent.parent)

    def _forget(self, names: set[str]) -> None:
        for name in names:
            try:
                self.delete_pack(name)
            except TemporarilyUnable:
                # No row names it: it was announced, or fsck finds it.
                continue

    def _read_within(self, sealed: SealedObject, offset: int, length: int) -> bytes:
        """Bytes of one object; its header, which every range of it needs, is asked of the store once."""
        if (offset, length) != (0, HEADER_BYTES):
            return self._read(sealed.pack_name, sealed.offset + offset, length)
        place = (sealed.pack_name, sealed.offset)
        with self._lock:
            header = self._headers.get(place)
        if header is None:
            header = self._read(sealed.pack_name, sealed.offset, length)
            with self._lock:
                self._headers[place] = header
                while len(self._headers) > _HEADERS_REMEMBERED:
                    self._headers.popitem(last=False)
        return header

    def _read(self, pack_name: str, offset: int, length: int) -> bytes:
        _check_name(pack_name)
        try:
            content = bytes(obstore.get_range(self._store, pack_name, start=offset, length=length))
        except (FileNotFoundError, NotFoundError):
            raise NotFound("no such pack in the vault") from None
        except (BaseError, OSError):
            # A range beyond the end is an error to some stores and a short answer to others.
            if self._length(pack_name) < offset + length:
                raise IntegrityFailure("cannot be opened") from None
            raise TemporarilyUnable("the vault cannot be read") from None
        if len(content) != length:
            raise IntegrityFailure("cannot be opened")
        return content

    def _length(self, pack_name: str) -> int:
        _check_name(pack_name)
        try:
            return obstore.head(self._store, pack_name)["size"]
        except (FileNotFoundError, NotFoundError):
            raise NotFound("no such pack in the vault") from None
        except (BaseError, OSError):
            raise TemporarilyUnable("the vault cannot be read") from None


def local_vault(root: Path, *, pack_bytes_max: int = PACK_BYTES_MAX, disk: Disk | None = None) -> Vault:
    """A vault in the folder `root`, made for our user alone where it is missing.

    Raises:
        BadInput: it cannot be made.
    """
    disk = disk or Disk()
    try:
        disk.make_directory(root)
        return Vault(LocalStore(root), pack_bytes_max=pack_bytes_max, disk=disk)
    except (BaseError, OSError):
        raise BadInput("the vault's directory cannot be made; check its owner and the file system") from None


def s3_vault(
    bucket: str,
    *,
    prefix: str | None = None,
    endpoint: str | None = None,
    region: str | None = None,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    pack_bytes_max: int = PACK_BYTES_MAX,
) -> Vault:
    """A vault in an S3 bucket. Without keys the store's usual sources (environment, instance profile) are asked.

    The bucket must support conditional writes (If-None-Match). Plain HTTP is refused except to an `endpoint` that says so.

    Raises:
        BadInput: the settings contradict each other.
    """
    given: dict[str, Any] = {
        "endpoint": endpoint,
        "region": region,
        "access_key_id": access_key_id,
        "secret_access_key": secret_access_key,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    make: Callable[..., S3Store] = S3Store
    try:
        store = make(
            bucket,
            prefix=prefix,
            config=settings,
            client_options={"allow_http": endpoint is not None and endpoint.startswith("http://")},
        )
    except (BaseError, ValueError):
        raise BadInput("the S3 settings are not usable; check bucket, region and endpoint") from None
    return Vault(store, pack_bytes_max=pack_bytes_max)


class _Pack:
    """A pack being filled."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = [PACK_HEADER]
        self.length = len(PACK_HEADER)
        self.objects: list[tuple[str, int, int]] = []

    def add(self, object_id: str, ciphertext: bytes) -> None:
        self.objects.append((object_id, self.length, len(ciphertext)))
        self._pieces.append(ciphertext)
        self.length += len(ciphertext)

    def joined(self) -> bytes:
        return b"".join(self._pieces)


def _context(study_key: StudyKey, object_id: str) -> ObjectContext:
    return ObjectContext(study_key.tenant, study_key.study_key_id, object_id)


def _check_name(pack_name: str) -> None:
    if not _PACK_NAME.fullmatch(pack_name):
        raise NotFound("no such pack in the vault")

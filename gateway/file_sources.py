"""Files to read, wherever they lie: one file, a folder with all below it; in the same order every time. Not what is in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crypto.errors import BadInput

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")


class Entry(NamedTuple):
    """What lies at `path`: a file, an archive by its name, or neither: a device, a socket, a link that leads nowhere or to a folder."""

    name: str
    path: str
    is_file: bool = True

    @property
    def is_archive(self) -> bool:
        return self.is_file and self.path.lower().endswith(_TAR_SUFFIXES)


def entries(source: Path, destination: Path) -> Iterator[Entry]:
    """What lies in `source`, or `source` itself where it is a file; nothing under `destination`.

    Raises BadInput where there is nothing to read.
    """
    if source.is_dir():
        yield from _of_folder(str(source), "", destination.resolve())
    elif source.is_file():
        yield Entry(source.name, str(source))
    else:
        raise BadInput(f"{source} is neither a file nor a folder")


def _of_folder(folder: str, name: str, outside: Path) -> Iterator[Entry]:
    if Path(folder).resolve().is_relative_to(outside):
        return
    with os.scandir(folder) as found:
        inside = sorted(found, key=lambda entry: entry.name)
    for entry in inside:
        named = f"{name}/{entry.name}" if name else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _of_folder(entry.path, named, outside)
        elif not (entry.is_symlink() and Path(entry.path).resolve().is_relative_to(outside)):
            yield Entry(named, entry.path, entry.is_file())

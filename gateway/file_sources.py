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
        yield from _of_folder(str(source), destination.resolve())
    elif source.is_file():
        yield Entry(source.name, str(source))
    else:
        raise BadInput(f"{source} is neither a file nor a folder")


def regular_files(source: Path) -> Iterator[Path]:
    """`source`, or every file below it, no link followed: a medium must not reach out of itself.

    Raises BadInput where there is nothing to read.
    """
    if source.is_file():
        yield source
    elif source.is_dir():
        for entry, _ in _below(str(source)):
            if entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
    else:
        raise BadInput(f"{source} is neither a file nor a folder")


def _of_folder(folder: str, outside: Path) -> Iterator[Entry]:
    for entry, name in _below(folder, outside):
        if not (entry.is_symlink() and Path(entry.path).resolve().is_relative_to(outside)):
            yield Entry(name, entry.path, entry.is_file())


def _below(folder: str, outside: Path | None = None) -> Iterator[tuple[os.DirEntry[str], str]]:
    """What is no folder, with its name from `folder` on. However deep they lie and however many they are, one level's names are held."""
    levels = [iter(_inside(folder, "", outside))]
    while levels:
        found = next(levels[-1], None)
        if found is None:
            levels.pop()
        elif found[0].is_dir(follow_symlinks=False):
            levels.append(iter(_inside(found[0].path, found[1], outside)))
        else:
            yield found


def _inside(folder: str, name: str, outside: Path | None) -> list[tuple[os.DirEntry[str], str]]:
    if outside is not None and Path(folder).resolve().is_relative_to(outside):
        return []
    with os.scandir(folder) as found:
        inside = sorted(found, key=lambda entry: entry.name)
    return [(entry, f"{name}/{entry.name}" if name else entry.name) for entry in inside]

"""Structure errors that a tool adds: what dciodvfy (dicom3tools) and pydicom say of the output and did not say of the source."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import warnings
from collections import Counter
from pathlib import Path

from pydicom import config, dcmread

from bench.deid_score.pixels import as_native

_SECONDS_MAX = 60
#: The second form also has UIDs that are none ("0").
_UID = re.compile(r"[0-9]+(?:\.[0-9]+){2,}|(?<=InstanceUID )[0-9.]+")


class StructureCheck:
    """Compares sources with outputs. `program` is None where dciodvfy is not installed; then pydicom alone speaks."""

    def __init__(self) -> None:
        self.program = shutil.which("dciodvfy")
        self.errors: Counter[str] = Counter()
        self.by_slot: Counter[str] = Counter()
        self.checked = 0
        self._known: dict[Path, set[str]] = {}

    def compare(self, slot: str, source: Path, output: Path) -> None:
        """Count each error of `output` that `source` has not."""
        if source not in self._known:
            self._known[source] = self._errors(source)
        self.checked += 1
        for error in self._errors(output) - self._known[source]:
            self.errors[error] += 1
            self.by_slot[slot] += 1

    def _errors(self, path: Path) -> set[str]:
        found = {f"pydicom: {text}" for text in _pydicom_errors(path)}
        if self.program is None:
            return found
        with tempfile.TemporaryDirectory() as folder:
            plain = _readable_copy(path, Path(folder))
            said = subprocess.run([self.program, str(plain)], capture_output=True, timeout=_SECONDS_MAX, check=False).stderr
        for line in said.decode("latin-1").splitlines():
            if line.startswith("Error"):
                found.add(complaint_of(line))
        return found


def complaint_of(line: str) -> str:
    """What a line of dciodvfy complains of, without values and positions: they differ between source and output."""
    return re.sub(r"<[^>]*>(?=.*(?:value|Value))", "<>", _UID.sub("UID", line))


def _readable_copy(path: Path, folder: Path) -> Path:
    """The file itself, or a native copy where its frames are HTJ2K, of which dciodvfy knows nothing."""
    try:
        dataset = dcmread(path, force=True)
        if str(dataset.file_meta.get("TransferSyntaxUID", "")).startswith("1.2.840.10008.1.2.4.20") and as_native(dataset):
            dataset.save_as(folder / "native.dcm")
            return folder / "native.dcm"
    except Exception:
        return path
    return path


def _pydicom_errors(path: Path) -> set[str]:
    """What pydicom's own validation says of each value, by tag."""
    found: set[str] = set()
    before = config.settings.reading_validation_mode
    config.settings.reading_validation_mode = config.WARN
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            dataset = dcmread(path, force=True)
            for element in dataset.iterall():
                _ = element.value
        found |= {f"{re.sub(r'[0-9]+', '#', re.sub(chr(39) + '.*' + chr(39), '', str(one.message)))[:90]}" for one in caught}
    except Exception as problem:
        found.add(type(problem).__name__)
    finally:
        config.settings.reading_validation_mode = before
    return found

"""Programs of other people that the tests talk to; each is skipped by name where it is missing, and required in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

#: Debian puts some daemons where a plain user's PATH does not look.
_EXTRA_PATH = "/usr/sbin:/usr/local/sbin"


def require_peer(program: str) -> str:
    """The path of `program`; skips the test where it is missing, fails it where READGATE_REQUIRE_PEERS=1."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":" + _EXTRA_PATH)
    if path is None:
        if os.environ.get("READGATE_REQUIRE_PEERS") == "1":
            pytest.fail(f"the peer {program} is required here and is not installed")
        pytest.skip(f"the peer {program} is not installed")
    return path


def corpus_dir() -> Path:
    """The folder of third-party DICOM files beside the checkout; skips the test where there is none."""
    path = Path(__file__).resolve().parents[2] / "shared" / "corpus"
    if not path.is_dir():
        pytest.skip("no third-party corpus beside the checkout")
    return path

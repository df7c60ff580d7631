"""docs/KEYS.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from crypto import aead_stream, keys, sealed_box, signing_key, spool_format, vault

REPOSITORY = Path(__file__).resolve().parents[1]
TEXT = (REPOSITORY / "docs" / "KEYS.md").read_text()


def table(heading: str) -> list[tuple[int, int]]:
    """Offset and length of each row of the table below a heading."""
    section = TEXT.split(heading, 1)[1].split("\n### ", 1)[0]
    return [(int(offset), int(length)) for offset, length in re.findall(r"^\| (\d+) \| (\d+) \|", section, re.MULTILINE)]


@pytest.mark.parametrize(
    ("heading", "length"),
    [("### Sealed payload", aead_stream.HEADER_BYTES), ("### Spool segment", spool_format.RECORD_PREFIX_BYTES)],
)
def test_tables_of_bytes_have_no_gap_and_end_where_the_code_does(heading: str, length: int) -> None:
    rows = table(heading)
    end = 0
    for offset, size in rows:
        assert offset == end
        end += size
    assert end == length


def test_magic_numbers_and_limits_are_the_codes() -> None:
    for magic in (aead_stream.MAGIC, spool_format.SEGMENT_MAGIC, spool_format.RECORD_MAGIC, vault.PACK_HEADER[:4], b"RGK1", b"RGRK"):
        assert magic.decode() in TEXT
    assert f"wrapped DEK ({keys._WRAPPED.size} bytes)" in TEXT
    assert f"log2 of the chunk length: {aead_stream.CHUNK_BYTES_LOG2}" in TEXT
    assert vault.PACK_BYTES_MAX == 64 * 2**20
    assert sealed_box.OVERHEAD_BYTES == 1 + 12 + 16
    cost = f"{signing_key.ARGON2_PASSES} passes, {signing_key.ARGON2_MEMORY_KIB} KiB, {signing_key.ARGON2_LANES} lane"
    assert cost in TEXT


@pytest.mark.parametrize("label", sorted(set(re.findall(r'"(readgate [a-z ]+ v1)"', TEXT))))
def test_every_label_of_the_document_is_in_the_code(label: str) -> None:
    assert any(f'b"{label}\\0"' in path.read_text() for path in (REPOSITORY / "crypto").glob("*.py"))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:crypto|tests)/[a-z_]+\.py)`", TEXT))))
def test_every_file_of_the_document_exists(path: str) -> None:
    assert (REPOSITORY / path).is_file()


@pytest.mark.parametrize("name", ["create_kek", "rotate_kek", "retire_kek", "create_study_key", "rewrap_study_key", "shred_study_key"])
def test_every_act_of_the_document_exists(name: str) -> None:
    assert f"`{name}`" in TEXT
    assert callable(getattr(keys.FileKeyStore, name))

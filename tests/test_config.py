"""Settings: the file beside the data, variables over it, and one clear line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from crypto.errors import BadInput
from gateway.config import load_settings


def test_paths_in_the_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "readgate.toml").write_text('[law]\nconfirmations = "law/ours.json"\n')
    assert load_settings(tmp_path).law.confirmations == tmp_path / "law" / "ours.json"


def test_variables_stand_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "readgate.toml").write_text("[http]\nport = 8081\n")
    monkeypatch.setenv("READGATE_HTTP__PORT", "8082")
    assert load_settings(tmp_path).http.port == 8082


@pytest.mark.parametrize("text", ["[http]\nprot = 8081\n", "[http]\nport = 'x'\n", "[http\n"])
def test_a_wrong_setting_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "readgate.toml").write_text(text)
    with pytest.raises(BadInput) as refused:
        load_settings(tmp_path)
    assert "readgate.toml" in str(refused.value) and "\n" not in str(refused.value)

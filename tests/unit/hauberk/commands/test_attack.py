"""The key that `hauberk attack` sends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hauberk.commands.attack import _key
from models.errors import InvalidInput


def test_a_key_comes_from_the_file_or_else_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_KEY", "of the environment")
    (tmp_path / "key").write_text(" of the file\n")
    assert (_key(tmp_path / "key"), _key(None)) == ("of the file", "of the environment")
    monkeypatch.setenv("GATEWAY_API_KEY", "")
    assert _key(None) is None


def test_what_is_no_file_or_holds_no_key_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"x" * 5000)
    (tmp_path / "umlaut").write_bytes("clé".encode())
    for name, reason in (
        ("pipe", "it is a named pipe, expected a file"),
        ("long", "it has more than 4096 bytes"),
        ("none", "No such file"),
        ("umlaut", "expected a key in ASCII"),
    ):
        with pytest.raises(InvalidInput, match=reason):
            _key(tmp_path / name)

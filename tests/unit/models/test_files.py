"""What is no file is refused at once, by whatever name; the test would hang where one is opened and waited for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from models.files import NotAFile, open_file, read_file


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "file", at_most=7) == read_file(tmp_path / "link", at_most=7) == b"content"


def test_what_is_no_file_is_refused_by_its_kind_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # a socket's path may have a hundred bytes
        bound.bind("socket")
        for path, kind in (
            (tmp_path / "pipe", "it is a named pipe, expected a file"),
            (tmp_path / "link", "it is a named pipe, expected a file"),
            (tmp_path, "it is a directory, expected a file"),
            (Path("/dev/zero"), "it is a device, expected a file"),
            (tmp_path / "socket", "it is a socket or a device, expected a file"),
        ):
            with pytest.raises(NotAFile) as refusal:
                open_file(path)
            assert refusal.value.strerror == kind


def test_a_file_that_is_too_long_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(NotAFile) as refusal:
        read_file(tmp_path / "long", at_most=1000)
    assert refusal.value.strerror == "it has more than 1000 bytes"

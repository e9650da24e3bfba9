"""Zips: bounded before they are unpacked, and never outside of their place."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from lab.errors import Refused
from lab.limits import LabLimits
from lab.work.unpacking import unpacked
from models.progress import silent


def packed(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_zip_of_a_folder_is_that_folder_however_deep_it_was_packed(tmp_path: Path) -> None:
    path = packed(
        tmp_path / "a.zip", {"top/inner/cat/1.png": b"1", "top/inner/dog/2.png": b"2", "__MACOSX/x": b"", "top/.DS_Store": b""}
    )
    found = unpacked(path, "data", silent)
    assert sorted(one.name for one in found.iterdir()) == ["cat", "dog"]
    (found / "cat" / "1.png").write_bytes(b"kept")
    assert (unpacked(path, "data", silent) / "cat" / "1.png").read_bytes() == b"kept"  # and unpacked once


def test_any_other_path_is_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"")
    for path in (tmp_path / "a.npz", tmp_path, tmp_path / "nothing.zip"):
        assert unpacked(path, "data", silent) == path


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = packed(tmp_path / "bomb.zip", {"a/1.png": bytes(200 << 20), "b/2.png": b""}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(Refused, match=r"would unpack to 200\.0 MiB") as refused:
        unpacked(bomb, "data", silent)
    assert refused.value.field == "data"
    assert [one.name for one in tmp_path.iterdir()] == ["bomb.zip"]


@pytest.mark.parametrize(
    "name", ["../out.png", "/etc/out.png", "a/../../out.png", "C:\\out.png", "a\\..\\..\\out.png", "/".join("a" * 20)]
)
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    path = packed(tmp_path / "in" / "a.zip", {name: b"x", "b/2.png": b"y"})
    with pytest.raises(Refused, match="outside of itself"):
        unpacked(path, "data", silent)
    assert [one.name for one in (tmp_path / "in").iterdir()] == ["a.zip"]
    assert [one.name for one in tmp_path.iterdir()] == ["in"]


def test_too_many_files_doubled_names_and_what_is_no_zip_are_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "many.zip", {f"a/{at}.png": b"x" for at in range(5)})
    with pytest.raises(Refused, match="at most 4 files, got 5"):
        unpacked(path, "data", silent, limits=LabLimits(unpacked_files=4))
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("a/1.png", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a/1.png", b"2")
    with pytest.raises(Refused, match="a name occurs twice"):
        unpacked(tmp_path / "twice.zip", "data", silent)
    (tmp_path / "no.zip").write_bytes(b"PK no zip at all")
    with pytest.raises(Refused, match="whole and has no password"):
        unpacked(tmp_path / "no.zip", "model", silent)
    whole = path.read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refused, match="whole and has no password"):
        unpacked(tmp_path / "cut.zip", "model", silent)


def test_a_link_in_a_zip_becomes_a_file_with_the_link_s_text(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("b/1.png", b"x")
    found = unpacked(tmp_path / "a.zip", "data", silent) / "a" / "link.png"
    assert not found.is_symlink()
    assert found.read_bytes() == b"/etc/passwd"

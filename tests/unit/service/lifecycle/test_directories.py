"""Directories that cannot be made or written are one sentence, before BentoML would make a traceback of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.errors import InvalidInput
from service.lifecycle.container import prepare
from service.lifecycle.directories import make_home


def test_a_home_is_made_where_it_can_be(tmp_path: Path) -> None:
    assert make_home({"BENTOML_HOME": str(tmp_path / "a" / "b")}) == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("name", ["BENTOML_HOME", "NUMBA_CACHE_DIR"])
def test_one_that_cannot_be_made_or_written_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/1/none")):
        environment = {"BENTOML_HOME": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path), name: str(place)}
        with pytest.raises(InvalidInput, match=f"expected {name} to be a directory that can be written, got .*; set {name} to"):
            prepare(environment)

"""Rows of a long section: measured once, in order, and again when what decides them has changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.harness.kept_rows import kept_rows
from benchmarks.methods import sentinet


def test_a_section_that_was_stopped_goes_on_after_the_last_row(tmp_path: Path) -> None:
    measured: list[str] = []

    def row(name: str) -> list[str]:
        measured.append(name)
        if name == "c" and measured.count("c") == 1:
            raise KeyboardInterrupt
        return [name, "1.0"]

    rows = {name: (lambda name=name: row(name)) for name in "abc"}
    with pytest.raises(KeyboardInterrupt):
        kept_rows("section", rows, plan={"seed": 0}, directory=tmp_path)
    found = kept_rows("section", rows, plan={"seed": 0}, directory=tmp_path)
    assert list(found.items()) == [(name, [name, "1.0"]) for name in "abc"]
    assert measured == ["a", "b", "c", "c"]
    kept_rows("section", rows, plan={"seed": 1}, directory=tmp_path)
    assert measured[4:] == ["a", "b", "c"]


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1)])
def test_sentinets_rows_are_its_kinds_of_backdoors(shape: tuple[int, int, int]) -> None:
    classifier: Any = SimpleNamespace(input_shape=shape, labels=tuple("0123456789"))
    assert tuple(sentinet.kinds(classifier)) == sentinet._KINDS

"""Results on disk, one by one: an evaluation that was killed goes on where it was."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from evaluation.cells import Cell, Cells


class Found:
    """Counts how often results had to be found."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.count, self.fails_at = 0, fails_at

    def cells(self) -> list[Cell]:
        return [Cell("table", f"row {number}", partial(self.find, number)) for number in range(3)]

    def find(self, number: int) -> Any:
        if number == self.fails_at:
            raise KeyboardInterrupt
        self.count += 1
        return {"number": number, "share": 0.25}


def test_results_come_by_section_and_name_in_order(tmp_path: Path) -> None:
    results = Cells(tmp_path, {"seed": 0}).run(Found().cells())
    assert list(results) == ["table"]
    assert [row["number"] for row in results["table"].values()] == [0, 1, 2]


def test_what_was_found_before_is_not_found_again(tmp_path: Path) -> None:
    killed, again = Found(fails_at=2), Found()
    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path, {"seed": 0}).run(killed.cells())
    results = Cells(tmp_path, {"seed": 0}).run(again.cells())
    assert (killed.count, again.count) == (2, 1)
    assert len(results["table"]) == 3


def test_results_of_another_plan_are_not_taken_for_ones_own(tmp_path: Path) -> None:
    Cells(tmp_path, {"seed": 0}).run(Found().cells())
    other = Found()
    Cells(tmp_path, {"seed": 1}).run(other.cells())
    assert other.count == 3


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "row 1"}'])
def test_a_damaged_result_is_found_again(tmp_path: Path, damage: str) -> None:
    cells = Cells(tmp_path, {"seed": 0})
    whole = cells.run(Found().cells())
    for file in cells.place.iterdir():
        file.write_text(damage)
    again = Found()
    assert cells.run(again.cells()) == whole
    assert again.count == 3


def test_progress_is_told_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    Cells(tmp_path, {}).run(Found().cells(), lambda what, done, of: told.append((done, of)))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]

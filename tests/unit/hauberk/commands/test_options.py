"""What several commands take."""

from __future__ import annotations

from pathlib import Path

import pytest

from hauberk.commands.data import read_data
from hauberk.commands.options import check_writable, progress_bar
from models.errors import InvalidInput


@pytest.mark.parametrize(
    ("rows", "first", "count"),
    [(None, 0, 420), ("0:420", 0, 420), ("10:30", 10, 20), (":", 0, 420), (":5", 0, 5), ("400:", 400, 20)],
)
def test_rows_are_a_range_of_the_data(clean_data: Path, rows: str | None, first: int, count: int) -> None:
    whole, part = read_data(clean_data, "train", None), read_data(clean_data, "train", rows)
    assert len(part) == count
    assert (part.images[0] == whole.images[first]).all()


@pytest.mark.parametrize("rows", ["", "5", "-5:10", "10:5", "0:421", "a:b", "1:2:3"])
def test_rows_that_are_no_range_of_the_data_are_refused(clean_data: Path, rows: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected --rows START:STOP within 0:420"):
        read_data(clean_data, "train", rows)


def test_a_directory_to_write_to_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_progress_goes_to_stderr_and_follows_the_reports(capfd: pytest.CaptureFixture[str]) -> None:
    with progress_bar("images", writing="files") as report:
        report("measuring", 0, 4)
        report("measuring", 4, 4)
        report("writing", 1, 1)
    captured = capfd.readouterr()
    assert "measuring" in captured.err
    assert "4/4 images" in captured.err
    assert "1/1 files" in captured.err
    assert captured.out == ""

"""What several commands take."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from hauberk.commands.data import read_data
from hauberk.commands.options import check_writable, progress_bar
from hauberk.commands.progress_lines import ProgressLines
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
    assert "measuring: 0 of 4 images, 0 %" in captured.err
    assert "measuring: 4 of 4 images, 100 %" in captured.err
    assert "writing: 1 of 1 files, 100 %" in captured.err
    assert captured.out == ""


def test_progress_is_a_bar_on_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    with progress_bar("images") as report:
        report("measuring", 4, 4)
    assert "4/4 images" in capfd.readouterr().err


def test_where_no_bar_can_be_drawn_a_line_comes_every_so_often_with_the_time_left() -> None:
    out, now = io.StringIO(), 0.0
    report = ProgressLines("steps", {"held_windows": "images"}, out=out, every_s=10, clock=lambda: now)
    for second in range(101):
        now = float(second)
        report("held windows", second, 100)
    report("held windows", 100, 100)
    lines = out.getvalue().splitlines()
    assert len(lines) == 11  # at the beginning, every ten seconds, and once at the end
    assert lines[0] == "held windows: 0 of 100 images, 0 %, 0 s so far"
    assert lines[3] == "held windows: 30 of 100 images, 30 %, 30 s so far, about 70 s left"
    assert lines[-1] == "held windows: 100 of 100 images, 100 %, 100 s so far"

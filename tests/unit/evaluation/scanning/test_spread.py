"""Calls spread over workers, their results kept on disk."""

from __future__ import annotations

from pathlib import Path

from evaluation.scanning.spread import Spread


def test_no_calls_give_no_results_and_draw_no_bar(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    spread = Spread(tmp_path, "detector", progress=lambda *report: told.append(report))
    assert spread("splitting again", len, []) == []
    assert told == []

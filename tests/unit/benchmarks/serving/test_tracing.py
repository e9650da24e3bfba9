"""What telemetry costs, from rounds that took turns."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.cells import LoadCell
from benchmarks.harness.closed_loop import Outcome
from benchmarks.serving import tracing

_SECONDS = 10.0


def cell(*rates: int) -> LoadCell:
    rounds = []
    for rate in rates:
        began = np.arange(0, _SECONDS, 1 / rate)
        samples = np.stack([began, began, np.full(len(began), 200), np.zeros(len(began))], axis=1)
        rounds.append(Outcome(samples, _SECONDS, 0.05))
    return LoadCell(tuple(rounds))


def test_a_cost_is_the_median_of_ratios_within_rounds_so_that_a_slow_minute_is_nobodys() -> None:
    low, middle, high = tracing.ratio(cell(90, 45, 9), cell(100, 50, 10))
    assert middle == pytest.approx(0.9, rel=0.02)
    assert low <= middle <= high


def test_the_section_shows_every_server_and_what_was_wanted() -> None:
    cells = {tracing.OFF: cell(100), tracing.TRACED: cell(95), tracing.AUDITED: cell(80)}
    text = tracing.text(cells, dict.fromkeys(cells, 900.0), 120)
    assert "| requests/s with spans on to both off | >= 0.9x | **0.95x** | yes |" in text
    assert "| requests/s with audit log on to both off | >= 0.9x | **0.8x** | no |" in text
    assert "| both off | 100 |" in text

"""How far off a job's estimates were."""

from __future__ import annotations

import pytest

from benchmarks.serving.lab import JobSeen, errors


def test_an_estimate_counts_from_a_quarter_of_the_duration_on() -> None:
    told = [
        JobSeen(10.0, 0.1, 900.0),
        JobSeen(20.0, 0.2, None),
        JobSeen(25.0, 0.3, 85.0),
        JobSeen(50.0, 0.5, 20.0),
        JobSeen(90.0, 0.9, 10.0),
    ]
    found = errors(told, 100.0)
    assert found.after_a_quarter == pytest.approx(0.1)
    assert found.worst_from_there == pytest.approx(-0.3)
    with pytest.raises(ValueError, match="says how long"):
        errors([JobSeen(10.0, 0.1, None)], 100.0)

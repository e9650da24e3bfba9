"""What the section on times of answers says of its measurements."""

from __future__ import annotations

import numpy as np

from benchmarks.harness.cells import LoadCell
from benchmarks.harness.closed_loop import Outcome
from benchmarks.serving.timing import Question, TimeTold, text
from evaluation.statistics.roc import IntervalEstimate


def test_a_guess_that_is_worse_than_chance_tells_as_much_as_one_that_is_better() -> None:
    cell = LoadCell((Outcome(np.array([[0.0, 0.1, 200, 0]]), 1.0, 0.1),))
    answers = [
        TimeTold(Question(2, 96), IntervalEstimate(1.0, 0.9, 1.0), IntervalEstimate(0.4, 0.3, 0.5), "0.1 s"),
        TimeTold(Question(2, 96, copies=32), IntervalEstimate(0.99, 0.9, 1.0), None, "0.6 s"),
    ]
    page = text(answers, {1: {"none": cell, "0.1 s": cell}}, 300, 30.0)
    assert "| AUC of 2 or 96, schedule of 0.1 s | <= 0.55x | **0.6x** | no |" in page
    assert "| 2 or 96, 32 copies a request | 0.990 (0.900 to 1.000) | too large | 0.6 s |" in page
    assert "| none | 1 | 100.0 | 100.0 |" in page

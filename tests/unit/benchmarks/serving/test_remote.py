"""What the benchmark says of a run in which a model server is killed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.cells import LoadCell
from benchmarks.harness.closed_loop import Outcome
from benchmarks.harness.mlserver import PYTHON
from benchmarks.serving import remote
from benchmarks.serving.remote import DIRECT, ON, Outage, text


def samples(*rows: tuple[float, float, int]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.array([(began, ended, status, 0) for began, ended, status in rows], np.float64)


def test_an_outage_is_told_by_statuses_the_slowest_failure_and_the_first_answer_after_it() -> None:
    outage = Outage(samples((0, 1, 200), (1, 2.5, 503), (1, 3, 504), (3, 3.1, 503), (3.9, 4.5, 200), (5, 6, 200)), 2.0, 4.0)
    assert outage.statuses == "3 x 200, 2 x 503, 1 x 504"
    assert outage.slowest_s == 2.0
    assert outage.recovered_s == pytest.approx(0.5)


def test_a_server_that_never_answers_again_has_not_recovered() -> None:
    assert np.isnan(Outage(samples((0, 1, 200), (2, 3, 503)), 1.5, 2.5).recovered_s)


def test_the_table_says_what_the_gateway_adds() -> None:
    def cell(seconds: float) -> LoadCell:
        return LoadCell((Outcome(samples(*((i / 10, i / 10 + seconds, 200) for i in range(10))), 1.0, 0.0),))

    cells = {(DIRECT, 1): cell(0.010), (ON, 1): cell(0.030)}
    found = text(cells, Outage(samples((0, 1, 200)), 0.5, 0.7), 1.0)
    assert f"| {ON} | 1 | 10 | 30.0 | 30.0 | +20.0 | +20.0 | 1.00x | 0 |" in found


def test_without_mlserver_the_section_says_so_and_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(PYTHON, raising=False)
    assert remote.section() is None
    assert PYTHON in capsys.readouterr().err


def test_a_python_without_mlserver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON, "/bin/false")
    with pytest.raises(SystemExit, match=f"expected {PYTHON} to be a Python with mlserver"):
        remote.section()

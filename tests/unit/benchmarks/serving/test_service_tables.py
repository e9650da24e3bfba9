"""The tables of the service's benchmark say what was measured, good or bad."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.harness.cells import LoadCell
from benchmarks.harness.closed_loop import Outcome
from benchmarks.harness.servers import Memory
from benchmarks.harness.wanted import wanted_table
from benchmarks.serving import service_tables as tables

_SECONDS = 10.0


def cell(rate: int, latency_s: float, status: int = 200) -> LoadCell:
    began = np.arange(0, _SECONDS, 1 / rate)
    samples = np.stack([began, began + latency_s, np.full(len(began), status), np.zeros(len(began))], axis=1)
    return LoadCell((Outcome(samples, _SECONDS, 0.05),))


@pytest.fixture
def measured() -> tables.ServiceMeasurements:
    cells = {
        (tables.ON.name, 16): cell(300, 0.010),
        (tables.OFF.name, 16): cell(400, 0.008),
        (tables.NDARRAY.name, 16): cell(100, 0.050),
        (tables.ON.name, 1): cell(200, 0.004),
        (tables.OFF.name, 1): cell(400, 0.002),
        (tables.NDARRAY.name, 1): cell(50, 0.020),
        (tables.batchable(1000).name, 16): cell(100, 0.200),
        (tables.ART.name, 16): cell(10, 0.200, status=504),
    }
    return tables.ServiceMeasurements(
        cell(1000, 0.001),
        1000,
        ready_s={tables.ON.name: 8.25},
        memory={tables.ON.name: Memory(800, 900)},
        cells=cells,
        unhurried={tables.ON.name: cell(10, 0.003)},
    )


def test_each_wanted_ratio_is_ours_against_one_peer_at_16_clients(measured: tables.ServiceMeasurements) -> None:
    lines = {line.what: line for line in tables.wanted(measured)}
    ndarray, off, art = (lines[f"requests/s to {c.name}"] for c in (tables.NDARRAY, tables.OFF, tables.ART))
    assert ndarray.measured == pytest.approx(3, rel=0.01)
    assert not off.met
    assert off.measured == pytest.approx(0.75, rel=0.01)
    assert not art.met, "a peer that answered nothing is no ratio"
    slow, slower = (lines[f"p99 to {c.name}"] for c in (tables.NDARRAY, tables.batchable(1000)))
    assert not slow.met
    assert slow.measured == pytest.approx(1 / 5)
    assert slower.met
    assert slower.measured == pytest.approx(1 / 20)
    to_off, to_stock = (lines[f"one client: p50 to {c.name}"] for c in (tables.OFF, tables.NDARRAY))
    assert not to_off.met
    assert to_off.measured == pytest.approx(2)
    assert to_stock.met
    assert to_stock.measured == pytest.approx(0.2)


def test_a_missed_ratio_is_shown_like_one_that_is_met(measured: tables.ServiceMeasurements) -> None:
    text = wanted_table(tables.wanted(measured))
    assert f"| requests/s to {tables.OFF.name} | >= 0.85x | **0.75x** | no |" in text
    assert f"| p99 to {tables.batchable(1000).name} | <= 0.0714x | **0.05x** | yes |" in text


def test_every_cell_is_a_row_with_its_failures(measured: tables.ServiceMeasurements) -> None:
    rows = tables.load_table(measured).splitlines()[4:]
    assert len(rows) == len(measured.cells)
    assert rows[-1].endswith("| 100 x 504 |")
    assert "| 16 | Hauberk, every defence on | **300**" in rows[0]


def test_start_memory_and_the_generators_ceiling_are_stated(measured: tables.ServiceMeasurements) -> None:
    assert "| Hauberk, every defence on | 8.2 | 800 | 900 |" in tables.servers_table(measured)
    assert "it reaches 1,000 requests/s" in tables.introduction(measured, 60.0, 3, 2000)
    assert "| Hauberk, every defence on | 3.00 | 3.00 |" in tables.unhurried_table(measured, 0.05)

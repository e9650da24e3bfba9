"""What the tables of the service's benchmark are made of."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.harness import requests as wire
from benchmarks.harness.cells import LoadCell
from benchmarks.harness.closed_loop import LOST, TIMED_OUT, Outcome
from benchmarks.harness.wanted import Wanted
from benchmarks.serving import stages


def outcome(*samples: tuple[float, float, int, int], seconds: float = 10.0) -> Outcome:
    return Outcome(np.array(samples, np.float64), seconds, 0.1)


def test_latencies_are_those_that_began_in_the_window_failed_ones_included() -> None:
    cell = LoadCell((outcome((-1, 1, 200, 0), (0, 2, 200, 0), (1, 4, 503, 0)), outcome((9, 13, TIMED_OUT, 0))))
    assert cell.latencies_ms.tolist() == [2000, 3000, 4000]
    assert cell.percentile_ms(50) == 3000
    assert cell.requests == 3


def test_the_rate_counts_what_was_answered_with_200_within_the_window() -> None:
    cell = LoadCell((outcome((-1, 1, 200, 0), (0, 2, 200, 0), (1, 4, 503, 0), (9, 11, 200, 0)), outcome((1, 2, 200, 0))))
    assert cell.rate == pytest.approx(0.15)


def test_failures_are_listed_by_kind() -> None:
    cell = LoadCell((outcome((-1, 1, 503, 0), (0, 2, 503, 0), (1, 4, LOST, 0)), outcome((1, 2, TIMED_OUT, 0), (1, 2, 200, 0))))
    assert cell.failures == "1 x timed out, 1 x connection lost, 2 x 503"
    assert LoadCell((outcome((1, 2, 200, 3)),)).failures == "0"
    assert LoadCell((outcome((1, 2, 200, 3)),)).abstained == 3


def test_a_cell_without_requests_has_no_percentile() -> None:
    assert math.isnan(LoadCell((outcome((-1, 1, 200, 0)),)).percentile_ms(99))


def test_a_wanted_ratio_is_met_at_its_bound_and_never_by_nothing() -> None:
    assert Wanted("speed", 3, 3).met
    assert not Wanted("speed", 3, 2.9).met
    assert Wanted("slowness", 0.125, 0.125, at_most=True).met
    assert not Wanted("slowness", 0.125, 0.13, at_most=True).met
    assert not Wanted("speed", 3, math.nan).met


def test_the_parts_of_one_clients_request_add_up_to_its_latency() -> None:
    spent = {"queue": 10.0, "purify": 20.0, "predict": 30.0, "abstain": 40.0, "obscure": 5.0, "request": 150.0}
    parts = stages.of_one_client(spent, 200.0)
    assert sum(parts.values()) == 200
    assert list(parts.values())[-2:] == [45, 50]


def test_the_parts_of_many_clients_requests_add_up_to_one_over_the_rate_without_the_queue() -> None:
    spent = {"queue": 9000.0, "purify": 20.0, "predict": 30.0, "abstain": 40.0, "obscure": 5.0, "request": 9999.0}
    parts = stages.of_many_clients(spent, 1000.0)
    assert sum(parts.values()) == pytest.approx(1000)
    assert "queue" not in parts


def test_the_same_numbers_draw_the_same_picture(tmp_path: Path) -> None:
    parts = stages.of_many_clients({"purify": 20.0, "predict": 130.0, "abstain": 400.0, "obscure": 5.0, "queue": 1.0}, 1000.0)
    pictures = []
    for name in ("first.svg", "second.svg"):
        stages.draw([("many clients", {"defences on": parts, "off": parts})], tmp_path / name)
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    assert b"<dc:date>" not in pictures[0]
    assert b"many clients" in pictures[0]


def test_a_requests_head_says_how_long_its_body_is() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for request in (wire.as_json(image), wire.as_json(image, 4), wire.as_npy(image), wire.as_tensor(image, "stub")):
        head, _, body = request.partition(b"\r\n\r\n")
        assert b"content-length: %d" % len(body) in head

"""What an answer of the batcher tells of itself when it is traced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Interval
from models.classifier import Images
from service.batching import Batcher
from service.errors import (
    InternalError,
)
from tests.unit.service.batcher_scenarios import Gate, images, mean_of, run, until
from tests.unit.service.conftest import FakeWaves


def test_a_traced_answer_carries_what_was_found_in_its_own_images_and_the_time_it_took(waves: Any) -> None:
    async def scenario(batcher: Batcher[Any]) -> Any:
        return await asyncio.gather(batcher.classify(images(0.1, 0.95, 0.2)), batcher.classify(images(0.95)))

    first, second = run(scenario, waves, traced=True)
    assert [found.abstained.tolist() for found in first.trace.detections] == [[False, True, False]]
    assert [(found.name, found.mode, found.abstained.tolist()) for found in second.trace.detections] == [
        ("strip", "enforce", [True])
    ]
    for decisions in (first, second):
        stages = [interval.stage for interval in decisions.trace.intervals]
        assert stages[0] == "queue"
        assert decisions.trace.intervals[0].ended >= decisions.trace.intervals[0].started


def test_a_traced_answer_of_several_waves_is_put_together_in_the_order_of_its_images() -> None:
    path = FakeWaves(refuse_above=0.9, slow_above=0.5)

    async def scenario(batcher: Batcher[Any]) -> Any:
        return await asyncio.gather(batcher.classify(images(0.6, 0.1, 0.95, 0.2)), batcher.classify(images(0.3)))

    traced, plain = run(scenario, path, traced=True), run(scenario, path)
    for one, other in zip(traced, plain, strict=True):
        assert np.array_equal(one.probabilities, other.probabilities)
        assert one.labels.tolist() == other.labels.tolist()
        assert one.abstained.tolist() == other.abstained.tolist()
    assert traced[0].trace.detections[0].abstained.tolist() == [False, False, True, False]


def test_an_answer_that_is_only_timed_carries_the_times_and_not_what_was_found() -> None:
    path = FakeWaves(refuse_above=0.9, slow_above=0.5)

    async def scenario(batcher: Batcher[Any]) -> Any:
        return await batcher.classify(images(0.6, 0.1, 0.95, 0.1))

    timed, traced = run(scenario, path, timed=True), run(scenario, path, traced=True)
    assert [interval.stage for interval in timed.trace.intervals] == [interval.stage for interval in traced.trace.intervals]
    assert timed.trace.detections == ()
    assert np.array_equal(timed.probabilities, traced.probabilities)
    assert timed.labels.tolist() == traced.labels.tolist()
    assert timed.abstained.tolist() == [False, False, True, False]


@pytest.mark.parametrize("kind", ["timed", "traced"])
def test_a_request_is_not_told_of_the_time_before_it_came(waves: Any, kind: str) -> None:
    before = Interval("abstain", time.perf_counter() - 60, time.perf_counter() - 59)

    def timed(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        for rows, decisions in waves(batch):
            now = time.perf_counter()
            trace = replace(decisions.trace, intervals=(before, Interval("predict", now, now + 1)))
            yield rows, replace(decisions, trace=trace)

    async def scenario(batcher: Batcher[Any]) -> Decisions:
        return await batcher.classify(images(0.1))

    intervals = run(scenario, timed, **{kind: True}).trace.intervals
    assert [interval.stage for interval in intervals] == ["queue", "predict"]


def test_a_traced_request_that_runs_again_after_a_failure_tells_of_the_second_time() -> None:
    def failing(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        if (batch.mean(axis=(1, 2, 3)) > 0.8).any():
            raise ValueError
        yield from FakeWaves()(batch)

    gate = Gate(failing)

    async def scenario(batcher: Batcher[Any]) -> list[Any]:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        rest = [asyncio.create_task(batcher.classify(images(mean))) for mean in (0.2, 0.9)]
        await asyncio.sleep(0.01)
        gate.open.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    _, good, bad = run(scenario, gate, traced=True)
    assert isinstance(bad, InternalError)
    assert mean_of(good) == [0.2]
    assert [interval.stage for interval in good.trace.intervals] == ["queue"]
    assert len(good.trace.detections) == 1

"""What becomes of requests when a step of the data path, a model server or an observer fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.defended_classifier import Decisions
from models.classifier import Images
from models.errors import RemoteBadAnswer, RemoteTooSlow, RemoteUnreachable
from service.batching import Batcher
from service.errors import (
    ClassifierFailed,
    ClassifierTooSlow,
    ClassifierUnavailable,
    InternalError,
    QueueFull,
)
from tests.unit.service.batcher_scenarios import Gate, Recorder, decisions_of, images, mean_of, run, until


def test_a_request_that_makes_its_batch_raise_fails_alone(waves: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fragile(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        if (batch.mean(axis=(1, 2, 3)) > 0.8).any():
            raise ValueError("poison")
        yield from waves(batch)

    gate, recorder = Gate(fragile), Recorder()

    async def scenario(batcher: Batcher[Any]) -> list[Any]:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        rest = [asyncio.create_task(batcher.classify(images(mean))) for mean in (0.2, 0.9, 0.3)]
        await asyncio.sleep(0.01)
        gate.open.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    _, left, bad, right = run(scenario, gate, recorder)
    assert mean_of(left) == [0.2]
    assert mean_of(right) == [0.3]
    assert isinstance(bad, InternalError)
    assert str(bad.__cause__) == "poison"
    assert [str(failure) for failure in recorder.failures] == ["poison", "poison"]
    assert waves.batches == [1, 1, 1]
    assert "poison" in caplog.text


def test_a_batch_that_fails_after_a_wave_does_not_run_its_answered_requests_again(waves: Any) -> None:
    failing = [True]

    def fragile(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        seen.append(len(batch))
        waves_of_batch = waves(batch)
        yield next(waves_of_batch)
        if failing and len(batch) > 1:
            failing.clear()
            raise ValueError("after the first wave")
        yield from waves_of_batch

    seen: list[int] = []
    waves.slow_above = 0.5
    gate = Gate(fragile)

    async def scenario(batcher: Batcher[Any]) -> list[Any]:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        rest = [asyncio.create_task(batcher.classify(images(mean))) for mean in (0.2, 0.7)]
        await asyncio.sleep(0.01)
        gate.open.set()
        return await asyncio.gather(first, *rest)

    assert [mean_of(decisions) for decisions in run(scenario, gate)] == [[0.1], [0.2], [0.7]]
    assert seen == [1, 2, 1]


@pytest.mark.parametrize("fault", ["missing rows", "a row twice", "out of order", "no waves"])
def test_a_data_path_that_breaks_its_promise_fails_the_request_and_hangs_nobody(fault: str) -> None:
    def broken(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        if fault == "missing rows":
            yield np.array([0, 2]), decisions_of(batch[[0, 2]])
        elif fault == "a row twice":
            yield np.array([0, 1]), decisions_of(batch[[0, 1]])
            yield np.array([1]), decisions_of(batch[[1]])
        elif fault == "out of order":
            yield np.array([2, 1, 0]), decisions_of(batch[::-1])

    async def scenario(batcher: Batcher[Any]) -> None:
        with pytest.raises(InternalError):
            await batcher.classify(images(0.1, 0.2, 0.3))

    run(scenario, broken)


def test_an_outage_of_the_models_server_ends_every_request_of_the_step_without_another_call(caplog: Any) -> None:
    seen: list[int] = []

    def away(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        seen.append(len(batch))
        if seen:
            raise RemoteTooSlow("too slow")
        yield from ()

    gate, recorder = Gate(away), Recorder()

    async def scenario(batcher: Batcher[Any]) -> list[Any]:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        rest = [asyncio.create_task(batcher.classify(images(0.2, 0.3))) for _ in range(5)]
        await asyncio.sleep(0.01)
        gate.open.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    assert [type(each) for each in run(scenario, gate, recorder)] == [ClassifierTooSlow] * 6
    assert seen == [1, 10]
    assert [str(failure) for failure in recorder.failures] == ["too slow", "too slow"]
    assert "5 requests end with classifier_too_slow: too slow" in caplog.text


def test_a_bad_answer_fails_the_request_with_the_image_that_had_it_alone(waves: Any, caplog: Any) -> None:
    def picky(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        if batch.max() > 0.7:
            raise RemoteBadAnswer("NaN")
        return waves(batch)  # type: ignore[no-any-return]

    gate = Gate(picky)

    async def scenario(batcher: Batcher[Any]) -> list[Any]:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        rest = [asyncio.create_task(batcher.classify(images(mean))) for mean in (0.2, 0.8, 0.3)]
        await asyncio.sleep(0.01)
        gate.open.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    _, good, bad, other = run(scenario, gate)
    assert (mean_of(good), mean_of(other)) == ([0.2], [0.3])
    assert isinstance(bad, ClassifierFailed)
    assert "1 requests end with classifier_failed: NaN" in caplog.text


def test_an_outage_while_requests_are_run_one_by_one_ends_the_others_at_once(waves: Any) -> None:
    calls: list[int] = []

    def worse(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        calls.append(len(batch))
        if len(calls) == 1:
            return waves(batch)  # type: ignore[no-any-return]
        raise RemoteBadAnswer("NaN") if len(calls) == 2 else RemoteUnreachable("gone")

    gate = Gate(worse)

    async def scenario(batcher: Batcher[Any]) -> list[Any]:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        rest = [asyncio.create_task(batcher.classify(images(0.2))) for _ in range(4)]
        await asyncio.sleep(0.01)
        gate.open.set()
        return await asyncio.gather(first, *rest, return_exceptions=True)

    found = run(scenario, gate)
    assert [type(each) for each in found[1:]] == [ClassifierUnavailable] * 4
    assert calls == [1, 4, 1]


def test_an_observer_that_raises_changes_no_answer(waves: Any) -> None:
    class Broken(Recorder):
        def decided(self, decisions: Decisions) -> None:
            raise RuntimeError("no disk")

        batch = failed = decided  # type: ignore[assignment]

    async def scenario(batcher: Batcher[Any]) -> Decisions:
        return await batcher.classify(images(0.1))

    assert mean_of(run(scenario, waves, Broken())) == [0.1]


def test_many_requests_of_all_sizes_from_a_flaky_data_path_all_end(waves: Any) -> None:
    rng = np.random.default_rng(5)
    calls = [0]

    def flaky(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        calls[0] += 1
        if calls[0] % 7 == 0:
            raise ValueError("flaky")
        yield from waves(batch)

    waves.slow_above = 0.5

    async def one(batcher: Batcher[Any], means: list[float]) -> str:
        try:
            decisions = await asyncio.wait_for(batcher.classify(images(*means)), 5)
        except (QueueFull, InternalError) as problem:
            return problem.code
        assert mean_of(decisions) == means
        return "answered"

    async def scenario(batcher: Batcher[Any]) -> list[str]:
        requests = [[round(float(m), 3) for m in rng.uniform(0, 0.8, rng.integers(1, 9))] for _ in range(300)]
        return await asyncio.gather(*(one(batcher, means) for means in requests))

    ends = run(scenario, flaky, batch_images=16, queue_images=900)
    assert set(ends) <= {"answered", "queue_full", "internal_error"}
    assert ends.count("answered") > 100

"""What the micro-batcher promises, with a fake data path and real threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Interval, Trace
from models.classifier import Images
from models.errors import RemoteBadAnswer, RemoteTooSlow, RemoteUnreachable
from service.batching import Batcher
from service.errors import (
    ClassifierFailed,
    ClassifierTooSlow,
    ClassifierUnavailable,
    DeadlineExceeded,
    InternalError,
    QueueFull,
    Stopping,
)
from tests.unit.service.conftest import FakeWaves, Stepwise, Waves

SHAPE = (2, 3, 1)


def images(*means: float) -> Images:
    return np.stack([np.full(SHAPE, mean, np.float32) for mean in means])


def mean_of(decisions: Decisions) -> list[float]:
    return [round(float(row[0]), 3) for row in decisions.probabilities]


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.waited: list[float] = []
        self.decisions: list[Decisions] = []
        self.failures: list[Exception] = []

    def batch(self, images: int, waited_s: Sequence[float]) -> None:
        self.batches.append(images)
        self.waited.extend(waited_s)

    def decided(self, decisions: Decisions) -> None:
        self.decisions.append(decisions)

    def failed(self, failure: Exception) -> None:
        self.failures.append(failure)


class Gate:
    """A data path that waits: `entered` says that it began, `open` lets it go on."""

    def __init__(self, waves: Waves) -> None:
        self._waves = waves
        self.entered, self.open = threading.Event(), threading.Event()
        self.inside = self.most_inside = 0

    def __call__(self, batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        self.inside += 1
        self.most_inside = max(self.inside, self.most_inside)
        self.entered.set()
        assert self.open.wait(10)
        waves = self._waves(batch)
        first = next(waves)
        self.inside -= 1
        yield first
        yield from waves


def run(
    scenario: Callable[..., Awaitable[Any]], waves: Waves | None, observer: Any = None, path: Any = None, **options: Any
) -> Any:
    """Run a scenario against a batcher of its own, within ten seconds, and stop that."""

    async def main() -> Any:
        batcher = Batcher(path or Stepwise(waves or _no_waves), observer or Recorder(), **options)
        try:
            return await asyncio.wait_for(scenario(batcher), 10)
        finally:
            await batcher.stop()

    return asyncio.run(main())


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.001)


def test_every_request_gets_its_own_rows_in_order(waves: Any) -> None:
    async def scenario(batcher: Batcher[Any]) -> list[Decisions]:
        return await asyncio.gather(
            *(batcher.classify(images(*(0.01 * i + 0.001 * j for j in range(i % 4 + 1)))) for i in range(40))
        )

    for i, decisions in enumerate(run(scenario, waves)):
        assert mean_of(decisions) == [round(0.01 * i + 0.001 * j, 3) for j in range(i % 4 + 1)]


def test_an_answer_carries_labels_abstentions_and_no_trace(waves: Any) -> None:
    async def scenario(batcher: Batcher[Any]) -> Decisions:
        return await batcher.classify(images(0.1, 0.95))

    decisions = run(scenario, waves)
    assert decisions.abstained.tolist() == [False, True]
    assert decisions.labels.tolist() == [0, -1]
    assert decisions.trace.seconds == {}
    assert decisions.trace.detections == ()


def test_an_idle_worker_starts_at_once_and_a_busy_one_gathers(waves: Any) -> None:
    gate, recorder = Gate(waves), Recorder()

    async def scenario(batcher: Batcher[Any]) -> None:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        rest = [asyncio.create_task(batcher.classify(images(0.2))) for _ in range(7)]
        await asyncio.sleep(0.01)
        gate.open.set()
        await asyncio.gather(first, *rest)

    run(scenario, gate, recorder)
    assert recorder.batches == [1, 7]
    assert len(recorder.waited) == 8
    assert gate.most_inside == 1


def test_a_batch_holds_no_more_images_than_it_may_and_no_request_is_split(waves: Any) -> None:
    gate, recorder = Gate(waves), Recorder()

    async def scenario(batcher: Batcher[Any]) -> None:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        rest = [asyncio.create_task(batcher.classify(images(0.2, 0.21, 0.22))) for _ in range(4)]
        await asyncio.sleep(0.01)
        gate.open.set()
        await asyncio.gather(first, *rest)

    run(scenario, gate, recorder, batch_images=8)
    assert recorder.batches == [1, 6, 6]


def test_nobody_waits_for_a_slow_batch_mate() -> None:
    second_wave = threading.Event()

    def waves(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        slow = batch.mean(axis=(1, 2, 3)) > 0.5
        yield np.flatnonzero(~slow), _decisions(batch[~slow])
        if slow.any():
            assert second_wave.wait(10)
            yield np.flatnonzero(slow), _decisions(batch[slow])

    gate = Gate(waves)

    async def scenario(batcher: Batcher[Any]) -> None:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        slow, mixed, quick = (
            asyncio.create_task(batcher.classify(images(*means))) for means in ((0.9,), (0.3, 0.8, 0.4), (0.2,))
        )
        await asyncio.sleep(0.01)
        gate.open.set()
        assert mean_of(await quick) == [0.2]
        assert not slow.done()
        assert not mixed.done()
        second_wave.set()
        assert mean_of(await slow) == [0.9]
        assert mean_of(await mixed) == [0.3, 0.8, 0.4]
        await first

    run(scenario, gate)


class Tenths:
    """A data path in which each image takes as many steps as its mean has tenths."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.entered, self.go_on = threading.Event(), threading.Event()

    def begin(self, batch: Images) -> list[Any]:
        return [[i, mean, 0] for i, mean in enumerate(batch.mean(axis=(1, 2, 3)).tolist())]

    def join(self, running: list[Any], batch: Images) -> None:
        running += [[len(running) + i, mean, 0] for i, mean, _ in self.begin(batch)]

    def costs(self, running: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        undecided = [i for i, mean, taken in running if taken < round(mean * 10)]
        return np.array(undecided, np.int64), np.ones(len(undecided), np.int64)

    def advance(self, running: list[Any], turn: NDArray[np.int64] | None = None) -> Any:
        self.entered.set()
        assert self.go_on.wait(10)
        for image in running:
            image[2] += 1
        self.steps.append(sum(taken <= round(mean * 10) for _, mean, taken in running))
        decided = [(i, mean) for i, mean, taken in running if taken == round(mean * 10)]
        if not decided:
            return None
        return np.array([i for i, _ in decided]), _decisions(images(*(mean for _, mean in decided)))


def test_who_comes_while_others_are_in_doubt_rides_in_their_next_step() -> None:
    path = Tenths()

    async def scenario(batcher: Batcher[Any]) -> None:
        slow = asyncio.create_task(batcher.classify(images(0.1, 0.9)))
        await until(path.entered)
        quick = asyncio.create_task(batcher.classify(images(0.1)))
        await asyncio.sleep(0.01)
        path.go_on.set()
        assert mean_of(await quick) == [0.1]
        assert mean_of(await slow) == [0.1, 0.9]

    run(scenario, None, path=path)
    assert path.steps == [2, 2, 1, 1, 1, 1, 1, 1, 1]


def test_images_in_doubt_leave_no_more_room_than_there_is() -> None:
    path, recorder = Tenths(), Recorder()

    async def scenario(batcher: Batcher[Any]) -> None:
        slow = asyncio.create_task(batcher.classify(images(0.5, 0.51, 0.1)))
        await until(path.entered)
        rest = [asyncio.create_task(batcher.classify(images(0.3, 0.31))) for _ in range(2)]
        await asyncio.sleep(0.01)
        path.go_on.set()
        for request, means in ((slow, [0.5, 0.51, 0.1]), *((each, [0.3, 0.31]) for each in rest)):
            assert mean_of(await request) == means

    run(scenario, None, recorder, path=path, batch_images=4)
    assert recorder.batches == [3, 2, 2]
    assert path.steps == [3, 4, 4, 4, 4, 2, 2]


def test_what_nobody_waits_for_any_more_is_not_done_to_its_end() -> None:
    steps = [0]

    class Endless(Tenths):
        def advance(self, running: list[Any], turn: NDArray[np.int64] | None = None) -> None:
            steps[0] += 1
            time.sleep(0.001)

    async def scenario(batcher: Batcher[Any]) -> None:
        with pytest.raises(DeadlineExceeded):
            await batcher.classify(images(0.1))
        await asyncio.sleep(0.05)
        done = steps[0]
        await asyncio.sleep(0.05)
        assert steps[0] == done

    run(scenario, None, path=Endless(), deadline_s=0.1)


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
            yield np.array([0, 2]), _decisions(batch[[0, 2]])
        elif fault == "a row twice":
            yield np.array([0, 1]), _decisions(batch[[0, 1]])
            yield np.array([1]), _decisions(batch[[1]])
        elif fault == "out of order":
            yield np.array([2, 1, 0]), _decisions(batch[::-1])

    async def scenario(batcher: Batcher[Any]) -> None:
        with pytest.raises(InternalError):
            await batcher.classify(images(0.1, 0.2, 0.3))

    run(scenario, broken)


def test_an_outage_of_the_models_server_ends_every_request_of_the_step_without_another_call(caplog: Any) -> None:
    seen: list[int] = []

    def away(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        seen.append(len(batch))
        raise RemoteTooSlow("too slow")
        yield

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


def test_a_full_queue_refuses_at_once_and_takes_work_again_later(waves: Any) -> None:
    gate = Gate(waves)

    async def scenario(batcher: Batcher[Any]) -> None:
        first = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        waiting = [asyncio.create_task(batcher.classify(images(0.2, 0.21))) for _ in range(2)]
        await asyncio.sleep(0.01)
        assert batcher.waiting == 4
        with pytest.raises(QueueFull):
            await batcher.classify(images(0.3))
        gate.open.set()
        await asyncio.gather(first, *waiting)
        assert mean_of(await batcher.classify(images(0.3))) == [0.3]
        assert batcher.waiting == 0

    run(scenario, gate, queue_images=4)


def test_a_deadline_ends_the_wait_and_what_had_not_begun_is_never_done(waves: Any) -> None:
    gate = Gate(waves)

    async def scenario(batcher: Batcher[Any]) -> None:
        running = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        waiting = asyncio.create_task(batcher.classify(images(0.2)))
        for request in (running, waiting):
            with pytest.raises(DeadlineExceeded):
                await request
        gate.open.set()
        assert mean_of(await batcher.classify(images(0.3))) == [0.3]

    run(scenario, gate, deadline_s=0.05)
    assert waves.batches == [1, 1]


def test_a_cancelled_request_that_had_not_begun_is_never_done(waves: Any) -> None:
    gate = Gate(waves)

    async def scenario(batcher: Batcher[Any]) -> None:
        running = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        leaving = asyncio.create_task(batcher.classify(images(0.2)))
        await asyncio.sleep(0.01)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        gate.open.set()
        await running

    run(scenario, gate)
    assert waves.batches == [1]


def test_stopping_finishes_what_was_accepted_and_takes_nothing_more(waves: Any) -> None:
    gate = Gate(waves)

    async def scenario(batcher: Batcher[Any]) -> None:
        accepted = [asyncio.create_task(batcher.classify(images(0.1 * i))) for i in range(1, 6)]
        await until(gate.entered)
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0.01)
        with pytest.raises(Stopping):
            await batcher.classify(images(0.9))
        gate.open.set()
        await stopping
        assert [mean_of(decisions) for decisions in await asyncio.gather(*accepted)] == [[0.1], [0.2], [0.3], [0.4], [0.5]]

    run(scenario, gate, batch_images=2)


def test_stopping_does_not_wait_longer_than_a_deadline_for_a_stuck_worker(waves: Any) -> None:
    gate = Gate(waves)

    async def scenario(batcher: Batcher[Any]) -> float:
        stuck = asyncio.create_task(batcher.classify(images(0.1)))
        await until(gate.entered)
        started = time.perf_counter()
        await batcher.stop()
        seconds = time.perf_counter() - started
        gate.open.set()
        with pytest.raises(DeadlineExceeded):
            await stuck
        return seconds

    assert run(scenario, gate, deadline_s=0.1) < 2


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


def _decisions(batch: Images) -> Decisions:
    means = batch.mean(axis=(1, 2, 3))
    return Decisions(np.repeat(means[:, None], 3, axis=1), np.zeros(len(batch), bool), np.zeros(len(batch), np.int64), Trace())


def _no_waves(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
    raise AssertionError


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


def test_a_request_is_not_told_of_the_time_before_it_came(waves: Any) -> None:
    before = Interval("abstain", time.perf_counter() - 60, time.perf_counter() - 59)

    def timed(batch: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        for rows, decisions in waves(batch):
            now = time.perf_counter()
            trace = replace(decisions.trace, intervals=(before, Interval("predict", now, now + 1)))
            yield rows, replace(decisions, trace=trace)

    async def scenario(batcher: Batcher[Any]) -> Decisions:
        return await batcher.classify(images(0.1))

    intervals = run(scenario, timed, traced=True).trace.intervals
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

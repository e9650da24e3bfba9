"""What the micro-batcher promises, with a fake data path and real threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.defended_classifier import Decisions
from models.classifier import Images
from service.batching import Batcher
from service.errors import (
    DeadlineExceeded,
    QueueFull,
    Stopping,
)
from tests.unit.service.batcher_scenarios import Gate, Recorder, decisions_of, images, mean_of, run, until


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
        yield np.flatnonzero(~slow), decisions_of(batch[~slow])
        if slow.any():
            assert second_wave.wait(10)
            yield np.flatnonzero(slow), decisions_of(batch[slow])

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
        return np.array([i for i, _ in decided]), decisions_of(images(*(mean for _, mean in decided)))


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

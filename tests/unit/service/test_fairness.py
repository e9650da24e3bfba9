"""What accounts get of one worker, counted in model calls, with a fake data path and real threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.defended_classifier import Decisions, Wave
from models.classifier import Images
from service.batching import Batcher
from service.errors import InternalError, QueueFull
from service.lines import Lines
from service.turns import ALONE, TOGETHER
from tests.unit.service.batcher_scenarios import Recorder, images, mean_of, until
from tests.unit.service.conftest import FakeWaves

# As STRIP's on the bundled classifier, the image's own call in the first.
STAGES = (3, 2, 4, 8, 16, 32, 32)
CLEAN = 0.5
"""Images of a lower mean are decided in their second step, others in their last."""


class Probing:
    """A data path that costs as STRIP does, and remembers what each account's images cost; `open` lets its steps go on.

    Whose an image is says the tenth of its mean.
    """

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.steps: list[dict[int, int]] = []
        self.joins: list[list[float]] = []

    def begin(self, batch: Images) -> list[list[Any]]:
        running: list[list[Any]] = []
        self.join(running, batch)
        return running

    def join(self, running: list[list[Any]], batch: Images) -> None:
        means = batch.mean(axis=(1, 2, 3), dtype=np.float64).round(4).tolist()
        self.joins.append(means)
        running += [[mean, 0] for mean in means]

    def costs(self, running: list[list[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        undecided = [i for i, (mean, stage) in enumerate(running) if stage < _stages_of(mean)]
        return np.array(undecided, np.int64), np.array([STAGES[running[i][1]] for i in undecided], np.int64)

    def advance(self, running: list[list[Any]], turn: NDArray[np.int64] | None = None) -> Wave | None:
        self.entered.set()
        assert self.open.wait(10)
        undecided = self.costs(running)[0].tolist()
        chosen = undecided if turn is None else [i for i in undecided if i in set(turn.tolist()) or running[i][1] == 0]
        spent: dict[int, int] = {}
        for i in chosen:
            mean, stage = running[i]
            spent[_owner(mean)] = spent.get(_owner(mean), 0) + STAGES[stage]
            running[i][1] += 1
        self.steps.append(spent)
        decided = [i for i in chosen if running[i][1] == _stages_of(running[i][0])]
        if not decided:
            return None
        means = np.array([running[i][0] for i in decided], np.float32)
        return np.array(decided), FakeWaves().decide(means)

    def spent(self, owner: int) -> list[int]:
        """Calls per step."""
        return [step.get(owner, 0) for step in self.steps]


@dataclass(eq=False)
class Request:
    """One of so many images in a line."""

    count: int
    ended: bool = False
    left: int = 0

    def __post_init__(self) -> None:
        self.left = self.count


def _stages_of(mean: float) -> int:
    return 2 if mean < CLEAN else len(STAGES)


def _owner(mean: float) -> int:
    return int(mean * 10 + 1e-6)


def many(owner: int, count: int, first: int = 0) -> Images:
    """Different images of one owner; of owners from 5 on they are suspicious."""
    return images(*(owner / 10 + 0.0002 * (first + i) for i in range(count)))


def run(scenario: Callable[[Batcher[Any], Probing], Awaitable[Any]], path: Any = None, **options: Any) -> Any:
    """Run a scenario against a batcher whose path waits for `open`, within ten seconds, and stop that."""

    async def main() -> Any:
        path_used: Any = path or Probing()
        batcher = Batcher(path_used, options.pop("observer", None) or Recorder(), **options)
        try:
            return await asyncio.wait_for(scenario(batcher, path_used), 10)
        finally:
            path_used.open.set()
            await batcher.stop()

    return asyncio.run(main())


async def held_up(batcher: Batcher[Any], path: Probing, account: str, owner: int, requests: int) -> list[asyncio.Task[Any]]:
    """An account with so many requests of 64 images, the first of them at work."""
    tasks = [asyncio.create_task(batcher.classify(many(owner, 64), account))]
    await until(path.entered)
    tasks += [asyncio.create_task(batcher.classify(many(owner, 64, 64 * i), account)) for i in range(1, requests)]
    await asyncio.sleep(0)
    return tasks


def test_an_image_beside_costly_ones_of_another_account_waits_for_few_of_their_model_calls() -> None:
    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        hostile = await held_up(batcher, path, "hostile", 6, 4)
        honest = asyncio.create_task(batcher.classify(images(0.1), "honest"))
        await asyncio.sleep(0.01)
        path.open.set()
        assert mean_of(await honest) == [0.1]
        await asyncio.gather(*hostile)

    path = Probing()
    run(scenario, path)
    own = [step for step, calls in enumerate(path.spent(1)) if calls]
    assert own == [1, 2]  # the first step had begun
    assert path.steps[0] == {6: 64 * STAGES[0]}
    assert all(path.spent(6)[step] <= TOGETHER for step in own)
    assert sum(path.spent(6)) == 4 * 64 * sum(STAGES)


def test_accounts_that_ask_for_the_same_get_the_same_and_a_costly_image_is_saved_for() -> None:
    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        requests = await held_up(batcher, path, "one", 6, 2)
        requests += [asyncio.create_task(batcher.classify(many(8, 64, 64 * i), "other")) for i in range(2)]
        await asyncio.sleep(0.01)
        path.open.set()
        await asyncio.gather(*requests)

    path = Probing()
    run(scenario, path)
    one, other = np.cumsum(path.spent(6)), np.cumsum(path.spent(8))
    both = slice(1, int(np.argmax(one == one[-1])))
    difference = (one - other)[both]
    assert np.ptp(difference) <= 2 * (TOGETHER + max(STAGES))
    assert one[-1] == other[-1] == 128 * sum(STAGES)


def test_an_account_alone_has_whole_steps_and_its_requests_are_not_split() -> None:
    observer = Recorder()

    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        path.open.set()
        await asyncio.gather(*(batcher.classify(many(6, 64, 64 * i), "alone") for i in range(3)))

    path = Probing()
    run(scenario, path, observer=observer)
    assert observer.batches == [64, 64, 64]
    assert max(path.spent(6)) <= ALONE
    assert sorted(path.spent(6))[len(path.steps) // 2] == ALONE


def test_a_slow_classifier_gets_short_steps() -> None:
    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        path.open.set()
        await batcher.classify(many(6, 24), "alone")

    path = Probing()
    run(scenario, path, call_s=0.01)  # 25 calls are a quarter of a second
    assert path.spent(6)[0] == 24 * STAGES[0]  # whoever comes takes part
    assert max(path.spent(6)[1:]) <= max(25, *STAGES)
    assert sum(path.spent(6)) == 24 * sum(STAGES)


def test_a_large_request_beside_others_is_let_in_by_parts_and_answered_in_order() -> None:
    async def scenario(batcher: Batcher[Any], path: Probing) -> Decisions:
        hostile = await held_up(batcher, path, "hostile", 6, 3)
        honest = asyncio.create_task(batcher.classify(many(1, 64), "honest"))
        await asyncio.sleep(0.01)
        path.open.set()
        answer: Decisions = await honest
        await asyncio.gather(*hostile)
        return answer

    path = Probing()
    answer = run(scenario, path)
    np.testing.assert_allclose(answer.probabilities[:, 0], many(1, 64)[:, 0, 0, 0], atol=1e-4)
    assert all(calls <= TOGETHER + STAGES[0] for calls in path.spent(1))
    parts = [sum(_owner(mean) == 1 for mean in means) for means in path.joins]
    assert 1 < max(parts) <= TOGETHER // STAGES[0] + 1


def test_there_is_room_for_others_however_much_one_account_has_at_work() -> None:
    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        requests = await held_up(batcher, path, "hostile", 6, 4)
        requests += [asyncio.create_task(batcher.classify(many(owner, 64), f"{owner}")) for owner in (7, 8, 9)]
        await asyncio.sleep(0.01)
        path.open.set()
        await asyncio.gather(*requests)

    path = Probing()
    run(scenario, path)
    first = {owner: path.spent(owner).index(STAGES[0] * (TOGETHER // STAGES[0])) for owner in (7, 8, 9)}
    assert set(first.values()) == {1}  # all three in the step after the one that was under way


def test_a_full_queue_turns_away_whoever_fills_it() -> None:
    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        hostile = await held_up(batcher, path, "hostile", 6, 4)
        assert batcher.waiting == 3 * 64
        assert batcher.full()
        assert batcher.full("hostile")
        assert not batcher.full("honest")
        with pytest.raises(QueueFull):
            await batcher.classify(images(0.9), "hostile")
        honest = asyncio.create_task(batcher.classify(images(0.1), "honest"))
        with pytest.raises(QueueFull):
            await hostile.pop()  # the newest
        assert batcher.waiting == 2 * 64 + 1
        assert not batcher.full("hostile")
        path.open.set()
        assert mean_of(await honest) == [0.1]
        assert len(await asyncio.gather(*hostile)) == 3
        assert batcher.waiting == 0

    run(scenario, queue_images=3 * 64)


def test_a_newcomer_does_not_take_from_who_holds_less() -> None:
    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        requests = await held_up(batcher, path, "one", 6, 2)
        with pytest.raises(QueueFull):
            await batcher.classify(many(8, 65), "other")
        requests += [asyncio.create_task(batcher.classify(many(8, 20), "other"))]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await requests.pop(1)
        path.open.set()
        await asyncio.gather(*requests)

    run(scenario, queue_images=64, batch_images=65)


def test_what_has_begun_is_not_pushed_out_and_nothing_is_for_nothing() -> None:
    lines: Lines[Request] = Lines(64)
    lone, begun = Request(10), Request(54)
    lines.add("lone", lone)
    line, _ = lines.add("begun", begun)
    assert lines.take(line, 4, split=True) == [(begun, 4)]
    with pytest.raises(QueueFull):
        lines.add("newcomer", Request(30))
    assert (lone.left, begun.left, lines.waiting) == (10, 50, 60)


def test_a_request_is_taken_whole_unless_it_may_be_split_and_one_that_has_ended_not_at_all() -> None:
    lines: Lines[Request] = Lines(64)
    requests = [Request(4), Request(4, ended=True), Request(8)]
    line = next(lines.add("one", request)[0] for request in requests[:1])
    for request in requests[1:]:
        lines.add("one", request)
    assert lines.take(line, 11, split=False) == [(requests[0], 4)]
    assert lines.waiting == 8
    assert lines.take(line, 7, split=True) == [(requests[2], 7)]
    assert lines.take(line, 7, split=True) == [(requests[2], 1)]
    assert (lines.waiting, line.waiting) == (0, 0)


def test_the_same_image_many_times_is_decided_once_and_counted_as_asked() -> None:
    observer = Recorder()

    async def scenario(batcher: Batcher[Any], path: Probing) -> Decisions:
        path.open.set()
        answer: Decisions = await batcher.classify(images(0.3, 0.6, 0.3, 0.3, 0.1, 0.6))
        return answer

    path = Probing()
    answer = run(scenario, path, observer=observer, traced=True)
    assert path.joins == [[0.3, 0.6, 0.1]]
    assert mean_of(answer) == [0.3, 0.6, 0.3, 0.3, 0.1, 0.6]
    assert answer.labels.tolist() == [0, 1, 0, 0, 0, 1]
    assert len(answer.trace.detections[0].calls) == len(answer.trace.purification_distance) == 6
    assert sum(len(each.labels) for each in observer.decisions) == 6
    assert sum(len(each.trace.detections[0].scores) for each in observer.decisions) == 6


def test_images_that_differ_in_one_bit_are_not_the_same() -> None:
    one = images(0.25)
    other = one.copy()
    other[0, 0, 0, 0] = np.nextafter(other[0, 0, 0, 0], np.float32(1))

    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        path.open.set()
        await batcher.classify(np.concatenate([one, other]))

    path = Probing()
    run(scenario, path)
    assert [len(means) for means in path.joins] == [2]


def test_a_request_let_in_by_parts_whose_step_raises_runs_again_as_a_whole() -> None:
    class Fragile(Probing):
        def advance(self, running: list[list[Any]], turn: NDArray[np.int64] | None = None) -> Wave | None:
            owners = {_owner(mean) for mean, _ in running}
            if {1, 6} <= owners:
                raise ValueError("together")
            return super().advance(running, turn)

    async def scenario(batcher: Batcher[Any], path: Probing) -> None:
        hostile = await held_up(batcher, path, "hostile", 6, 1)
        honest = asyncio.create_task(batcher.classify(many(1, 64), "honest"))
        await asyncio.sleep(0.01)
        path.open.set()
        assert len((await honest).labels) == 64
        assert len((await hostile[0]).labels) == 64
        assert batcher.waiting == 0

    run(scenario, Fragile())


def test_requests_of_many_accounts_and_sizes_all_end_with_their_own_answers() -> None:
    rng = np.random.default_rng(3)

    class Flaky(Probing):
        def advance(self, running: list[list[Any]], turn: NDArray[np.int64] | None = None) -> Wave | None:
            if len(self.steps) % 11 == 10:
                self.steps.append({})
                raise ValueError("flaky")
            return super().advance(running, turn)

    async def one(batcher: Batcher[Any], account: int, means: list[float]) -> str:
        work = asyncio.ensure_future(batcher.classify(images(*means), account))
        if rng.random() < 0.1:
            await asyncio.sleep(rng.random() / 50)
            work.cancel()
        try:
            decisions = await work
        except (QueueFull, InternalError) as problem:
            return problem.code
        except asyncio.CancelledError:
            return "left"
        assert mean_of(decisions) == means
        return "answered"

    async def scenario(batcher: Batcher[Any], path: Probing) -> list[str]:
        path.open.set()
        requests = [[round(float(m), 3) for m in rng.uniform(0, 0.8, rng.integers(1, 17))] for _ in range(300)]
        return await asyncio.gather(*(one(batcher, i % 7 // 2, means) for i, means in enumerate(requests)))

    ends = run(scenario, Flaky(), queue_images=900, batch_images=16)
    assert set(ends) <= {"answered", "queue_full", "internal_error", "left"}
    assert ends.count("answered") > 50

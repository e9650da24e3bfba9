"""When answers leave, on a clock that jumps: an event loop that does not sleep, but sets its time forward."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.errors import DeadlineExceeded, InternalError, QueueFull
from service.release import Schedule


class _Jumping(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class Clock(asyncio.SelectorEventLoop):
    """Hours pass in no time."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(scenario: Callable[[], Awaitable[Any]]) -> Any:
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(scenario())  # type: ignore[arg-type]


async def ends(work: Awaitable[Any]) -> float:
    """When it ends, in milliseconds."""
    await asyncio.gather(work, return_exceptions=True)
    return round(1000 * asyncio.get_running_loop().time(), 1)


def taking(seconds: float, failure: Exception | None = None) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        await asyncio.sleep(seconds)
        if failure is not None:
            raise failure

    return work


@pytest.mark.parametrize(("seconds", "leaves_ms"), [(0.0, 100), (0.001, 100), (0.0993, 100), (0.101, 200), (0.39, 400)])
def test_an_answer_leaves_at_the_first_multiple_of_the_interval_at_which_it_is_ready(seconds: float, leaves_ms: float) -> None:
    async def scenario() -> None:
        await asyncio.sleep(0.0123)
        assert await ends(Schedule(0.1, images=4).keep("one", 1, taking(seconds))) == leaves_ms + 12.3

    run(scenario)


def test_a_failure_leaves_as_an_answer_does() -> None:
    async def scenario() -> None:
        with pytest.raises(InternalError):
            await Schedule(0.1, images=4).keep("one", 1, taking(0.01, InternalError()))
        assert asyncio.get_running_loop().time() == pytest.approx(0.1)

    run(scenario)


def test_what_an_account_has_beyond_one_request_waits_for_a_release_and_not_for_a_decision() -> None:
    schedule = Schedule(0.1, images=4)

    async def scenario() -> list[float]:
        requests = [("one", 3), ("one", 1), ("one", 2), ("one", 2), ("one", 9), ("other", 4)]
        return await asyncio.gather(*(ends(schedule.keep(who, n, taking(0.01))) for who, n in requests))

    assert run(scenario) == [100, 100, 200, 200, 300, 100]
    assert not schedule.accounts


def test_one_that_is_given_up_ends_at_once_and_keeps_its_place_until_its_release() -> None:
    schedule = Schedule(0.1, images=1)

    async def scenario() -> None:
        leaving = asyncio.create_task(schedule.keep("one", 1, taking(0.01)))
        second = asyncio.create_task(ends(schedule.keep("one", 1, taking(0.01))))
        third = asyncio.create_task(ends(schedule.keep("one", 1, taking(0.01))))
        await asyncio.sleep(0.005)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert asyncio.get_running_loop().time() == pytest.approx(0.005)
        second.cancel()
        assert await third == 200
        await asyncio.gather(second, return_exceptions=True)

    run(scenario)
    assert not schedule.accounts


def test_the_wait_for_a_turn_is_bounded_in_length_and_time() -> None:
    schedule = Schedule(1.0, images=1, deadline_s=0.5, waiting=1)

    async def scenario() -> None:
        first, waiting, refused = (asyncio.create_task(schedule.keep("one", 1, taking(0.1))) for _ in range(3))
        with pytest.raises(QueueFull):
            await refused
        with pytest.raises(DeadlineExceeded):
            await waiting
        assert asyncio.get_running_loop().time() == pytest.approx(0.5)
        await first
        await schedule.keep("one", 1, taking(0.1))

    run(scenario)

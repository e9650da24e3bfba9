"""When answers leave: at times that do not depend on what was found, so that time does not tell how many overlays an image took.

    arrival ── wait for a turn ── decide ── hold until a multiple of the interval has passed since the turn began ── answer

An answer that is ready within the interval leaves at its end, whatever it took; one that is not leaves at the end of the next, which
does say that it took long. So that it seldom happens, a request of the most images fits the interval in the worst case
(`service/lifecycle/startup.py`), and an account has no more images than that between the beginning of their turn and their release:
others of its requests wait for a release, not for a decision.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from service.errors import DeadlineExceeded, QueueFull

T = TypeVar("T")


class Schedule:
    """Holds answers back.

    Args:
        interval_s: see the module. deadline_s: for the wait for a turn.
        images: that an account may have between turn and release; a request of more has its turn when there are none.
        waiting: requests that may wait for their turn, of all accounts together.
    """

    def __init__(self, interval_s: float, *, images: int, deadline_s: float = 10.0, waiting: int = 1024) -> None:
        self.interval_s = interval_s
        self._images, self._deadline_s, self._may_wait = images, deadline_s, waiting
        self._out: dict[Hashable, int] = {}
        self._lines: dict[Hashable, deque[tuple[int, asyncio.Future[None]]]] = {}
        self._waiting = 0

    @property
    def accounts(self) -> int:
        """How many have images here."""
        return len(self._out)

    async def keep(self, account: Hashable, images: int, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work of so many images in its turn, and return, or raise, when its time has come; at once only when cancelled.

        Raises: QueueFull and DeadlineExceeded of the wait for a turn, and what `work` raises.
        """
        await self._turn(account, images)
        hold = _Hold(self.interval_s, lambda: self._release(account, images))
        try:
            return await work()
        finally:
            hold.ready = True
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                await hold.over

    async def _turn(self, account: Hashable, images: int) -> None:
        """Wait until the account has room for the images, and take it."""
        line = self._lines.get(account)
        if not line and self._fits(account, images):
            self._out[account] = self._out.get(account, 0) + images
            return
        if self._waiting >= self._may_wait:
            raise QueueFull
        begin: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(account, deque()).append((images, begin))
        self._waiting += 1
        try:
            async with asyncio.timeout(self._deadline_s):
                await begin
        except TimeoutError:
            self._give_up(account, images, begin)
            raise DeadlineExceeded from None
        except asyncio.CancelledError:
            self._give_up(account, images, begin)
            raise
        finally:
            self._waiting -= 1

    def _give_up(self, account: Hashable, images: int, begin: asyncio.Future[None]) -> None:
        if begin.done() and not begin.cancelled():  # its turn had come just then
            self._release(account, images)
            return
        line = self._lines.get(account, deque())
        if (images, begin) in line:
            line.remove((images, begin))
        self._admit(account)

    def _fits(self, account: Hashable, images: int) -> bool:
        out = self._out.get(account, 0)
        return not out or out + images <= self._images

    def _release(self, account: Hashable, images: int) -> None:
        self._out[account] -= images
        self._admit(account)

    def _admit(self, account: Hashable) -> None:
        """Give turns to those that wait, in their order, and forget an account that has nothing here."""
        line = self._lines.get(account)
        while line and self._fits(account, line[0][0]):
            images, begin = line.popleft()
            if not begin.done():
                self._out[account] = self._out.get(account, 0) + images
                begin.set_result(None)
        if not line:
            self._lines.pop(account, None)
            if not self._out.get(account):
                self._out.pop(account, None)


class _Hold:
    """One answer's times: `over` is done at the first multiple of the interval at which it is `ready`.

    Its clock runs from the beginning: a timer set when the answer is ready would end at a time rounded by when that was.
    """

    def __init__(self, interval_s: float, released: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval_s, self._released = interval_s, released
        self.ready = False
        self.over: asyncio.Future[None] = self._loop.create_future()
        self._at = self._loop.time()
        self._set()

    def _set(self) -> None:
        self._at += self._interval_s
        self._loop.call_at(self._at, self._tick)

    def _tick(self) -> None:
        if not self.ready:
            self._set()
            return
        self._released()
        if not self.over.done():
            self.over.set_result(None)

"""Who waits for the classifier: a line for each account, and what each may have at work.

    add (event loop) ──> [ a line per account, all of them bounded together ] ──> take (worker)

Whom a full queue turns away: the one who fills it. A newcomer whose account would not hold more than the account of the longest line
takes the place of the newest request there (longest queue drop: Suter, Lakshman, Stiliadis and Choudhury, INFOCOM 1998). A line that is
empty, with nothing at work, is forgotten.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from service.errors import QueueFull


class Waiting(Protocol):
    """A request in a line: it has `count` images, of which `left` are still waiting."""

    count: int
    left: int

    @property
    def ended(self) -> bool: ...


W = TypeVar("W", bound=Waiting)


@dataclass(slots=True, eq=False)
class AccountLine(Generic[W]):
    """One account's requests, in their order.

    Attributes:
        waiting: images of them. at_work: its images that the worker has. allowance: model calls it may spend now; both the worker's.
        index: its place among the lines of a step.
    """

    account: Hashable
    requests: deque[W] = field(default_factory=deque)
    waiting: int = 0
    at_work: int = 0
    allowance: int = 0
    index: int = 0


class Lines(Generic[W]):
    """The lines of all accounts.

    Args:
        images_at_most: that may wait, of all accounts together.

    Thread safety: every method may be called by the event loop and by the worker.
    """

    def __init__(self, images_at_most: int) -> None:
        self._most = images_at_most
        self._lines: dict[Hashable, AccountLine[W]] = {}
        self._lock = threading.Lock()
        self._bell = threading.Lock()  # held while there is nothing to do
        self._bell.acquire()
        self._asleep = self._ended = False
        self.waiting = 0

    def full(self, account: Hashable = None) -> bool:
        """Whether not even one image more of this account may wait; without an account, whether somebody would be turned away."""
        if self.waiting < self._most:
            return False
        if account is None:
            return True
        with self._lock:
            return not self._may_push(account, 1)

    def add(self, account: Hashable, request: W) -> tuple[AccountLine[W], list[W]]:
        """Let a request wait: its line, and the requests that it pushed out. Raises: QueueFull."""
        with self._lock:
            out: list[W] = []
            if self.waiting + request.count > self._most:
                if not self._may_push(account, request.count):
                    raise QueueFull
                out = self._push_out(self.waiting + request.count - self._most, account)
            line = self._lines.get(account)
            if line is None:
                line = self._lines[account] = AccountLine(account)
            line.requests.append(request)
            self._count(line, request.count)
            self._ring()
            return line, out

    def leave(self, line: AccountLine[W], request: W) -> None:
        """Let go of a request that still waits, wholly or in part."""
        with self._lock:
            if request.left:
                line.requests.remove(request)
                self._count(line, -request.left)
                request.left = 0

    def take(self, line: AccountLine[W], images: int, *, split: bool) -> list[tuple[W, int]]:
        """Requests for so many images at most, each with how many of it; the last one in part if it may be `split`."""
        taken: list[tuple[W, int]] = []
        with self._lock:
            while line.requests:
                request = line.requests[0]
                count = request.left
                if not request.ended:
                    if count > images and not split:
                        break
                    count = min(count, images)
                    if not count:
                        break
                    taken.append((request, count))
                    images -= count
                request.left = request.left - count
                self._count(line, -count)
                if not request.left:
                    line.requests.popleft()
        return taken

    def wait(self, *, block: bool) -> list[AccountLine[W]] | None:
        """All lines, after forgetting those without work; None when there will be none any more. While there are none, wait, or not."""
        while True:
            with self._lock:
                for account in [account for account, line in self._lines.items() if not line.requests and not line.at_work]:
                    del self._lines[account]
                if self._lines or not block:
                    return list(self._lines.values())
                if self._ended:
                    return None
                self._asleep = True
            self._bell.acquire()

    def end(self) -> None:
        """Nothing will be added any more."""
        with self._lock:
            self._ended = True
            self._ring()

    def _may_push(self, account: Hashable, images: int) -> bool:
        """Whether this account would hold no more than the one that holds most."""
        line = self._lines.get(account)
        return (line.waiting if line else 0) + images <= max((each.waiting for each in self._lines.values()), default=0)

    def _push_out(self, images: int, account: Hashable) -> list[W]:
        """Make room at the ends of the longest lines of others. Raises: QueueFull when what is there has begun."""
        out: list[tuple[AccountLine[W], W]] = []
        others = [line for line in self._lines.values() if line.account != account]
        while images > 0:
            longest = max(others, key=lambda line: line.waiting)
            if not longest.requests or longest.requests[-1].left < longest.requests[-1].count:
                for line, request in reversed(out):
                    line.requests.append(request)
                    self._count(line, request.left)
                raise QueueFull
            request = longest.requests.pop()
            self._count(longest, -request.left)
            images -= request.left
            out.append((longest, request))
        for _, request in out:
            request.left = 0
        return [request for _, request in out]

    def _count(self, line: AccountLine[W], images: int) -> None:
        line.waiting += images
        self.waiting += images

    def _ring(self) -> None:
        if self._asleep:
            self._asleep = False
            self._bell.release()

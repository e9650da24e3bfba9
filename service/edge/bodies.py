"""The bytes of bodies that all requests hold, and who has to give way when there are too many.

A body that lacks its last byte costs the sender little and the server a share of its memory. So whoever fills the memory gives way:

- held bytes are counted by account (a client with a key, else an address);
- when one byte more would be too much, the account that holds the most loses a body that is still arriving, of its bodies the one that
  has held most bytes for longest; a request of the fullest account itself is refused when none of its bodies has held more;
- a body that brings fewer than `LEAST_BYTES_PER_S` in `GRACE_S` is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from service.edge.accounts import Account
from service.errors import Problem, QueueFull, SlowBody

LEAST_BYTES_PER_S = 1024
GRACE_S = 3.0


class Body(Protocol):
    """The body of one request; `held` is counted here."""

    held: int

    @property
    def holder(self) -> Account: ...

    def cut(self, problem: Problem) -> None:
        """Give it up while it is still coming, and answer with this."""


class Ahead:
    """Bytes of requests that a client sent before the last was answered; they wait in the connection, which is not read meanwhile."""

    def __init__(self, holder: Account) -> None:
        self.held, self.holder = 0, holder

    def cut(self, problem: Problem) -> None:
        """Never asked: it is not among those that arrive."""


class _Since:
    """When a body began to arrive; and how much of it was here at the last look, and when that was."""

    __slots__ = ("began", "looked", "seen")

    def __init__(self, now: float, held: int) -> None:
        self.began = self.looked = now
        self.seen = held


class Bodies:
    """All bodies of one server.

    Args:
        at_most: bytes held at once, of all requests.
    """

    def __init__(self, at_most: int = 1 << 26, clock: Callable[[], float] = time.monotonic) -> None:
        self.at_most, self.held = at_most, 0
        self._clock = clock
        self._arriving: dict[Body, _Since] = {}

    def hold(self, body: Body, more: int) -> None:
        """Count bytes of it that came. Raises: QueueFull when they are too many, and it is this body that has to give way."""
        body.held += more
        body.holder.held += more
        self.held += more
        while self.held > self.at_most:
            self._cut(self._heaviest(body), QueueFull())

    def let_go(self, body: Body) -> None:
        """Its bytes are no longer needed."""
        self.held -= body.held
        body.holder.held -= body.held
        body.held = 0

    def begin(self, body: Body) -> None:
        """More of it is to come: it may be cut from now on, until `end`."""
        self._arriving[body] = _Since(self._clock(), body.held)

    def end(self, body: Body) -> None:
        """It is here, or given up."""
        self._arriving.pop(body, None)

    def _heaviest(self, newest: Body) -> Body:
        """The one to cut. Raises: QueueFull when that is the newest itself, or one of an account that holds less."""
        now = self._clock()

        def weight(body: Body) -> tuple[int, float, int]:
            return body.holder.held, body.held * (now - self._arriving[body].began), body.held

        heaviest = max(self._arriving, key=weight, default=None)
        if heaviest is None or heaviest is newest or heaviest.holder.held < newest.holder.held or not heaviest.held:
            raise QueueFull
        return heaviest

    def _cut(self, body: Body, problem: Problem) -> None:
        del self._arriving[body]
        self.let_go(body)
        body.cut(problem)

    def look(self) -> None:
        """Give up the bodies that come too slowly; to be called about once a second."""
        now = self._clock()
        for body, since in list(self._arriving.items()):
            if now - since.looked < GRACE_S:
                continue
            if body.held - since.seen < LEAST_BYTES_PER_S * (now - since.looked):
                self._cut(body, SlowBody())
            since.looked, since.seen = now, body.held

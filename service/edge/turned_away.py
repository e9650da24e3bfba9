"""A request that is refused for want of room by its head alone: its body is dropped as it comes, and its refusal goes out after it.

Where its account has been refused much of late (accounts.py), its connection is not read until the refusal may go out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NoReturn

from service.bentoml_hooks import STATUS_LINE
from service.edge.asgi import Message, Scope
from service.edge.exchange import Exchange
from service.edge.site import Route, Site
from service.errors import Problem, QueueFull


class TurnedAway:
    """One request that is refused, until its refusal is out."""

    __slots__ = ("_timer", "came_whole", "exchange", "route")

    problem = QueueFull()

    def __init__(self, exchange: Exchange, route: Route) -> None:
        self.exchange, self.route = exchange, route
        self.came_whole = False
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def by_head(cls, scope: Scope, site: Site) -> TurnedAway | None:
        """The request whose head this is, if it will be refused for want of room and for nothing else that the edge finds in a head."""
        route = site.routes.get(scope["path"])
        if route is None or not route.reads:
            return None
        exchange = Exchange(scope, _never, _nowhere, site.bounds)
        try:
            site.checked(exchange, route)
        except Problem:
            return None
        if not site.full(exchange.account):
            return None  # others fill the queue: this one takes a place of theirs
        site.began(exchange)
        return cls(exchange, route)

    def wait(self, loop: asyncio.AbstractEventLoop, over: Callable[[], None]) -> bool:
        """Whether the refusal has to wait; then `over` is called when it may go out."""
        wait_s = self.exchange.refusal_waits_s()
        if wait_s:
            self._timer = loop.call_later(wait_s, over)
        return bool(wait_s)

    @property
    def waits(self) -> bool:
        """Whether it has to wait still."""
        return self._timer is not None

    def answer(self, default_headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """The refusal as it goes out, after headers of the server."""
        headers, body = self.exchange.refusal(self.problem)
        lines = [b"%b: %b\r\n" % header for header in (*default_headers, *headers)]
        return b"".join((STATUS_LINE[self.problem.status], *lines, b"\r\n", body))

    def end_wait(self) -> None:
        """It may go out, or never will."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


async def _never() -> NoReturn:
    raise AssertionError("a request that is turned away is not read")


async def _nowhere(message: Message) -> None:
    raise AssertionError("a request that is turned away is answered by its connection")

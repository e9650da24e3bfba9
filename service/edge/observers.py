"""The observers of requests: protocols that metrics, the audit log and the tracer fit."""

from __future__ import annotations

from typing import Protocol

from service.edge.exchange import Exchange, Source
from service.errors import Problem


class RequestObserver(Protocol):
    """Is told of every request."""

    def began(self) -> None: ...

    def ended(self, route: str, status: int, seconds: float) -> None: ...

    def rejected(self, code: str) -> None: ...

    def turned_away(self, status: int, times: int) -> None:
        """So many connections were closed as if with this status, before there was a request."""


class RefusalObserver(Protocol):
    """Is told of every refusal on a path that takes a body, and of those of a whole connection."""

    def refused(self, source: Source, problem: Problem) -> None: ...


class Spans(Protocol):
    """Is told of every request on a path that is logged, when it has ended."""

    def ended(self, exchange: Exchange, route: str, status: int) -> None: ...

"""Who is told of requests by the edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from service.edge.middleware import Exchange
    from service.errors import Problem


class RequestObserver(Protocol):
    """Is told of every request."""

    def began(self) -> None: ...

    def ended(self, route: str, status: int, seconds: float) -> None: ...

    def rejected(self, code: str) -> None: ...


class RefusalObserver(Protocol):
    """Is told of every refusal on a path that takes a body, and of those of a whole connection."""

    def refused(self, source: Source, problem: Problem) -> None: ...


class Spans(Protocol):
    """Is told of every request on a path that is logged, when it has ended."""

    def ended(self, exchange: Exchange, route: str, status: int) -> None: ...


@dataclass(frozen=True)
class Source:
    """Who asked for what: the request's id, the client's name if it has one, and the path as metrics call it."""

    request_id: str
    client: str
    route: str

"""The site a server serves: its paths, their checks, and the observers of their requests.

The middleware is made before the service that it stands in front of: a `Slot` holds an empty site, which answers 503 to everything,
until the one that serves is installed.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.edge.accounts import Account, Clients
from service.edge.addresses import Proxies
from service.edge.exchange import CLIENT_LEFT, UNKNOWN, Bounds, Exchange, Source
from service.edge.framing import declared_length
from service.edge.observers import RefusalObserver, RequestObserver, Spans
from service.edge.origins import Hosts
from service.errors import (
    BodyTooLarge,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Problem,
    TooManyConnections,
    UnsupportedEncoding,
    UnsupportedMediaType,
)


@dataclass(frozen=True)
class Route:
    """One path: its endpoint, and the requests it takes.

    Args:
        reads: the media types of its body, none for a path without one; a path with a body needs a key where keys are asked for.
        logged: in the access log.
        label: what metrics and the log call it; its path when not given.
    """

    endpoint: Callable[[Exchange], Awaitable[None]]
    methods: frozenset[str] = frozenset(("GET", "HEAD"))
    reads: frozenset[bytes] = frozenset()
    body_at_most: int = 0
    logged: bool = True
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """The paths of one server and their observers; without routes every path answers 503.

    Args:
        observer, audit, spans: see there. log: is given the fields of the access log's line.
        clients: those that may ask for predictions, and their budgets.
        bounds: of every request.
        proxies: those that stand in front, and whose word on a request's address is taken.
        hosts: the names by which pages in browsers may send images.
        full: whether there is no room for another prediction for an account, or, without one, for the account that has most; then
            requests for one are refused before they are read.
    """

    routes: Mapping[str, Route] = field(default_factory=dict)
    observer: RequestObserver | None = None
    log: Callable[..., None] | None = None
    clients: Clients = field(default_factory=Clients)
    audit: RefusalObserver | None = None
    spans: Spans | None = None
    bounds: Bounds = field(default_factory=Bounds)
    proxies: Proxies = field(default_factory=Proxies)
    hosts: Hosts = field(default_factory=Hosts)
    full: Callable[[Account | None], bool] = lambda _: False

    def note_refused(self, problem: Problem, request_id: bytes) -> None:
        """Count and log a refusal of bytes that never became a request."""
        if self.observer is not None:
            self.observer.began()
            self.observer.rejected(problem.code)
            self.observer.ended(UNKNOWN, problem.status, 0.0)
        if self.log is not None:
            self.log(request_id=request_id.decode(), method="", route=UNKNOWN, status=problem.status, code=problem.code)
        if self.audit is not None:
            self.audit.refused(Source(request_id.decode(), "", UNKNOWN), problem)

    def note_untold(self, connections: int) -> None:
        """Count and log connections that were closed without a word, of the last second."""
        if connections and self.observer is not None:
            self.observer.turned_away(TooManyConnections.status, connections)
        if connections and self.log is not None:
            code, status = TooManyConnections.code, TooManyConnections.status
            self.log(request_id="", method="", route=UNKNOWN, status=status, code=code, connections=connections)

    def began(self, exchange: Exchange) -> Route | None:
        """Count a request as one under way; what its path takes."""
        route = self.routes.get(exchange.scope["path"])
        if route is not None:
            exchange.route = route.label or exchange.scope["path"]
        if self.observer is not None:
            self.observer.began()
        return route

    def refused(self, exchange: Exchange, route: Route | None, problem: Problem) -> None:
        """Count a refusal, and tell the audit log of it."""
        if self.observer is not None:
            self.observer.rejected(problem.code)
        if self.audit is not None and route is not None and route.reads:
            self.audit.refused(exchange.source, problem)

    def ended(self, exchange: Exchange, route: Route | None) -> None:
        """Count and log a request that is over, however it ended."""
        exchange.let_go()
        seconds = time.perf_counter() - exchange.started
        status, logged = exchange.status or CLIENT_LEFT, route is None or route.logged
        if self.observer is not None:
            self.observer.ended(exchange.route, status, seconds)
        if self.log is not None and logged:
            fields: dict[str, Any] = {
                "request_id": exchange.request_id,
                "method": exchange.scope["method"],
                "route": exchange.route,
                "status": status,
                "duration_s": round(seconds, 6),
                "images": exchange.images,
                "abstained": exchange.abstained,
            }
            if exchange.account is not None and exchange.account.name:
                fields["client"] = exchange.account.name
            self.log(**fields)
        if self.spans is not None and logged and exchange.route != UNKNOWN:
            self.spans.ended(exchange, exchange.route, status)

    def checked(self, exchange: Exchange, route: Route | None) -> Callable[[Exchange], Awaitable[None]]:
        """The endpoint, once everything that can be said from the head of the request is said."""
        if not self.routes:
            raise NotReady
        if route is None:
            raise NotFound
        if exchange.scope["method"] not in route.methods:
            raise MethodNotAllowed(", ".join(sorted(route.methods)))
        if route.reads:
            self.hosts.check_browser(exchange.scope)
            if exchange.media_type and exchange.media_type not in route.reads:
                raise UnsupportedMediaType(b", ".join(sorted(route.reads)).decode())
            if exchange.encoding not in (b"", b"identity"):
                raise UnsupportedEncoding
            exchange.body_at_most = route.body_at_most
            if declared_length(exchange.declared) > route.body_at_most:
                raise BodyTooLarge
            peer = (exchange.scope.get("client") or ("",))[0]
            address = self.proxies.client_of(peer, exchange.scope["headers"])
            exchange.account = self.clients.account(exchange.authorization, address)
        return route.endpoint


class Slot:
    """The place of a server's one site: empty, then filled once."""

    __slots__ = ("_filled", "site")

    def __init__(self) -> None:
        self.site, self._filled = Site(), False

    def install(self, site: Site) -> None:
        """Begin to serve. Raises: RuntimeError when there is a site already."""
        if self._filled:
            raise RuntimeError("a server has one site, and it is installed already")
        self.site, self._filled = site, True

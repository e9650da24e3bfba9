"""The outermost layer of ours, plain ASGI: what holds for every request, whatever its path.

    request id -> known path (404) -> method (405) -> media type, encoding (415) -> body cap (413) -> identity and budget (401, 403,
    429) -> endpoint -> log, metrics

Every answer carries X-Request-ID, every refusal is a problem document, no exception gets past, and a request whose client has
left is given up. What a path does is in `endpoints.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from models.errors import HauberkError
from service.edge.accounts import Account, Clients
from service.edge.observers import RefusalObserver, RequestObserver, Source, Spans
from service.errors import (
    MEDIA_TYPE,
    BodyTooLarge,
    Headers,
    InternalError,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Problem,
    QueueFull,
    SlowBody,
    UnsupportedEncoding,
    UnsupportedMediaType,
)

if TYPE_CHECKING:
    from defences.defended_classifier import Interval

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
T = TypeVar("T")

UNKNOWN = "other"
_OPEN_INFERENCE = "/v2/"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
# Unique, not secret: a system call for each would make the event loop give its turn away.
_minted = random.Random()  # noqa: S311
_CLIENT_LEFT = 499  # nginx's number for it; only in logs and metrics, nobody is there to read it
# Most answers are out before this: only who waits longer is asked whether he is still there.
_PATIENCE_S = 0.05
# After a 413 the rest of the body is read and dropped, so that a client that sends first and reads later gets its answer.
_DRAIN_FACTOR, _DRAIN_S = 8, 5.0
_CLOSE = (b"connection", b"close")


class ClientLeft(HauberkError):
    """The connection is gone: there is nobody to answer."""


def mint() -> bytes:
    """A new request id."""
    return b"%032x" % _minted.getrandbits(128)


@dataclass(frozen=True)
class Route:
    """What a path takes.

    Args:
        reads: the media types of its body, none for a path without one; what has a body needs a key where keys are asked for.
        logged: in the access log.
        label: what metrics and the log call it; its path when not given.
    """

    endpoint: Callable[[Exchange], Awaitable[None]]
    methods: frozenset[str] = frozenset(("GET", "HEAD"))
    reads: frozenset[bytes] = frozenset()
    body_at_most: int = 0
    logged: bool = True
    label: str = ""


@dataclass
class Site:
    """What the edge serves. The middleware is made before the service: until `open`, every path is 503.

    Args:
        clients: who may ask for predictions, and how many.
        audit, spans: see there; none unless they are given.
        body_timeout_s, held_at_most: for a body to arrive; the bytes of bodies that may be held at once, of all requests.

    While `closing`, every answer asks its client to connect again, which leads it elsewhere. While `full()`, what would have to wait is
    refused.
    """

    routes: Mapping[str, Route] = field(default_factory=dict)
    observer: RequestObserver | None = None
    log: Callable[..., None] | None = None
    clients: Clients = field(default_factory=Clients)
    audit: RefusalObserver | None = None
    spans: Spans | None = None
    body_timeout_s: float = 10.0
    held_at_most: int = 1 << 26
    held: int = 0
    closing: bool = False
    full: Callable[[], bool] = lambda: False

    def open(
        self,
        routes: Mapping[str, Route],
        observer: RequestObserver,
        log: Callable[..., None] | None = None,
        body_timeout_s: float = 10.0,
    ) -> None:
        """Begin to serve."""
        self.routes, self.observer, self.log, self.body_timeout_s = routes, observer, log, body_timeout_s

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
        status, logged = exchange.status or _CLIENT_LEFT, route is None or route.logged
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


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, site: Site) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.started = time.perf_counter()
        self.status = 0
        self.account: Account | None = None
        self.images = self.abstained = 0
        self.route = UNKNOWN
        self.intervals: tuple[Interval, ...] = ()
        self.body_at_most, self._site = 0, site
        self._body_ended, self._held = False, 0
        self.media_type = self.encoding = self.authorization = b""
        self.declared = b""
        given = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                self.media_type = value.partition(b";")[0].strip().lower()
            elif name == b"content-length":
                self.declared = value
            elif name == b"content-encoding":
                self.encoding = value.strip().lower()
            elif name == b"authorization":
                self.authorization = value
            elif name == b"x-request-id":
                given = value
        self.id = given if _REQUEST_ID.fullmatch(given) else mint()

    @property
    def request_id(self) -> str:
        return self.id.decode()

    @property
    def source(self) -> Source:
        """Who asked for what."""
        return Source(self.request_id, "" if self.account is None else self.account.name, self.route)

    async def read(self) -> bytes:
        """The body. Raises: BodyTooLarge, SlowBody, QueueFull, ClientLeft."""
        try:
            async with asyncio.timeout(self._site.body_timeout_s):
                body = await self._next_part()
                if not self._body_ended:
                    body = bytearray(body)
                while not self._body_ended and len(body) <= self.body_at_most:
                    body += await self._next_part()
        except TimeoutError:
            raise SlowBody from None
        if len(body) > self.body_at_most:
            raise BodyTooLarge
        return bytes(body)

    async def _next_part(self) -> bytes | bytearray:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self._body_ended = not message.get("more_body")
        part: bytes = message.get("body", b"")
        self._hold(len(part))
        return part

    def _hold(self, more: int) -> None:
        self._held += more
        self._site.held += more
        if self._site.held > self._site.held_at_most:
            raise QueueFull

    def let_go(self) -> None:
        """The body is no longer needed."""
        self._site.held -= self._held
        self._held = 0

    async def respond(self, status: int, media_type: bytes, body: bytes, headers: Headers = (), *, more: bool = False) -> None:
        """Send the whole answer; `more` leaves it open for `finish`."""
        self.status = status
        own = self._headers(media_type, body, headers)
        await self.send({"type": "http.response.start", "status": status, "headers": own})
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    def _headers(self, media_type: bytes, body: bytes, headers: Headers) -> list[tuple[bytes, bytes]]:
        own = [(b"content-type", media_type), (b"content-length", b"%d" % len(body)), (b"x-request-id", self.id), *headers]
        return own + [header for header in self.closing() if header not in headers]

    def closing(self) -> Headers:
        """What tells the client to connect again, when this server is about to end."""
        return (_CLOSE,) if self._site.closing else ()

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem document, or with what the Open Inference Protocol has for an error."""
        media_type, body = self._document(problem)
        if not isinstance(problem, BodyTooLarge):
            await self.respond(problem.status, media_type, body, problem.headers)
            return
        await self.respond(problem.status, media_type, body, problem.headers, more=True)
        await self._drain(_DRAIN_FACTOR * self.body_at_most)
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    def refusal(self, problem: Problem) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body of what `refuse` answers, for who sends it himself."""
        self.status = problem.status
        media_type, body = self._document(problem)
        return self._headers(media_type, body, problem.headers), body

    def _document(self, problem: Problem) -> tuple[bytes, bytes]:
        if f"{self.scope['path']}/".startswith(_OPEN_INFERENCE):
            return b"application/json", problem.short_body()
        return MEDIA_TYPE, problem.body(self.request_id)

    async def _drain(self, most: int) -> None:
        dropped = 0
        try:
            async with asyncio.timeout(_DRAIN_S):
                while dropped <= most and not self._body_ended:
                    dropped += len(await self._next_part())
                    self.let_go()
        except (TimeoutError, QueueFull, ClientLeft):
            return

    async def unless_client_leaves(self, work: Awaitable[T]) -> T:
        """Await `work`; cancel it when the client goes first. Only after the body was read. Raises: ClientLeft."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        watch = _Watch(self.receive, task)
        timer = task.get_loop().call_later(_PATIENCE_S, watch.begin)
        try:
            return await work
        except asyncio.CancelledError:
            if watch.left:
                task.uncancel()
                raise ClientLeft from None
            raise
        finally:
            timer.cancel()
            watch.end()


class _Watch:
    """Waits for the client to leave, and cancels a task then."""

    def __init__(self, receive: Receive, task: asyncio.Task[Any]) -> None:
        self._receive, self._task = receive, task
        self._waiting: asyncio.Task[None] | None = None
        self.left = False

    def begin(self) -> None:
        self._waiting = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._task.cancel()

    def end(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()


class Edge:
    """The ASGI middleware.

    Args:
        app: what BentoML puts behind it.
        site: what to serve; a route's endpoint may hand a request on to `app`, see `pass_on`.
    """

    def __init__(self, app: App, *, site: Site) -> None:
        self.app, self._site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            self._step_in_front(scope.get("app"))
            await self.app(scope, receive, send)
        else:  # no server of ours opens a websocket, see protocol.py
            await send({"type": "websocket.close", "code": 1000})

    def _step_in_front(self, application: Any) -> None:
        """Let requests come here first, not through the tracing and the timeout that BentoML puts before any middleware of ours.

        They make a task, a future and a timer per request, the timer alive long after the answer, and their own refusals carry no
        request id. Starlette keeps the stack it built in an attribute and names itself in the scope;
        should that end, the edge works from where it is.
        """
        if hasattr(application, "middleware_stack"):
            application.middleware_stack = self

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._site)
        scope["hauberk.app"] = self.app
        route = self._site.began(exchange)
        try:
            await self._answer(exchange, route)
        finally:
            self._site.ended(exchange, route)

    async def _answer(self, exchange: Exchange, route: Route | None) -> None:
        """Let the endpoint answer, or refuse."""
        try:
            await checked(exchange, route, self._site)(exchange)
        except Problem as problem:
            if isinstance(problem, InternalError):
                logger.exception("a request failed", extra={"fields": {"request_id": exchange.request_id}})
            await self._refuse(exchange, route, problem)
        except ClientLeft:
            return
        except Exception:
            logger.exception("a request failed", extra={"fields": {"request_id": exchange.request_id}})
            await self._refuse(exchange, route, InternalError())

    async def _refuse(self, exchange: Exchange, route: Route | None, problem: Problem) -> None:
        if exchange.status:
            return  # the answer had begun: uvicorn closes the connection, so that the client sees it is cut
        self._site.refused(exchange, route, problem)
        await exchange.refuse(problem)


def checked(exchange: Exchange, route: Route | None, site: Site) -> Callable[[Exchange], Awaitable[None]]:
    """The endpoint, once everything that can be said from the head of the request is said."""
    if not site.routes:
        raise NotReady
    if route is None:
        raise NotFound
    if exchange.scope["method"] not in route.methods:
        raise MethodNotAllowed(", ".join(sorted(route.methods)))
    if route.reads:
        if exchange.media_type and exchange.media_type not in route.reads:
            raise UnsupportedMediaType(b", ".join(sorted(route.reads)).decode())
        if exchange.encoding not in (b"", b"identity"):
            raise UnsupportedEncoding
        exchange.body_at_most = route.body_at_most
        if exchange.declared.isdigit() and int(exchange.declared) > route.body_at_most:
            raise BodyTooLarge
        exchange.account = site.clients.account(exchange.authorization, (exchange.scope.get("client") or ("",))[0])
    return route.endpoint


async def pass_on(exchange: Exchange) -> None:
    """An endpoint that leaves the answer to BentoML and adds the request id to it."""

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", exchange.id), *exchange.closing()]
        await exchange.send(message)

    app: App = exchange.scope["hauberk.app"]
    await app(exchange.scope, exchange.receive, send)

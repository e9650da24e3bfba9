"""One request and its answer: the head is read when it is made, the body on demand within bounds, and the answer is sent once.

Every answer carries X-Request-ID, every refusal is a problem document, and work for a client that has left is given up.
"""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from models.errors import HauberkError
from service.edge.accounts import Account
from service.edge.asgi import Receive, Scope, Send
from service.edge.bodies import Bodies
from service.edge.framing import declared_length
from service.errors import MEDIA_TYPE, BodyTooLarge, Headers, Problem, QueueFull, SlowBody

if TYPE_CHECKING:
    from defences.defended_classifier import Interval

T = TypeVar("T")

UNKNOWN = "other"
"""What metrics and logs call a path that is none of ours."""

CLIENT_LEFT = 499
"""The status of a request whose client has left, as nginx has it: in logs and metrics only, it is never sent."""

_OPEN_INFERENCE = "/v2/"
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
# Unique, not secret: a system call for each would make the event loop give its turn away.
_minted = random.Random()  # noqa: S311
# Most answers are out before this: only a client that waits longer is watched for leaving.
_PATIENCE_S = 0.05
DEPARTURE = "hauberk.departure"
"""Where a scope has the `Departure` of its connection."""
CLOSE = (b"connection", b"close")
"""The header that asks a client to connect again."""


# Holds the bodies of requests that need no account.
_NOBODY = Account("", math.inf)


class ClientLeft(HauberkError):
    """The client has closed the connection: no answer can be sent."""


def mint() -> bytes:
    """A new request id."""
    return b"%032x" % _minted.getrandbits(128)


@dataclass(frozen=True)
class Source:
    """Where a request came from: its id, the client's name if it has one, and the path as metrics call it."""

    request_id: str
    client: str
    route: str


@dataclass(slots=True)
class SharedState:
    """What all exchanges of a server share: whether the server is about to close."""

    closing: bool = False


@dataclass(frozen=True)
class Bounds:
    """The limits of one request, and of one address.

    Args:
        body_timeout_s: seconds in which a body has to arrive.
        bodies: counts the bytes that all requests together hold.
        connections_per_address: as many as one address may open; None for a quarter of what the process takes.
        load: shared by all exchanges with these bounds. While it is `closing`, every answer asks its client to connect again, which
            leads it to another server.
    """

    body_timeout_s: float = 10.0
    bodies: Bodies = field(default_factory=Bodies)
    connections_per_address: int | None = None
    load: SharedState = field(default_factory=SharedState)


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, bounds: Bounds) -> None:
        self.scope, self.receive, self.send = scope, receive, send
        self.started = time.perf_counter()
        self.status = 0
        self.account: Account | None = None
        self.images = self.abstained = 0
        self.route = UNKNOWN
        self.intervals: tuple[Interval, ...] = ()
        self.body_at_most, self._bounds = 0, bounds
        self.held, self._body_ended = 0, False
        self._reading: asyncio.Task[Any] | None = None
        self._cut: Problem | None = None
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
        """Where the request came from."""
        return Source(self.request_id, "" if self.account is None else self.account.name, self.route)

    @property
    def holder(self) -> Account:
        """Whose bytes the body's are."""
        return self.account or _NOBODY

    def refusal_waits_s(self) -> float:
        """For how long a refusal for want of room has to wait, see accounts.py; a body of unknown length counts as the longest."""
        if self.account is None or self._bounds.load.closing:
            return 0.0
        size = declared_length(self.declared) if self.declared else self.body_at_most
        return self.account.refusal_waits_s(size, self._bounds.body_timeout_s)

    async def read_in_turn(self) -> bytes:
        """`read`, once the bodies of its account before it are paid for, see accounts.py; one of unknown length counts as the longest.

        Raises: what `read` does; QueueFull, too, when too many of them wait already.
        """
        if self.account is None or self._bounds.load.closing:
            return await self.read()
        size = declared_length(self.declared) if self.declared else self.body_at_most
        wait_s = self.account.reading_waits_s(size)
        if wait_s is None:
            raise QueueFull
        if wait_s:
            await asyncio.sleep(wait_s)
        body = await self.read()
        self.account.reading_took(len(body) - size)
        return body

    async def read(self) -> bytes:
        """The body. Raises: BodyTooLarge, SlowBody, QueueFull, ClientLeft."""
        try:
            async with asyncio.timeout(self._bounds.body_timeout_s):
                body = await self._next_part()
                if not self._body_ended and len(body) <= self.body_at_most:
                    body = await self._rest_after(body)
        except TimeoutError:
            raise SlowBody from None
        if len(body) > self.body_at_most:
            raise BodyTooLarge
        return bytes(body)

    async def _rest_after(self, part: bytes | bytearray) -> bytearray:
        """The body from its first part on. It can be cut meanwhile, for others to have room."""
        body, bodies = bytearray(part), self._bounds.bodies
        task = self._reading = cast("asyncio.Task[Any]", asyncio.current_task())
        bodies.begin(self)
        try:
            while not self._body_ended and len(body) <= self.body_at_most:
                body += await self._next_part()
        except asyncio.CancelledError:
            if self._cut is None:
                raise
            task.uncancel()
            raise self._cut from None
        finally:
            bodies.end(self)
        return body

    def cut(self, problem: Problem) -> None:
        """Give up a body that is still coming, and answer with this."""
        self._cut = problem
        if self._reading is not None:
            self._reading.cancel()

    async def _next_part(self) -> bytes | bytearray:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        self._body_ended = not message.get("more_body")
        part: bytes = message.get("body", b"")
        self._bounds.bodies.hold(self, len(part))
        return part

    def let_go(self) -> None:
        """The body is no longer needed."""
        self._bounds.bodies.let_go(self)

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
        return (CLOSE,) if self._bounds.load.closing else ()

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem document, or with what the Open Inference Protocol has for an error."""
        media_type, body = self._document(problem)
        await self.respond(problem.status, media_type, body, problem.headers)

    def refusal(self, problem: Problem) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body of the answer that `refuse` sends, for a caller that sends it by other means."""
        self.status = problem.status
        media_type, body = self._document(problem)
        return self._headers(media_type, body, problem.headers), body

    def _document(self, problem: Problem) -> tuple[bytes, bytes]:
        if f"{self.scope['path']}/".startswith(_OPEN_INFERENCE):
            return b"application/json", problem.short_body()
        return MEDIA_TYPE, problem.body(self.request_id)

    async def unless_client_leaves(self, work: Awaitable[T]) -> T:
        """Await `work`; cancel it when the client goes first. Only after the body was read. Raises: ClientLeft."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        watch = self.scope.get(DEPARTURE) or _Watch(self.receive)
        watch.begin(task)
        try:
            return await work
        except asyncio.CancelledError:
            if watch.left:
                task.uncancel()
                raise ClientLeft from None
            raise
        finally:
            watch.end()


class Departure:
    """The end of a connection, which cancels the task of the request that is under way on it.

    Under overload every request waits for long: a task for each, which waits for its client to leave, would be work at the worst time.
    """

    __slots__ = ("_task", "left")

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self.left = False

    def begin(self, task: asyncio.Task[Any]) -> None:
        """This task works for the client from now on, until `end`."""
        self._task = task
        if self.left:
            task.cancel()

    def end(self) -> None:
        """Nothing is done for the client any more."""
        self._task = None

    def happens(self) -> None:
        """The connection is closed."""
        self.left = True
        if self._task is not None:
            self._task.cancel()


class _Watch:
    """Waits for the client to leave, and cancels a task then: where no connection of ours tells it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waiting: asyncio.Task[None] | None = None
        self.left = False

    def begin(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        self._timer = task.get_loop().call_later(_PATIENCE_S, self._begin)

    def _begin(self) -> None:
        self._waiting = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._task.cancel()

    def end(self) -> None:
        self._timer.cancel()
        if self._waiting is not None:
            self._waiting.cancel()

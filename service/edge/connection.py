"""HTTP/1.1 before there is a request: uvicorn's protocol, with bounds on what reaches no application.

uvicorn parses a head of any length, waits for one forever, answers bytes that are no HTTP with a text of its own, and keeps a
connection whose client never reads. Here:

    431  a head, or what surrounds a chunked body, that is too long        503  more connections than the process can take
    408  a head that does not arrive in time                                cut  a client that does not read its answer
    400  bytes that are no HTTP                                            503  a prediction, while the queue is full

each a problem document with a request id, counted and logged like every other. No timer per request: one task looks at all
connections once a second. A full queue is known before there is a request: a task, its events and its messages would cost more than the
answer does, at the very time when there is nothing to spare.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, ClassVar, cast

import httptools

from service.bentoml_hooks import STATUS_LINE, HttpToolsProtocol
from service.edge.asgi import Message
from service.edge.exchange import Exchange, mint
from service.edge.site import Route, Site
from service.errors import MEDIA_TYPE, HeadTooLarge, MalformedHttp, Problem, QueueFull, SlowHead, TooManyConnections

HEAD_BYTES_AT_MOST = 1 << 14
HEADERS_AT_MOST = 100
# Load balancers keep an idle connection for 60 s (AWS, nginx). Whoever closes it sooner closes some just as a request comes in on them.
KEEP_ALIVE_S = 75

# The most that one read of the event loop brings.
_READ_BYTES = 1 << 18
# Chunks of one byte each take six bytes on the wire.
_BYTES_PER_BODY_BYTE = 8
_LOOK_EVERY_S = 1.0
# Left for files, threads and the connections of the metrics port.
_FILES_FOR_OTHERS = 128
_CONNECTIONS_AT_MOST = 4096


def connections_at_most() -> int:
    """As many as the process may open files, less those for its own use."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files == resource.RLIM_INFINITY:
        return _CONNECTIONS_AT_MOST
    return max(16, min(_CONNECTIONS_AT_MOST, files - _FILES_FOR_OTHERS))


class Connection(HttpToolsProtocol):
    """One connection. `site` counts and logs the refusals made here; `watch` looks at all that are `open`, of every server here.

    `most` holds for each server alone: a flood of the service leaves the port for metrics reachable.
    """

    site: ClassVar[Site]
    most: ClassVar[int] = connections_at_most()
    open: ClassVar[set[Connection]] = set()
    predicts: ClassVar[bool] = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ws_protocol_class = None  # a request to change protocols is served as if it had not asked
        self.timeout_keep_alive = max(self.timeout_keep_alive, KEEP_ALIVE_S)
        self.access_log = False  # ours says more, and uvicorn formats its lines even where none is written
        self._waits_since: float | None = None
        self._in_head = False
        self._head_bytes = self._wire_bytes = self._body_bytes = 0
        self._problem: Problem | None = None
        self._turned_away: tuple[Exchange, Route] | None = None  # the rest of its body is still to come
        self._unread, self._unread_since = 0, 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.open.add(self)
        self._waits_since = self.loop.time()
        if len(self.connections) > self.most:
            self._refuse(TooManyConnections())

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self)
        if self._turned_away is not None:
            self.site.ended(*self._turned_away)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # refused already
        self._wire_bytes += len(data)
        if self._wire_bytes - _BYTES_PER_BODY_BYTE * self._body_bytes > HEAD_BYTES_AT_MOST + _READ_BYTES:
            self._refuse(HeadTooLarge())
            return
        super().data_received(data)
        if self._waits_since is None and (self.cycle is None or self.cycle.response_complete):
            self._waits_since = self.loop.time()  # these bytes began no request, and ended uvicorn's own timeout

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._waits_since, self._in_head = self.loop.time(), True
        self._head_bytes = self._wire_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        if len(self.headers) >= HEADERS_AT_MOST:
            self._stop(HeadTooLarge())
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.predicts and self.site.full(None) and self._turn_away():
            return
        self._waits_since = None
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # what follows is of another protocol

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._turned_away is None:
            super().on_body(body)
        elif self._body_bytes > self._turned_away[1].body_at_most:
            self.transport.close()

    def on_message_complete(self) -> None:
        if self._turned_away is None:
            super().on_message_complete()
            return
        (exchange, route), self._turned_away, self._waits_since = self._turned_away, None, None
        problem = QueueFull()
        self._write(problem.status, *exchange.refusal(problem))
        self.site.refused(exchange, route, problem)
        self.site.ended(exchange, route)
        self.on_response_complete()

    def _turn_away(self) -> bool:
        """Whether the request whose head this is will be refused for want of room, and not for anything the edge finds in its head."""
        path = self.url.decode("latin-1")
        route = self.site.routes.get(path)
        if route is None or not route.reads or self.root_path or self.expect_100_continue:
            return False
        if not self.parser.should_keep_alive() or self.parser.should_upgrade():
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False  # answers must come in the order of their requests
        self.scope |= {"method": self.parser.get_method().decode(), "path": path}
        exchange = Exchange(cast("Message", self.scope), _never, _nowhere, self.site.bounds)
        try:
            self.site.checked(exchange, route)
        except Problem:
            return False
        if not self.site.full(exchange.account):
            return False  # others fill the queue: this one takes a place of theirs
        self.site.began(exchange)
        self._turned_away = exchange, route
        return True

    def _count(self, *parts: bytes) -> None:
        self._head_bytes += sum(map(len, parts))
        if self._head_bytes > HEAD_BYTES_AT_MOST:
            self._stop(HeadTooLarge())

    def _stop(self, problem: Problem) -> None:
        """From within a callback of the parser, which ends up in `send_400_response`."""
        self._problem = problem
        raise httptools.HttpParserCallbackError

    def _unsupported_upgrade_warning(self) -> None:
        """Clients ask for HTTP/2 this way all the time: nothing to warn of."""

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._problem or MalformedHttp())

    def _refuse(self, problem: Problem) -> None:
        """Answer and close. While a request accepted before is unanswered, that one is answered, and the connection closed after it."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                self.flow.pause_reading()
                return
            if cycle.response_started or self.pipeline:
                self.transport.close()
                return
        request_id = mint()
        body = problem.body(request_id.decode())
        head = [(b"content-type", MEDIA_TYPE), (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]
        self._write(problem.status, [*head, *problem.headers], body)
        self.transport.close()
        self.site.note_refused(problem, request_id)

    def _write(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        lines = [b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))

    def look(self, now: float) -> None:
        """Once a second: give up on a client that neither sends nor reads, as long as a body may take."""
        patience_s = self.site.bounds.body_timeout_s
        unread = self.transport.get_write_buffer_size()
        if not unread or unread != self._unread:
            self._unread, self._unread_since = unread, now
        elif now - self._unread_since > patience_s:
            self.transport.abort()
        if self._waits_since is None or now - self._waits_since <= patience_s or self.transport.is_closing():
            return
        if self._in_head:
            self._refuse(SlowHead())
        else:
            self.transport.close()


class MetricsConnection(Connection):
    """A connection of the port for metrics, where no request waits for the queue."""

    predicts = False


async def _never() -> Message:
    raise AssertionError("a request that is turned away is not read")


async def _nowhere(message: Message) -> None:
    raise AssertionError("a request that is turned away is answered by its connection")


async def watch() -> None:
    """Look at all connections, for as long as the server runs."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        now = loop.time()
        for connection in list(Connection.open):
            connection.look(now)

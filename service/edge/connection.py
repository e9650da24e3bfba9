"""HTTP/1.1 before there is a request: uvicorn's protocol, with bounds on what reaches no application.

uvicorn parses a head of any length, waits for one forever, answers bytes that are no HTTP with a text of its own, and keeps a
connection whose client never reads. Here:

    431  a head, or what surrounds a chunked body, that is too long        503  more connections than there is room for, none idle
    408  a head that does not arrive in time                                cut  a client that reads its answer too slowly
    400  bytes that are no HTTP, or that can be read in two ways           503  a prediction, while the queue is full
    501  another transfer coding than chunked                              505  another version

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
from service.edge import framing
from service.edge.addresses import household
from service.edge.asgi import Scope
from service.edge.bodies import Ahead
from service.edge.crowd import Crowd, Seat
from service.edge.exchange import CLOSE, DEPARTURE, Departure, mint
from service.edge.outlet import Outlet
from service.edge.site import Site
from service.edge.turned_away import TurnedAway
from service.errors import MEDIA_TYPE, HeadTooLarge, MalformedHttp, Problem, QueueFull, SlowHead, TooManyConnections

HEAD_BYTES_AT_MOST = 1 << 14
HEADERS_AT_MOST = 100
# Load balancers keep an idle connection for 60 s (AWS, nginx). Whoever closes it sooner closes some just as a request comes in on them.
KEEP_ALIVE_S = 75

# The most that one read of the event loop brings.
_READ_BYTES = 1 << 18
# Chunks of one byte each take six bytes on the wire.
_BYTES_PER_BODY_BYTE = 8
# A client that has ended its side may wait or may have left: only bytes that it refuses tell which. Each wait is so much longer.
_PROBE_AFTER_S, _PROBE_FACTOR = 0.05, 5
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
# An address may open one part in so many of the connections that the process takes.
_SHARES = 4
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

    `most` and `crowd` are of each server alone: a flood of the service leaves the port for metrics reachable.
    """

    site: ClassVar[Site]
    most: ClassVar[int] = connections_at_most()
    open: ClassVar[set[Connection]] = set()
    crowd: ClassVar[Crowd] = Crowd()
    predicts: ClassVar[bool] = True

    def __init__(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        """Make nothing yet that takes time: most of those that come while the process is full are closed at once."""
        self._made_of = config, server_state, app_state, _loop

    def _make(self) -> None:
        super().__init__(*self._made_of)
        self.ws_protocol_class = None  # a request to change protocols is served as if it had not asked
        self.timeout_keep_alive = max(self.timeout_keep_alive, KEEP_ALIVE_S)
        self.access_log = False  # ours says more, and uvicorn formats its lines even where none is written
        self._address: str | None = None
        self._idle_since, self._queues = 0.0, False
        self._waits_since: float | None = None
        self._in_head = self._stray = False
        self._head_bytes = self._wire_bytes = self._body_bytes = 0
        self._problem: Problem | None = None
        self._turned_away: TurnedAway | None = None
        self._departure = Departure()
        self._broken = False  # what comes from now on is dropped

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        now = asyncio.get_running_loop().time()
        peer = transport.get_extra_info("peername")
        host = str(peer[0]) if isinstance(peer, tuple) else ""
        address = None if host in self.site.proxies else household(host) or None  # a socket of Unix has no address
        share = self.site.bounds.connections_per_address or max(1, self.most // _SHARES)
        seat = self.crowd.join(self, address, now, share=share, full=len(self._made_of[1].connections) >= self.most)
        if seat is Seat.NONE and not self.crowd.tells(now):
            transport.abort()
            return
        self._make()
        self._address, self._waits_since, self._idle_since = address, now, now
        self._ahead = Ahead(self.crowd.holder(address))
        self.outlet = Outlet(transport, self._listens)
        super().connection_made(cast("asyncio.Transport", self.outlet))
        self.open.add(self)
        if seat is Seat.NONE:
            self._refuse(TooManyConnections())
        elif seat is Seat.WAITS:
            self._queues = True
            self.loop.call_soon(self._pause)  # uvloop begins to read after it said that the connection is made

    def connection_lost(self, exc: Exception | None) -> None:
        if self not in self.open:
            return  # it was closed before it was made
        self.open.discard(self)
        self._departure.happens()
        self.site.bounds.bodies.let_go(self._ahead)
        self.crowd.leave(self, self._address)
        if self._turned_away is not None:
            self._turned_away.end_wait()
            self.site.ended(self._turned_away.exchange, self._turned_away.route)
        super().connection_lost(exc)

    @property
    def idle_since(self) -> float | None:
        """When the last request ended; None while one is under way, and when the connection is closed already."""
        under_way = self._turned_away is not None or (self.cycle is not None and not self.cycle.response_complete)
        return None if self.outlet.gone or (under_way and not self.outlet.ended) else self._idle_since

    def make_room(self) -> None:
        """Close it, for another to be served."""
        self.outlet.cut()

    def _pause(self) -> None:
        if self._queues and not self.outlet.is_closing():
            self.flow.pause_reading()

    def serve(self) -> None:
        """Read on."""
        self._queues = False
        self._waits_since = self._idle_since = self.loop.time()
        self.flow.resume_reading()

    def give_up(self) -> None:
        """It has waited in vain: refuse it."""
        self._refuse(TooManyConnections())

    def _listens(self) -> bool:
        """Whether the client may still be sending when the connection ends; then all of it is dropped, in bounds."""
        if not self._broken and (self.cycle is None or not self.cycle.more_body):
            return False
        self.flow.resume_reading()
        return True

    def data_received(self, data: bytes) -> None:
        if self.outlet.is_closing():
            self.outlet.drop(len(data))
            return
        self._wire_bytes += len(data)
        if self._wire_bytes - _BYTES_PER_BODY_BYTE * self._body_bytes > HEAD_BYTES_AT_MOST + _READ_BYTES:
            self._refuse(HeadTooLarge())
            return
        self._unset_keepalive_if_required()
        self._stray = True
        self._parse(data)
        if self._stray and self._waits_since is None and self.idle_since is not None:
            self._waits_since = self.loop.time()  # these bytes began and ended no request, and ended uvicorn's own timeout

    def _parse(self, data: bytes) -> None:
        """Let the parser call back. It takes no body after a request to change protocols: such a head is read again without it."""
        left = memoryview(data)
        try:
            while (offered_at := self._offer_in(left)) is not None:
                left, method, version = left[offered_at:], self.parser.get_method(), self.parser.get_http_version()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(framing.without_offer(method, self.url, version, self.headers))
        except httptools.HttpParserError:
            self._refuse(self._problem or MalformedHttp())

    def _offer_in(self, data: memoryview) -> int | None:
        """Parse; where the head ends that asks to change protocols, None when none does."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            return int(offer.args[0])
        return None

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether the connection stays open although no more will come: for the answer to a request that has come whole."""
        cycle = self.cycle
        if self.outlet.is_closing() or cycle is None or cycle.response_complete or cycle.more_body or self.scheme == "https":
            return False
        cycle.keep_alive = False
        self.loop.call_later(_PROBE_AFTER_S, self._probe, cycle, _PROBE_AFTER_S)
        return True

    def _probe(self, cycle: Any, waited_s: float) -> None:
        """Find out whether the client has left: bytes that it refuses end the connection."""
        if cycle.response_complete or cycle.disconnected or self.outlet.is_closing():
            return
        if not cycle.response_started and not self.pipeline and self.parser.get_http_version() == "1.1":
            self.outlet.write(_PROBE)
        wait_s = waited_s * _PROBE_FACTOR
        self.loop.call_later(wait_s, self._probe, cycle, wait_s)

    def on_message_begin(self) -> None:
        if self._turned_away is not None:  # sent before that one was answered, and read with it
            self._refuse_turned_away(self._turned_away)
            self._stop(QueueFull())
        super().on_message_begin()
        cast("Scope", self.scope)[DEPARTURE] = self._departure
        self._waits_since, self._in_head, self._stray = self.loop.time(), True, False
        self._head_bytes = self._wire_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._head_bytes += len(url)
        if self._head_bytes > HEAD_BYTES_AT_MOST:
            self._stop(HeadTooLarge())
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > HEAD_BYTES_AT_MOST or len(self.headers) >= HEADERS_AT_MOST:
            self._stop(HeadTooLarge())
        if self._in_head:  # what follows a chunked body is dropped: no proxy has looked at it
            name = name.lower()
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._stop(MalformedHttp())
            return  # see `_parse`
        problem = framing.complaint(self.parser.get_http_version(), self.headers)
        if problem is not None:
            self._stop(problem)
        if self.predicts and self.site.full(None) and self._turn_away():
            return
        self._waits_since = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._turned_away is None:
            super().on_body(body)
            if self.pipeline:
                self._hold_ahead(len(body))
        elif self._body_bytes > self._turned_away.route.body_at_most:
            self.outlet.cut()

    def _hold_ahead(self, size: int) -> None:
        try:
            self.site.bounds.bodies.hold(self._ahead, size)
        except QueueFull as problem:
            self._stop(problem)

    def on_message_complete(self) -> None:
        self._stray = False
        if self._turned_away is None:
            if not self.parser.should_upgrade():
                self.cycle.more_body = False  # of a request that was answered before it came whole, too
                super().on_message_complete()
                if not self.pipeline:
                    self.flow.resume_reading()  # else a client that leaves would not be noticed
            return
        self._waits_since = None
        self._turned_away.came_whole = True
        if not self._turned_away.waits:
            self._refuse_turned_away(self._turned_away)

    def _refuse_turned_away(self, turned_away: TurnedAway) -> None:
        self._turned_away = None
        turned_away.end_wait()
        self.transport.write(turned_away.answer(self.server_state.default_headers))
        self.site.refused(turned_away.exchange, turned_away.route, turned_away.problem)
        self.site.ended(turned_away.exchange, turned_away.route)
        self._idle_since = self.loop.time()  # `look` closes it when it stays idle: no timer for it
        self.crowd.answered(self, self._address)
        self.server_state.total_requests += 1
        self.flow.resume_reading()

    def _turn_away(self) -> bool:
        """Whether the request whose head this is will be refused for want of room, and not for anything the edge finds in its head."""
        if self.root_path or self.expect_100_continue or not self.parser.should_keep_alive():
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False  # answers must come in the order of their requests
        self.scope |= {"method": self.parser.get_method().decode(), "path": self.url.decode("latin-1")}
        self._turned_away = TurnedAway.by_head(cast("Scope", self.scope), self.site)
        if self._turned_away is None:
            return False
        if self._turned_away.wait(self.loop, self._after_wait):
            self.flow.pause_reading()
        return True

    def _after_wait(self) -> None:
        """Answer what came whole; else read the rest of it first."""
        if self._turned_away is None or self.outlet.is_closing():
            return
        self._turned_away.end_wait()
        if self._turned_away.came_whole:
            self._refuse_turned_away(self._turned_away)
            return
        self._waits_since = self.loop.time()
        self.flow.resume_reading()

    def shutdown(self) -> None:
        """The server ends: what waits to be refused waits no longer."""
        if self._turned_away is not None and self._turned_away.came_whole:
            self._refuse_turned_away(self._turned_away)
        super().shutdown()

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        self.crowd.answered(self, self._address)
        super().on_response_complete()
        if not self.pipeline:
            self.site.bounds.bodies.let_go(self._ahead)

    def _stop(self, problem: Problem) -> None:
        """From within a callback of the parser, which ends up in `_parse`."""
        self._problem = problem
        raise httptools.HttpParserCallbackError

    def _refuse(self, problem: Problem) -> None:
        """Answer and close. While a request accepted before is unanswered, that one is answered, and the connection closed after it."""
        cycle = self.cycle
        self._broken = self._queues or not isinstance(problem, TooManyConnections)  # a newcomer has no room to end in
        self._queues = False
        if cycle is not None and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                self.flow.pause_reading()
                return
            if cycle.response_started or self.pipeline:
                self.outlet.cut()
                return
            cycle.disconnected = True  # its body will not come
            cycle.message_event.set()
        request_id = mint()
        body = problem.body(request_id.decode())
        head = [(b"content-type", MEDIA_TYPE), (b"content-length", b"%d" % len(body)), (b"x-request-id", request_id)]
        self._write(problem.status, [*head, *problem.headers, *(() if CLOSE in problem.headers else (CLOSE,))], body)
        self.outlet.close()
        self.site.note_refused(problem, request_id)

    def _write(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        lines = [b"%s: %s\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))

    def look(self, now: float) -> None:
        """Once a second: give up on a client that sends nothing, or reads too little, for as long as a body may take."""
        if self._queues or self.outlet.gone or (self._turned_away is not None and self._turned_away.waits):
            return
        if self.outlet.ended:
            self.outlet.look_at_dropping(now)
            return
        patience_s = self.site.bounds.body_timeout_s
        self.outlet.look_at_reading(now, patience_s)
        if self._waits_since is None:
            self._look_at_idling(now)
            return
        if now - self._waits_since <= patience_s or self.outlet.is_closing():
            return
        if self._in_head:
            self._refuse(SlowHead())
        else:
            self.outlet.cut()

    def _look_at_idling(self, now: float) -> None:
        """Close it after a refusal that no request has followed."""
        if self.timeout_keep_alive_task is None and self.idle_since is not None and now - self._idle_since > KEEP_ALIVE_S:
            self.outlet.cut()


class MetricsConnection(Connection):
    """A connection of the port for metrics, where no request waits for the queue."""

    predicts = False
    crowd = Crowd()

"""One connection over HTTP/1.1 to a server that is not trusted: every exchange has an end in time, and every answer one in size.

Redirects are answers like others here, proxies are not used, compression is not asked for, and a body that ends when the connection does
is refused: it cannot be told from one that was cut. Time is one clock for the whole exchange, however the server spaces its bytes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools

from models.engines.remote.address import RemoteAddress
from models.errors import RemoteBadAnswer, RemoteTooSlow, RemoteUnreachable
from models.printable import printable

_HEAD_AT_MOST = 1 << 16
_RECEIVED_AT_ONCE = 1 << 18
_SENT_AT_ONCE = 1 << 20
_FRAMED_TWICE = 2  # the bytes of a body and of what frames its chunks, to those of the body
_DIGITS_AT_MOST = 20
_REASON_AT_MOST = 200


@dataclass
class ServerReply:
    """An answer: its status, its headers by their names in lower case (the first of each name), its body."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class ServerConnection:
    """An open connection; after an exchange that raised it cannot be used again.

    Args:
        context: of TLS, where the address asks for it.
        until: the time by `time.monotonic()` until which it has to stand.

    Raises: RemoteUnreachable, RemoteTooSlow.
    """

    def __init__(self, address: RemoteAddress, context: ssl.SSLContext | None, *, until: float) -> None:
        self._address = address
        self.used = self.closed = self.answering = False
        self._socket = _connected(address, until)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                self._socket.settimeout(_left(address, until))
                self._socket = context.wrap_socket(self._socket, server_hostname=address.host)
        except (OSError, ValueError) as failure:
            self.close()
            raise _failed(address, failure) from failure

    def close(self) -> None:
        """Close it; more than once does no harm."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._socket.close()

    @property
    def stale(self) -> bool:
        """Whether the server has closed it, or sent something that nobody asked for."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLHUP | select.POLLERR)
        return self.closed or bool(poll.poll(0))

    def exchange(self, request: Sequence[bytes | memoryview], *, until: float, at_most: int) -> ServerReply:
        """Send a request's bytes and receive an answer with a body of `at_most` bytes. `answering` says whether any of it came.

        Raises: RemoteUnreachable, RemoteTooSlow, RemoteBadAnswer.
        """
        self.used, self.answering = True, False
        reading = _Reading(at_most)
        try:
            for part in request:
                self._send(memoryview(part), until)
            self._receive(reading, until)
        except OSError as failure:
            self.close()
            raise _failed(self._address, failure) from failure
        except BaseException:
            self.close()
            raise
        if not reading.keeps:
            self.close()
        return reading.reply

    def _send(self, part: memoryview, until: float) -> None:
        while len(part):
            self._socket.settimeout(_left(self._address, until))
            part = part[self._socket.send(part[:_SENT_AT_ONCE]) :]

    def _receive(self, reading: _Reading, until: float) -> None:
        while not reading.complete:
            self._socket.settimeout(_left(self._address, until))
            received = self._socket.recv(_RECEIVED_AT_ONCE)
            if not received:
                raise RemoteUnreachable(f"{self._address} closed the connection before its answer was complete")
            self.answering = True
            reading.feed(received, self._address)


class _Reading:
    """An answer as it comes in: the callbacks of httptools' parser, which count, and judge nothing themselves."""

    def __init__(self, at_most: int) -> None:
        self.reply = ServerReply()
        self.complete = self.keeps = False
        self._at_most = at_most
        self._all = self._of_body = self._declared = 0  # bytes
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, received: bytes, address: RemoteAddress) -> None:
        """Parse some bytes. Raises: RemoteBadAnswer: no HTTP, or more than is taken."""
        self._all += len(received)
        try:
            self._parser.feed_data(received)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as failure:
            raise RemoteBadAnswer(f"expected an HTTP/1.1 answer from {address}, got something else") from failure
        if max(self._of_body, self._declared) > self._at_most:
            raise RemoteBadAnswer(f"expected an answer of {self._at_most} bytes at most from {address}, got a longer one")
        if self._all > _FRAMED_TWICE * self._of_body + _HEAD_AT_MOST + (0 if self.complete else _RECEIVED_AT_ONCE):
            raise RemoteBadAnswer(f"expected headers of {_HEAD_AT_MOST} bytes at most from {address}, got longer ones")
        if self.complete:
            self.reply.body = b"".join(self._body)

    def on_message_begin(self) -> None:
        if self.complete:
            raise ValueError("expected one answer to one request, got another")
        self.reply = ServerReply()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.reply.headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        self.reply.status = self._parser.get_status_code()
        declared = self.reply.headers.get(b"content-length", b"")
        if declared.isdigit() and len(declared) < _DIGITS_AT_MOST:
            self._declared = int(declared)  # refused before it is received

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._of_body += len(body)

    def on_message_complete(self) -> None:
        if self.reply.status >= 200:  # an interim answer (1xx) comes before the answer
            self.complete, self.keeps = True, self._parser.should_keep_alive()


def _connected(address: RemoteAddress, until: float) -> socket.socket:
    """A connection to the first of a host's addresses that takes one; each gets its share of the time that is left."""
    found = _resolved(address, until)
    for index, (family, kind, protocol, _, place) in enumerate(found):
        one = socket.socket(family, kind, protocol)
        try:
            one.settimeout(_left(address, until) / (len(found) - index))
            one.connect(place)
        except OSError as failure:
            one.close()
            if index == len(found) - 1:
                raise _failed(address, failure) from failure
        except BaseException:
            one.close()
            raise
        else:
            return one
    raise RemoteUnreachable(f"cannot reach {address} (its name has no address)")


def _resolved(address: RemoteAddress, until: float) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    """The host's addresses, looked up beside this thread: the system's look-up has no time-out."""
    found: list[list[tuple[int, int, int, str, tuple[object, ...]]] | OSError] = []

    def look_up() -> None:
        try:
            found.append(list(socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as failure:
            found.append(failure if isinstance(failure, OSError) else OSError(str(failure)))

    thread = threading.Thread(target=look_up, name="hauberk-look-up", daemon=True)
    thread.start()
    thread.join(_left(address, until))
    if not found:
        raise RemoteTooSlow(f"the look-up of {printable(address.host)} took too long")
    if isinstance(found[0], OSError):
        raise _failed(address, found[0]) from found[0]
    return found[0]


def _left(address: RemoteAddress, until: float) -> float:
    """Seconds left. Raises: RemoteTooSlow: none."""
    left = until - time.monotonic()
    if left <= 0:
        raise RemoteTooSlow(f"{address} did not answer in time")
    return left


def _failed(address: RemoteAddress, failure: Exception) -> RemoteTooSlow | RemoteUnreachable:
    if isinstance(failure, TimeoutError):
        return RemoteTooSlow(f"{address} did not answer in time")
    if isinstance(failure, ssl.SSLCertVerificationError):
        reason = f"its certificate is not trusted: {failure.verify_message}"
    else:
        reason = getattr(failure, "strerror", None) or str(failure) or type(failure).__name__
    return RemoteUnreachable(f"cannot reach {address} ({printable(reason.lower())[:_REASON_AT_MOST]})")

"""Calls to a model server: connections kept for the next call, and retries of calls that nobody answered.

Asking a classifier twice does no harm, so a call whose connection was lost is made again. A kept connection that the server closed in the
meantime costs no attempt; what is too slow, and what is answered with anything but "not now", is never asked again.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from models.engines.remote.address import RemoteAddress
from models.engines.remote.connection import ServerConnection, ServerReply
from models.engines.remote.options import RemoteOptions
from models.errors import RemoteBadAnswer, RemoteFailure, RemoteTooSlow, RemoteUnreachable
from models.version import __version__

_IDLE_AT_MOST = 4
_NOT_NOW = frozenset((404, 429, 502, 503, 504))  # 404: the server is there, and its model is not yet, or no longer, loaded
_REDIRECTS = frozenset(range(300, 400))
_DENIED = frozenset((401, 403))
_TOO_LARGE = 413
_A_DAY_S = 86_400

OK, TOO_SLOW, UNREACHABLE, BAD_ANSWER, ANOTHER = "ok", "too_slow", "unreachable", "bad_answer", "another_model"
OUTCOMES = (OK, TOO_SLOW, UNREACHABLE, BAD_ANSWER, ANOTHER)


class RemoteTakesLess(RemoteBadAnswer):
    """A request was larger than the server takes."""


class RemoteObserver(Protocol):
    """Is told of calls, in whichever thread makes them."""

    def called(self, outcome: str, seconds: float) -> None:
        """A step's call ended, its retries included: one of `OUTCOMES`."""

    def retried(self) -> None:
        """A call is made again."""

    def circuit(self, reason: str | None) -> None:
        """The circuit opened for this reason; closed, without one."""


class Unobserved:
    """Nobody is told."""

    def called(self, outcome: str, seconds: float) -> None:
        """See `RemoteObserver`."""

    def retried(self) -> None:
        """See `RemoteObserver`."""

    def circuit(self, reason: str | None) -> None:
        """See `RemoteObserver`."""


class Calls:
    """Makes calls to one server; from any thread.

    Args:
        sleep: for the pauses between attempts, in seconds.

    Raises: InvalidInput on construction: a token without TLS to another machine.
    """

    def __init__(
        self,
        address: RemoteAddress,
        options: RemoteOptions,
        observer: RemoteObserver,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address, self.options, self.observer = address, options, observer
        self._sleep = sleep
        self._context = _context(options) if address.tls else None
        self._idle: list[ServerConnection] = []
        weakref.finalize(self, _close, self._idle)
        self._lock = threading.Lock()
        self._random = random.Random()  # noqa: S311  # it spreads retries, and keeps no secret
        lines = [f"host: {address.authority}", "accept-encoding: identity", f"user-agent: hauberk/{__version__}"]
        if options.token is not None:
            lines.append(f"authorization: Bearer {options.token}")
        self._head = "".join(f"{line}\r\n" for line in lines).encode()

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            _close(self._idle)

    def get(self, path: str, *, until: float, at_most: int, again: bool = True) -> ServerReply:
        """The answer with status 200 to a GET, after retries if it may be made `again`. Raises: RemoteFailure."""
        request = f"GET {path} HTTP/1.1\r\n".encode() + self._head + b"\r\n"
        return self._ask([request], until, at_most, self.options.attempts if again else 1)

    def post(
        self, path: str, headers: Mapping[str, str], body: Sequence[bytes | memoryview], *, until: float, at_most: int
    ) -> ServerReply:
        """The answer with status 200 to a POST, after retries. Raises: RemoteFailure."""
        lines = [f"{name}: {value}" for name, value in {**headers, "content-length": sum(map(len, body))}.items()]
        start = "\r\n".join([f"POST {path} HTTP/1.1", *lines, ""]).encode()
        return self._ask([start + self._head + b"\r\n", *body], until, at_most, self.options.attempts)

    def _ask(self, request: Sequence[bytes | memoryview], until: float, at_most: int, attempts: int) -> ServerReply:
        attempt = 0
        while True:
            try:
                return self._judged(self._exchange(request, until, at_most))
            except RemoteUnreachable as failure:
                attempt += 1
                if attempt >= attempts:
                    raise
                self._pause(attempt, failure, until)

    def _exchange(self, request: Sequence[bytes | memoryview], until: float, at_most: int) -> ServerReply:
        """One attempt; on a connection that was kept first, if there is one."""
        kept = self._kept()
        if kept is not None:
            try:
                return self._on(kept, request, until, at_most)
            except RemoteUnreachable:
                if kept.answering:
                    raise
        return self._on(ServerConnection(self.address, self._context, until=until), request, until, at_most)

    def _on(self, connection: ServerConnection, request: Sequence[bytes | memoryview], until: float, at_most: int) -> ServerReply:
        reply = connection.exchange(request, until=until, at_most=at_most)
        with self._lock:
            keep = not connection.closed and len(self._idle) < _IDLE_AT_MOST
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()
        return reply

    def _kept(self) -> ServerConnection | None:
        """A connection that the server has not closed."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not connection.stale:
                return connection
            connection.close()

    def _judged(self, reply: ServerReply) -> ServerReply:
        """Raises: RemoteUnreachable, RemoteBadAnswer: another status than 200, a body in another coding."""
        status, address = reply.status, self.address
        if status in _NOT_NOW:
            wait = reply.headers.get(b"retry-after", b"").strip()
            retry_after_s = float(min(int(wait), _A_DAY_S)) if wait.isdigit() and len(wait) < 9 else None
            raise RemoteUnreachable(f"{address} cannot answer now (status {status})", retry_after_s=retry_after_s)
        if status in _REDIRECTS:
            raise RemoteBadAnswer(
                f"{address} redirects (status {status}), which is not followed; give the address it redirects to"
            )
        if status in _DENIED:
            raise RemoteBadAnswer(
                f"{address} asks for another token (status {status}); HAUBERK_REMOTE_TOKEN_FILE names one's file"
            )
        if status == _TOO_LARGE:
            raise RemoteTakesLess(f"{address} does not take requests of this size (status {status})")
        if status != 200:
            raise RemoteBadAnswer(f"{address} does not take the request (status {status})")
        if reply.headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
            raise RemoteBadAnswer(f"expected an answer from {address} without compression, got a compressed one")
        return reply

    def _pause(self, attempt: int, failure: RemoteUnreachable, until: float) -> None:
        """Wait before another attempt. Raises: the failure, when there is no time for one."""
        options = self.options
        longest = min(options.first_pause_s * 2 ** (attempt - 1), options.longest_pause_s)
        pause = max(self._random.uniform(0, longest), failure.retry_after_s or 0.0)
        if time.monotonic() + pause >= until:
            raise failure
        self._sleep(pause)
        self.observer.retried()


def _close(connections: list[ServerConnection]) -> None:
    while connections:
        connections.pop().close()


def outcome_of(failure: RemoteFailure) -> str:
    """The one of `OUTCOMES` that a failure is."""
    if isinstance(failure, RemoteTooSlow):
        return TOO_SLOW
    if isinstance(failure, RemoteUnreachable):
        return UNREACHABLE
    return BAD_ANSWER if isinstance(failure, RemoteBadAnswer) else ANOTHER


def _context(options: RemoteOptions) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=options.authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context

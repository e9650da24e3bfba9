"""A circuit breaker (Nygard, Release It!, 2007): after calls that failed in a row nobody waits for the next one to fail.

    closed ── failures in a row, garbage in answer to the probes, or another model ──> open ── the probes are answered as ever ──> closed

What closes it is a look at the fixed probes (`models/engines/remote/watch.py`), no client's request. A bad answer to a client's images
does not open it, since a client could choose images that have one: it asks for a look.
"""

from __future__ import annotations

import threading

from models.engines.remote.calls import RemoteObserver
from models.errors import RemoteBadAnswer, RemoteFailure, RemoteIsAnother, RemoteUnreachable

FAILURES_AT_MOST = 3


class Circuit:
    """Whether calls are made; from any thread.

    Args:
        failures_at_most: in a row, before it opens.

    Attributes:
        wanted: set when a look at the probes should not wait.
        retry_after_s: how long until the next look, at most.
    """

    def __init__(self, observer: RemoteObserver, *, failures_at_most: int = FAILURES_AT_MOST) -> None:
        self._observer, self._failures_at_most = observer, failures_at_most
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._reason: str | None = None
        self.wanted = threading.Event()
        self.retry_after_s = 1.0

    @property
    def reason(self) -> str | None:
        """Why it is open; None while it is closed."""
        return self._reason

    @property
    def in_doubt(self) -> bool:
        """Whether it is open, or the last call failed."""
        return self._reason is not None or self._in_a_row > 0

    def check(self) -> None:
        """Raises: RemoteUnreachable: it is open."""
        reason = self._reason
        if reason is not None:
            raise RemoteUnreachable(reason, retry_after_s=self.retry_after_s)

    def succeeded(self) -> None:
        """A call was answered."""
        self._in_a_row = 0

    def failed(self, failure: RemoteFailure) -> None:
        """A call of a client failed."""
        if isinstance(failure, RemoteIsAnother):
            self.open(str(failure))
        elif not isinstance(failure, RemoteBadAnswer):
            self._count(failure)
        self.wanted.set()

    def looked(self, failure: RemoteFailure | None) -> None:
        """A look at the probes ended so."""
        if failure is None:
            self._close()
        elif isinstance(failure, RemoteBadAnswer | RemoteIsAnother):
            self.open(str(failure))
        else:
            self._count(failure)

    def open(self, reason: str) -> None:
        """Make no more calls; the first reason is told."""
        with self._lock:
            tells = self._reason != reason
            self._reason = reason
        if tells:
            self._observer.circuit(reason)

    def _count(self, failure: RemoteFailure) -> None:
        with self._lock:
            self._in_a_row += 1
            opens = self._in_a_row >= self._failures_at_most and self._reason is None
        if opens:
            self.open(str(failure))

    def _close(self) -> None:
        with self._lock:
            self._in_a_row = 0
            closes, self._reason = self._reason is not None, None
        if closes:
            self._observer.circuit(None)

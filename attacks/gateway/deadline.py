"""A wall-clock deadline for one exchange over HTTP: time-outs of single reads never end a server that sends a byte now and then."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any


class Deadline:
    """A clock beside one exchange at a time, which shuts the connection when its time is over.

    httpx bounds each read, and a server that drips bytes, or sends interim answers (1xx) without end, passes every such bound. The
    blocked read then ends as if the server had hung up; `passed` says why.

    Args:
        seconds: from `start` on.

    Attributes:
        passed: whether the time was over before `stop`.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._seconds = seconds
        self._lock = threading.Lock()
        self._stream: Any = None
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Deadline:
        self.passed = False
        self._timer = threading.Timer(self._seconds, self._shut)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None

    def trace(self, event: str, about: dict[str, Any]) -> None:
        """The `trace` extension of a request: keeps the stream of a new connection, which later exchanges use as well."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete", "proxy.start_tls.complete"):
            with self._lock:
                self._stream = about["return_value"]
            if self.passed:  # while connecting
                self._shut()

    def _shut(self) -> None:
        with self._lock:
            if self._timer is None:
                return
            self.passed = True
            bare = self._stream.get_extra_info("socket") if self._stream is not None else None
            if bare is not None:
                with contextlib.suppress(OSError):  # closed already
                    socket.socket.shutdown(bare, socket.SHUT_RDWR)  # not that of an SSLSocket, which forgets its session

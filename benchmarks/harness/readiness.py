"""A free port, and the wait until a server on this machine answers, for every test and benchmark that starts one.

`loadtest/run.py` has its own, because it imports nothing of this project.
"""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

_TAIL = 3000
_TIMEOUT_S = 1.0


class Starting(Protocol):
    """A process, of `subprocess` or of psutil."""

    def poll(self) -> int | None: ...


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers_200(port: int, path: str = "/readyz") -> bool:
    """Whether a GET of `path` is answered with status 200 now, within a second."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False


def wait_until(ready: Callable[[], bool], process: Starting, log: Path, *, within_s: float, every_s: float = 0.1) -> None:
    """Ask `ready` until it says yes.

    Raises: RuntimeError: the process has ended before, or the time is over; with the end of what it wrote to `log`.
    """
    give_up = time.monotonic() + within_s
    while process.poll() is None:
        if ready():
            return
        if time.monotonic() > give_up:
            raise RuntimeError(f"expected a server to be ready within {within_s:g} s, it is not:\n{_end_of(log)}")
        time.sleep(every_s)
    raise RuntimeError(f"expected a server to get ready, its process ended with {process.poll()}:\n{_end_of(log)}")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-_TAIL:]

"""HTTP over a socket, as bytes: a client that may send anything, and that reads answers without believing them."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass

_HEAD_AT_MOST = 1 << 16
_BODYLESS = (204, 304)


class Cut(Exception):
    """The connection ended within an answer, or what came is none."""


@dataclass(frozen=True)
class RawAnswer:
    """An answer; the names of its headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawConnection:
    """One connection to this machine, from one of its addresses."""

    def __init__(self, port: int, *, timeout_s: float, address: str = "127.0.0.1") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s, source_address=(address, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timeout_s = timeout_s
        self._received = bytearray()
        self.closed = False

    def send(self, wire: bytes) -> bool:
        """Send it all; False when the server closed the connection before that: it may have answered nevertheless."""
        self._socket.settimeout(self._timeout_s)
        try:
            self._socket.sendall(wire)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def end(self) -> None:
        """End this side: nothing more will be sent, and answers are still read."""
        with contextlib.suppress(OSError):  # the server has closed already
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def answer(self, method: bytes, *, within_s: float) -> RawAnswer | None:
        """The next answer, to a request of this method; None when the server closed the connection instead.

        Raises: TimeoutError when there is none in time; Cut.
        """
        give_up = time.monotonic() + within_s
        while True:
            head = self._until(b"\r\n\r\n", give_up)
            if head is None:
                return None
            status, headers = _parsed(head)
            if status >= 200:  # before that, only "100 Continue"
                break
        length = 0 if method == b"HEAD" or status in _BODYLESS else int(headers.get("content-length", "0"))
        return RawAnswer(status, headers, self._exactly(length, give_up))

    def _until(self, mark: bytes, give_up: float) -> bytes | None:
        while (at := self._received.find(mark)) < 0:
            if len(self._received) > _HEAD_AT_MOST:
                raise Cut("a head that does not end")
            if not self._more(give_up):
                if self._received:
                    raise Cut("closed within a head")
                return None
        head = bytes(self._received[:at])
        del self._received[: at + len(mark)]
        return head

    def _exactly(self, length: int, give_up: float) -> bytes:
        while len(self._received) < length:
            if not self._more(give_up):
                raise Cut("closed within a body")
        body = bytes(self._received[:length])
        del self._received[:length]
        return body

    def _more(self, give_up: float) -> bool:
        left = give_up - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        try:
            part = self._socket.recv(1 << 16)
        except (ConnectionResetError, BrokenPipeError):
            part = b""
        self._received += part
        self.closed = self.closed or not part
        return bool(part)


def _parsed(head: bytes) -> tuple[int, dict[str, str]]:
    start, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = start.partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
        raise Cut("not an answer")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(rest[:3]), headers

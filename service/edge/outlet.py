"""A transport that counts what it is given and what is read of it, and that can end its side first and still read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from service.edge.bodies import LEAST_BYTES_PER_S

# After a refusal in the midst of a body, what still comes of it is dropped, so that the client hears of the refusal.
_DROPPED_AT_MOST, _DROP_S = 1 << 26, 30.0
_HEAD_ENDS = b"\r\n\r\n"


class Outlet:
    """The transport of a connection, as uvicorn uses it.

    A socket that is closed with bytes unread is reset, and the reset can overtake the last answer: a client that was refused in the
    midst of an upload would see a broken connection and no reason. Instead the client sees the end of the answer, and what it still
    sends is read and dropped, until it closes too.

    Args:
        listens: called before it closes: whether to read on.
    """

    __slots__ = (
        "_dropped", "_drops_since", "_held", "_listens", "_loop", "_read_before", "_reads_since", "_transport", "ended", "written"
    )  # fmt: skip

    def __init__(self, transport: asyncio.Transport, listens: Callable[[], bool]) -> None:
        self._transport, self._listens = transport, listens
        self._loop = asyncio.get_running_loop()
        self._held: bytes | bytearray | memoryview = b""
        self.written = 0
        self.ended = False
        self._dropped, self._drops_since = 0, 0.0
        self._reads_since, self._read_before = 0.0, 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes of an answer. A head is held until its body follows, or the event loop goes on: every write is a call of the system."""
        self.written += len(data)
        if self._held:
            data, self._held = b"".join((self._held, data)), b""
        elif data[-4:] == _HEAD_ENDS:
            self._held = data
            self._loop.call_soon(self._let_go)
            return
        self._transport.write(data)

    def _let_go(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            if not self._transport.is_closing():  # the client may have left meanwhile
                self._transport.write(data)

    def is_closing(self) -> bool:
        """Whether nothing can be answered any more."""
        return self.ended or self._transport.is_closing()

    @property
    def gone(self) -> bool:
        """Whether nothing is read any more either."""
        return self._transport.is_closing()

    @property
    def unread(self) -> int:
        """Bytes written that have not left the process."""
        return len(self._held) + self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Close once what was written is sent, or end this side and read on; the second time close."""
        self._let_go()
        if self.is_closing() or not self._listens():
            self._transport.close()
            return
        self.ended = True
        if self._transport.can_write_eof():  # not with TLS, where Connection: close has to do
            self._transport.write_eof()

    def cut(self) -> None:
        """Close once what was written is sent, and read no more."""
        self._let_go()
        self._transport.close()

    def drop(self, size: int) -> None:
        """So many bytes came after the end, of at most so many."""
        self._dropped += size
        if self._dropped > _DROPPED_AT_MOST:
            self.cut()

    def look_at_dropping(self, now: float) -> None:
        """Close when the client has not for long, although this side has ended; to be called about once a second."""
        self._drops_since = self._drops_since or now
        if now - self._drops_since > _DROP_S:
            self.cut()

    def look_at_reading(self, now: float, patience_s: float) -> None:
        """Cut a client that takes fewer bytes than it has to of those that wait for it; to be called about once a second."""
        unread = self.unread
        read = self.written - unread
        if not unread or not self._reads_since:
            self._reads_since, self._read_before = now if unread else 0.0, read
        elif now - self._reads_since > patience_s:
            if read - self._read_before < LEAST_BYTES_PER_S * (now - self._reads_since):
                self.abort()
            self._reads_since, self._read_before = now, read

    def abort(self) -> None:
        """Close at once."""
        self._held = b""
        self._transport.abort()

    def pause_reading(self) -> None:
        """Read nothing for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As transports have it."""
        return self._transport.get_extra_info(name, default)

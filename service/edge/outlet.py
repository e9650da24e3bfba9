"""A transport that counts what it is given, and that can end its side first and still read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Outlet:
    """The transport of a connection, as uvicorn uses it.

    A socket that is closed with bytes unread is reset, and the reset can overtake the last answer: a client that was refused in the
    midst of an upload would see a broken connection and no reason. Instead the client sees the end of the answer, and what it still
    sends is read and dropped, until it closes too.

    Args:
        listens: called before it closes: whether to read on.
    """

    __slots__ = ("_listens", "_transport", "ended", "written")

    def __init__(self, transport: asyncio.Transport, listens: Callable[[], bool]) -> None:
        self._transport, self._listens = transport, listens
        self.written = 0
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Bytes of an answer."""
        self.written += len(data)
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
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """Close once what was written is sent, or end this side and read on; the second time close."""
        if self.is_closing() or not self._listens():
            self._transport.close()
            return
        self.ended = True
        if self._transport.can_write_eof():  # not with TLS, where Connection: close has to do
            self._transport.write_eof()

    def cut(self) -> None:
        """Close once what was written is sent, and read no more."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
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

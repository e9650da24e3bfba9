"""Long bodies are read beside the event loop, of each client one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

# A client holds one at most: the longest body of one leaves the other to everybody else.
_THREADS = 2


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Reader:
    """Two threads. A client has one body at most with them, waiting or being read: whoever sends many waits for their own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="hauberk-reader")
        self._turns: dict[Hashable, _Turn] = {}

    async def run(self, client: Hashable, work: Callable[[], T]) -> T:
        """The result of `work`, once the client's bodies before it are read."""
        turn = self._turns.setdefault(client, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[client]

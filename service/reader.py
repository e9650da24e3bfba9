"""Long bodies are read in a thread beside the event loop, of one client after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Reader:
    """One thread. A client has one body at most in its queue; whoever sends many waits for their own, and delays another by one."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hauberk-reader")
        self._turns: dict[Hashable, _Turn] = {}

    async def run(self, client: Hashable, work: Callable[[], T]) -> T:
        """The result of `work`, once the client's bodies before it are read."""
        turn = self._turns.setdefault(client, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[client]

"""The connections of one server by the address they come from, and which of them makes room for another.

Idle connections cost a client nothing, so that one address could hold all there are. Each address has a share; beyond it, its own
longest idle connection is closed for the newcomer. When the process has no room, that is done to the address that has the most.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Protocol


class Guest(Protocol):
    """A connection. `idle_since` is None while a request of it is under way."""

    @property
    def idle_since(self) -> float | None: ...

    def make_room(self) -> None:
        """Close it, for another to be opened."""


class Crowd:
    """All connections of one server; those of proxies, whose address is None, have no share and are the last to make room."""

    def __init__(self) -> None:
        self._of: dict[str | None, dict[Guest, None]] = {}

    def join(self, guest: Guest, address: str | None) -> None:
        """It is open."""
        self._of.setdefault(address, {})[guest] = None

    def leave(self, guest: Guest, address: str | None) -> None:
        """It is closed."""
        guests = self._of.get(address, {})
        guests.pop(guest, None)
        if not guests:
            self._of.pop(address, None)

    def takes(self, newcomer: Guest, address: str | None, *, share: int, full: bool) -> bool:
        """Whether there is room for a newcomer, which has joined; one that is idle makes room if there has to be some."""
        if address is not None and len(self._of[address]) > share:
            idle = _longest_idle(self._of[address], newcomer)
        elif full:
            fullest = max((guests for name, guests in self._of.items() if name is not None), key=len, default={})
            idle = _longest_idle(fullest, newcomer) or _longest_idle(chain.from_iterable(self._of.values()), newcomer)
        else:
            return True
        if idle is not None:
            idle.make_room()
        return idle is not None


def _longest_idle(guests: Iterable[Guest], newcomer: Guest) -> Guest | None:
    found, since = None, float("inf")
    for guest in guests:
        idle_since = guest.idle_since
        if idle_since is not None and idle_since < since and guest is not newcomer:
            found, since = guest, idle_since
    return found

"""The connections of one server by the address they come from: which are served, which wait, and which make room for another.

Idle connections cost a client nothing, so that one address could hold all there are. Each address has a share. Beyond it a connection
is open and not read, until another of its address closes or has been idle for `IDLE_S`, which closes it then. To close one at once
would only bring it back at once, and opening is what costs. When the process is full, the address that has the most gives one up for a
newcomer from elsewhere; its own newcomers are turned away, most of them without a word, since they come back as fast as that is done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import Enum
from itertools import chain
from typing import Protocol

from service.edge.accounts import Account

IDLE_S = 3.0
CLOSED_AT_ONCE = 32
"""Of one address: thousands that are closed together come back together."""
TOLD_PER_S = 32
"""So many newcomers that there is no room for are told so; to close the others at once costs a tenth of that."""


class Guest(Protocol):
    """A connection. `idle_since` is None while a request of it is under way."""

    @property
    def idle_since(self) -> float | None: ...

    def make_room(self) -> None:
        """Close it, for another to be served."""

    def serve(self) -> None:
        """Read on."""

    def give_up(self) -> None:
        """It has waited in vain: refuse it."""


class Seat(Enum):
    """What a newcomer gets: it is served, waits unread, or there is no room even for that."""

    SERVED, WAITS, NONE = range(3)


class _Address:
    """The connections of one address: those that are served, in the order of their last answers, and those that wait."""

    __slots__ = ("holder", "served", "waiting")

    def __init__(self) -> None:
        self.holder = Account("", math.inf)
        self.served: dict[Guest, None] = {}
        self.waiting: dict[Guest, float] = {}

    def __len__(self) -> int:
        return len(self.served) + len(self.waiting)


class Crowd:
    """All connections of one server; those of proxies, whose address is None, have no share and make room last."""

    def __init__(self) -> None:
        self._of: dict[str | None, _Address] = {}
        self._told, self._told_since = 0, 0.0
        self.untold = 0

    def join(self, guest: Guest, address: str | None, now: float, *, share: int, full: bool) -> Seat:
        """Serve a newcomer or let it wait: then it must not be read until it is served."""
        own = self._of.get(address)
        if full and not self._make_room(own if address is not None else None):
            return Seat.NONE
        if own is None:
            own = self._of[address] = _Address()
        if address is not None and len(own.served) >= share:
            own.waiting[guest] = now
            return Seat.WAITS
        own.served[guest] = None
        return Seat.SERVED

    def holder(self, address: str | None) -> Account:
        """Whose the bytes are that connections of this address have read before their requests began."""
        own = self._of.get(address)
        return own.holder if own is not None else Account("", math.inf)

    def tells(self, now: float) -> bool:
        """Whether a newcomer that there is no room for is told so; else it counts as untold."""
        if now - self._told_since >= 1.0:
            self._told, self._told_since = 0, now
        self._told += 1
        self.untold += self._told > TOLD_PER_S
        return self._told <= TOLD_PER_S

    def take_untold(self) -> int:
        """How many were closed without a word since the last time."""
        untold, self.untold = self.untold, 0
        return untold

    def leave(self, guest: Guest, address: str | None) -> None:
        """It is closed; the one of its address that has waited for longest is served instead."""
        own = self._of.get(address)
        if own is None:
            return
        own.waiting.pop(guest, None)
        if guest in own.served:
            del own.served[guest]
            if own.waiting:
                _serve_next(own)
        if not own:
            del self._of[address]

    def answered(self, guest: Guest, address: str | None) -> None:
        """It is now the last to be idle for long."""
        own = self._of.get(address)
        if own is not None and guest in own.served:
            del own.served[guest]
            own.served[guest] = None

    def look(self, now: float, patience_s: float) -> None:
        """Where some wait, close those that have been idle for long, and refuse those that waited too long, a few at a time.

        To be called about once a second.
        """
        for own in list(self._of.values()):
            for guest in list(own.served)[: min(len(own.waiting), CLOSED_AT_ONCE)]:
                idle_since = guest.idle_since
                if idle_since is not None and now - idle_since >= IDLE_S:
                    guest.make_room()
            for guest, since in list(own.waiting.items())[:CLOSED_AT_ONCE]:
                if now - since > patience_s:
                    del own.waiting[guest]
                    guest.give_up()

    def _make_room(self, own: _Address | None) -> bool:
        fullest = max((each for name, each in self._of.items() if name is not None), key=len, default=None)
        if fullest is not None:
            if own is not None and len(own) >= len(fullest):
                return False
            if fullest.waiting:
                latest, _ = fullest.waiting.popitem()
                latest.make_room()
                return True
        everybody = chain.from_iterable(each.served for each in self._of.values())
        idle = (_first_idle(fullest.served) if fullest is not None else None) or _first_idle(everybody)
        if idle is not None:
            idle.make_room()
        return idle is not None


def _serve_next(own: _Address) -> None:
    guest = next(iter(own.waiting))
    del own.waiting[guest]
    own.served[guest] = None
    guest.serve()


def _first_idle(guests: Iterable[Guest]) -> Guest | None:
    return next((guest for guest in guests if guest.idle_since is not None), None)

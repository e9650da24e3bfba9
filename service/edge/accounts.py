"""Clients: their keys, and how many images a minute each may send.

Without a file of clients everybody may ask, and there is an account per address (per /64 for IPv6, where one household has that many).
With one, a request needs `Authorization: Bearer <key>`, and budgets are per client. The file holds digests, never keys:

    [clients.radiology]
    key_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    images_per_minute = 600     # HAUBERK_IMAGES_PER_MINUTE when not given
    enabled = true

A budget counts images, not the model calls they cost: the budget left must not tell a client how suspicious its images were.

Refusals for want of room cost a client nothing, and reading what is refused takes time from everybody. So they are paced: an account's
go out as fast as `REFUSED_BYTES_PER_S` of refused requests, and later ones wait, unread where they can be.

Bodies take time from everybody too, however few model calls they ask for. So while others have work, an account's are read as fast as
`READ_BYTES_PER_S`, and later ones wait unread; one that would wait for long is refused.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models.errors import InvalidInput
from models.files import read_file
from service.edge.addresses import household
from service.errors import Forbidden, OverBudget, Unauthorised

_DIGEST = re.compile("[0-9a-f]{64}")
_BEARER = re.compile(rb"[Bb]earer +([!-~]{1,512})")
_MEMBERS = {"key_sha256", "images_per_minute", "enabled"}
# A household is a short text: with its account it takes less than 300 bytes, so all of them together less than 20 MiB.
_ADDRESSES_AT_MOST = 1 << 16
_FILE_BYTES = 16 << 20

REFUSED_BYTES_PER_S, REFUSED_AT_ONCE_S = 8 << 20, 1.0
"""Of one account; and for so many seconds' worth of it no refusal waits."""
_REFUSED_BYTES_AT_LEAST = 1 << 11

READ_BYTES_PER_S, READ_AT_ONCE_S = 32 << 20, 0.05
"""The same for bodies of one account while others have work."""
READ_WAITS_S = 2.0
"""Bodies that would wait for longer are refused: those that wait hold what of them came with their heads."""


@dataclass(frozen=True)
class Client:
    """One entry of the file; `images_per_minute` None takes the common budget."""

    name: str
    key_sha256: str
    images_per_minute: int | None = None
    enabled: bool = True


def read_clients(path: Path) -> tuple[Client, ...]:
    """The clients in a file. Raises: InvalidInput, one sentence."""
    try:
        document = tomllib.loads(read_file(path, at_most=_FILE_BYTES).decode("utf-8"))
    except OSError as failure:
        raise InvalidInput(f"HAUBERK_CLIENTS_FILE {path} cannot be read: {failure.strerror}") from failure
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as failure:
        raise InvalidInput(f"expected HAUBERK_CLIENTS_FILE {path} to be TOML: {failure}") from failure
    entries = document.get("clients")
    if list(document) != ["clients"] or not isinstance(entries, dict) or not entries:
        raise InvalidInput(f"expected tables [clients.NAME] in {path} and nothing else")
    clients = tuple(_client(path, name, entry) for name, entry in entries.items())
    if len({client.key_sha256 for client in clients}) < len(clients):
        raise InvalidInput(f"expected a key per client in {path}, got one twice")
    return clients


def _client(path: Path, name: str, entry: Any) -> Client:
    where = f"[clients.{name}] in {path}"
    if not isinstance(entry, dict) or not entry.keys() <= _MEMBERS:
        raise InvalidInput(f"expected {', '.join(sorted(_MEMBERS))} in {where}, got something else")
    digest, budget, enabled = entry.get("key_sha256"), entry.get("images_per_minute"), entry.get("enabled", True)
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"expected key_sha256 in {where} to be 64 lower-case hex digits; printf %s KEY | sha256sum makes them")
    if budget is not None and (type(budget) is not int or budget < 1):
        raise InvalidInput(f"expected images_per_minute in {where} to be a whole number, 1 or more, got {budget!r}")
    if type(enabled) is not bool:
        raise InvalidInput(f"expected enabled in {where} to be true or false, got {enabled!r}")
    return Client(name, digest, budget, enabled)


@dataclass(slots=True, eq=False)
class Account:
    """The budget of one client: a bucket that holds a minute's images and fills evenly.

    Attributes:
        held: bytes of its bodies, see bodies.py. paced_until: when all of its refusals so far may be out.
        read_until: when its bodies so far are paid for.
    """

    name: str
    per_minute: float
    clock: Callable[[], float] = time.monotonic
    held: int = field(default=0, init=False)
    paced_until: float = field(default=-math.inf, init=False)
    read_until: float = field(default=-math.inf, init=False)
    left: float = field(init=False)
    _at: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.left, self._at = self.per_minute, self.clock()

    def spend(self, images: int) -> None:
        """Take so many images from the bucket. A request for more than it can hold needs it full, and leaves it in debt.

        Raises: OverBudget; that costs one image where there is one, since the body was read to know how many it holds.
        """
        if self.per_minute == math.inf:
            return
        now = self.clock()
        self.left = min(self.per_minute, self.left + (now - self._at) * self.per_minute / 60)
        self._at = now
        missing = min(images, self.per_minute) - self.left
        if missing > 0:
            price = 1 if self.left >= 1 else 0
            self.left -= price
            raise OverBudget(math.ceil((missing + price) * 60 / self.per_minute))
        self.left -= images

    def resize(self, per_minute: float) -> None:
        """Change the budget; what was spent stays spent. One that had no limit begins full."""
        now = self.clock()
        left = math.inf if self.per_minute == math.inf else self.left + (now - self._at) * self.per_minute / 60
        self.left, self.per_minute, self._at = min(left, per_minute), per_minute, now

    def give_back(self, images: int) -> None:
        """Return the images of a request that the server failed."""
        self.left += images

    def charge(self, images: int) -> None:
        """Take so many images, or what is left: for a body that was read and refused."""
        self.left = max(self.left - images, min(self.left, 0.0))

    def refusal_waits_s(self, size: int, at_most_s: float) -> float:
        """For how long the refusal of a request of so many bytes has to wait: until those before it are paid for by time."""
        now = self.clock()
        begins = max(self.paced_until, now - REFUSED_AT_ONCE_S)
        self.paced_until = min(begins + max(size, _REFUSED_BYTES_AT_LEAST) / REFUSED_BYTES_PER_S, now + at_most_s)
        return max(0.0, self.paced_until - now)

    def reading_waits_s(self, size: int) -> float | None:
        """For how long a body of so many bytes has to wait, unread: until those before it are paid for by time. None: for too long."""
        now = self.clock()
        begins = max(self.read_until, now - READ_AT_ONCE_S)
        wait_s = max(0.0, begins - now)
        if wait_s > READ_WAITS_S:
            return None
        self.read_until = begins + size / READ_BYTES_PER_S
        return wait_s

    def reading_took(self, more: int) -> None:
        """A body had so many bytes more than was said, or fewer."""
        self.read_until += more / READ_BYTES_PER_S

    def check(self) -> None:
        """Whether there is an image left, before a body is read. Raises: OverBudget."""
        self.spend(1)
        self.give_back(1)


class Clients:
    """Finds the account of a request.

    Args:
        clients: those with keys; None lets everybody ask.
        images_per_minute: the budget of each that has none of its own; None for no budget.
    """

    def __init__(
        self,
        clients: Iterable[Client] | None = None,
        *,
        images_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._common = math.inf if images_per_minute is None else float(images_per_minute)
        self._clock = clock
        self._by_key: Mapping[str, Account | None] | None = None
        self._by_address: OrderedDict[str, Account] = OrderedDict()
        if clients is not None:
            self.replace(clients)

    def replace(self, clients: Iterable[Client]) -> None:
        """From now on only these may ask; of those that were there before, each keeps what is left of its budget."""
        before = {account.name: account for account in (self._by_key or {}).values() if account is not None}
        self._by_key = {client.key_sha256: self._account_of(client, before.get(client.name)) for client in clients}

    def _account_of(self, client: Client, before: Account | None) -> Account | None:
        if not client.enabled:
            return None
        budget = float(client.images_per_minute or self._common)
        if before is None:
            return Account(client.name, budget, self._clock)
        if before.per_minute != budget:
            before.resize(budget)
        return before

    def account(self, authorization: bytes, address: str) -> Account:
        """Whose request this is, with at least one image left. Raises: Unauthorised, Forbidden, OverBudget."""
        account = self._of_address(address) if self._by_key is None else self._of_key(authorization, self._by_key)
        account.check()
        return account

    def _of_key(self, authorization: bytes, by_key: Mapping[str, Account | None]) -> Account:
        bearer = _BEARER.fullmatch(authorization)
        digest = hashlib.sha256(bearer[1]).hexdigest() if bearer else ""
        if digest not in by_key:
            raise Unauthorised
        account = by_key[digest]
        if account is None:
            raise Forbidden
        return account

    def _of_address(self, address: str) -> Account:
        name = household(address)
        account = self._by_address.pop(name, None) or Account("", self._common, self._clock)
        self._by_address[name] = account  # moved to the end: the first is the address not seen for longest
        if len(self._by_address) > _ADDRESSES_AT_MOST:
            self._by_address.popitem(last=False)
        return account

"""Where a request comes from: a page of another site in somebody's browser, another machine behind a proxy, or this machine.

A server that listens on loopback is reached by every page in a browser of this machine. The same-origin policy keeps a page from reading
the answers, but not from sending requests, and it does not hold at all where a name of the attacker is made to lead to 127.0.0.1 (DNS
rebinding): the page and the server are then of one origin, whose name is in Host. Hence:

    /metrics            only with a Host of this machine and its port, not from a page of another site, and never forwarded by a proxy
    the console         only with a Host that browsers may use
    images from a page  the same, and not from a page of another site; programs send neither Origin nor Sec-Fetch-Site, and may use any

Beyond loopback, any Host will do until the operator names some. Sec-Fetch-Site says that a page is of another site; where a browser does
not send it, the host in Origin is not the one in Host.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from service.edge.asgi import Scope
from service.errors import CrossSite

_LOOPBACK = frozenset((b"localhost", b"127.0.0.1", b"[::1]"))
_HOST = re.compile(rb"(\[[0-9a-fA-F:.]+\]|[^\[\]:/@\s]+)(?::(\d{1,5}))?")
_SAME = (b"same-origin", b"none")
_FORWARDED = frozenset(
    (b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"true-client-ip", b"cf-connecting-ip")
)
_FORWARDED_AS = (b"x-forwarded-", b"x-original-", b"x-envoy-")
_DEFAULT_PORT = 80


@dataclass(frozen=True)
class Hosts:
    """The names, in Host, under which browsers may reach a server; None for any. `local` are those for this machine only."""

    names: frozenset[bytes] | None = None
    local: frozenset[bytes] = _LOOPBACK

    @classmethod
    def of(cls, address: str, more: Iterable[str] = ()) -> Hosts:
        """Those of a server that listens on `address`, and what an operator adds to them."""
        added = frozenset(name.lower().encode() for name in more)
        if not is_loopback(address):
            return cls(added or None)
        local = _LOOPBACK | {f"[{address}]".encode() if ":" in address else address.encode()}
        return cls(local | added, local)

    def check_host(self, scope: Scope) -> None:
        """Refuse a name that is not one of ours. Raises: CrossSite."""
        if self.names is not None and _host(scope)[0] not in self.names:
            raise CrossSite

    def check_browser(self, scope: Scope) -> None:
        """Refuse what a page of another site sends, by a name of its own or to one of ours. Raises: CrossSite."""
        for name, _ in scope["headers"]:
            if name in (b"origin", b"sec-fetch-site"):
                self.check_host(scope)
                if _cross_site(scope):
                    raise CrossSite
                return

    def from_here(self, scope: Scope) -> bool:
        """Whether a program or a page of this server, on this machine, asks by one of its addresses, with no proxy in between."""
        name, port = _host(scope)
        here = [is_loopback(address[0]) for address in (scope.get("server"), scope.get("client")) if address]
        return (
            bool(here)
            and all(here)
            and scope.get("http_version") != "1.0"  # the version of nginx, where it forwards and says nothing of it
            and name in self.local
            and port == (scope["server"][1] or _DEFAULT_PORT)
            and not _cross_site(scope)
            and not _forwarded(scope)
        )


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine only; a name, which could be anything, is not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(scope: Scope) -> tuple[bytes, int]:
    """Name and port in Host; an empty name where there is none, more than one, or something else."""
    given = [value for name, value in scope["headers"] if name == b"host"]
    found = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
    return (found[1], int(found[2] or _DEFAULT_PORT)) if found else (b"", 0)


def _cross_site(scope: Scope) -> bool:
    sites = {value.lower() for name, value in scope["headers"] if name == b"sec-fetch-site"}
    if sites:
        return not sites <= set(_SAME)
    origins = {value.lower().partition(b"://")[2] for name, value in scope["headers"] if name == b"origin"}
    return bool(origins) and origins != {value.lower() for name, value in scope["headers"] if name == b"host"}


def _forwarded(scope: Scope) -> bool:
    return any(name in _FORWARDED or name.startswith(_FORWARDED_AS) for name, _ in scope["headers"])

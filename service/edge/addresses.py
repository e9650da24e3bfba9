"""Addresses: whose request it is where proxies stand in front, and what counts as one household.

Each proxy adds the address of whoever it was asked by to the right of `X-Forwarded-For`. So the list is read from the right, and only
as far as the operator's own proxies reach: what stands further left was written by the client. `Forwarded` (RFC 7239) is not read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

from models.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6_PREFIX = 64
_HOPS_AT_MOST = 16
# The longest address in brackets, and a port.
_TEXT_AT_MOST = 56


def read_networks(name: str, text: str) -> tuple[Network, ...]:
    """Addresses and networks, with commas between them. Raises: InvalidInput."""
    networks = []
    for item in filter(None, map(str.strip, text.split(","))):
        try:
            networks.append(ipaddress.ip_network(item))
        except ValueError:
            raise InvalidInput(
                f"expected {name} to be addresses and networks such as 10.0.0.7,10.1.0.0/16,2001:db8::/32, got {item!r}"
            ) from None
    return tuple(networks)


def household(address: str) -> str:
    """What the budget and the share of an address are kept under: the address, for IPv6 its /64; "" for what is no address."""
    return _household(address) if len(address) <= _TEXT_AT_MOST else ""


@lru_cache(maxsize=1 << 12)
def _household(address: str) -> str:
    parsed = _parsed(address)
    if parsed is None:
        return ""
    if parsed.version == 4:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, _IPV6_PREFIX), strict=False).network_address)


class Proxies:
    """The proxies whose word on their clients is taken.

    Args:
        networks: where they are; none by default.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def __contains__(self, address: str) -> bool:
        if not self._networks:
            return False
        parsed = _parsed(address)
        return parsed is not None and self._trusts(parsed)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)

    def client_of(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """The address that a request of this peer is counted under.

        It is the rightmost in X-Forwarded-For that is none of the proxies. What is no address ends the list: then the request is
        its proxy's, the last that was found.
        """
        if peer not in self:
            return peer
        forwarded = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        found = peer
        for hop in reversed(forwarded.rsplit(b",", _HOPS_AT_MOST)[-_HOPS_AT_MOST:]):
            address = _parsed(_without_port(hop.decode("latin-1").strip(" \t")))
            if address is None:
                break
            found = str(address)
            if not self._trusts(address):
                break
        return found


def _parsed(text: str) -> Address | None:
    """An address, IPv4 as itself where IPv6 wraps it; None for everything else, and for IPv6 with a zone, which is any text."""
    if len(text) > _TEXT_AT_MOST or "%" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _without_port(text: str) -> str:
    """Some proxies write the port as well: 192.0.2.1:4711, [2001:db8::1]:4711."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0] if text.count(":") == 1 else text

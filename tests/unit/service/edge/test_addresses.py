"""Whose request it is behind proxies, and what counts as one household."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest

from models.errors import InvalidInput
from service.edge.accounts import Clients
from service.edge.addresses import Proxies, household, read_networks
from service.edge.site import Route
from service.errors import OverBudget
from tests.unit.service.edge.asking import JSON, POST, ask, echo, serving, site
from tests.unit.service.watcher import Watcher

OURS = Proxies(read_networks("X", "10.0.0.7, 10.1.0.0/16,2001:db8:1::/48"))


def forwarded(*lines: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", line) for line in lines]


@pytest.mark.parametrize(
    ("peer", "lines", "client"),
    [
        ("192.0.2.1", [b"198.51.100.1"], "192.0.2.1"),  # no proxy of ours
        ("10.0.0.7", [], "10.0.0.7"),
        ("10.0.0.7", [b"198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.7", [b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.7", [b"1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # the left one is the client's own word
        ("10.0.0.7", [b"1.1.1.1", b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.7", [b"1.1.1.1, 198.51.100.1, 10.1.2.3"], "198.51.100.1"),
        ("10.0.0.7", [b"1.1.1.1, 198.51.100.1,10.1.2.3", b" 2001:db8:1::5 "], "198.51.100.1"),
        ("10.0.0.7", [b"10.1.0.1, 10.1.0.2"], "10.1.0.1"),
        ("10.0.0.7", [b"198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.7", [b"[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.7", [b"::ffff:198.51.100.1"], "198.51.100.1"),
        *(
            ("10.0.0.7", [b"198.51.100.1, " + name], "10.0.0.7")
            for name in (
                b"unknown",
                b"_hidden",
                b"client.example",
                b"",
                b"x" * 5000,
                b"fe80::1%eth0",
                b"1.2.3",
                b"\xff",
                b"1" * 40,
            )
        ),
        ("10.0.0.7", [b"198.51.100.1, unknown, 10.1.0.1"], "10.1.0.1"),
    ],
)
def test_a_request_is_of_the_rightmost_address_that_is_no_proxy(peer: str, lines: list[bytes], client: str) -> None:
    assert OURS.client_of(peer, forwarded(*lines)) == client


def test_without_named_proxies_nobody_is_believed() -> None:
    assert Proxies().client_of("127.0.0.1", forwarded(b"198.51.100.1")) == "127.0.0.1"


def test_a_long_list_is_read_as_far_as_proxies_may_stand_in_a_row() -> None:
    assert OURS.client_of("10.0.0.7", forwarded(b"198.51.100.1," + b",".join([b"10.1.0.1"] * 500))) == "10.1.0.1"


def test_forwarded_is_not_read() -> None:
    assert OURS.client_of("10.0.0.7", [(b"forwarded", b"for=198.51.100.1")]) == "10.0.0.7"


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::"),
        ("2001:db8:0:0:9::1", "2001:db8::"),
        ("2001:db8:0:1::1", "2001:db8:0:1::"),
        ("fe80::1%" + "x" * 9000, ""),
        ("client.example", ""),
        ("", ""),
    ],
)
def test_a_household_is_an_address_or_a_prefix_of_ipv6(address: str, name: str) -> None:
    assert household(address) == name


@pytest.mark.parametrize("text", ["x", "10.0.0.7/8", "10.0.0.0/33", "*", "10.0.0.7;10.0.0.8", "proxy.example", "fe80::1%eth0/64"])
def test_what_is_no_network_is_refused_with_one_sentence(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected HAUBERK_TRUSTED_PROXIES to be addresses and networks"):
        read_networks("HAUBERK_TRUSTED_PROXIES", text)


def test_a_client_cannot_choose_its_budget_by_a_header(watcher: Watcher) -> None:
    clients = Clients(images_per_minute=1)

    async def spend(exchange: object) -> None:
        exchange.account.spend(1)  # type: ignore[attr-defined]
        await echo(exchange)  # type: ignore[arg-type]

    def statuses(proxies: Proxies, headers: list[bytes]) -> list[int | None]:
        served = replace(site(watcher, echo=Route(spend, **POST)), clients=clients, proxies=proxies)  # type: ignore[arg-type]
        return [ask(serving(served), headers=[*JSON, *forwarded(header)], client=("10.0.0.7", 1)).status for header in headers]

    assert statuses(Proxies(), [b"1.0.0.1", b"1.0.0.2"]) == [200, 429]
    assert statuses(OURS, [b"1.0.0.1, 198.51.100.1", b"1.0.0.2, 198.51.100.1", b"198.51.100.2"]) == [200, 429, 200]


def test_the_table_of_addresses_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.edge.accounts._ADDRESSES_AT_MOST", 2000)
    clients = Clients(images_per_minute=10)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for i in range(3000):
            clients.account(b"", f"2001:db8:{i:x}:ffff:ffff:ffff:ffff:ffff")
            clients.account(b"", f"host-{i}." + "x" * 9000)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 2000 < 1024  # with what `household` keeps of the last 4096
    clients.account(b"", "another-host").spend(10)
    with pytest.raises(OverBudget):
        clients.account(b"", "a-third")  # names have one account together

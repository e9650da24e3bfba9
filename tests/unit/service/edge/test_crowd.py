"""Connections per address, and who makes room when there is none."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from service.edge.addresses import Proxies
from service.edge.connection import Connection
from tests.unit.service.edge.wire import REQUEST, At, Bench, Wire


async def connect(bench: Bench, address: str, times: int) -> list[Wire]:
    """So many connections, each of which has asked once."""
    bench.full = False
    made = []
    for _ in range(times):
        connection, wire = bench.connect(address)
        made.append(wire)
        if not wire.closed:
            await bench.send(REQUEST, connection)
    return made


def test_beyond_its_share_an_address_closes_its_own_longest_idle_connection(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        (neighbour,) = await connect(bench, "10.0.0.9", 1)
        wires = await connect(bench, "10.0.0.2", 5)
        assert [wire.closed for wire in wires] == [True, True, False, False, False]
        assert all(wire.statuses == [200] for wire in wires)
        assert not neighbour.closed

    at(scenario, connections_per_address=3)


def test_an_address_whose_connections_are_all_at_work_gets_no_more(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        for _ in range(3):
            await bench.send(REQUEST[:-1], bench.connect("10.0.0.2")[0])
        _, wire = bench.connect("10.0.0.2")
        assert (wire.statuses, wire.closed) == ([503], True)
        assert b"too_many_connections" in wire.written
        (other,) = await connect(bench, "10.0.0.3", 1)
        assert other.statuses == [200]

    at(scenario, connections_per_address=3)


def test_a_household_of_ipv6_has_one_share(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        wires = [bench.connect(f"2001:db8::{i}")[1] for i in range(1, 4)]
        assert [wire.closed for wire in wires] == [True, False, False]
        assert not bench.connect("2001:db8:0:1::1")[1].closed

    at(scenario, connections_per_address=2)


def test_when_the_process_is_full_the_address_with_the_most_connections_makes_room(
    at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "most", 6)

    async def scenario(bench: Bench) -> None:
        (patient,) = await connect(bench, "10.0.0.2", 1)
        greedy = await connect(bench, "10.0.0.3", 4)
        (newcomer,) = await connect(bench, "10.0.0.4", 1)
        assert newcomer.statuses == [200]
        assert [wire.closed for wire in (patient, *greedy)] == [False, True, False, False, False]

    at(scenario, connections_per_address=5)


def test_a_full_process_refuses_only_when_nobody_is_idle(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "most", 4)

    async def scenario(bench: Bench) -> None:
        bench.full = False
        for _ in range(2):
            await bench.send(REQUEST[:-1], bench.connect("10.0.0.2")[0])
        last, idle = bench.connect("10.0.0.3")
        (newcomer,) = await connect(bench, "10.0.0.4", 1)  # the first connection of the bench makes room, idle for longest
        assert (newcomer.statuses, bench.wire.closed, idle.closed) == ([200], True, False)
        bench.connection.connection_lost(None)
        await bench.send(REQUEST[:-1], last)
        (another,) = await connect(bench, "10.0.0.5", 1)
        assert (another.statuses, newcomer.closed) == ([200], True)

    at(scenario)


def test_a_process_full_of_requests_under_way_refuses_and_forgets_whoever_leaves(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "most", 2)

    async def scenario(bench: Bench) -> None:
        bench.full = False
        await bench.send(REQUEST[:-1])
        working, _ = bench.connect("10.0.0.2")
        await bench.send(REQUEST[:-1], working)
        _, refused = bench.connect("10.0.0.3")
        assert refused.statuses == [503]
        for connection in list(Connection.open - {bench.connection}):
            connection.connection_lost(None)
        (newcomer,) = await connect(bench, "10.0.0.3", 1)
        assert newcomer.statuses == [200]

    at(scenario, connections_per_address=2)


def test_a_trusted_proxy_has_no_share_and_makes_room_last(at: At, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "most", 6)

    async def scenario(bench: Bench) -> None:
        trusted = replace(bench.site, proxies=Proxies([ipaddress.ip_network("10.9.0.0/16")]))
        monkeypatch.setattr(Connection, "site", trusted)
        of_proxy = await connect(bench, "10.9.0.1", 4)
        (direct,) = await connect(bench, "10.0.0.3", 1)
        await connect(bench, "10.0.0.4", 1)
        assert [wire.closed for wire in (bench.wire, direct, *of_proxy)] == [True, False, *[False] * 4]

    at(scenario, connections_per_address=1)

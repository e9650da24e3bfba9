"""Connections per address, and who makes room when there is none."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import replace

import pytest

from service.edge import watching
from service.edge.addresses import Proxies
from service.edge.connection import Connection
from service.edge.crowd import CLOSED_AT_ONCE, IDLE_S, TOLD_PER_S, Crowd
from tests.unit.service.edge.wire import REQUEST, At, Bench, Wire, settled


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


async def passes(bench: Bench, seconds: float, *made: tuple[Connection, Wire]) -> None:
    """Look at the crowd after so long, and let those that it closed end."""
    bench.kind.crowd.look(asyncio.get_running_loop().time() + seconds, 10.0)
    for connection, wire in made:
        if wire.closed and connection in Connection.open:
            connection.connection_lost(None)
    await settled()


def test_beyond_its_share_a_connection_is_not_read_until_one_of_its_address_has_been_idle_for_long(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        made = [bench.connect("10.0.0.2") for _ in range(3)]
        for connection, _ in made[:2]:
            await bench.send(REQUEST, connection)
        working, waiting = made[1], made[2]
        await bench.send(REQUEST[:-1], working[0])
        assert [wire.paused for _, wire in made] == [False, False, True]
        await passes(bench, IDLE_S - 1, *made)
        assert not any(wire.closed for _, wire in made)
        await passes(bench, IDLE_S + 1, *made)
        assert [(wire.closed, wire.paused) for _, wire in made] == [(True, False), (False, False), (False, False)]
        await bench.send(REQUEST, waiting[0])
        assert waiting[1].statuses == [200]
        assert not bench.wire.closed

    at(scenario, connections_per_address=2)


def test_those_that_wait_are_served_in_their_order_as_others_of_their_address_close(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        made = [bench.connect("10.0.0.2") for _ in range(4)]
        await settled()
        assert [wire.paused for _, wire in made] == [False, True, True, True]
        made[2][0].connection_lost(None)
        made[0][0].connection_lost(None)
        assert [wire.paused for _, wire in (made[1], made[3])] == [False, True]
        made[1][0].connection_lost(None)
        assert not made[3][1].paused

    at(scenario, connections_per_address=1)


def test_who_waits_in_vain_is_told_and_its_neighbour_is_served(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        bench.full = False
        working, _ = bench.connect("10.0.0.2")
        await bench.send(REQUEST[:-1], working)
        _, wire = bench.connect("10.0.0.2")
        await settled()
        await passes(bench, 9)
        assert wire.statuses == []
        await passes(bench, 11)
        assert (wire.statuses, wire.ended) == ([503], True)
        assert b"too_many_connections" in wire.written
        (other,) = await connect(bench, "10.0.0.3", 1)
        assert other.statuses == [200]

    at(scenario, connections_per_address=1)


def test_not_all_of_those_that_are_idle_or_wait_are_closed_at_once(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        made = [bench.connect("10.0.0.2") for _ in range(200)]
        await settled()
        await passes(bench, 11)
        assert [wire.closed for _, wire in made].count(True) == CLOSED_AT_ONCE  # idle
        assert [wire.statuses for _, wire in made].count([503]) == CLOSED_AT_ONCE

    at(scenario, connections_per_address=100)


def test_a_household_of_ipv6_has_one_share(at: At) -> None:
    async def scenario(bench: Bench) -> None:
        wires = [bench.connect(f"2001:db8::{i}")[1] for i in range(1, 4)]
        wires.append(bench.connect("2001:db8:0:1::1")[1])
        await settled()
        assert [wire.paused for wire in wires] == [False, False, True, False]

    at(scenario, connections_per_address=2)


def test_when_the_process_is_full_the_address_with_the_most_connections_makes_room_for_others_and_gets_no_more(
    at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "most", 6)

    async def scenario(bench: Bench) -> None:
        (patient,) = await connect(bench, "10.0.0.2", 1)
        served = await connect(bench, "10.0.0.3", 2)
        waiting = [bench.connect("10.0.0.3")[1] for _ in range(2)]
        _, another = bench.connect("10.0.0.3")
        assert another.statuses == [503]
        others = [wire for i in (4, 5, 6) for wire in await connect(bench, f"10.0.0.{i}", 1)]
        assert [wire.statuses for wire in others] == [[200]] * 3
        assert [wire.closed for wire in (patient, *served, *waiting)] == [False, True, False, True, True]

    at(scenario, connections_per_address=2)


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

    at(scenario, connections_per_address=2)


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


def test_newcomers_without_room_are_told_so_a_few_a_second_and_the_others_closed_and_counted(
    at: At, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "most", 1)
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.01)

    async def scenario(bench: Bench) -> None:
        newcomers = [bench.connect() for _ in range(TOLD_PER_S + 5)]
        told = [wire for _, wire in newcomers if wire.statuses == [503]]
        assert len(told) == TOLD_PER_S
        assert all(wire.closed for _, wire in newcomers)
        assert [wire.written for _, wire in newcomers if wire not in told] == [b""] * 5
        for connection, _ in newcomers:
            connection.connection_lost(None)
        watching_ = asyncio.create_task(watching.watch())
        while not bench.watcher.turned:
            await asyncio.sleep(0.01)
        watching_.cancel()

    bench = at(scenario)
    assert bench.watcher.turned == [(503, 5)]
    assert [(line["code"], line["connections"]) for line in bench.watcher.lines if "connections" in line] == [
        ("too_many_connections", 5)
    ]


def test_each_second_a_few_newcomers_are_told() -> None:
    crowd = Crowd()
    assert sum(crowd.tells(1.0 + i / 1000) for i in range(100)) == TOLD_PER_S
    assert sum(crowd.tells(2.5) for _ in range(100)) == TOLD_PER_S
    assert (crowd.take_untold(), crowd.take_untold()) == (200 - 2 * TOLD_PER_S, 0)

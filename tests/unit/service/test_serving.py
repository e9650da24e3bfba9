"""Where a body is read, and which addresses are of this machine."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any

import orjson
import pytest

from models.bundle import Bundle
from service.edge.accounts import Account
from service.edge.exchange import Bounds, Exchange
from service.edge.origins import is_loopback
from service.errors import WrongDocument
from tests.unit.service.served import IMAGE, Ask, run, serving


def request(body: bytes, account: Account | None = None) -> Exchange:
    """One whose body has come."""

    async def receive() -> Any:
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    exchange = Exchange({"path": "/predict", "headers": []}, receive, send, Bounds())
    exchange.account, exchange.body_at_most = account, 1 << 24
    return exchange


def test_a_large_body_is_read_beside_the_event_loop_and_answered_alike(bundle: Bundle, waves: Any) -> None:
    made = serving(bundle)

    async def scenario(ask: Ask) -> Any:
        small = await made.read(request(orjson.dumps({"images": [IMAGE]})), made.admission.images)
        large = await made.read(request(orjson.dumps({"images": [IMAGE]}) + b" " * 300_000), made.admission.images)
        return small, large

    small, large = run(made, scenario, waves)
    assert (small == large).all()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_addresses_are_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "localhost", "192.168.0.1", "::", "10.0.0.1", "example.org"])
def test_anything_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(("work", "beside"), [(0, False), (1 << 20, True)])
def test_what_takes_long_to_decode_is_read_beside_the_event_loop(bundle: Bundle, work: int, beside: bool) -> None:
    made = serving(bundle)
    threads: list[threading.Thread] = []

    def read(body: bytes) -> Any:
        threads.append(threading.current_thread())

    async def scenario(ask: Ask) -> Any:
        await made.read(request(b""), read, work)

    run(made, scenario)
    assert (threads[0] is not threading.main_thread()) == beside


@pytest.mark.parametrize(("size", "cost"), [(2, 1), (5 * 26 * 6 // 2, 2), (1_000_000, 4)])
def test_a_body_that_is_refused_is_paid_for_as_the_images_it_could_have_held(bundle: Bundle, size: int, cost: int) -> None:
    made, account = serving(bundle), Account("ward", 60.0, lambda: 0.0)

    async def scenario(ask: Ask) -> Any:
        with pytest.raises(WrongDocument):
            await made.read(request(b"{}" + b" " * (size - 2), account), made.admission.images)

    run(made, scenario)
    assert account.left == 60 - cost


def test_a_body_that_is_let_in_costs_nothing_until_it_is_decided_on(bundle: Bundle) -> None:
    made, account = serving(bundle), Account("ward", 60.0, lambda: 0.0)

    async def scenario(ask: Ask) -> Any:
        await made.read(request(orjson.dumps({"images": [IMAGE]}), account), made.admission.images)

    run(made, scenario)
    assert account.left == 60


def test_a_client_with_many_long_bodies_that_take_forever_holds_up_no_other(bundle: Bundle) -> None:
    made, body = serving(bundle), b" " * 300_000
    begun, go_on, read = threading.Event(), threading.Event(), list[str]()
    greedy, modest = Account("greedy", math.inf), Account("modest", math.inf)

    def slowly(body: bytes) -> None:
        begun.set()
        go_on.wait(10)
        read.append("greedy")

    async def scenario(ask: Ask) -> Any:
        tasks = [asyncio.create_task(made.read(request(body, greedy), slowly)) for _ in range(5)]
        while not begun.is_set():
            await asyncio.sleep(0.001)
        await made.read(request(body, modest), lambda body: read.append("modest"))
        go_on.set()
        await asyncio.gather(*tasks)

    run(made, scenario)
    assert read == ["modest", *["greedy"] * 5]

"""Where a body is read, and which addresses are of this machine."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import numpy as np
import orjson
import pytest

from defences.defended_classifier import Decisions
from models.bundle import Bundle
from service.batching import Batcher
from service.edge import accounts
from service.edge.accounts import Account
from service.edge.exchange import Bounds, Exchange, Source
from service.edge.origins import is_loopback
from service.errors import QueueFull, WrongDocument
from service.release import Schedule
from tests.unit.service.conftest import FakeWaves, Stepwise
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


@pytest.mark.parametrize("told", [True, False], ids=["of known length", "chunked"])
def test_beside_others_the_bodies_of_an_account_are_read_at_a_bounded_rate_and_those_of_another_account_at_once(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    made, greedy, modest, size = serving(bundle), Account("greedy", math.inf), Account("modest", math.inf), 100_000
    monkeypatch.setattr(accounts, "READ_BYTES_PER_S", 1e6)
    order: list[str] = []

    async def one(account: Account) -> float:
        began, exchange = time.monotonic(), request(b" " * size, account)
        exchange.declared = b"%d" % size if told else b""
        exchange.body_at_most = 2 * size
        await made.read(exchange, lambda body: order.append(account.name))
        return time.monotonic() - began

    async def scenario(ask: Ask) -> Any:
        assert made.batcher is not None
        alone = await asyncio.gather(one(greedy), one(greedy), one(greedy))
        made.batcher._turns._company = 1 << 30
        first = await one(greedy)
        rest = await asyncio.gather(one(greedy), one(modest))
        return alone, first, rest

    alone, first, (second, other) = run(made, scenario, FakeWaves())
    assert max(*alone, first, other) < 0.04
    assert 0.04 < second < 0.1  # a tenth of a second, less the twentieth that is read at once
    assert order[-2:] == ["modest", "greedy"]


def test_beside_others_a_body_that_would_wait_for_long_is_refused_unread(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made, account = serving(bundle), Account("greedy", math.inf)
    monkeypatch.setattr(accounts, "READ_BYTES_PER_S", 1000.0)
    account.reading_waits_s(10_000)

    async def scenario(ask: Ask) -> Any:
        assert made.batcher is not None
        made.batcher._turns._company = 1 << 30
        with pytest.raises(QueueFull):
            await made.read(request(b" ", account), len)

    run(made, scenario, FakeWaves())


async def never(*_: Any) -> Any:
    await asyncio.sleep(60)


class Audit:
    """Remembers how many images each request was told of, and its stages."""

    def __init__(self) -> None:
        self.told: list[tuple[int, list[bool], list[str]]] = []

    def decided(self, source: Source, images: Any, decisions: Decisions) -> None:
        stages = [interval.stage for interval in decisions.trace.intervals]
        self.told.append((len(images), decisions.abstained.tolist(), stages))


def test_an_image_repeated_in_a_request_is_decided_once_and_answered_counted_and_recorded_as_asked(bundle: Bundle) -> None:
    made, audit, waves = serving(bundle), Audit(), FakeWaves(refuse_above=0.9)
    made.audit = audit  # type: ignore[assignment]
    other = [[1, 1, 1], [1, 1, 1]]

    async def scenario(ask: Ask) -> Any:
        return await ask("/predict", orjson.dumps({"images": [other, IMAGE, other, IMAGE]}))

    status, _, body = run(made, scenario, waves)
    assert status == 200
    assert [each["abstained"] for each in orjson.loads(body)["predictions"]] == [True, False, True, False]
    assert waves.batches == [2]
    assert audit.told == [(4, [True, False, True, False], [])]
    counted = made.metrics.exposition().decode()
    assert 'hauberk_predictions_total{outcome="abstained"} 2.0' in counted
    assert 'hauberk_predictions_total{outcome="answered"} 2.0' in counted
    assert 'hauberk_abstentions_total{defence="strip",mode="enforce"} 2.0' in counted
    assert "hauberk_strip_overlays_count 4.0" in counted


@pytest.mark.parametrize("scheduled", [False, True])
def test_spans_say_how_long_the_stages_took_only_where_no_schedule_hides_it(bundle: Bundle, waves: Any, scheduled: bool) -> None:
    made = serving(bundle)
    seen: list[Any] = []

    async def scenario(ask: Ask) -> Any:
        made.batcher = Batcher(Stepwise(waves), made.metrics, traced=True)
        made.schedule = Schedule(0.02, images=4) if scheduled else None
        exchange = Exchange({"headers": (), "path": "/predict"}, never, never, Bounds())
        await made.decide(exchange, np.full((1, 2, 3, 1), 0.1, np.float32))
        seen.extend(interval.stage for interval in exchange.intervals)

    run(made, scenario)
    assert seen == ([] if scheduled else ["queue"])


def test_answers_and_failures_of_decisions_leave_by_the_schedule_and_refusals_before_them_do_not(bundle: Bundle) -> None:
    made = serving(bundle)
    kept: list[int] = []

    class Noting(Schedule):
        async def keep(self, account: Any, images: int, work: Any) -> Any:
            kept.append(images)
            return await super().keep(account, images, work)

    async def scenario(ask: Ask) -> Any:
        made.schedule = Noting(0.01, images=4)
        bodies = [orjson.dumps({"images": [IMAGE] * 2}), b"{", orjson.dumps({"images": [IMAGE] * 5})]
        return [(await ask("/predict", body))[0] for body in bodies]

    assert run(made, scenario, FakeWaves()) == [200, 400, 422]
    assert kept == [2]

"""One request: its id, its body within bounds, a client that leaves, the shape of a refusal."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from service.edge.exchange import Exchange
from service.edge.middleware import Edge
from service.edge.site import Route
from tests.unit.service.edge.asking import JSON, POST, ask, echo, serving, site
from tests.unit.service.watcher import Watcher


def test_an_answer_carries_the_request_id_it_was_sent(edge: Edge) -> None:
    reply = ask(edge, headers=[*JSON, (b"x-request-id", b"order-66:a/b.c_d")], parts=[b"hello"])
    assert (reply.status, reply.body) == (200, b"hello")
    assert reply.headers[b"x-request-id"] == b"order-66:a/b.c_d"
    assert reply.headers[b"content-length"] == b"5"


@pytest.mark.parametrize("given", [b"", b"two words", b"a" * 129, b'"quoted"', b"<script>", b"\xff"])
def test_an_ill_formed_request_id_is_replaced(edge: Edge, given: bytes) -> None:
    reply = ask(edge, headers=[*JSON, (b"x-request-id", given)])
    assert re.fullmatch(rb"[0-9a-f]{32}", reply.headers[b"x-request-id"])


def test_two_requests_get_two_ids(edge: Edge) -> None:
    assert ask(edge).headers[b"x-request-id"] != ask(edge).headers[b"x-request-id"]


@pytest.mark.parametrize("parts", [[b"x" * 11], [b"x" * 6, b"x" * 6], [b"x"] * 30])
def test_a_body_that_becomes_too_long_is_413(edge: Edge, parts: list[bytes]) -> None:
    reply = ask(edge, parts=parts)
    reply.problem(413, "body_too_large")
    assert reply.headers[b"connection"] == b"close"


def test_a_body_of_the_longest_length_passes_in_one_part_or_many(edge: Edge) -> None:
    for parts in ([b"x" * 10], [b"x" * 5, b"x" * 5], [b"x"] * 10, [b"x" * 10, b""]):
        assert ask(edge, parts=parts).body == b"x" * 10


def test_a_body_that_does_not_arrive_is_408(edge: Edge) -> None:
    ask(edge, parts=[b"x"], then="stall").problem(408, "slow_body")


def test_a_client_that_leaves_while_it_sends_is_noted_and_gets_nothing(edge: Edge, watcher: Watcher) -> None:
    assert ask(edge, parts=[], then="leave").sent == []
    assert watcher.ends == [("/echo", 499)]
    assert watcher.in_flight == 0


def test_a_client_that_leaves_while_it_waits_ends_the_work(watcher: Watcher) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("work")

    async def slow(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.unless_client_leaves(work())

    edge = serving(site(watcher, echo=Route(slow, **POST)))  # type: ignore[arg-type]
    assert ask(edge, then="leave").sent == []
    assert ended == ["work"]
    assert watcher.ends == [("/echo", 499)]


def test_work_that_takes_a_while_is_answered_to_a_client_that_stays(watcher: Watcher) -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.respond(200, b"text/plain", await exchange.unless_client_leaves(asyncio.sleep(0.1, b"late")))

    edge = serving(site(watcher, echo=Route(slow, **POST)))  # type: ignore[arg-type]
    assert ask(edge).body == b"late"


def test_refusals_under_v2_have_the_shape_of_its_protocol(watcher: Watcher) -> None:
    for path in ("/v2", "/v2/", "/v2/models/unknown"):
        reply = ask(serving(site(watcher, x=Route(echo))), path)
        assert (reply.status, reply.headers[b"content-type"], list(json.loads(reply.body))) == (
            404,
            b"application/json",
            ["error"],
        )
        assert reply.headers[b"x-request-id"]
    assert ask(serving(site(watcher, x=Route(echo))), "/v20").problem(404, "not_found")

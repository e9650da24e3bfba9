"""No exception gets past the middleware, and it stands where it should."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.edge.exchange import Exchange
from service.edge.middleware import Edge
from service.edge.site import Route, Slot
from service.errors import QueueFull
from tests.unit.service.edge.asking import JSON, POST, ask, behind, serving, site
from tests.unit.service.watcher import Watcher


def test_a_refusal_by_the_endpoint_goes_out_with_its_headers(watcher: Watcher) -> None:
    async def full(exchange: Exchange) -> None:
        raise QueueFull

    edge = serving(site(watcher, echo=Route(full, **POST)))  # type: ignore[arg-type]
    reply = ask(edge)
    reply.problem(503, "queue_full")
    assert reply.headers[b"retry-after"] == b"1"


def test_a_mistake_of_ours_is_a_500_that_tells_the_client_nothing_and_the_log_everything(
    watcher: Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(exchange: Exchange) -> None:
        raise KeyError("the threshold is 0.173")

    edge = serving(site(watcher, echo=Route(broken, **POST)))  # type: ignore[arg-type]
    reply = ask(edge, headers=[*JSON, (b"x-request-id", b"abc")])
    reply.problem(500, "internal_error")
    assert b"0.173" not in reply.body
    assert "0.173" in caplog.text
    assert watcher.ends == [("/echo", 500)]


def test_a_mistake_after_the_answer_began_does_not_escape(watcher: Watcher, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.respond(200, b"text/plain", b"half", more=True)
        raise KeyError

    edge = serving(site(watcher, echo=Route(broken, **POST)))  # type: ignore[arg-type]
    assert not ask(edge).complete
    assert "a request failed" in caplog.text


def test_bentoml_answers_what_is_passed_on_and_the_request_id_is_added(edge: Edge) -> None:
    reply = ask(edge, "/schema", method="GET", headers=[(b"x-request-id", b"abc")])
    assert (reply.status, reply.body) == (200, b"bentoml")
    assert reply.headers == {b"content-type": b"text/plain", b"x-request-id": b"abc"}


def test_the_edge_steps_in_front_of_the_application_that_contains_it(edge: Edge) -> None:
    class Application:
        middleware_stack: Any = behind

    application = Application()
    started: list[str] = []

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        started.append(scope["type"])

    inner = Edge(lifespan, slot=Slot())
    asyncio.run(inner({"type": "lifespan", "app": application}, None, None))  # type: ignore[arg-type]
    assert application.middleware_stack is inner
    asyncio.run(inner({"type": "lifespan"}, None, None))
    assert started == ["lifespan", "lifespan"]


def test_websockets_are_closed(edge: Edge) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(edge({"type": "websocket", "path": "/", "headers": []}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1000}]

"""What holds for every request: ids, paths, methods, media types, sizes, slow and leaving clients, failures; without a server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.edge.middleware import Edge, Exchange, Route, Site, pass_on
from service.edge.observers import Source
from service.errors import Problem, QueueFull
from tests.unit.service.watcher import Watcher

Endpoint = Callable[[Exchange], Awaitable[None]]
JSON = [(b"content-type", b"application/json")]


class Reply:
    """An answer as it went out."""

    def __init__(self, sent: list[dict[str, Any]]) -> None:
        self.sent = sent
        self.status = sent[0]["status"] if sent else None
        self.headers = dict(sent[0]["headers"]) if sent else {}
        self.body = b"".join(message["body"] for message in sent[1:])
        self.complete = bool(sent) and not sent[-1].get("more_body", False)

    def problem(self, status: int, code: str) -> dict[str, Any]:
        """Check the shape of a problem document, and return it."""
        assert self.headers[b"content-type"] == b"application/problem+json"
        assert self.complete
        document: dict[str, Any] = json.loads(self.body)
        assert {"type", "title", "status", "detail", "code", "request_id"} <= set(document)
        assert (self.status, document["status"], document["code"]) == (status, status, code)
        assert document["request_id"].encode() == self.headers[b"x-request-id"]
        return document


async def echo(exchange: Exchange) -> None:
    await exchange.respond(200, b"text/plain", await exchange.read())


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """What BentoML would answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"bentoml"})


def site(watcher: Watcher, **routes: Route) -> Site:
    made = Site()
    made.open({f"/{name}": route for name, route in routes.items()}, watcher, watcher.log, 0.2)
    return made


def ask(
    edge: Edge,
    path: str = "/echo",
    *,
    method: str = "POST",
    headers: Any = JSON,
    parts: list[bytes] | None = None,
    then: str = "wait",
) -> Reply:
    """Send one request; after its parts the client waits, stalls before the last (`then="stall"`) or leaves (`then="leave"`)."""
    parts = [b""] if parts is None else parts
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if parts:
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts) or then == "stall"}
        if then == "leave":
            return {"type": "http.disconnect"}
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": headers}

    async def main() -> None:
        await asyncio.wait_for(edge(scope, receive, send), 10)  # type: ignore[arg-type]

    asyncio.run(main())
    return Reply(sent)


POST = {"methods": frozenset(("POST",)), "reads": frozenset((b"application/json",)), "body_at_most": 10}


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def edge(watcher: Watcher) -> Edge:
    return Edge(behind, site=site(watcher, echo=Route(echo, **POST), schema=Route(pass_on), health=Route(echo, logged=False)))  # type: ignore[arg-type]


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


def test_an_unknown_path_is_404_and_leaves_no_trace_of_itself(edge: Edge, watcher: Watcher) -> None:
    reply = ask(edge, "/etc/passwd")
    reply.problem(404, "not_found")
    assert b"passwd" not in reply.body
    assert watcher.ends == [("other", 404)]
    assert "passwd" not in str(watcher.lines)


def test_a_method_that_does_not_fit_is_405_and_says_which_do(edge: Edge) -> None:
    reply = ask(edge, method="GET")
    reply.problem(405, "method_not_allowed")
    assert reply.headers[b"allow"] == b"POST"


@pytest.mark.parametrize("media_type", [b"application/json", b"Application/JSON; charset=utf-8", None])
def test_json_is_read_and_so_is_a_body_without_a_media_type(edge: Edge, media_type: bytes | None) -> None:
    headers = [] if media_type is None else [(b"content-type", media_type)]
    assert ask(edge, headers=headers, parts=[b"x"]).status == 200


@pytest.mark.parametrize(
    "media_type", [b"text/plain", b"application/vnd.bentoml+pickle", b"application/x-www-form-urlencoded", b"json"]
)
def test_another_media_type_is_415(edge: Edge, media_type: bytes) -> None:
    reply = ask(edge, headers=[(b"content-type", media_type)])
    reply.problem(415, "unsupported_media_type")
    assert reply.headers[b"accept"] == b"application/json"


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"identity, gzip"])
def test_a_compressed_body_is_415(edge: Edge, encoding: bytes) -> None:
    ask(edge, headers=[*JSON, (b"content-encoding", encoding)]).problem(415, "unsupported_encoding")


def test_a_body_declared_too_long_is_413_before_it_is_read(edge: Edge, watcher: Watcher) -> None:
    ask(edge, headers=[*JSON, (b"content-length", b"11")], parts=[b"x" * 11]).problem(413, "body_too_large")
    assert watcher.codes == ["body_too_large"]


@pytest.mark.parametrize("parts", [[b"x" * 11], [b"x" * 6, b"x" * 6], [b"x"] * 30])
def test_a_body_that_becomes_too_long_is_413(edge: Edge, parts: list[bytes]) -> None:
    reply = ask(edge, parts=parts)
    reply.problem(413, "body_too_large")
    assert reply.headers[b"connection"] == b"close"


def test_what_follows_a_413_is_read_and_dropped_so_that_the_client_hears_of_it(edge: Edge) -> None:
    parts = [b"x" * 11, b"x" * 5, b"x" * 5]
    ask(edge, parts=parts)
    assert parts == []


def test_what_follows_a_413_is_not_read_for_ever(edge: Edge) -> None:
    parts = [b"x" * 11] * 1000
    assert ask(edge, parts=parts).complete
    assert len(parts) > 900


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

    edge = Edge(behind, site=site(watcher, echo=Route(slow, **POST)))  # type: ignore[arg-type]
    assert ask(edge, then="leave").sent == []
    assert ended == ["work"]
    assert watcher.ends == [("/echo", 499)]


def test_work_that_takes_a_while_is_answered_to_a_client_that_stays(watcher: Watcher) -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.respond(200, b"text/plain", await exchange.unless_client_leaves(asyncio.sleep(0.1, b"late")))

    edge = Edge(behind, site=site(watcher, echo=Route(slow, **POST)))  # type: ignore[arg-type]
    assert ask(edge).body == b"late"


def test_a_refusal_by_the_endpoint_goes_out_with_its_headers(watcher: Watcher) -> None:
    async def full(exchange: Exchange) -> None:
        raise QueueFull

    edge = Edge(behind, site=site(watcher, echo=Route(full, **POST)))  # type: ignore[arg-type]
    reply = ask(edge)
    reply.problem(503, "queue_full")
    assert reply.headers[b"retry-after"] == b"1"


def test_a_mistake_of_ours_is_a_500_that_tells_the_client_nothing_and_the_log_everything(
    watcher: Watcher, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(exchange: Exchange) -> None:
        raise KeyError("the threshold is 0.173")

    edge = Edge(behind, site=site(watcher, echo=Route(broken, **POST)))  # type: ignore[arg-type]
    reply = ask(edge, headers=[*JSON, (b"x-request-id", b"abc")])
    reply.problem(500, "internal_error")
    assert b"0.173" not in reply.body
    assert "0.173" in caplog.text
    assert watcher.ends == [("/echo", 500)]


def test_a_mistake_after_the_answer_began_does_not_escape(watcher: Watcher, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(exchange: Exchange) -> None:
        await exchange.respond(200, b"text/plain", b"half", more=True)
        raise KeyError

    edge = Edge(behind, site=site(watcher, echo=Route(broken, **POST)))  # type: ignore[arg-type]
    assert not ask(edge).complete
    assert "a request failed" in caplog.text


def test_bentoml_answers_what_is_passed_on_and_the_request_id_is_added(edge: Edge) -> None:
    reply = ask(edge, "/schema", method="GET", headers=[(b"x-request-id", b"abc")])
    assert (reply.status, reply.body) == (200, b"bentoml")
    assert reply.headers == {b"content-type": b"text/plain", b"x-request-id": b"abc"}


def test_before_the_site_is_open_every_path_is_503() -> None:
    reply = ask(Edge(behind, site=Site()), "/anything")
    reply.problem(503, "not_ready")
    assert b"retry-after" in reply.headers


def test_every_request_is_logged_but_those_of_health_checks(edge: Edge, watcher: Watcher) -> None:
    ask(edge, "/health", method="GET")
    ask(edge, headers=[*JSON, (b"x-request-id", b"abc")], parts=[b"x"])
    assert [(line["request_id"], line["method"], line["route"], line["status"]) for line in watcher.lines] == [
        ("abc", "POST", "/echo", 200)
    ]
    assert watcher.ends == [("/health", 200), ("/echo", 200)]


def test_the_edge_steps_in_front_of_the_application_that_contains_it(edge: Edge) -> None:
    class Application:
        middleware_stack: Any = behind

    application = Application()
    started: list[str] = []

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        started.append(scope["type"])

    inner = Edge(lifespan, site=Site())
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


def test_refusals_under_v2_have_the_shape_of_its_protocol(watcher: Watcher) -> None:
    for path in ("/v2", "/v2/", "/v2/models/unknown"):
        reply = ask(Edge(behind, site=site(watcher, x=Route(echo))), path)
        assert (reply.status, reply.headers[b"content-type"], list(json.loads(reply.body))) == (
            404,
            b"application/json",
            ["error"],
        )
        assert reply.headers[b"x-request-id"]
    assert ask(Edge(behind, site=site(watcher, x=Route(echo))), "/v20").problem(404, "not_found")


def test_a_route_is_counted_under_its_label(watcher: Watcher) -> None:
    ask(Edge(behind, site=site(watcher, x=Route(echo, label="/{name}"))), "/x", method="GET")
    assert watcher.ends == [("/{name}", 200)]


class Telltale:
    """Keeps what an audit log and a tracer are told."""

    def __init__(self) -> None:
        self.refusals: list[tuple[str, str, str]] = []
        self.ends: list[tuple[str, int]] = []

    def refused(self, source: Source, problem: Problem) -> None:
        self.refusals.append((source.request_id, source.route, problem.code))

    def ended(self, exchange: Exchange, route: str, status: int) -> None:
        self.ends.append((route, status))


def test_the_audit_log_is_told_of_refused_bodies_and_connections_and_the_tracer_of_known_paths(watcher: Watcher) -> None:
    async def broken(exchange: Exchange) -> None:
        raise ValueError

    told = Telltale()
    taken, failing = Route(echo, **POST), Route(broken, **POST)  # type: ignore[arg-type]
    served = site(watcher, echo=taken, broken=failing, get=Route(pass_on), health=Route(echo, logged=False))
    served.audit = served.spans = told
    edge = Edge(behind, site=served)
    for path, method in (("/echo", "POST"), ("/broken", "POST"), ("/get", "POST"), ("/health", "GET"), ("/nowhere", "GET")):
        ask(edge, path, method=method, headers=[*JSON, (b"x-request-id", path.encode())])
    ask(edge, headers=[*JSON, (b"x-request-id", b"long")], parts=[b"longer than ten"])
    served.note_refused(QueueFull(), b"early")
    assert told.refusals == [
        ("/broken", "/broken", "internal_error"),
        ("long", "/echo", "body_too_large"),
        ("early", "other", "queue_full"),
    ]
    assert told.ends == [("/echo", 200), ("/broken", 500), ("/get", 405), ("/echo", 413)]

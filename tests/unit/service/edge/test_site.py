"""What is checked from the head of a request, and who is told of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.edge.exchange import Exchange, Source
from service.edge.middleware import Edge, pass_on
from service.edge.site import Route, Site, Slot
from service.errors import Problem, QueueFull
from tests.unit.service.edge.asking import JSON, POST, ask, behind, echo, serving, site
from tests.unit.service.watcher import Watcher


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


def test_before_the_site_is_open_every_path_is_503() -> None:
    reply = ask(Edge(behind, slot=Slot()), "/anything")
    reply.problem(503, "not_ready")
    assert b"retry-after" in reply.headers


def test_every_request_is_logged_but_those_of_health_checks(edge: Edge, watcher: Watcher) -> None:
    ask(edge, "/health", method="GET")
    ask(edge, headers=[*JSON, (b"x-request-id", b"abc")], parts=[b"x"])
    assert [(line["request_id"], line["method"], line["route"], line["status"]) for line in watcher.lines] == [
        ("abc", "POST", "/echo", 200)
    ]
    assert watcher.ends == [("/health", 200), ("/echo", 200)]


def test_a_route_is_counted_under_its_label(watcher: Watcher) -> None:
    ask(serving(site(watcher, x=Route(echo, label="/{name}"))), "/x", method="GET")
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
    served = replace(served, audit=told, spans=told)
    edge = serving(served)
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


def test_a_server_has_one_site() -> None:
    slot = Slot()
    slot.install(Site())
    with pytest.raises(RuntimeError, match="one site"):
        slot.install(Site())

"""Health checks, metrics and documentation, before, while and after the server takes requests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from models.bundle import Bundle
from models.engines.remote.calls import Unobserved
from models.engines.remote.circuit import Circuit
from service.edge.origins import Hosts
from service.routes.openapi import document
from service.routes.paths import private_routes
from tests.unit.service.served import LOCAL, Ask, run, serving


def test_while_the_classifier_loads_the_process_is_alive_and_not_ready(bundle: Bundle) -> None:
    async def scenario(ask: Ask) -> Any:
        return [(await ask(path, body))[0] for path, body in (("/livez", None), ("/readyz", None), ("/predict", b"{}"))]

    assert run(serving(bundle), scenario) == [200, 503, 503]


def test_once_it_is_warm_the_process_is_ready(bundle: Bundle, waves: Any) -> None:
    async def scenario(ask: Ask) -> Any:
        return await ask("/readyz")

    assert run(serving(bundle), scenario, waves)[0] == 200


def test_while_the_models_server_is_not_asked_the_process_is_alive_not_ready_and_takes_no_images(
    bundle: Bundle, waves: Any
) -> None:
    made = serving(bundle)
    made.circuit = Circuit(Unobserved())
    made.circuit.open("gone")

    async def scenario(ask: Ask) -> Any:
        return [await ask(path, body) for path, body in (("/livez", None), ("/readyz", None), ("/predict", b"{}"))]

    live, ready, predict = run(made, scenario, waves)
    assert live[0] == 200
    for status, headers, body in (ready, predict):
        assert (status, json.loads(body)["code"], headers[b"retry-after"]) == (503, "classifier_unavailable", b"1")
        assert b"gone" not in body
    assert made.state == "unavailable"
    made.circuit.looked(None)
    assert made.state == "ready"


def test_a_stopping_process_says_so(bundle: Bundle, waves: Any) -> None:
    made = serving(bundle)
    made.stopping = True

    async def scenario(ask: Ask) -> Any:
        return [await ask("/readyz"), await ask("/predict", b"{}")]

    for status, headers, body in run(made, scenario, waves):
        assert (status, json.loads(body)["code"], headers[b"connection"]) == (503, "stopping", b"close")


@pytest.mark.parametrize(
    ("listens_on_loopback", "server", "status"), [(True, "127.0.0.1", 200), (True, "10.0.0.7", 404), (False, "127.0.0.1", 404)]
)
def test_metrics_are_for_this_machine_only(bundle: Bundle, listens_on_loopback: bool, server: str, status: int) -> None:
    async def scenario(ask: Ask) -> Any:
        return await ask("/metrics", server=server)

    got, headers, body = run(serving(bundle, listens_on_loopback=listens_on_loopback), scenario)
    assert got == status
    assert (b"hauberk_build_info" in body) == (status == 200)
    if status == 200:
        assert headers[b"content-type"].startswith(b"text/plain; version=0.0.4")


@pytest.mark.parametrize(
    "header",
    [
        (b"host", b"evil.example:3000"),
        (b"origin", b"http://evil.example"),
        (b"sec-fetch-site", b"cross-site"),
        (b"x-forwarded-for", b"127.0.0.1"),
    ],
)
def test_metrics_are_neither_for_pages_of_other_sites_nor_forwarded_and_not_linked_for_them(
    bundle: Bundle, header: tuple[bytes, bytes]
) -> None:
    async def scenario(ask: Ask) -> Any:
        headers = [*(each for each in LOCAL if each[0] != header[0]), header]
        return [await ask("/metrics", headers=headers), await ask("/", headers=headers)]

    (status, _, body), (_, _, index) = run(serving(bundle), scenario)
    assert (status, json.loads(body)["code"]) == (404, "not_found")
    assert b"/metrics" not in index


def test_metrics_on_a_port_of_their_own_are_not_for_pages_of_other_sites(bundle: Bundle) -> None:
    def scenario_with(*headers: tuple[bytes, bytes]) -> Any:
        async def scenario(ask: Ask) -> Any:
            return await ask("/metrics", headers=headers)

        return scenario

    made = serving(bundle, listens_on_loopback=False)
    for hosts, headers, expected in (
        (Hosts.of("127.0.0.1"), [(b"host", b"127.0.0.1:9464")], 200),
        (Hosts.of("127.0.0.1"), [(b"host", b"evil.example:9464")], 403),
        (Hosts.of("127.0.0.1", ("metrics.example",)), [(b"host", b"metrics.example"), (b"x-forwarded-for", b"10.0.0.1")], 200),
        (Hosts.of("10.0.0.7"), [(b"host", b"10.0.0.7:9464")], 200),
        (Hosts.of("10.0.0.7"), [(b"host", b"10.0.0.7:9464"), (b"origin", b"http://evil.example")], 403),
    ):
        assert run(made, scenario_with(*headers), routes=private_routes(made, hosts))[0] == expected, headers


def test_the_index_and_the_documentation_name_the_model(bundle: Bundle) -> None:
    async def scenario(ask: Ask) -> Any:
        return [json.loads((await ask(path))[2]) for path in ("/", "/docs.json")]

    index, docs = run(serving(bundle), scenario)
    assert index["model"] == "insects"
    assert "insects" in docs["info"]["title"]


def test_the_documentation_is_made_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(served: Bundle, images_at_most: int, software: str) -> Any:
        made.append(images_at_most)
        return document(served, images_at_most, software)

    monkeypatch.setattr("service.routes.health.document", counted)

    async def scenario(ask: Ask) -> Any:
        return [(await ask("/docs.json"))[2] for _ in range(3)]

    first, *others = run(serving(bundle), scenario)
    assert others == [first, first]
    assert len(made) == 1

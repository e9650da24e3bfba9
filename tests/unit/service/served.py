"""The paths behind the middleware, with a real batcher and a fake data path; no server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from prometheus_client import CollectorRegistry

from models.bundle import Bundle
from service.batching import Batcher
from service.edge.exchange import Bounds
from service.edge.middleware import Edge
from service.edge.origins import Hosts
from service.edge.site import Site, Slot
from service.observing.metrics import Metrics
from service.routes.paths import public_routes
from service.serving import Serving
from tests.unit.service.conftest import Stepwise

Ask = Callable[..., Coroutine[Any, Any, tuple[int, dict[bytes, bytes], bytes]]]
LOCAL = ((b"host", b"127.0.0.1:3000"),)
IMAGE = [[0.1, 0.1, 0.1], [0.1, 0.1, 0.1]]


def serving(bundle: Bundle, *, listens_on_loopback: bool = True) -> Serving:
    build = ("1.0", bundle.name, bundle.version)
    metrics = Metrics(CollectorRegistry(), labels=bundle.labels, build=build)
    return Serving(bundle, metrics, "1.0", images_at_most=4, listens_on_loopback=listens_on_loopback, hosts=Hosts.of("127.0.0.1"))


def run(made: Serving, scenario: Callable[[Ask], Awaitable[Any]], waves: Any = None, routes: Any = None) -> Any:
    """Serve it and run a scenario against them; without `waves` the classifier is still loading."""
    slot = Slot()
    slot.install(Site(routes=routes or public_routes(made, 10_000), observer=made.metrics, bounds=Bounds(body_timeout_s=1.0)))
    edge = Edge(None, slot=slot)  # type: ignore[arg-type]

    async def ask(
        path: str, body: bytes | None = None, server: str = "127.0.0.1", headers: Any = LOCAL
    ) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[Any] = []
        parts = [{"type": "http.request", "body": body or b""}]

        async def receive() -> Any:
            return parts.pop() if parts else await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {
            "type": "http",
            "path": path,
            "method": "GET" if body is None else "POST",
            "headers": headers,
            "server": (server, 3000),
        }
        await edge(scope, receive, send)
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]

    async def main() -> Any:
        if waves is not None:
            made.batcher = Batcher(Stepwise(waves), made.metrics)
        try:
            return await asyncio.wait_for(scenario(ask), 10)
        finally:
            if made.batcher is not None:
                await made.batcher.stop()

    return asyncio.run(main())

"""Sends requests through the middleware without a server, and keeps the answers as they went out."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from service.edge.exchange import Bounds, Exchange
from service.edge.middleware import Edge
from service.edge.site import Route, Site, Slot
from tests.unit.service.watcher import Watcher

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
    """One path a route, a body within 0.2 s."""
    paths = {f"/{name}": route for name, route in routes.items()}
    return Site(routes=paths, observer=watcher, log=watcher.log, bounds=Bounds(body_timeout_s=0.2))


def serving(served: Site) -> Edge:
    """The middleware before this site."""
    slot = Slot()
    slot.install(served)
    return Edge(behind, slot=slot)


def ask(
    edge: Edge,
    path: str = "/echo",
    *,
    method: str = "POST",
    headers: Any = JSON,
    parts: list[bytes] | None = None,
    then: str = "wait",
    client: tuple[str, int] | None = None,
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

    scope = {"type": "http", "path": path, "method": method, "headers": headers, "client": client}

    async def main() -> None:
        await asyncio.wait_for(edge(scope, receive, send), 10)  # type: ignore[arg-type]

    asyncio.run(main())
    return Reply(sent)


POST = {"methods": frozenset(("POST",)), "reads": frozenset((b"application/json",)), "body_at_most": 10}

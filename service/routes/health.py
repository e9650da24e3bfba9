"""What operators and their machines ask for: whether the server is alive and ready, its metrics, its API."""

from __future__ import annotations

import asyncio

import orjson

from service.edge.exchange import Exchange
from service.edge.origins import Hosts
from service.edge.site import Route
from service.errors import NotFound
from service.formats.answers import JSON
from service.observing.metrics import MEDIA_TYPE as METRICS
from service.routes.openapi import document
from service.serving import Serving

TEXT = b"text/plain; charset=utf-8"


class Health:
    """Health checks, metrics and the API's description.

    Args:
        serving: the bundle, its state and its metrics.
        private_hosts: the names by which browsers may reach the port for metrics.
    """

    def __init__(self, serving: Serving, private_hosts: Hosts = Hosts()) -> None:  # noqa: B008  # a frozen value
        self._serving, self._private_hosts = serving, private_hosts
        self._docs: dict[int, bytes] = {}  # made once: a small request must not cost as much as the document

    def routes(self) -> dict[str, Route]:
        """The paths beside those for predictions."""
        return {**self._checks(), "/metrics": Route(self.metrics_text, logged=False), "/docs.json": Route(self.docs)}

    def private_routes(self) -> dict[str, Route]:
        """The paths of the port for metrics."""
        return {**self._checks(), "/metrics": Route(self.metrics_alone, logged=False)}

    def _checks(self) -> dict[str, Route]:
        return {"/livez": Route(self.livez, logged=False), "/readyz": Route(self.readyz, logged=False)}

    async def livez(self, exchange: Exchange) -> None:
        """GET /livez: the process answers, and its worker is not stuck for good."""
        self._serving.alive()
        await exchange.respond(200, TEXT, b"alive\n")

    async def readyz(self, exchange: Exchange) -> None:
        """GET /readyz: the classifier is warm and takes new clients."""
        self._serving.ready()
        await exchange.respond(200, TEXT, b"ready\n")

    async def metrics_text(self, exchange: Exchange) -> None:
        """GET /metrics on the main port, from this machine only."""
        if not self._serving.shows_metrics(exchange):
            raise NotFound
        await self._send_metrics(exchange)

    async def metrics_alone(self, exchange: Exchange) -> None:
        """GET /metrics on a port of its own, not for pages of other sites."""
        self._private_hosts.check_browser(exchange.scope)
        self._private_hosts.check_host(exchange.scope)
        await self._send_metrics(exchange)

    async def _send_metrics(self, exchange: Exchange) -> None:
        text = await asyncio.get_running_loop().run_in_executor(None, self._serving.metrics.exposition)
        await exchange.respond(200, METRICS, text)

    async def docs(self, exchange: Exchange) -> None:
        """GET /docs.json: the OpenAPI document."""
        serving = self._serving
        most = serving.images_at_most
        if most not in self._docs:
            self._docs = {most: orjson.dumps(document(serving.bundle, most, serving.software))}
        await exchange.respond(200, JSON, self._docs[most])

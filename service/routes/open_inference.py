"""The paths of the Open Inference Protocol v2."""

from __future__ import annotations

from typing import Any

import orjson

from service.edge.exchange import Exchange
from service.edge.site import Route
from service.formats import open_inference
from service.formats.answers import JSON
from service.formats.open_inference import BINARY, HEADER_LENGTH, INPUT, OUTPUTS
from service.serving import Serving

MODEL, VERSION = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"


class OpenInference:
    """One model in one version, as a server of the protocol shows it.

    Args:
        serving: reads and decides.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def routes(self, body_at_most: int) -> dict[str, Route]:
        """All paths. Model and version are known, so each is a path of its own; metrics show them by their templates."""
        bundle = self._serving.bundle
        routes = {
            "/v2": Route(self.server),
            "/v2/health/live": Route(self.live, logged=False),
            "/v2/health/ready": Route(self.ready, logged=False),
        }
        for template in (MODEL, VERSION):
            path = template.format(model=bundle.name, version=bundle.version)
            infer = f"{template}/infer"
            routes[path] = Route(self.model, label=template)
            routes[f"{path}/ready"] = Route(self.ready, logged=False, label=f"{template}/ready")
            routes[f"{path}/infer"] = Route(
                self.infer, frozenset(("POST",)), frozenset((JSON, BINARY)), body_at_most, label=infer
            )
        return routes

    async def infer(self, exchange: Exchange) -> None:
        """POST .../infer."""
        serving = self._serving
        serving.admitting(exchange)  # before the body is read
        length = dict(exchange.scope["headers"]).get(HEADER_LENGTH)
        inference = await serving.read(exchange, lambda body: open_inference.read(body, length, serving.tensors))
        decisions = await serving.decide(exchange, inference.images)
        bundle = serving.bundle
        media_type, answer, headers = open_inference.answer(
            inference, decisions, bundle.name, bundle.version, serving.certificate
        )
        await exchange.respond(200, media_type, answer, headers)

    async def server(self, exchange: Exchange) -> None:
        """GET /v2: what this server is."""
        await _say(exchange, {"name": "hauberk", "version": self._serving.software, "extensions": ["binary_tensor_data"]})

    async def live(self, exchange: Exchange) -> None:
        """GET /v2/health/live: as `/livez`."""
        self._serving.alive()
        await _say(exchange, {"live": True})

    async def ready(self, exchange: Exchange) -> None:
        """GET .../ready, of the server and of its one model: it is warm and takes new clients."""
        self._serving.ready()
        await _say(exchange, {"ready": True})

    async def model(self, exchange: Exchange) -> None:
        """GET /v2/models/...: names, types and shapes of the inputs and outputs."""
        bundle = self._serving.bundle
        widths = {"probabilities": [len(bundle.labels)]}
        outputs = [
            {"name": name, "datatype": datatype, "shape": [-1, *widths.get(name, [])]} for name, datatype in OUTPUTS.items()
        ]
        inputs = [{"name": INPUT, "datatype": "FP32", "shape": [-1, *bundle.input_shape]}]
        metadata = {"versions": [bundle.version], "platform": "hauberk", "inputs": inputs, "outputs": outputs}
        await _say(exchange, {"name": bundle.name, **metadata})


async def _say(exchange: Exchange, document: dict[str, Any]) -> None:
    await exchange.respond(200, JSON, orjson.dumps(document))

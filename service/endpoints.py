"""What each path does, once the edge has let a request through."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import orjson

from defences.defended_classifier import Decisions
from models.bundle import Bundle
from models.classifier import Images
from service.admission import SHORT_BYTES, Admission
from service.batching import Batcher
from service.edge import Exchange, Route, pass_on
from service.errors import NotFound, NotReady, Stopping
from service.metrics import MEDIA_TYPE as METRICS
from service.metrics import Metrics
from service.openapi import document
from service.wire import JSON, Wire

TEXT = b"text/plain; charset=utf-8"


@dataclass
class Endpoints:
    """The paths of the service.

    Args:
        bundle: what is served.
        metrics, software: the counters, and the version of this software.
        images_at_most: per request.
        listens_on_loopback: whether only this machine can connect; `/metrics` is not for others, histograms are an oracle.

    `batcher` is set when the classifier is warm; `stopping` when the end has begun.
    """

    bundle: Bundle
    metrics: Metrics
    software: str
    images_at_most: int
    listens_on_loopback: bool
    batcher: Batcher | None = None
    stopping: bool = False
    _reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="hauberk-reader"))

    def __post_init__(self) -> None:
        self.wire = Wire(self.bundle.name, self.bundle.version, self.bundle.labels)
        self.limit(self.images_at_most)

    def limit(self, images_at_most: int) -> None:
        """Take this many images per request at most."""
        self.images_at_most = images_at_most
        self.admission = Admission(self.bundle.input_shape, images_at_most)

    def routes(self, body_at_most: int) -> dict[str, Route]:
        """All paths; a new one is a line here and a method below."""
        return {
            "/predict": Route(self.predict, frozenset(("POST",)), frozenset((JSON,)), body_at_most),
            "/livez": Route(self.livez, logged=False),
            "/readyz": Route(self.readyz, logged=False),
            "/metrics": Route(self.metrics_text, logged=False),
            "/docs.json": Route(self.docs),
            "/schema.json": Route(pass_on),
            "/": Route(self.index),
        }

    async def predict(self, exchange: Exchange) -> None:
        """POST /predict."""
        self._batcher()  # before the body is read
        body = await exchange.read()
        images = await self._read(self.admission.images, body)
        exchange.images = len(images)
        decisions = await exchange.unless_client_leaves(self.classify(images))
        exchange.abstained = int(np.count_nonzero(decisions.abstained))
        await exchange.respond(200, JSON, self.wire.answer(exchange.request_id, decisions))

    async def classify(self, images: Images) -> Decisions:
        """Images that were let in, through the batcher and all defences. Raises: NotReady and what the batcher raises."""
        return await self._batcher().classify(images)

    async def livez(self, exchange: Exchange) -> None:
        """GET /livez: the process answers."""
        await exchange.respond(200, TEXT, b"alive\n")

    async def readyz(self, exchange: Exchange) -> None:
        """GET /readyz: the classifier is warm and takes work."""
        self._batcher()
        await exchange.respond(200, TEXT, b"ready\n")

    async def metrics_text(self, exchange: Exchange) -> None:
        """GET /metrics, from this machine only."""
        if not (self.listens_on_loopback and is_loopback((exchange.scope.get("server") or ("",))[0])):
            raise NotFound
        text = await asyncio.get_running_loop().run_in_executor(None, self.metrics.exposition)
        await exchange.respond(200, METRICS, text)

    async def docs(self, exchange: Exchange) -> None:
        """GET /docs.json: the OpenAPI document."""
        await exchange.respond(200, JSON, orjson.dumps(document(self.bundle, self.images_at_most, self.software)))

    async def index(self, exchange: Exchange) -> None:
        """GET /: what is served, and where to read on."""
        links = {"predict": "/predict", "docs": "/docs.json", "ready": "/readyz"}
        index = {"model": self.bundle.name, "model_version": self.bundle.version, "software": self.software, "links": links}
        await exchange.respond(200, JSON, orjson.dumps(index))

    def _batcher(self) -> Batcher:
        if self.stopping:
            raise Stopping
        if self.batcher is None:
            raise NotReady
        return self.batcher

    async def _read(self, read: Callable[[bytes], Images], body: bytes) -> Images:
        if len(body) <= SHORT_BYTES:
            return read(body)
        return await asyncio.get_running_loop().run_in_executor(self._reader, read, body)


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine only; a name, which could be anything, is not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

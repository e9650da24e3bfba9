"""What each path does, once the edge has let a request through."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import orjson

from defences.defended_classifier import Decisions
from models.bundle import Bundle
from models.classifier import Images
from service.batching import Batcher
from service.edge.middleware import Exchange, Route, pass_on
from service.errors import NotFound, NotReady, Problem, QueueFull, Stopping
from service.formats import npy, pictures
from service.formats.answers import JSON, Wire
from service.formats.arrays import Tensors
from service.formats.json_images import SHORT_BYTES, Admission
from service.observing.audit_log import AuditLog
from service.observing.metrics import MEDIA_TYPE as METRICS
from service.observing.metrics import Metrics
from service.routes.console import Console
from service.routes.open_inference import OpenInference
from service.routes.openapi import document

T = TypeVar("T")
# Decoding a pixel takes as long as reading so many bytes of JSON.
_DECODING = 4
TEXT = b"text/plain; charset=utf-8"


@dataclass
class Endpoints:
    """The paths of the service.

    Args:
        bundle: what is served.
        metrics, software: the counters, and the version of this software.
        images_at_most: per request.
        listens_on_loopback: whether only this machine can connect; `/metrics` is not for others, histograms are an oracle.
        modes: those that replace the bundle's, by defence.
        audit: is told of decisions.

    `batcher` is set when the classifier is warm; `draining` when this server should get no new clients, but still takes requests;
    `stopping` when it takes none.
    """

    bundle: Bundle
    metrics: Metrics
    software: str
    images_at_most: int
    listens_on_loopback: bool
    modes: Mapping[str, str] = field(default_factory=dict)
    audit: AuditLog | None = None
    batcher: Batcher[Any] | None = None
    draining: bool = False
    stopping: bool = False
    _reader: ThreadPoolExecutor = field(
        init=False, repr=False, default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="hauberk-reader")
    )

    def __post_init__(self) -> None:
        self.wire = Wire(self.bundle.name, self.bundle.version, self.bundle.labels)
        self.limit(self.images_at_most)

    def limit(self, images_at_most: int) -> None:
        """Take this many images per request at most."""
        self.images_at_most = images_at_most
        self.admission = Admission(self.bundle.input_shape, images_at_most)
        self.tensors = Tensors(self.bundle.input_shape, images_at_most)

    def routes(self, body_at_most: int) -> dict[str, Route]:
        """All paths; a new one is a line here and a method below."""
        post = frozenset(("POST",))
        return {
            "/predict": Route(self.predict, post, frozenset((JSON,)), body_at_most),
            "/predict/npy": Route(self.predict_npy, post, frozenset((npy.MEDIA_TYPE,)), body_at_most),
            "/predict/image": Route(
                self.predict_image, post, pictures.MEDIA_TYPES, min(body_at_most, pictures.bytes_at_most(self.bundle.input_shape))
            ),
            "/livez": Route(self.livez, logged=False),
            "/readyz": Route(self.readyz, logged=False),
            "/metrics": Route(self.metrics_text, logged=False),
            "/docs.json": Route(self.docs),
            "/schema.json": Route(pass_on),
            **Console(self).routes(),
            **OpenInference(self).routes(body_at_most),
        }

    def private_routes(self) -> dict[str, Route]:
        """The paths of the port for metrics."""
        return {
            "/metrics": Route(self.metrics_alone, logged=False),
            "/livez": Route(self.livez, logged=False),
            "/readyz": Route(self.readyz, logged=False),
        }

    async def predict(self, exchange: Exchange) -> None:
        """POST /predict: a JSON document."""
        await self._predict(exchange, self.admission.images)

    async def predict_npy(self, exchange: Exchange) -> None:
        """POST /predict/npy: a .npy file."""
        await self._predict(exchange, lambda body: npy.read(body, self.tensors))

    async def predict_image(self, exchange: Exchange) -> None:
        """POST /predict/image: one PNG or JPEG picture."""
        work = _DECODING * math.prod(self.bundle.input_shape)
        await self._predict(exchange, lambda body: pictures.read(body, exchange.media_type, self.tensors), work)

    async def _predict(self, exchange: Exchange, read: Callable[[bytes], Images], work: int = 0) -> None:
        self.admitting()  # before the body is read
        images = await self.read(read, await exchange.read(), work)
        exchange.let_go()
        decisions = await self.decide(exchange, images)
        await exchange.respond(200, JSON, self.wire.answer(exchange.request_id, decisions))

    async def decide(self, exchange: Exchange, images: Images) -> Decisions:
        """`classify` for a request: counted in its log line, paid by its client, and given up when that one leaves."""
        exchange.images = len(images)
        account = exchange.account
        if account is not None:
            account.spend(len(images))
        try:
            decisions = await exchange.unless_client_leaves(self.classify(images))
        except Problem:
            if account is not None:
                account.give_back(len(images))
            raise
        exchange.abstained = int(np.count_nonzero(decisions.abstained))
        exchange.intervals = decisions.trace.intervals
        if self.audit is not None:
            self.audit.decided(exchange.source, images, decisions)
        return decisions

    async def classify(self, images: Images) -> Decisions:
        """Images that were let in, through the batcher and all defences. Raises: NotReady and what the batcher raises."""
        return await self.accepting().classify(images)

    async def livez(self, exchange: Exchange) -> None:
        """GET /livez: the process answers."""
        await exchange.respond(200, TEXT, b"alive\n")

    async def readyz(self, exchange: Exchange) -> None:
        """GET /readyz: the classifier is warm and takes new clients."""
        self.ready()
        await exchange.respond(200, TEXT, b"ready\n")

    async def metrics_text(self, exchange: Exchange) -> None:
        """GET /metrics on the main port, from this machine only."""
        if not self.shows_metrics(exchange):
            raise NotFound
        await self.metrics_alone(exchange)

    async def metrics_alone(self, exchange: Exchange) -> None:
        """GET /metrics on a port of its own."""
        text = await asyncio.get_running_loop().run_in_executor(None, self.metrics.exposition)
        await exchange.respond(200, METRICS, text)

    async def docs(self, exchange: Exchange) -> None:
        """GET /docs.json: the OpenAPI document."""
        await exchange.respond(200, JSON, orjson.dumps(document(self.bundle, self.images_at_most, self.software)))

    def shows_metrics(self, exchange: Exchange) -> bool:
        """Whether this client may see `/metrics`."""
        return self.listens_on_loopback and is_loopback((exchange.scope.get("server") or ("",))[0])

    @property
    def state(self) -> str:
        """What `/readyz` would say: starting, ready or stopping."""
        if self.stopping or self.draining:
            return "stopping"
        return "starting" if self.batcher is None else "ready"

    def ready(self) -> None:
        """Raises: Stopping, NotReady; where `accepting` would still take a request from who has not noticed yet."""
        if self.draining:
            raise Stopping
        self.accepting()

    def accepting(self) -> Batcher[Any]:
        """The batcher, while it takes work. Raises: Stopping, NotReady."""
        if self.stopping:
            raise Stopping
        if self.batcher is None:
            raise NotReady
        return self.batcher

    @property
    def full(self) -> bool:
        """Whether a request would be refused for want of room."""
        return self.batcher is not None and self.batcher.full and not self.stopping

    def admitting(self) -> None:
        """Refuse what would be refused after its body was read, too: under overload reading is most of the work.

        Raises: Stopping, NotReady, QueueFull.
        """
        if self.accepting().full:
            raise QueueFull

    async def read(self, read: Callable[[bytes], T], body: bytes, work: int = 0) -> T:
        """Read a body; beside the event loop when it is long, or when reading it takes as much `work` as that many bytes."""
        if max(len(body), work) <= SHORT_BYTES:
            return read(body)
        return await asyncio.get_running_loop().run_in_executor(self._reader, read, body)


def is_loopback(host: str) -> bool:
    """Whether this is an address of this machine only; a name, which could be anything, is not."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""What every way to ask for a prediction shares, and the console and the health checks look at: the classifier's queue and its state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from defences.defended_classifier import Decisions
from models.bundle import Bundle
from models.classifier import Images
from models.engines.remote.circuit import Circuit
from service.batching import Batcher
from service.edge.accounts import Account
from service.edge.exchange import Exchange
from service.edge.origins import Hosts
from service.errors import ClassifierUnavailable, NotReady, Problem, QueueFull, Stopping
from service.formats.answers import AnswerWriter
from service.formats.arrays import Tensors
from service.formats.certificates import Certificate
from service.formats.json_images import SHORT_BYTES, Admission
from service.observing.audit_log import AuditLog
from service.observing.heartbeat import Heartbeat
from service.observing.metrics import Metrics
from service.reader import Reader
from service.release import Schedule

T = TypeVar("T")

_BYTES_PER_NUMBER = 26  # of JSON, at most: so a refused body never costs more than it would have when let in


@dataclass
class Serving:
    """One bundle, served: how images are read, decided on and answered, and whether any are taken.

    Args:
        bundle: what is served.
        metrics, software: the counters, and the version of this software.
        images_at_most: per request.
        listens_on_loopback: whether only this machine can connect, and metrics have no port of their own; `/metrics` is not for
            others, histograms are an oracle.
        hosts: the names in Host by which this machine, and browsers, ask.
        modes: those that replace the bundle's, by defence.
        audit: is told of decisions.
        certificate: what is said of answers that are proven against patches, if anything.

    `batcher` and `heartbeat` are set when the classifier is warm, and `schedule` when answers leave by one; `draining` when this server
    should get no new clients, but still takes requests; `stopping` when it takes none. `circuit` is that of a classifier on
    a model server.
    """

    bundle: Bundle
    metrics: Metrics
    software: str
    images_at_most: int
    listens_on_loopback: bool
    hosts: Hosts = field(default_factory=Hosts)
    modes: Mapping[str, str] = field(default_factory=dict)
    audit: AuditLog | None = None
    certificate: Certificate | None = None
    batcher: Batcher[Any] | None = None
    schedule: Schedule | None = None
    heartbeat: Heartbeat | None = None
    circuit: Circuit | None = None
    draining: bool = False
    stopping: bool = False
    _reader: Reader = field(init=False, repr=False, default_factory=Reader)

    def __post_init__(self) -> None:
        bundle = self.bundle
        self.writer = AnswerWriter(bundle.name, bundle.version, bundle.labels, certificate=self.certificate)
        self.limit(self.images_at_most)

    def limit(self, images_at_most: int) -> None:
        """Take this many images per request at most."""
        self.images_at_most = images_at_most
        self.admission = Admission(self.bundle.input_shape, images_at_most)
        self.tensors = Tensors(self.bundle.input_shape, images_at_most)

    async def decide(self, exchange: Exchange, images: Images) -> Decisions:
        """`classify` for a request: counted in its log line, paid by its client, and given up when that one leaves."""
        exchange.images = len(images)
        account = exchange.account
        if account is not None:
            account.spend(len(images))
        try:
            decisions = await exchange.unless_client_leaves(self._on_schedule(images, account))
        except Problem:
            if account is not None:
                account.give_back(len(images))
            raise
        exchange.abstained = int(np.count_nonzero(decisions.abstained))
        if self.schedule is None:
            exchange.intervals = decisions.trace.intervals  # else spans would say what the schedule hides
        if self.audit is not None:
            self.audit.decided(exchange.source, images, decisions)
        return decisions

    async def _on_schedule(self, images: Images, account: Account | None) -> Decisions:
        """`classify`, and its answer when its time has come."""
        if self.schedule is None:
            return await self.classify(images, account)
        return await self.schedule.keep(account, len(images), lambda: self.classify(images, account))

    async def classify(self, images: Images, account: Account | None = None) -> Decisions:
        """Images that were let in, through the batcher and all defences. Raises: NotReady and what the batcher raises."""
        return await self.accepting().classify(images, account)

    def shows_metrics(self, exchange: Exchange) -> bool:
        """Whether this client may see `/metrics`."""
        return self.listens_on_loopback and self.hosts.from_here(exchange.scope)

    @property
    def state(self) -> str:
        """What `/readyz` would say: starting, ready, stalled, unavailable (the classifier's own server is) or stopping."""
        if self.stopping or self.draining:
            return "stopping"
        if self.heartbeat is not None and self.heartbeat.stalled:
            return "stalled"
        if self.circuit is not None and self.circuit.reason is not None:
            return "unavailable"
        return "starting" if self.batcher is None else "ready"

    def ready(self) -> None:
        """A draining server still takes requests (`accepting`), but is no longer ready.

        Raises: Stopping, NotReady, Stalled, ClassifierUnavailable.
        """
        if self.draining:
            raise Stopping
        self.accepting()

    def look(self) -> None:
        """See how the worker is; once a second."""
        if self.heartbeat is not None:
            self.heartbeat.look()

    def alive(self) -> None:
        """Raises: Stalled, when only a new process can help."""
        if self.heartbeat is not None:
            self.heartbeat.check_live()

    def accepting(self) -> Batcher[Any]:
        """The batcher, while it takes work. Raises: Stopping, NotReady, Stalled, ClassifierUnavailable."""
        if self.stopping:
            raise Stopping
        if self.batcher is None:
            raise NotReady
        if self.heartbeat is not None:
            self.heartbeat.check_ready()
        if self.circuit is not None and self.circuit.reason is not None:
            raise ClassifierUnavailable(self.circuit.retry_after_s)
        return self.batcher

    def full(self, account: Account | None = None) -> bool:
        """Whether a request of this account would be refused for want of room; without an account, whether anybody's would."""
        return self.batcher is not None and not self.stopping and self.batcher.full(account)

    def admitting(self, exchange: Exchange) -> None:
        """Refuse what would be refused after its body was read, too: under overload reading is most of the work.

        Raises: Stopping, NotReady, Stalled, ClassifierUnavailable, QueueFull.
        """
        if self.accepting().full(exchange.account):
            raise QueueFull

    async def read(self, exchange: Exchange, read: Callable[[bytes], T], work: int = 0) -> T:
        """Await a request's body, and read it; beside the event loop when it is long, or takes as much `work` as that many bytes.

        A body that is refused is paid for like the images that it could have held, since reading it was the same work.
        """
        shared = self.batcher is not None and self.batcher.shared
        body = await (exchange.read_in_turn() if shared else exchange.read())
        try:
            if max(len(body), work) <= SHORT_BYTES:
                images = read(body)
            else:
                images = await self._reader.run(id(exchange.account), partial(read, body))
        except Problem:
            if exchange.account is not None:
                exchange.account.charge(self._images_in(len(body)))
            raise
        exchange.let_go()
        return images

    def _images_in(self, size: int) -> int:
        return max(1, min(self.images_at_most, size // (_BYTES_PER_NUMBER * math.prod(self.bundle.input_shape))))

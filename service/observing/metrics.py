"""What the service counts, for Prometheus. Names, labels and units are a contract: dashboards and alerts rest on them.

Every label value comes from a closed set, known at the start: no client, key, path or id. Durations are in seconds.
The core knows nothing of this: here a frozen `Trace` is read after the fact.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from defences.defence import Defence
from defences.defended_classifier import Decisions, Detection
from defences.errors import StageFailure
from defences.table import of_stage
from service.errors import every_problem
from service.observing.histograms import observe_all
from service.observing.remote_calls import RemoteCalls

# A `..._created` beside each series would double their number, and is no part of the contract.
disable_created_metrics()  # type: ignore[no-untyped-call]

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4.encode()
STAGES = ("purify", "predict", "abstain", "obscure", "queue")
CLASSES_AT_MOST = 100
OTHER = "other"

# A request these turn away had a head or body that was no good; a wrong path or method is not about the input.
_INPUT_STATUSES = frozenset((400, 408, 413, 415, 422, 431))
_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STAGE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_POWERS_OF_TWO = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# What counts against the server, and what it is counted among: alerts rest on these, from the first one on.
_SHOWN_CODES = (200, 500, 502, 503, 504)
_DISTANCES = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)


def new_registry() -> CollectorRegistry:
    """A registry that shows the process's memory, processor time and open files too."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class Metrics:
    """Every metric of the contract; an `Observer` of the batcher and of the edge.

    Args:
        registry: a fresh one in each test.
        labels: the classifier's class names; those beyond the first hundred are counted as "other".
        build: (version, model, model_version), for `hauberk_build_info`.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        labels: Sequence[str],
        build: tuple[str, str, str],
    ) -> None:
        self._registry = registry
        self._waiting: Callable[[], int] = lambda: 0
        self._detectors: dict[tuple[str, str], Counter] = {}
        self._requests_metrics(registry)
        self._images_metrics(registry, labels)
        self._work_metrics(registry)
        Gauge(
            "hauberk_start_time_seconds", "When it started serving, in Unix time.", registry=registry, multiprocess_mode="min"
        ).set(time.time())
        Gauge(
            "hauberk_build_info",
            "1; the labels say which version serves which model.",
            ("version", "model", "model_version"),
            registry=registry,
            multiprocess_mode="max",
        ).labels(*build).set(1)

    def _requests_metrics(self, registry: CollectorRegistry) -> None:
        self._requests = Counter("hauberk_requests", "HTTP requests answered.", ("route", "code"), registry=registry)
        self._durations = Histogram(
            "hauberk_request_duration_seconds",
            "From the request's head to the end of the answer.",
            ("route",),
            registry=registry,
            buckets=_REQUEST_SECONDS,
        )
        self._routes: dict[str, Histogram] = {}
        self._answered: dict[tuple[str, int], Counter] = {}
        self.show_routes(())
        self._in_flight = Gauge(
            "hauberk_requests_in_flight", "HTTP requests begun and not answered.", registry=registry, multiprocess_mode="livesum"
        )
        rejected = Counter(
            "hauberk_rejected_inputs", "Requests whose head or body was turned away.", ("reason",), registry=registry
        )
        about_input = (p.code for p in every_problem() if p.status in _INPUT_STATUSES or p.about_transport)
        self._rejected = {code: rejected.labels(code) for code in about_input}

    def _images_metrics(self, registry: CollectorRegistry, labels: Sequence[str]) -> None:
        outcomes = Counter("hauberk_predictions", "Images decided on.", ("outcome",), registry=registry)
        self._images_answered, self._images_abstained = outcomes.labels("answered"), outcomes.labels("abstained")
        self._abstentions = Counter(
            "hauberk_abstentions", "Images a detector would refuse, by its mode.", ("defence", "mode"), registry=registry
        )
        self._of_detectors = {name: _histograms(detector, registry) for name, detector in of_stage("abstain").items()}
        self._distance = Histogram(
            "hauberk_purification_distance", "L2 distance the purifier moved an image.", registry=registry, buckets=_DISTANCES
        )
        classes = Counter("hauberk_predicted_class", "Answered images by class.", ("label",), registry=registry)
        shown = [*labels[:CLASSES_AT_MOST], *[OTHER] * max(0, len(labels) - CLASSES_AT_MOST)]
        self._classes = [classes.labels(label) for label in shown]

    def _work_metrics(self, registry: CollectorRegistry) -> None:
        stages = Histogram(
            "hauberk_stage_duration_seconds",
            "Time per stage and wave of a batch; for the queue, per request.",
            ("stage",),
            registry=registry,
            buckets=_STAGE_SECONDS,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        failures = Counter("hauberk_stage_failures", "Batches that raised, by stage.", ("stage",), registry=registry)
        self._failures = {stage: failures.labels(stage) for stage in (*STAGES, OTHER)}
        self._batch_size = Histogram(
            "hauberk_batch_size", "Images that began together.", registry=registry, buckets=_POWERS_OF_TWO
        )
        self._queue_depth = Gauge("hauberk_queue_depth", "Images waiting.", registry=registry, multiprocess_mode="livesum")

        self.remote = RemoteCalls(registry)
        self._audited = Counter("hauberk_audit_lines", "Lines written to the audit log.", registry=registry)
        audit_lost = Counter(
            "hauberk_audit_lines_lost", "Lines the audit log could not take, by what was full.", ("reason",), registry=registry
        )
        self._audit_lost = {reason: audit_lost.labels(reason) for reason in ("queue", "disk")}

    def watch(self, waiting: Callable[[], int]) -> None:
        """Ask this for `hauberk_queue_depth`."""
        self._waiting = waiting

    def show_routes(self, routes: Iterable[str]) -> None:
        """The closed set of the `route` label; every other path is counted as "other"."""
        self._routes |= {route: self._durations.labels(route) for route in (*routes, OTHER)}

    def show_codes(self, routes: Iterable[str]) -> None:
        """Show these routes at zero with the codes alerts look at: of a counter that begins at 7, Prometheus sees no increase."""
        for route in routes:
            for status in _SHOWN_CODES:
                self._answered[route, status] = self._requests.labels(route, str(status))

    def show_detectors(self, detectors: Iterable[tuple[str, str]]) -> None:
        """Show these detectors, (name, mode), at zero before they first refuse something."""
        self._detectors |= {(name, mode): self._abstentions.labels(name, mode) for name, mode in detectors}

    def began(self) -> None:
        """A request begins."""
        self._in_flight.inc()

    def ended(self, route: str, status: int, seconds: float) -> None:
        """A request ends."""
        self._in_flight.dec()
        route = route if route in self._routes else OTHER
        answered = self._answered.get((route, status))
        if answered is None:
            answered = self._answered[route, status] = self._requests.labels(route, str(status))
        answered.inc()
        self._routes[route].observe(seconds)

    def turned_away(self, status: int, times: int) -> None:
        """So many connections are closed before there is a request."""
        self._requests.labels(OTHER, str(status)).inc(times)

    def rejected(self, code: str) -> None:
        """A problem of this code is answered; counted when it is about the input."""
        if code in self._rejected:
            self._rejected[code].inc()

    def batch(self, images: int, waited_s: Sequence[float]) -> None:
        """`Observer`: a batch begins."""
        self._batch_size.observe(images)
        self._queue_depth.set(self._waiting())
        for seconds in waited_s:
            self._stages["queue"].observe(seconds)

    def decided(self, decisions: Decisions) -> None:
        """`Observer`: a wave is decided."""
        abstained = int(np.count_nonzero(decisions.abstained))
        if abstained:
            self._images_abstained.inc(abstained)
        self._images_answered.inc(len(decisions.abstained) - abstained)
        times = np.bincount(decisions.labels[decisions.labels >= 0])
        for label in np.flatnonzero(times).tolist():
            self._classes[label].inc(int(times[label]))
        for stage, seconds in decisions.trace.seconds.items():
            self._stages[stage].observe(seconds)
        observe_all(self._distance, decisions.trace.purification_distance)
        for detection in decisions.trace.detections:
            self._detected(detection)

    def _detected(self, detection: Detection) -> None:
        counter = self._detectors.get((detection.name, detection.mode)) or self._abstentions.labels(
            detection.name, detection.mode
        )
        refused = int(np.count_nonzero(detection.abstained))
        if refused:
            counter.inc(refused)
        for histogram, of in self._of_detectors.get(detection.name, ()):
            observe_all(histogram, getattr(detection, of))

    def failed(self, failure: Exception) -> None:
        """`Observer`: a batch raised."""
        stage = failure.stage if isinstance(failure, StageFailure) else OTHER
        self._failures[stage if stage in self._failures else OTHER].inc()

    def audited(self, lines: int) -> None:
        """Lines of the audit log are written."""
        self._audited.inc(lines)

    def audit_lost(self, reason: str, lines: int) -> None:
        """They are not, because of the "queue" or the "disk"."""
        self._audit_lost[reason].inc(lines)

    def exposition(self) -> bytes:
        """The Prometheus text, of all workers of this server."""
        self._queue_depth.set(self._waiting())
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]  # the package leaves it without types
        return generate_latest(together)


def _histograms(detector: type[Defence], registry: CollectorRegistry) -> tuple[tuple[Histogram, str], ...]:
    """The histograms a detector feeds, each with the column of a `Detection` it shows."""
    return tuple(
        (Histogram(each.name, each.help, registry=registry, buckets=each.buckets), each.of) for each in detector.record.histograms
    )

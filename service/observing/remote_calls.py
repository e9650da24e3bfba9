"""What the service counts and logs of a classifier on a model server: its calls, and the circuit that opens when they fail."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from models.engines.remote.calls import OUTCOMES

logger = logging.getLogger(__name__)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class RemoteCalls:
    """A `RemoteObserver`; told in the worker's thread, and in that of the watch."""

    def __init__(self, registry: CollectorRegistry) -> None:
        calls = Counter(
            "hauberk_remote_calls", "Calls to the classifier's server, one a step, by outcome.", ("outcome",), registry=registry
        )
        self._outcomes = {outcome: calls.labels(outcome) for outcome in OUTCOMES}
        self._seconds = Histogram(
            "hauberk_remote_call_duration_seconds",
            "From the first attempt to the answer, or to the last failure.",
            registry=registry,
            buckets=_SECONDS,
        )
        self._retries = Counter("hauberk_remote_retries", "Calls made again, since nobody answered.", registry=registry)
        self._open = Gauge(
            "hauberk_remote_circuit_open",
            "1 while no calls are made, since the classifier's server failed.",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def called(self, outcome: str, seconds: float) -> None:
        """See `RemoteObserver`."""
        self._outcomes[outcome].inc()
        self._seconds.observe(seconds)

    def retried(self) -> None:
        """See `RemoteObserver`."""
        self._retries.inc()

    def circuit(self, reason: str | None) -> None:
        """See `RemoteObserver`."""
        self._open.set(0 if reason is None else 1)
        if reason is None:
            logger.warning("the classifier's server answers as ever: ready again")
        else:
            logger.error("the classifier's server is not asked any more: not ready until it answers as ever: %s", reason)

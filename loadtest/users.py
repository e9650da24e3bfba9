"""The users of the load test. Each is a stream of arrivals, one per second on average, that does not wait for answers: an open loop.

A closed loop sends fewer requests as soon as a server is slow, which hides the queue. Here the times of arrivals do not depend on the
server (exponential gaps, seeded), and latencies are measured from the intended start, so that they include a delayed start.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent
import numpy as np
from gevent.pool import Pool
from geventhttpclient import HTTPClient
from locust import User, constant, task
from numpy.typing import NDArray

from loadtest.payloads import WRITERS, Request, malformed, oversize
from loadtest.samples import Sample

_IN_FLIGHT_AT_MOST = 2000
_ABSTAINED = b'"abstained":true'
_THIEF_BEGINS_WITH, _THIEF_IMAGES_AT_MOST, _THIEF_TRAINS_S = 16, 8, 2.0
_seeds = itertools.count()


@dataclass
class LoadedGateway:
    """The gateway that is asked, and what came of it; one for all users.

    Args:
        url: where it is. key: for `Authorization: Bearer`, none when empty.
    """

    url: str
    images: dict[str, NDArray[np.uint8]]
    events: Any
    wire: str = "json"
    key: str = ""
    timeout_s: float = 30.0
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        self.start()
        self.in_flight = Pool(_IN_FLIGHT_AT_MOST)
        self._client = HTTPClient(
            address.hostname or "127.0.0.1",
            address.port,
            ssl=address.scheme == "https",
            concurrency=_IN_FLIGHT_AT_MOST,
            connection_timeout=self.timeout_s,
            network_timeout=self.timeout_s,
        )
        write = WRITERS[self.wire]
        self.single = {kind: [write(kind, image[None]) for image in images] for kind, images in self.images.items()}
        self.malformed, self.oversize = malformed(self.images["clean"][0]), oversize()

    def start(self) -> None:
        """Set the start of the test to now."""
        self.began = time.perf_counter()

    def send(self, request: Request, intended: float) -> None:
        """Send without waiting for the answer; with _IN_FLIGHT_AT_MOST requests in flight it counts as lost at once."""
        if self.in_flight.full():
            self._note(request, intended, 0, b"", told_when=False)
        else:
            self.in_flight.spawn(self._ask, request, intended)

    def _ask(self, request: Request, intended: float) -> None:
        status, told_when, content = 0, False, b""
        headers = dict(request.headers) | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        try:
            response = self._client.request("POST", request.path, body=request.body, headers=headers)
            content = bytes(response.read())
            status, told_when = response.status_code, response.get("retry-after") is not None
        except (OSError, ValueError, EOFError):  # no connection, a lost connection, a timeout, or an answer that is not HTTP
            pass
        self._note(request, intended, status, content, told_when=told_when)

    def _note(self, request: Request, intended: float, status: int, content: bytes, *, told_when: bool) -> None:
        seconds, due = time.perf_counter() - intended, status in request.due
        abstained = content.count(_ABSTAINED)
        sample = Sample(request.kind, intended - self.began, seconds, status, due, told_when, request.images, abstained)
        self.samples.append(sample)
        self.events.request.fire(
            request_type="POST",
            name=f"{request.kind} {request.path}",
            response_time=1000 * seconds,
            response_length=len(content),
            exception=None if due else Exception(f"status {status}" if status else "no answer"),
            context={},
        )

    def finish(self) -> None:
        """Wait for the requests in flight."""
        self.in_flight.join(timeout=self.timeout_s)


class Stream(User):
    """A user that sends requests at random times, one per second on average."""

    abstract = True
    wait_time = constant(0)
    target: ClassVar[LoadedGateway]

    def on_start(self) -> None:
        """Draw the time of the first arrival."""
        self.random = random.Random(next(_seeds))  # noqa: S311  # times and order of requests, not a secret
        self.requests = self.cycle()
        self._next = time.perf_counter() + self.random.expovariate(1.0)

    @task
    def arrive(self) -> None:
        """Wait until the next arrival is due, and send its request."""
        gevent.sleep(max(0.0, self._next - time.perf_counter()))
        intended = self._next
        self._next += self.random.expovariate(1.0)
        self.target.send(next(self.requests), intended)

    def cycle(self) -> Iterator[Request]:
        """The requests, in order."""
        raise NotImplementedError


class _Images(Stream):
    abstract = True
    kind: ClassVar[str]

    def cycle(self) -> Iterator[Request]:
        requests = self.target.single[self.kind]
        while True:
            yield self.random.choice(requests)


class CleanDigits(_Images):
    """Sends clean images, one per request."""

    weight, kind = 70, "clean"


class AdversarialDigits(_Images):
    """Sends adversarial images, one per request."""

    weight, kind = 10, "adversarial"


class TriggeredDigits(_Images):
    """Sends images with a backdoor's trigger, one per request."""

    weight, kind = 8, "triggered"


class ThiefUser(Stream):
    """Collects labels for a copy: each round sends twice as many images as the round before, then pauses two seconds to train."""

    weight = 6

    def cycle(self) -> Iterator[Request]:
        images, write = self.target.images["clean"], WRITERS[self.target.wire]
        budget = _THIEF_BEGINS_WITH
        while True:
            at_once = min(_THIEF_IMAGES_AT_MOST, budget // _THIEF_BEGINS_WITH)
            for _ in range(budget // at_once):
                chosen = images[[self.random.randrange(len(images)) for _ in range(at_once)]]
                yield write("thief", chosen, due=frozenset((200, 429)))
            self._next += _THIEF_TRAINS_S
            budget *= 2


class Malformed(Stream):
    """Sends malformed requests."""

    weight = 4

    def cycle(self) -> Iterator[Request]:
        while True:
            yield self.random.choice(self.target.malformed)


class Oversize(Stream):
    """Sends bodies over the limit."""

    weight = 2

    def cycle(self) -> Iterator[Request]:
        return itertools.repeat(self.target.oversize)

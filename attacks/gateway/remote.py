"""A running gateway as a classifier: attacks get the answers that clients get, over the public routes and under the gateway's limits."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import numpy as np
import orjson

from attacks.attack import BudgetSpent, NoMoreAnswers
from attacks.gateway.http_client import BoundedHttpClient, reason
from models.classifier import Images, Probabilities
from models.errors import InvalidInput

_DOCUMENT_BYTES_AT_MOST = 64 << 20
_ANSWER_SLACK, _BYTES_PER_ROW, _BYTES_PER_PROBABILITY = 1 << 16, 512, 32
_NAMES_AT_MOST, _NAME_AT_MOST, _SIDE_AT_MOST = 200, 256, 1 << 16  # of what reports repeat: names, and the sides of an image
_BUSY = (429, 503, 504)
# Without a Retry-After header the wait doubles: 1, 2, 4, ... seconds. With one of 0 or of the past it is half a second.
_WAIT_AT_LEAST_S, _WAIT_AT_MOST_S = 0.5, 30.0
_LOST_CONNECTIONS_AT_MOST = 3
_RECONNECT_S = 0.5
_NAP_S = 0.1


class GatewayGone(NoMoreAnswers, InvalidInput):
    """The gateway stopped answering, or was busy for longer than `patience_s`; the message gives the reason."""


class Stopped(NoMoreAnswers):
    """The attack was stopped by its caller, through `GatewayClassifier.stop`."""


@dataclass(frozen=True)
class Served:
    """A gateway's description of itself.

    Attributes:
        model, version: name and version of the served model.
        input_shape: (h, w, c) of one image.
        labels: the class names.
        defences: (name, mode) of each defence.
        images_at_most: images per request.
    """

    model: str
    version: str
    input_shape: tuple[int, int, int]
    labels: tuple[str, ...]
    defences: tuple[tuple[str, str], ...]
    images_at_most: int


@dataclass
class Traffic:
    """The traffic sent so far.

    Attributes:
        queries: images the gateway accepted: answered ones, and those of requests that ended in a time-out.
        refused: images among them that the gateway abstained from.
        requests: HTTP requests for predictions, rejected ones included.
        turned_away: requests answered with 429, 503 or 504.
        waited_s: seconds spent waiting because the gateway was busy, or on exchanges that it did not complete.
        latency_s: seconds of each answered request.
    """

    queries: int = 0
    refused: int = 0
    requests: int = 0
    turned_away: int = 0
    waited_s: float = 0.0
    latency_s: list[float] = field(default_factory=list)


class GatewayClassifier:
    """A `Classifier` whose model runs behind a gateway.

    Probabilities are those of a client: perturbed if the gateway perturbs them, a row of zeros for an image the gateway abstains from.
    Batches are split into requests of the size the gateway accepts. On status 429, 503 and 504 the client waits as Retry-After says,
    but half a second at least, up to `patience_s` in total. An exchange that the gateway does not complete counts against that patience.

    Args:
        url: http or https, of the gateway's root.
        api_key: sent as `Authorization: Bearer`, for gateways that require keys.
        queries_at_most: budget of images, None for no limit; may be changed at any time.
        patience_s: seconds to wait for a busy gateway, in total.
        timeout_s: seconds for one exchange, whatever the gateway sends in that time.
        on_answer: called after each answer with the number of queries so far.

    Attributes:
        traffic: queries, requests and waiting times so far.
        ended: the reason for which the gateway stopped answering, else None. Attacks return normally then; this says they were cut short.

    Cost: one query per image. Raises: InvalidInput on construction: no gateway at `url`. Later NoMoreAnswers: BudgetSpent (continue
    after raising `queries_at_most`), or GatewayGone or Stopped (final).
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        queries_at_most: int | None = None,
        patience_s: float = 120.0,
        timeout_s: float = 30.0,
        on_answer: Callable[[int], None] = lambda queries: None,
    ) -> None:
        self.queries_at_most = queries_at_most
        self.on_answer = on_answer
        self.traffic = Traffic()
        self.ended: NoMoreAnswers | None = None
        self._patience_s = patience_s
        self._stop_wanted = False
        self._client = BoundedHttpClient(url, api_key=api_key, timeout_s=timeout_s)
        self.url = self._client.url
        try:
            self.served = read_served(self._client)
        except BaseException:
            self._client.close()
            raise
        self._images_per_request = self.served.images_at_most

    def __enter__(self) -> GatewayClassifier:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.served.input_shape

    @property
    def labels(self) -> tuple[str, ...]:
        return self.served.labels

    @property
    def left(self) -> float:
        """Queries left in the budget; inf without a limit."""
        return math.inf if self.queries_at_most is None else max(0, self.queries_at_most - self.traffic.queries)

    def stop(self) -> None:
        """Stop before the next request; safe to call from a signal handler."""
        self._stop_wanted = True

    def predict(self, images: Images) -> Probabilities:
        """See `Classifier`. Raises: InvalidInput: images of another shape; NoMoreAnswers, with the answers received before."""
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise InvalidInput(f"expected images [n, {', '.join(map(str, self.input_shape))}], got {list(images.shape)}")
        answered = np.zeros((len(images), len(self.labels)), np.float32)
        done = 0
        try:
            while done < len(images):
                rows = self._answer(images[done:])
                answered[done : done + len(rows)] = rows
                done += len(rows)
        except NoMoreAnswers as end:
            end.answered = answered[:done]
            if not isinstance(end, BudgetSpent):
                self.ended = end
            raise
        return answered

    def _answer(self, images: Images) -> Probabilities:
        """The answers to the first images, as many as one request may hold, after all retries. Raises: NoMoreAnswers."""
        lost = turns = 0
        while True:
            self._check_going_on()
            some = images[: int(min(self._images_per_request, self.left))]
            started = time.perf_counter()
            self.traffic.requests += 1
            try:
                reply = self._client.post(
                    "/predict/npy", _npy(some), "application/x-npy", bytes_at_most=self._bytes_at_most(len(some))
                )
            except httpx.HTTPError as failure:
                lost += 1
                self._reconnect(failure, lost, len(some), time.perf_counter() - started)
                continue
            if reply.status == 200:
                return self._count(self._rows(reply.body, len(some)), time.perf_counter() - started)
            if reply.status in (413, 504) and len(some) > 1:
                self._images_per_request = max(1, len(some) // 2)
            elif reply.status not in _BUSY:
                raise self._gone(_refusal(self.url, reply.status))
            if reply.status in _BUSY:
                turns += 1
                self._be_patient(reply.status, reply.retry_after_s, turns, len(some))

    def _check_going_on(self) -> None:
        """Raises: NoMoreAnswers."""
        if self._stop_wanted:
            raise Stopped("stopped", self._nothing)
        if self.ended is not None:
            raise type(self.ended)(str(self.ended), self._nothing)
        if not self.left:
            raise BudgetSpent(f"as many images have been sent as may be: {self.queries_at_most}", self._nothing)

    def _count(self, rows: Probabilities, seconds: float) -> Probabilities:
        self.traffic.queries += len(rows)
        self.traffic.refused += int(np.count_nonzero(~rows.any(axis=1)))
        self.traffic.latency_s.append(seconds)
        self.on_answer(self.traffic.queries)
        return rows

    def _reconnect(self, failure: httpx.HTTPError, lost: int, images: int, took_s: float) -> None:
        """Wait before the next attempt. Raises: GatewayGone after the third lost connection, or beyond `patience_s`."""
        if isinstance(failure, httpx.ReadTimeout):
            self.traffic.queries += images  # the gateway may have processed them
        gone = f"{self.url} stopped answering ({reason(failure)})"
        if lost >= _LOST_CONNECTIONS_AT_MOST:
            raise self._gone(gone) from failure
        self._wait(took_s, _RECONNECT_S * lost, gone)

    def _be_patient(self, status: int, retry_after_s: float | None, turns: int, images: int) -> None:
        """Wait as long as the gateway asks. Raises: GatewayGone when the total would exceed `patience_s`."""
        self.traffic.turned_away += 1
        if status == 504:
            self.traffic.queries += images  # the gateway was processing them
        asked = retry_after_s if retry_after_s is not None else min(2.0 ** (turns - 1), _WAIT_AT_MOST_S)
        self._wait(0.0, max(asked, _WAIT_AT_LEAST_S), f"{self.url} is busy (status {status})")

    def _wait(self, lost_s: float, seconds: float, why: str) -> None:
        """Wait, after an exchange that took `lost_s` for nothing. Raises: GatewayGone when the total would exceed `patience_s`."""
        self.traffic.waited_s += lost_s
        if self.traffic.waited_s + seconds > self._patience_s:
            raise self._gone(
                f"{why} and has to be waited for {seconds:g} s, after {self.traffic.waited_s:g} s, which "
                f"is beyond a patience of {self._patience_s:g} s; wait longer with --patience, or send fewer queries"
            )
        self.traffic.waited_s += seconds
        self._sleep(seconds)

    def _sleep(self, seconds: float) -> None:
        """Sleep in short intervals, so that `stop` takes effect."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._stop_wanted:
                raise Stopped("stopped", self._nothing)
            time.sleep(min(left, _NAP_S))

    def _bytes_at_most(self, rows: int) -> int:
        return _ANSWER_SLACK + rows * (_BYTES_PER_ROW + _BYTES_PER_PROBABILITY * len(self.labels))

    def _rows(self, body: bytes, n: int) -> Probabilities:
        """The probabilities [n, k] in a response. Raises: GatewayGone: a body of another form."""
        try:
            predictions = orjson.loads(body)["predictions"]
            refusal = [0.0] * len(self.labels)
            rows = [refusal if one["abstained"] is True else one["probabilities"] for one in predictions]
            with np.errstate(over="ignore"):  # infinity is no probability either
                probabilities = np.array(rows, np.float32)
        except (ValueError, TypeError, KeyError, OverflowError) as failure:
            raise self._gone(f"expected predictions from {self.url}, got something else") from failure
        if probabilities.shape != (n, len(self.labels)) or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise self._gone(f"expected {n} predictions of {len(self.labels)} classes from {self.url}, got something else")
        return probabilities

    def _gone(self, sentence: str) -> GatewayGone:
        return GatewayGone(sentence, self._nothing)

    @property
    def _nothing(self) -> Probabilities:
        return np.empty((0, len(self.labels)), np.float32)


def read_served(client: BoundedHttpClient) -> Served:
    """A gateway's description, read from `/` and `/docs.json`. Raises: InvalidInput: not a Hauberk gateway."""
    facts, document = (client.json(path, bytes_at_most=_DOCUMENT_BYTES_AT_MOST) for path in ("/", "/docs.json"))
    try:
        schemas = document["components"]["schemas"]
        batch = schemas["Images"]["properties"]["images"]
        batch = batch["oneOf"][-1] if "oneOf" in batch else batch
        h, w, c = (int(size) for size in facts["input_shape"])
        # `/` lists at most a thousand class names; the schema lists all.
        labels = tuple(str(name) for name in schemas["Prediction"]["properties"]["label"]["enum"] if name is not None)
        classes = int(facts["classes"])
        defences = tuple((str(one["name"]), str(one["mode"])) for one in facts["defences"])
        names = (str(facts["model"]), str(facts["model_version"]), *(word for defence in defences for word in defence))
        served = Served(names[0], names[1], (h, w, c), labels, defences, int(batch["maxItems"]))
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as failure:
        raise InvalidInput(client.no_gateway("its description is of another form")) from failure
    too_much = len(names) > _NAMES_AT_MOST or max(map(len, names)) > _NAME_AT_MOST or max(h, w, c) > _SIDE_AT_MOST
    if len(labels) != classes or classes < 2 or min(h, w, c, served.images_at_most) < 1 or too_much:
        raise InvalidInput(client.no_gateway("its description contradicts itself"))
    return served


def _npy(images: Images) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(images, np.float32), allow_pickle=False)
    return file.getvalue()


def _refusal(url: str, status: int) -> str:
    if status in (401, 403):
        return f"{url} asks for an API key it knows (status {status}); give one with --api-key-file or in GATEWAY_API_KEY"
    return f"{url} does not take the images (status {status}), though its description says that it would"

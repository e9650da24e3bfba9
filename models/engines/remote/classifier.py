"""A model behind a model server as a `Classifier`: prepared in NumPy, asked for all rows at once, its answer checked.

    images [n, h, w, c] ── Preparation ──> rows in the model's shape and type ── one call ──> scores [n, k] ── head ──> probabilities

The server sees every image and every probe of the detectors, and its answers decide: it is as trusted as a model file would be, and no
more. Its answers are bounded in time and size, and have to be finite class scores for as many rows as were sent.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images, Probabilities
from models.engines.remote.address import RemoteAddress
from models.engines.remote.calls import OK, Calls, RemoteObserver, RemoteTakesLess, Unobserved, outcome_of
from models.engines.remote.circuit import Circuit
from models.engines.remote.fingerprint import Fingerprint
from models.engines.remote.open_inference import OpenInferenceModel
from models.engines.remote.options import RemoteOptions
from models.engines.remote.tensorflow_serving import TensorflowServingModel
from models.engines.remote.tensors import Described, row_shape
from models.errors import InvalidInput, RemoteBadAnswer, RemoteFailure
from models.preparation import Outputs, Preparation

ROWS_PER_CALL = 256
BYTES_PER_CALL = 16 << 20
SCORES_AT_MOST = 1 << 16
"""Of a row, before it is known how many they are."""
_SAME = 1e-3  # of scores, relative: what an answer in JSON and one in bytes may differ by
_SUM_TOLERANCE = 1e-2


class RemoteClassifier:
    """A classifier that a model server serves.

    Args:
        address: where. options: how it is called.
        input_shape: (h, w, c) of one image.
        labels: the class names; ("0", "1", ...) when not given.
        preparation, outputs: how the model wants its images, and what it returns; None where that is not known yet: `predict` returns
            it as it is then.
        output: the name of the output, where it has several.
        version: that every answer has to name; that of the first answer when none.
        observer: is told of calls.

    Attributes:
        flat_input: whether the model takes a vector, which does not say in which layout.
        described: the model's metadata. taken, given: its input, and the output that is read.
        binary: whether tensors are sent as bytes; they are where the server was seen to take them, and JSON else.
        circuit: opens when calls fail; while it is open none are made.

    Raises: InvalidInput on construction: another kind of model, or images of another shape than its; RemoteFailure.
    Thread safety: may be called from any thread.
    """

    engine = "remote"

    def __init__(
        self,
        address: RemoteAddress,
        options: RemoteOptions,
        *,
        input_shape: tuple[int, int, int],
        labels: Sequence[str] | None = None,
        preparation: Preparation = Preparation(),  # noqa: B008  # a frozen value
        outputs: Outputs | None = "probabilities",
        output: str | None = None,
        version: str | None = None,
        observer: RemoteObserver | None = None,
    ) -> None:
        self.address, self.input_shape = address, input_shape
        self.preparation, self.outputs, self.output = preparation, outputs, output
        self._options, self._observer = options, observer or Unobserved()
        self._calls = Calls(address, options, self._observer)
        self._dialect = dialect_of(self._calls)
        self._dialect.version = version
        self.circuit = Circuit(self._observer)
        self._columns, self._rows_per_call = 0, 1  # none known yet
        try:
            self._meet(labels)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections that are kept."""
        self._calls.close()

    @property
    def binary(self) -> bool:
        return self._dialect.binary

    @property
    def version(self) -> str:
        """The version that answers, "" where the server does not say."""
        return self._dialect.version or ""

    @property
    def flat_input(self) -> bool:
        return len(self._row_shape) == 1

    def predict(self, images: Images) -> Probabilities:
        """Class probabilities [n, k] of images float32 [n, h, w, c] in [0, 1]; one call, or more where a call would be too large.

        Raises: RemoteFailure.
        """
        self.circuit.check()
        started = time.monotonic()
        try:
            probabilities = self.asked(images)
        except RemoteFailure as failure:
            self._observer.called(outcome_of(failure), time.monotonic() - started)
            self.circuit.failed(failure)
            raise
        self._observer.called(OK, time.monotonic() - started)
        self.circuit.succeeded()
        return probabilities

    def asked(self, images: Images) -> Probabilities:
        """`predict` whatever the circuit, and without a word to it or to the observer."""
        return self._probabilities(self.raw(images))

    def raw(self, images: Images) -> NDArray[np.float64]:
        """The model's own scores [n, k], whether probabilities or logits. Raises: RemoteFailure."""
        end = time.monotonic() + self._options.total_s
        parts, start = [np.empty((0, self._columns))], 0
        while start < len(images):
            some = images[start : start + self._rows_per_call]
            try:
                parts.append(self._scores(some, end))
            except RemoteTakesLess:
                if len(some) == 1:
                    raise
                self._rows_per_call = len(some) // 2
                continue
            start += len(some)
        return np.concatenate(parts)

    def look(self, fingerprint: Fingerprint) -> None:
        """Whether the same model is there as ever. Raises: InvalidInput: another input or output; RemoteFailure: no, or no answer."""
        self.describe()
        fingerprint.check(self.asked, self.address)

    def describe(self) -> Described:
        """The model's metadata, asked for again. Raises: InvalidInput: its input or output is another than it was; RemoteFailure."""
        found = self._dialect.describe(until=self._until(math.inf))
        if (found.input(self.address), found.output(self.address, self.output)) != (self.taken, self.given):
            raise InvalidInput(
                f"expected {self.address} to take {self.taken} and return {self.given} as before, which it does not"
            )
        return found

    def _meet(self, labels: Sequence[str] | None) -> None:
        """Learn what the model takes and returns, by asking."""
        self.described = self._dialect.describe(until=self._until(math.inf))
        self.taken = self.described.input(self.address)
        self.given = self.described.output(self.address, self.output)
        self._check_type()
        self._row_shape = row_shape(self.taken, self.preparation.shape(self.input_shape), self.address)
        by_size = max(1, BYTES_PER_CALL // (4 * math.prod(self.input_shape)))
        self._rows_per_call = min(ROWS_PER_CALL, by_size, self.described.rows_at_most or ROWS_PER_CALL)
        blank = np.zeros((1, *self.input_shape), np.float32)
        scores = self._scores(blank, math.inf)
        self._columns = scores.shape[1]
        if self.address.protocol == "v2":
            self._dialect.binary = self._takes_bytes(blank, scores)
        classes = max(self._columns, 2)
        self.labels = tuple(labels) if labels is not None else tuple(map(str, range(classes)))
        if len(self.labels) != classes:
            raise InvalidInput(f"expected {classes} labels, one per class of the model, got {len(self.labels)}")

    def _check_type(self) -> None:
        bytes_wanted = self.taken.datatype == "UINT8"
        if bytes_wanted != (self.preparation.dtype == "uint8"):
            said = "uint8" if bytes_wanted else "float32"
            raise InvalidInput(
                f"expected images prepared as {said} for the model at {self.address}, which takes {self.taken}, got "
                f"{self.preparation.dtype}; declare its input type and range"
            )

    def _takes_bytes(self, blank: Images, scores: NDArray[np.float64]) -> bool:
        """Whether the server takes tensors as bytes, and means the same by them: servers do not say so in the same place."""
        self._dialect.binary = True
        try:
            found = self._scores(blank, math.inf)
        except RemoteFailure:
            return False
        finally:
            self._dialect.binary = False
        return bool(np.allclose(found, scores, rtol=_SAME, atol=_SAME))

    def _scores(self, images: Images, end: float) -> NDArray[np.float64]:
        """The model's scores for some images, in one call."""
        rows = self.preparation.apply(images, shape=self._row_shape)
        most = self._columns or SCORES_AT_MOST
        scores = self._dialect.infer(rows, self.taken, self.given, columns=most, until=self._until(end))
        if self._columns and scores.shape[1] != self._columns:
            raise RemoteBadAnswer(f"expected {self._columns} class scores an image from {self.address}, got {scores.shape[1]}")
        return scores

    def _until(self, end: float) -> float:
        return min(end, time.monotonic() + self._options.timeout_s)

    def _probabilities(self, scores: NDArray[np.float64]) -> Probabilities:
        if self.outputs == "logits":
            return _of_logits(scores)
        if self._columns == 1:
            scores = np.concatenate([1 - scores, scores], axis=1)
        if self.outputs is None:
            return scores.astype(np.float32)
        wrong = (
            (scores < -_SUM_TOLERANCE)
            | (scores > 1 + _SUM_TOLERANCE)
            | (np.abs(scores.sum(axis=1) - 1) > _SUM_TOLERANCE)[:, None]
        )
        if wrong.any():
            raise RemoteBadAnswer(f"expected distributions over {scores.shape[1]} classes from {self.address}, got other numbers")
        return scores.astype(np.float32)


def dialect_of(calls: Calls) -> OpenInferenceModel | TensorflowServingModel:
    """The protocol that the address names."""
    return OpenInferenceModel(calls) if calls.address.protocol == "v2" else TensorflowServingModel(calls)


def _of_logits(scores: NDArray[np.float64]) -> Probabilities:
    """The softmax of k columns; of one, z, sigmoid(-z) and sigmoid(z)."""
    both = np.concatenate([-scores / 2, scores / 2], axis=1) if scores.shape[1] == 1 else scores
    powers = np.exp(both - both.max(axis=1, keepdims=True))
    rows: Probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows


def metadata_of(address: RemoteAddress, options: RemoteOptions) -> Described:
    """What a server says of its model, before anything is known of how it wants its images. Raises: RemoteFailure."""
    calls = Calls(address, options, Unobserved())
    try:
        return dialect_of(calls).describe(until=time.monotonic() + options.timeout_s)
    finally:
        calls.close()

"""The data path: purify -> predict -> abstain -> obscure.

    purify    images = fold(preprocessors, images, keys)          once per image
    predict   probabilities = classifier.predict(images)          raw: they never leave this object
    abstain   refused = any(detector decides so about the images as they came); first probes ride in the forward call of the images
    obscure   fold(postprocessors, probabilities) on answered rows only

A defended classifier is a classifier: attacks, evaluation and nesting take either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidInput, StageFailure
from defences.keyed import Keys, image_keys
from models.classifier import Classifier, Images, Probabilities

Mode = Literal["enforce", "monitor", "off"]
"""enforce: act. monitor: compute and report, leave the answer untouched. off: do not compute."""


class Preprocessor(Protocol):
    """Changes images on the way in."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: Images, keys: Keys) -> Images: ...


class DetectorSession(Protocol):
    """A detector at work on one batch: `probe` -> rows to predict -> `decide`, until nothing is `undecided`."""

    undecided: NDArray[np.int64]
    abstained: NDArray[np.bool_]
    overlays_seen: NDArray[np.int64]

    @property
    def mean_entropy(self) -> NDArray[np.float64]: ...

    def probe(self) -> Images: ...

    def decide(self, outputs: Probabilities) -> None: ...


class Detector(Protocol):
    """Decides which images to refuse, by probing the classifier with variants of them.

    It sees the images as they came: a purifier weakens a trigger, and a weakened one is missed (docs/decisions/0003).
    """

    @property
    def name(self) -> str: ...

    @property
    def calls_at_most(self) -> int: ...

    def begin(self, images: Images, keys: Keys) -> DetectorSession: ...


class Postprocessor(Protocol):
    """Changes answered probabilities on the way out."""

    @property
    def name(self) -> str: ...

    def __call__(self, probabilities: Probabilities) -> Probabilities: ...


Defence_co = TypeVar("Defence_co", covariant=True)


@dataclass(frozen=True)
class Step(Generic[Defence_co]):
    """A defence and its mode."""

    defence: Defence_co
    mode: Mode = "enforce"


@dataclass(frozen=True)
class Detection:
    """What one detector found, per image: for observers, never for clients."""

    name: str
    mode: Mode
    abstained: NDArray[np.bool_]
    overlays: NDArray[np.int64]
    entropy_bits: NDArray[np.float64]


@dataclass(frozen=True)
class Trace:
    """What happened on the way, for observers (metrics, logs, audit): never for clients.

    Attributes:
        seconds: per stage ("purify", "predict", "abstain", "obscure") what this wave added.
        model_calls: rows given to the classifier.
        purification_distance: L2 per image [n], empty without a preprocessor.
        detections: one per active detector.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    model_calls: int = 0
    purification_distance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    detections: tuple[Detection, ...] = ()


@dataclass(frozen=True)
class Decisions:
    """Columns, one row per image.

    Attributes:
        probabilities: float32 [n, k], obscured; a zero row where abstained.
        abstained: bool [n].
        labels: int64 [n], the class index; -1 where abstained.
    """

    probabilities: Probabilities
    abstained: NDArray[np.bool_]
    labels: NDArray[np.int64]
    trace: Trace


Wave = tuple[NDArray[np.int64], Decisions]
"""Indices of images, ascending, and what was decided on them."""


class DefendedClassifier:
    """A classifier in its coat of defences; see the module's docstring for the path.

    Args:
        classifier: what is defended.
        preprocessors, detectors, postprocessors: steps, in order; those with mode "off" are dropped.
        secret: keys the randomness, see `defences/keyed.py`. At most 64 bytes.

    Cost: n model calls for n images, plus what the detectors probe: at most `calls_at_most` per image in all.
    Thread safety: calls share nothing but the classifier.
    """

    def __init__(
        self,
        classifier: Classifier,
        *,
        preprocessors: Sequence[Step[Preprocessor]] = (),
        detectors: Sequence[Step[Detector]] = (),
        postprocessors: Sequence[Step[Postprocessor]] = (),
        secret: bytes = b"",
    ) -> None:
        self._classifier = classifier
        self.preprocessors = tuple(step for step in preprocessors if step.mode != "off")
        self.detectors = tuple(step for step in detectors if step.mode != "off")
        self.postprocessors = tuple(step for step in postprocessors if step.mode != "off")
        self._secret = secret

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self._classifier.input_shape

    @property
    def labels(self) -> tuple[str, ...]:
        return self._classifier.labels

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost."""
        return 1 + sum(step.defence.calls_at_most for step in self.detectors)

    def predict(self, images: Images) -> Probabilities:
        """The `Classifier` protocol: obscured probabilities [n, k], a zero row for a refusal."""
        return self.classify(images).probabilities

    def classify(self, images: Images) -> Decisions:
        """Decide on images float32 [n, h, w, c] in [0, 1]."""
        return _in_order(list(self.waves(images)), len(self.labels))

    def waves(self, images: Images) -> Iterator[Wave]:
        """Decide on images in waves: each yields the indices decided since the last, so that nobody waits for a slow neighbour.

        Raises: InvalidInput for images of another shape; StageFailure when a stage raises.
        """
        batch = self.begin(images)
        while batch.pending.size:
            (wave,) = self.advance([batch])
            if wave is not None:
                yield wave

    def begin(self, images: Images) -> Pass:
        """Purify images and get ready to decide on them with `advance`. Raises: InvalidInput, StageFailure."""
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise InvalidInput(f"expected images [n, {', '.join(map(str, self.input_shape))}], got {list(images.shape)}")
        return Pass(self, images)

    def advance(self, batches: Sequence[Pass]) -> list[Wave | None]:
        """Take batches one step further, in one forward call for all of them; for each what is decided now, if anything.

        A batch that is nearly done rides with one that has just begun: a forward call costs much more than a row in it.
        Raises: StageFailure, and then none of the batches can go on.
        """
        blocks = [batch.rows() for batch in batches]
        counts = [sum(map(len, rows)) for rows in blocks]
        rows = np.concatenate([block for of_batch in blocks for block in of_batch])
        started = time.perf_counter()
        try:
            outputs = _checked(self._classifier.predict(rows), len(rows))
        except Exception as failure:
            raise StageFailure("predict") from failure
        seconds_per_row = (time.perf_counter() - started) / len(rows)
        ends = np.cumsum(counts)[:-1]
        return [batch.take(part, seconds_per_row) for batch, part in zip(batches, np.split(outputs, ends), strict=True)]

    def keys(self, images: Images) -> Keys:
        """The keys [n] these images get under this object's secret."""
        return image_keys(images, self._secret)


class Pass:
    """One batch on its way; every stage is timed and a failure in it named.

    Attributes:
        pending: indices of the images that are not decided yet.
    """

    def __init__(self, defended: DefendedClassifier, images: Images) -> None:
        self._defended, self._images = defended, images
        self._seconds: dict[str, float] = {}
        self._model_calls = 0
        self._raw: Probabilities | None = None
        self._sizes: list[int] = []
        self.pending: NDArray[np.int64] = np.arange(len(images))
        if not len(images):
            return
        keys = defended.keys(images)
        with self._stage("purify"):
            self._purified, self._distance = self._purify(keys)
        with self._stage("abstain"):
            self._sessions = [step.defence.begin(images, keys) for step in defended.detectors]

    def rows(self) -> list[Images]:
        """What is to be predicted next: the purified images, the first time, and what each detector in doubt probes."""
        first = [self._purified] if self._raw is None else []
        with self._stage("abstain"):
            rows = [*first, *(session.probe() for session in self._busy())]
        self._sizes = [len(block) for block in rows]
        return rows

    def take(self, outputs: Probabilities, seconds_per_row: float) -> Wave | None:
        """The predictions of `rows`, and what each of them took; returns what is decided now."""
        answers = np.split(outputs, np.cumsum(self._sizes)[:-1])
        probed = len(outputs)
        if self._raw is None:
            self._raw = answers.pop(0)
            self._spend("predict", len(self._raw) * seconds_per_row)
            probed -= len(self._raw)
        self._spend("abstain", probed * seconds_per_row)
        self._model_calls += len(outputs)
        with self._stage("abstain"):
            for session, answer in zip(self._busy(), answers, strict=True):
                session.decide(answer)
        undecided = np.zeros(len(self._images), bool)
        for session in self._sessions:
            undecided[session.undecided] = True
        decided, self.pending = self.pending[~undecided[self.pending]], self.pending[undecided[self.pending]]
        return (decided, self._conclude(decided, self._raw)) if decided.size else None

    def _busy(self) -> list[DetectorSession]:
        return [session for session in self._sessions if session.undecided.size]

    def _purify(self, keys: Keys) -> tuple[Images, NDArray[np.float64]]:
        images = self._images
        distance = np.empty(0)
        for step in self._defended.preprocessors:
            purified = step.defence(images, keys)
            change = (purified - self._images).reshape(len(images), -1)
            distance = np.sqrt(np.einsum("ij,ij->i", change, change, dtype=np.float64))
            if step.mode == "enforce":
                images = purified
        return images, distance

    def _conclude(self, rows: NDArray[np.int64], raw: Probabilities) -> Decisions:
        detections = tuple(
            Detection(step.defence.name, step.mode, s.abstained[rows], s.overlays_seen[rows], s.mean_entropy[rows])
            for step, s in zip(self._defended.detectors, self._sessions, strict=True)
        )
        abstained = np.zeros(len(rows), bool)
        for detection in detections:
            if detection.mode == "enforce":
                abstained |= detection.abstained
        probabilities = np.zeros((len(rows), raw.shape[1]), np.float32)
        with self._stage("obscure"):
            probabilities[~abstained] = self._obscure(raw[rows[~abstained]])
        labels = np.where(abstained, -1, raw[rows].argmax(axis=1))
        seconds, self._seconds = self._seconds, {}
        calls, self._model_calls = self._model_calls, 0
        distance = self._distance[rows] if self._distance.size else self._distance
        return Decisions(probabilities, abstained, labels, Trace(seconds, calls, distance, detections))

    def _obscure(self, probabilities: Probabilities) -> Probabilities:
        for step in self._defended.postprocessors:
            obscured = step.defence(probabilities)
            if step.mode == "enforce":
                probabilities = obscured
        return probabilities

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        except Exception as failure:
            raise StageFailure(name) from failure
        self._spend(name, time.perf_counter() - started)

    def _spend(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


def _checked(outputs: Probabilities, rows: int) -> Probabilities:
    """A classifier that answers NaN must not pass for one that is sure: NaN compares false with every threshold."""
    if outputs.ndim != 2 or len(outputs) != rows or not np.isfinite(outputs).all():
        raise ValueError(f"expected finite probabilities for {rows} rows, got {outputs.dtype} {outputs.shape}")
    return outputs


def _in_order(waves: Sequence[tuple[NDArray[np.int64], Decisions]], classes: int) -> Decisions:
    """Merge waves into one Decisions in the order of the images."""
    if not waves:
        none = np.empty(0, np.int64)
        return Decisions(np.empty((0, classes), np.float32), none.astype(bool), none, Trace())
    back = np.argsort(np.concatenate([rows for rows, _ in waves]))
    parts = [decisions for _, decisions in waves]
    traces = [part.trace for part in parts]
    seconds: dict[str, float] = {}
    for trace in traces:
        for stage, spent in trace.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + spent
    distance = np.concatenate([trace.purification_distance for trace in traces])
    detections = tuple(
        Detection(
            same[0].name,
            same[0].mode,
            np.concatenate([d.abstained for d in same])[back],
            np.concatenate([d.overlays for d in same])[back],
            np.concatenate([d.entropy_bits for d in same])[back],
        )
        for same in zip(*(trace.detections for trace in traces), strict=True)
    )
    return Decisions(
        np.concatenate([part.probabilities for part in parts])[back],
        np.concatenate([part.abstained for part in parts])[back],
        np.concatenate([part.labels for part in parts])[back],
        Trace(seconds, sum(t.model_calls for t in traces), distance[back] if distance.size else distance, detections),
    )

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

    def waves(self, images: Images) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        """Decide on images in waves: each yields the indices decided since the last, so that nobody waits for a slow neighbour.

        Raises: InvalidInput for images of another shape; StageFailure when a stage raises.
        """
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise InvalidInput(f"expected images [n, {', '.join(map(str, self.input_shape))}], got {list(images.shape)}")
        if len(images):
            yield from _Pass(self, images).run()

    def keys(self, images: Images) -> Keys:
        """The keys [n] these images get under this object's secret."""
        return image_keys(images, self._secret)


class _Pass:
    """One batch on its way; every stage is timed and a failure in it named."""

    def __init__(self, defended: DefendedClassifier, images: Images) -> None:
        self._defended, self._images = defended, images
        self._seconds: dict[str, float] = {}
        self._model_calls = 0

    def run(self) -> Iterator[tuple[NDArray[np.int64], Decisions]]:
        keys = self._defended.keys(self._images)
        with self._stage("purify"):
            purified, distance = self._purify(keys)
        with self._stage("abstain"):
            sessions = [step.defence.begin(self._images, keys) for step in self._defended.detectors]
        raw = self._forward(purified, sessions)
        pending = np.arange(len(purified))
        while True:
            undecided = np.zeros(len(purified), bool)
            for session in sessions:
                undecided[session.undecided] = True
            decided, pending = pending[~undecided[pending]], pending[undecided[pending]]
            if decided.size:
                yield decided, self._conclude(decided, raw, distance, sessions)
            if not pending.size:
                return
            self._forward(purified[:0], sessions)

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

    def _forward(self, images: Images, sessions: Sequence[DetectorSession]) -> Probabilities:
        """One forward call for everybody's rows; its time is split between "predict" and "abstain" by their rows."""
        with self._stage("abstain"):
            probes = [session.probe() for session in sessions if session.undecided.size]
        rows = np.concatenate([images, *probes]) if probes else images
        with self._stage("predict"):
            started = time.perf_counter()
            outputs = _checked(self._defended._classifier.predict(rows), len(rows))
            probing = (time.perf_counter() - started) * (1 - len(images) / len(rows))
        self._seconds["predict"] -= probing
        self._seconds["abstain"] += probing
        self._model_calls += len(rows)
        answers = np.split(outputs, np.cumsum([len(images), *map(len, probes)])[:-1])
        with self._stage("abstain"):
            busy = [session for session in sessions if session.undecided.size]
            for session, answer in zip(busy, answers[1:], strict=True):
                session.decide(answer)
        return answers[0]

    def _conclude(
        self,
        rows: NDArray[np.int64],
        raw: Probabilities,
        distance: NDArray[np.float64],
        sessions: Sequence[DetectorSession],
    ) -> Decisions:
        detections = tuple(
            Detection(step.defence.name, step.mode, s.abstained[rows], s.overlays_seen[rows], s.mean_entropy[rows])
            for step, s in zip(self._defended.detectors, sessions, strict=True)
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
        trace = Trace(seconds, calls, distance[rows] if distance.size else distance, detections)
        return Decisions(probabilities, abstained, labels, trace)

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
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - started


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

"""The data path: purify -> predict -> abstain -> obscure.

    purify    images = fold(preprocessors, images, keys)          once per image
    predict   probabilities = classifier.predict(images)          raw probabilities, which never leave this object
    abstain   refused = any(detector refuses the image before purification); first probes share the forward call of the images,
              and detectors that look at layers see the features of the same call
    obscure   fold(postprocessors, probabilities) on answered rows only

A defended classifier is a classifier: attacks, evaluation and nesting take either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, NamedTuple, Protocol, TypeGuard, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidInput, StageFailure
from defences.keyed import Keys, image_keys
from models.classifier import Classifier, Features, Images, LayeredClassifier, LayeredPass, Probabilities

Mode = Literal["enforce", "monitor", "off"]
"""enforce: act. monitor: compute and report, but leave the answer as it is. off: do not compute."""


class Preprocessor(Protocol):
    """Changes images on the way in."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: Images, keys: Keys) -> Images: ...


class DetectorSession(Protocol):
    """A detector's state for the images of one batch: `probe` -> rows to predict -> `decide`, until no image is `undecided`.

    `decide` takes the outputs for these rows, and the classifier's answers to all images of the batch [n, k], each as it would be given.

    More images may `join` between two rounds. A probe may be confined to some images, of which at least one is undecided: the others
    stay where they are. A detector without probes decides while an image joins, and is never undecided.

    Attributes, one entry per image:
        next_calls: rows of its next probe; of no meaning once it is decided.
        calls: model calls so far: predicted rows of its probes, and its own forward passes while the image joined.
        scores: float64, the statistic that is compared with the threshold; low is suspicious, NaN before the first value.
        entropies: float64 in bits, the mean entropy of the predictions for its probes so far; NaN where it measures none.
    """

    @property
    def abstained(self) -> NDArray[np.bool_]: ...

    @property
    def undecided(self) -> NDArray[np.int64]: ...

    @property
    def calls(self) -> NDArray[np.int64]: ...

    @property
    def next_calls(self) -> NDArray[np.int64]: ...

    @property
    def scores(self) -> NDArray[np.float64]: ...

    @property
    def entropies(self) -> NDArray[np.float64]: ...

    def join(self, kept: NDArray[np.int64], images: Images, keys: Keys) -> None: ...

    def probe(self, among: NDArray[np.bool_] | None = None) -> Images: ...

    def decide(self, outputs: Probabilities, answers: Probabilities) -> None: ...


class FeatureSession(DetectorSession, Protocol):
    """The session of a detector that looks at layers: it decides on images when it sees their features, and makes no probes.

    It takes no model call, and the data path does not ask it which images are undecided.
    """

    def see(self, features: Features, answers: Probabilities) -> None:
        """Decide on the images that joined last, by their features [n, d] and the classifier's answers to them [n, k]."""
        ...


class Detector(Protocol):
    """Decides which images to refuse, mostly by probing the classifier with variants of them.

    It sees the images before purification: a purifier weakens a trigger, and a weakened trigger is missed (docs/decisions/0003).
    """

    @property
    def name(self) -> str: ...

    @property
    def calls_at_most(self) -> int: ...

    def begin(self, images: Images, keys: Keys) -> DetectorSession: ...


@runtime_checkable
class FeatureDetector(Detector, Protocol):
    """A detector that looks at layers of the classifier, in the forward call that answers; it begins a `FeatureSession`."""

    @property
    def layers(self) -> tuple[str, ...]: ...


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
    """One detector's decisions, an entry per image, with the `calls`, `scores` and `entropies` of its session.

    For observers, never for clients.
    """

    name: str
    mode: Mode
    abstained: NDArray[np.bool_]
    calls: NDArray[np.int64]
    scores: NDArray[np.float64]
    entropies: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64] | slice) -> Detection:
        """That of these images."""
        return Detection(self.name, self.mode, self.abstained[rows], self.calls[rows], self.scores[rows], self.entropies[rows])


class Interval(NamedTuple):
    """The time a stage took, between two readings of `time.perf_counter()`."""

    stage: str
    started: float
    ended: float


@dataclass(frozen=True)
class Trace:
    """Measurements of the data path for observers (metrics, logs, audit log), never for clients.

    Attributes:
        seconds: time of each stage ("purify", "predict", "abstain", "obscure") that this wave added.
        model_calls: rows given to the classifier, whole or up to a layer.
        purification_distance: L2 per image [n], empty without a preprocessor.
        detections: one per active detector.
        intervals: the summands of `seconds`, in order. A forward call that images and probes share is divided by their rows.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    model_calls: int = 0
    purification_distance: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    detections: tuple[Detection, ...] = ()
    intervals: tuple[Interval, ...] = ()

    def part(self, rows: slice) -> Trace:
        """The columns of some of its images, without the sums over all images."""
        detections = tuple(detection.take(rows) for detection in self.detections)
        return Trace(purification_distance=self.purification_distance[rows], detections=detections)


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

    def rows(self, rows: NDArray[np.int64]) -> Decisions:
        """The decisions on these images, which may come more than once; the sums over all images stay."""
        trace = self.trace
        detections = tuple(detection.take(rows) for detection in trace.detections)
        distance = trace.purification_distance[rows] if trace.purification_distance.size else trace.purification_distance
        trace = replace(trace, purification_distance=distance, detections=detections)
        return Decisions(self.probabilities[rows], self.abstained[rows], self.labels[rows], trace)


Wave = tuple[NDArray[np.int64], Decisions]
"""Positions of images in the batch, ascending, and the decisions on them."""


class DefendedClassifier:
    """A classifier behind a stack of defences; the module's docstring shows the path of an image.

    Args:
        classifier: the classifier to defend.
        preprocessors, detectors, postprocessors: steps, in order; those with mode "off" are dropped.
        secret: keys the randomness, see `defences/keyed.py`. At most 64 bytes.

    Raises: InvalidInput on construction: a detector that looks at layers, and a classifier that does not show them.

    Cost: a model call per image, plus the detectors' probes: at most `calls_at_most` model calls per image in all.
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
        self._layered = _layered(classifier, [step.defence for step in self.detectors])

    @property
    def classifier(self) -> Classifier:
        """What is defended."""
        return self._classifier

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
        return in_order(list(self.waves(images)), len(self.labels))

    def waves(self, images: Images) -> Iterator[Wave]:
        """Decide on images in waves: each yields the images decided since the last, so that none waits for a slower one.

        Raises: InvalidInput for images of another shape; StageFailure when a stage raises.
        """
        batch = self.begin(images)
        while batch.pending:
            wave = self.advance(batch)
            if wave is not None:
                yield wave

    def begin(self, images: Images) -> Pass:
        """Start a batch of images, to be decided by `advance`. Raises: InvalidInput, StageFailure."""
        batch = Pass(self)
        self.join(batch, images)
        return batch

    def join(self, batch: Pass, images: Images) -> None:
        """Add images to a batch that has started; their numbers follow those before. Raises: InvalidInput, StageFailure."""
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise InvalidInput(f"expected images [n, {', '.join(map(str, self.input_shape))}], got {list(images.shape)}")
        if len(images):
            batch.join(images)

    def costs(self, batch: Pass) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of a batch's undecided images, ascending, and the model calls that the next step takes for each."""
        return batch.costs()

    def advance(self, batch: Pass, turn: NDArray[np.int64] | None = None) -> Wave | None:
        """One forward call for all undecided images of a batch, or for those whose `turn` it is, by their numbers, and all that have
        just joined; returns the images decided by it, None without any.

        An image's answer does not depend on the steps it waited. Raises: StageFailure, and then the batch cannot go on.
        """
        return batch.advance(self._classifier, turn, self._layered)

    def keys(self, images: Images) -> Keys:
        """The keys [n] these images get under this object's secret."""
        return image_keys(images, self._secret)


class Pass:
    """A batch on its way through the data path, where images may join and leave between forward calls.

    Every stage is timed, and a failure names its stage. Images are numbered from the first that joined. The rows of decided images are
    dropped when others join.
    """

    def __init__(self, defended: DefendedClassifier) -> None:
        self._defended = defended
        self._joined = 0
        self._numbers = np.empty(0, np.int64)
        self._pending = np.empty(0, bool)
        self._raw = np.empty((0, len(defended.labels)), np.float32)
        self._distance = np.empty(0)
        self._fresh: list[Images] = []
        self._sessions: list[DetectorSession] = []
        self._asking: list[DetectorSession] = []
        self._watching: list[FeatureSession] = []
        self._intervals: list[Interval] = []
        self._model_calls = 0

    @property
    def pending(self) -> int:
        """How many images are not decided yet."""
        return int(np.count_nonzero(self._pending))

    def join(self, images: Images) -> None:
        """See `DefendedClassifier.join`."""
        n = len(images)
        keys = self._defended.keys(images)
        with self._stage("purify"):
            purified, distance = self._purify(images, keys)
        kept = self._pending.nonzero()[0]
        with self._stage("abstain"):
            if self._sessions:
                for session in self._sessions:
                    session.join(kept, images, keys)
            else:
                self._sessions = [step.defence.begin(images, keys) for step in self._defended.detectors]
                self._watching = [session for session in self._sessions if _looks_at_layers(session)]
                self._asking = [session for session in self._sessions if not _looks_at_layers(session)]
            self._model_calls += sum(int(np.add.reduce(session.calls[len(kept) :])) for session in self._asking)
        numbers, pending = np.arange(self._joined, self._joined + n), np.ones(n, bool)
        raw = np.zeros((n, self._raw.shape[1]), np.float32)
        if kept.size:
            numbers, pending = np.concatenate([self._numbers[kept], numbers]), np.concatenate([self._pending[kept], pending])
            raw = np.concatenate([self._raw[kept], raw])
            distance = np.concatenate([self._distance[kept], distance]) if distance.size else distance
        self._numbers, self._pending, self._raw, self._distance = numbers, pending, raw, distance
        self._fresh.append(purified)
        self._joined += n

    def costs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """See `DefendedClassifier.costs`."""
        calls = np.zeros(len(self._numbers), np.int64)
        for session in self._asking:
            undecided = session.undecided
            calls[undecided] += session.next_calls[undecided]
        calls[len(calls) - sum(map(len, self._fresh)) :] += 1
        return self._numbers[self._pending], calls[self._pending]

    def advance(
        self, classifier: Classifier, turn: NDArray[np.int64] | None = None, layered: LayeredPass | None = None
    ) -> Wave | None:
        """See `DefendedClassifier.advance`."""
        among = self._rows_of(turn)
        busy = [session for session in self._asking if _any_of(session.undecided, among)]
        with self._stage("abstain"):
            blocks = [*self._fresh, *(session.probe(among) for session in busy)]
        fresh, self._fresh = sum(map(len, self._fresh)), []
        outputs, features = self._predict(classifier, blocks, fresh, layered)
        if fresh:
            self._raw[len(self._raw) - fresh :] = outputs[:fresh]  # images that joined since are last
        with self._stage("abstain"):
            if features is not None:
                for looking in self._watching:
                    looking.see(features, outputs[:fresh])
            at = fresh
            for session, probes in zip(busy, blocks[len(blocks) - len(busy) :], strict=True):
                session.decide(outputs[at : at + len(probes)], self._raw)
                at += len(probes)
        decided = self._pending.copy()
        for session in self._asking:
            decided[session.undecided] = False
        self._pending &= ~decided
        rows = decided.nonzero()[0]
        return (self._numbers[rows], self._conclude(rows)) if rows.size else None

    def _rows_of(self, turn: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
        """The rows of images by their numbers, and of those that have just joined, as a mask."""
        if turn is None:
            return None
        among = np.zeros(len(self._numbers), bool)
        among[np.searchsorted(self._numbers, turn)] = True
        among[len(among) - sum(map(len, self._fresh)) :] = True
        return among

    def _predict(
        self, classifier: Classifier, blocks: Sequence[Images], fresh: int, layered: LayeredPass | None
    ) -> tuple[Probabilities, Features | None]:
        """One forward call; its time is split between "predict", for the images themselves, and "abstain", by their rows.

        The features of the images themselves come with it where a detector looks at them.
        """
        features = None
        rows = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        started = time.perf_counter()
        try:
            if layered is not None and fresh:
                outputs, features = layered(rows)
                features = features[:fresh]
            else:
                outputs = classifier.predict(rows)
            _checked(outputs, len(rows))
        except Exception as failure:
            raise StageFailure("predict") from failure
        ended = time.perf_counter()
        between = started + fresh * (ended - started) / len(rows)
        self._intervals += Interval("predict", started, between), Interval("abstain", between, ended)
        self._model_calls += len(rows)
        return outputs, features

    def _purify(self, given: Images, keys: Keys) -> tuple[Images, NDArray[np.float64]]:
        images = given
        distance = np.empty(0)
        for step in self._defended.preprocessors:
            purified = step.defence(images, keys)
            change = (purified - given).reshape(len(images), -1)
            distance = np.sqrt(np.einsum("ij,ij->i", change, change, dtype=np.float64))
            if step.mode == "enforce":
                images = purified
        return images, distance

    def _conclude(self, rows: NDArray[np.int64]) -> Decisions:
        raw = self._raw[rows]
        detections = tuple(
            Detection(step.defence.name, step.mode, s.abstained[rows], s.calls[rows], s.scores[rows], s.entropies[rows])
            for step, s in zip(self._defended.detectors, self._sessions, strict=True)
        )
        abstained = np.zeros(len(rows), bool)
        for detection in detections:
            if detection.mode == "enforce":
                abstained |= detection.abstained
        with self._stage("obscure"):
            if abstained.any():
                probabilities = np.zeros(raw.shape, np.float32)
                probabilities[~abstained] = self._obscure(raw[~abstained])
            else:
                probabilities = np.ascontiguousarray(self._obscure(raw), np.float32)
        labels = np.where(abstained, -1, raw.argmax(axis=1))
        intervals, self._intervals = tuple(self._intervals), []
        calls, self._model_calls = self._model_calls, 0
        distance = self._distance[rows] if self._distance.size else self._distance
        return Decisions(probabilities, abstained, labels, Trace(_seconds(intervals), calls, distance, detections, intervals))

    def _obscure(self, probabilities: Probabilities) -> Probabilities:
        for step in self._defended.postprocessors:
            obscured = step.defence(probabilities)
            if step.mode == "enforce":
                probabilities = obscured
        return probabilities

    def _stage(self, name: str) -> _Timed:
        return _Timed(name, self._intervals)


class _Timed:
    """Notes the interval of a stage; a failure within is that of the stage. A generator of `contextlib` takes three times as long."""

    __slots__ = ("_intervals", "_name", "_started")

    def __init__(self, name: str, intervals: list[Interval]) -> None:
        self._name, self._intervals = name, intervals

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, kind: object, failure: BaseException | None, traceback: object) -> None:
        if failure is None:
            self._intervals.append(Interval(self._name, self._started, time.perf_counter()))
        elif isinstance(failure, Exception):
            raise StageFailure(self._name) from failure


def _layered(classifier: Classifier, detectors: Sequence[Detector]) -> LayeredPass | None:
    """The forward call with the features that detectors look at; None where none does. Raises: InvalidInput: it is not to be had."""
    looking = [detector for detector in detectors if isinstance(detector, FeatureDetector)]
    if not looking:
        return None
    name, layers = looking[0].name, looking[0].layers
    if any(detector.layers != layers for detector in looking):
        raise InvalidInput(f"expected detectors that look at the same layers, got {', '.join(one.name for one in looking)}")
    if not isinstance(classifier, LayeredClassifier):
        raise InvalidInput(
            f"{name} looks at layers of the classifier while it answers, and {type(classifier).__name__} shows none; set it to off, or "
            "serve the classifier from a bundle"
        )
    return classifier.layered(layers)


def _looks_at_layers(session: DetectorSession) -> TypeGuard[FeatureSession]:
    return hasattr(session, "see")


def _seconds(intervals: Sequence[Interval]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for stage, started, ended in intervals:
        seconds[stage] = seconds.get(stage, 0.0) + ended - started
    return seconds


def _any_of(rows: NDArray[np.int64], among: NDArray[np.bool_] | None) -> bool:
    return bool(rows.size if among is None else among[rows].any())


def _checked(outputs: Probabilities, rows: int) -> Probabilities:
    """Refuse NaN: it compares false with every threshold, and would pass every detector."""
    if outputs.ndim != 2 or len(outputs) != rows or not np.logical_and.reduce(np.isfinite(outputs), axis=None):
        raise ValueError(f"expected finite probabilities for {rows} rows, got {outputs.dtype} {outputs.shape}")
    return outputs


def in_order(waves: Sequence[Wave], classes: int) -> Decisions:
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
    intervals = tuple(interval for trace in traces for interval in trace.intervals)
    distance = np.concatenate([trace.purification_distance for trace in traces])
    detections = tuple(
        Detection(
            same[0].name,
            same[0].mode,
            np.concatenate([d.abstained for d in same])[back],
            np.concatenate([d.calls for d in same])[back],
            np.concatenate([d.scores for d in same])[back],
            np.concatenate([d.entropies for d in same])[back],
        )
        for same in zip(*(trace.detections for trace in traces), strict=True)
    )
    return Decisions(
        np.concatenate([part.probabilities for part in parts])[back],
        np.concatenate([part.abstained for part in parts])[back],
        np.concatenate([part.labels for part in parts])[back],
        Trace(seconds, sum(t.model_calls for t in traces), distance[back] if distance.size else distance, detections, intervals),
    )

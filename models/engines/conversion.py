"""A Keras classifier converted to ONNX, compared with itself on images, and both engines timed: which one serves, and why."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from models.bundle import Engine
from models.classifier import Classifier, Images
from models.engines.onnx import OnnxClassifier, reason_of
from models.errors import InvalidInput
from models.image_rows import ImageRows, outputs_for

if TYPE_CHECKING:
    from models.engines.keras import KerasClassifier

LARGEST_DIFFERENCE = 1e-3
"""Of any probability of any image, between an engine and its source: the fifth decimal is rounding, the third is another model."""

_TIE = 1e-5
TIMED_ROWS = (1, 8, 64)
_TURNS = 300
_DECIMALS = 4
_SECONDS_AT_MOST = 4.0


@dataclass(frozen=True)
class Agreement:
    """A converted classifier beside its source.

    Attributes:
        images: how many were compared.
        largest_difference: of any probability.
        same_labels: the share of images with the same label.
    """

    images: int
    largest_difference: float
    same_labels: float

    @property
    def reason_against(self) -> str | None:
        """Why the conversion is not the same model, or None: it is."""
        if not self.largest_difference <= LARGEST_DIFFERENCE:  # NaN too
            return f"probabilities differ by up to {self.largest_difference:.2g}, at most {LARGEST_DIFFERENCE:g} is rounding"
        if self.same_labels < 1:
            return f"{round(self.images * (1 - self.same_labels))} of {self.images:,} labels differ"
        return None


@dataclass(frozen=True)
class Timing:
    """A forward pass of `rows` images in each engine, in milliseconds, measured in turns: the fastest of each, since what else runs on a
    machine makes a pass slower and never faster."""

    rows: int
    threads: int
    onnx_ms: float
    source_ms: float


@dataclass(frozen=True)
class Conversion:
    """What came of converting a classifier.

    Attributes:
        engine: the one that serves.
        reason: why, a clause for people.
        model: the graph of model.onnx, None where there is none to serve.
        agreement, timings: what was measured; none where the conversion failed before.
    """

    engine: Engine
    reason: str
    model: bytes | None = None
    agreement: Agreement | None = None
    timings: tuple[Timing, ...] = ()

    def card(self) -> dict[str, Any]:
        """For the bundle's card."""
        return {key: value for key, value in asdict(self).items() if key != "model"}


def convert(classifier: KerasClassifier, images: ImageRows, *, threads: int) -> Conversion:
    """Convert a classifier, and compare it with itself on every image; a failure is a reason to keep TensorFlow, not an error."""
    from models.engines.keras_export import exported

    try:
        model = exported(classifier).SerializeToString()
        converted = OnnxClassifier(model, labels=classifier.labels, input_shape=classifier.input_shape, threads=threads)
        agreement = compare(converted, classifier, images)
    except InvalidInput as failure:
        return Conversion("keras", str(failure))
    except Exception as failure:  # noqa: BLE001  # what ONNX Runtime raises while it computes is of a dozen kinds, none of them public
        return Conversion("keras", f"ONNX Runtime does not compute the converted model: {reason_of(failure)}")
    if agreement.reason_against is not None:
        return Conversion("keras", agreement.reason_against, agreement=agreement)
    timings = tuple(timed(converted, classifier, images[:rows], threads=threads) for rows in TIMED_ROWS)
    return _faster(model, agreement, timings)


def _faster(model: bytes, agreement: Agreement, timings: tuple[Timing, ...]) -> Conversion:
    """The engine that takes less time over all numbers of rows, each as important as the others."""
    ratios = [timing.source_ms / timing.onnx_ms for timing in timings]
    said = ", ".join(
        f"{timing.rows} image{'s' * (timing.rows > 1)} in {100 / ratio:.0f} %"
        for ratio, timing in zip(ratios, timings, strict=True)
    )
    engine: Engine = "onnx" if fmean(np.log(ratios)) >= 0 else "keras"
    return Conversion(engine, f"{said} of TensorFlow's time", model, agreement, timings)


def compare(converted: Classifier, source: Classifier, images: ImageRows) -> Agreement:
    """Both classifiers on the same images, one at least; a label that the source holds for as likely as its own is the same label."""
    found, wanted = outputs_for(converted, images), outputs_for(source, images)
    theirs = np.take_along_axis(wanted, found.argmax(axis=1)[:, None], axis=1)[:, 0]
    same = theirs >= wanted.max(axis=1) - _TIE
    return Agreement(len(images), float(np.abs(found - wanted).max()), float(same.mean()))


def timed(converted: Classifier, source: Classifier, images: Images, *, threads: int) -> Timing:
    """Both classifiers in turns on the same images, the first turn of each not counted."""
    seconds: dict[str, list[float]] = {"onnx": [], "source": []}
    end = time.perf_counter() + _SECONDS_AT_MOST
    for turn in range(_TURNS + 1):
        for name, classifier in (("onnx", converted), ("source", source)):
            took = _seconds(classifier.predict, images)
            if turn:
                seconds[name].append(took)
        if turn and time.perf_counter() > end:
            break
    fastest = (round(1e3 * min(seconds[name]), _DECIMALS) for name in ("onnx", "source"))
    return Timing(len(images), threads, *fastest)


def timing_s(call_s: float) -> float:
    """How long timing takes where an image takes so many seconds in either engine, at most."""
    return sum(min(_SECONDS_AT_MOST, 2 * (_TURNS + 1) * rows * call_s) for rows in TIMED_ROWS)


def _seconds(predict: Callable[[Images], Any], images: Images) -> float:
    started = time.perf_counter()
    predict(images)
    return time.perf_counter() - started

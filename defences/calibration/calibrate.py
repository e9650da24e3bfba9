"""Calibrate the defences of a classifier: from clean images to a bundle that can be served, and the numbers measured on the way."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defences.assembly import assemble
from defences.calibration.fits import fits_of
from defences.calibration.plan import DEFAULT_PLAN, CalibrationPlan
from defences.calibration.purifier import PurifierChoice, choose_purifier
from defences.calibration.split import Purify, unpurified
from defences.calibration.thresholds import CalibratedDetector, calibrate_detectors, calibration_arrays
from defences.calibration.work import (
    Announce,
    Work,
    converting_told,
    images_per_request,
    unannounced,
)
from defences.defended_classifier import DefendedClassifier
from defences.errors import CannotBeFitted, InvalidInput
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.accuracy import Judgement, drawn
from models.bundle import CARD, FORMAT, MODEL, NAME, ONNX_MODEL, SETTINGS, SPEED, Bundle, read_bundle, write_bundle
from models.classifier import Classifier
from models.datasets import in_memory
from models.engines.conversion import Conversion
from models.engines.kept import KeptClassifier, converted, declared, described, fingerprint
from models.engines.keras import KerasClassifier
from models.engines.onnx import OnnxClassifier
from models.engines.remote.classifier import RemoteClassifier
from models.engines.twins.capabilities import Capabilities
from models.engines.twins.twin_file import with_gradients
from models.image_rows import Samples, answers_for, blocks
from models.machine import processors
from models.progress import PartOf, Progress, silent
from models.training.reference_classifier import save
from models.version import __version__

# An example request of more numbers than this is no longer something to paste.
_EXAMPLE_NUMBERS_AT_MOST = 20_000
_KEPT_DECIMALS = 4


@dataclass(frozen=True)
class Measured:
    """A calibrated classifier on some labelled images.

    Attributes:
        accuracy_on_answered: none where every image was refused.
        abstained: the share of images refused.
        mean_model_calls: per image.
    """

    images: int
    undefended_accuracy: float
    accuracy_on_answered: float | None
    accuracy_abstention_counted_wrong: float
    abstained: float
    mean_model_calls: float


@dataclass(frozen=True)
class Calibrated:
    """A calibrated bundle.

    Attributes:
        purifier, detectors: what was chosen, and why.
        measured: by what it was measured on: "calibration_images", and "test_split" where the plan has one.
        accuracy: whether the bare classifier is as right as the calibration images allow.
        conversion: which engine serves the classifier, and why.
        capabilities: what can be asked of the classifier that is served, with the gradients of the model it was converted from.
    """

    bundle: Bundle
    purifier: PurifierChoice
    detectors: tuple[CalibratedDetector, ...]
    measured: dict[str, Measured]
    accuracy: Judgement
    conversion: Conversion
    capabilities: Capabilities


def calibrate(
    classifier: KeptClassifier,
    clean: Samples,
    *,
    out: Path,
    plan: CalibrationPlan = DEFAULT_PLAN,
    name: str | None = None,
    progress: Progress = silent,
    announce: Announce = unannounced,
) -> Calibrated:
    """Fit the defences to a classifier and write a bundle.

    Args:
        clean: labelled images that the classifier was not trained on, 300 at least; `PackedDataset` keeps them as the bytes they are.
        out: directory of the bundle; one that is there already is replaced.
        name: what the model is called when it is served; the directory's name when none.
        announce: is told what is going to be done, and how long it will take, before it begins.

    Memory: the clean images as they are given, and a bounded number of them as float32.
    Raises: InvalidInput: too few images for the rate, a name that is none, a directory that holds something else, a classifier that is no
    better than guessing on these images.
    """
    served_as = served_name(out, name)
    check_target(out)
    threads, began = plan.threads or processors(), time.monotonic() - plan.spent_s
    accuracy = plan.check(classifier, clean)
    if not isinstance(classifier, RemoteClassifier):
        announce(converting_told(classifier, len(clean)))
    conversion = converted(classifier, clean.images, threads=threads)
    served = _served(classifier, conversion, clean, plan, threads)
    work = plan.work(served, len(clean), threads, spent_s=time.monotonic() - began)
    announce(work.told())
    effort = work.chosen.effort
    provenance = plan.provenance(clean)
    clean = clean.take(drawn(len(clean), at_most=effort.clean_images))
    parts = plan.parts(clean, effort)
    purifier = choose_purifier(served, clean, threads=threads, images_at_most=effort.purifier_images, progress=progress)
    left_out = _LeftOut(announce)
    terms = replace(plan.terms(progress, effort, purifier.purified), leave_out=left_out)
    detectors = calibrate_detectors(served, parts, fits_of(plan.detectors), terms)
    arrays = {**calibration_arrays(detectors), **fingerprint(classifier, clean.images)}
    fitted = _Fitted(classifier, served, served_as, purifier, detectors, arrays, provenance, accuracy, conversion, work, left_out)
    measure_on = {"calibration_images": parts.holding} | ({} if plan.test is None else {"test_split": plan.test})
    some = {where: data.take(drawn(len(data), at_most=effort.measured_images)) for where, data in measure_on.items()}
    bundle, measured = _write(fitted, out, some, threads, progress)
    return Calibrated(bundle, purifier, detectors, measured, accuracy, conversion, Capabilities.of(served))


@dataclass(frozen=True)
class _LeftOut:
    """The detectors that cannot be fitted to the classifier, which are announced, and why."""

    announce: Announce
    reasons: dict[str, str] = field(default_factory=dict)

    def __call__(self, name: str, reason: CannotBeFitted) -> None:
        self.reasons[name] = str(reason)
        self.announce(f"{name} is left out: {reason}")


def _served(
    classifier: KeptClassifier, conversion: Conversion, clean: Samples, plan: CalibrationPlan, threads: int
) -> Classifier:
    """What will serve, with whatever gradients there are: defences are fitted to it, and detectors name its layers as it does."""
    some = clean.images[next(blocks(clean.images))]
    if not isinstance(classifier, KerasClassifier):
        return with_gradients(classifier, some, given=plan.gradients, threads=threads)
    served: Classifier = classifier
    if conversion.engine == "onnx" and conversion.model is not None:
        served = OnnxClassifier(conversion.model, labels=classifier.labels, input_shape=classifier.input_shape, threads=threads)
    return with_gradients(served, some, given=plan.gradients, own=lambda: classifier, threads=threads)


def fit_detectors(
    classifier: Classifier,
    clean: Samples,
    *,
    plan: CalibrationPlan = DEFAULT_PLAN,
    purified: Purify = unpurified,
    progress: Progress = silent,
) -> tuple[CalibratedDetector, ...]:
    """Fit the plan's detectors only, to compose them in Python.

    Args:
        purified: what the purifier in front of the classifier will make of images, for detectors that look at its layers.

    Raises: InvalidInput: too few images for the rate, a classifier that a detector cannot be had for.
    """
    return calibrate_detectors(
        classifier, plan.parts(clean, plan.effort), fits_of(plan.detectors), plan.terms(progress, plan.effort, purified)
    )


def served_name(out: Path, name: str | None) -> str:
    """What the model is called when it is served. Raises: InvalidInput."""
    served_as = name or out.resolve().name
    if not re.fullmatch(NAME, served_as):
        raise InvalidInput(f"expected a name of letters, digits, '.', '_' and '-', got {served_as!r}; give another one (--name)")
    return served_as


def check_target(out: Path) -> None:
    """Raises: InvalidInput: what lies at `out` is no bundle to replace."""
    a_bundle = all((out / name).is_file() for name in (CARD, SETTINGS))
    if out.exists() and not a_bundle and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"expected a new directory or a bundle to replace (--out), got {out}, which holds something else")


@dataclass(frozen=True)
class _Fitted:
    """Everything a bundle is written from."""

    classifier: KeptClassifier
    served: Classifier
    name: str
    purifier: PurifierChoice
    detectors: tuple[CalibratedDetector, ...]
    arrays: dict[str, NDArray[Any]]
    provenance: dict[str, Any]
    accuracy: Judgement
    conversion: Conversion
    work: Work
    left_out: _LeftOut

    @property
    def images_per_request(self) -> int:
        """How many images a request may hold when every image takes all the model calls it can."""
        calls = 1 + sum(detector.detector.calls_at_most for detector in self.detectors)
        return images_per_request(calls, self.work.speed.call_s, self.classifier.input_shape)

    def settings(self) -> dict[str, Any]:
        """hauberk.toml."""
        purifier = self.purifier.purifier
        return {
            "format": FORMAT,
            "name": self.name,
            "images_per_request": self.images_per_request,
            "classifier": {
                "engine": self.conversion.engine,
                **declared(self.classifier),
                "input_shape": list(self.classifier.input_shape),
                "labels": list(self.classifier.labels),
            },
            "defences": [
                {"name": purifier.name, "mode": self.purifier.mode, **purifier.settings()},
                *(detector.settings() for detector in self.detectors),
                {"name": ReverseSigmoid.name, "mode": "enforce", **ReverseSigmoid().settings()},
            ],
        }

    def card(self, measured: dict[str, Measured]) -> dict[str, Any]:
        """card.json, all but the digests."""
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "hauberk": __version__,
            "input_shape": list(self.classifier.input_shape),
            "bounds": [0.0, 1.0],
            "labels": list(self.classifier.labels),
            **described(self.classifier),
            "engine": self.conversion.card(),
            "capabilities": Capabilities.of(self.served).settings(),
            "calibration": self.provenance,
            SPEED: self.work.speed_card(),
            "effort": self.work.card(),
            "accuracy": asdict(self.accuracy),
            "purifier": {
                "mode": self.purifier.mode,
                "reason": self.purifier.reason,
                "undefended_accuracy": self.purifier.undefended_accuracy,
                "trials": [asdict(trial) for trial in self.purifier.trials],
            },
            **{detector.name: detector.card() for detector in self.detectors},
            "left_out": self.left_out.reasons,
            "measured": {where: asdict(numbers) for where, numbers in measured.items()},
        }


def _write(
    fitted: _Fitted, out: Path, measure_on: dict[str, Samples], threads: int, progress: Progress
) -> tuple[Bundle, dict[str, Measured]]:
    """Write beside the target, read back, measure, and only then move into place: a half-written bundle is never seen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        draft = Path(scratch) / "bundle"
        draft.mkdir()
        _save_model(fitted.classifier, fitted.conversion, draft)
        for detector in fitted.detectors:
            for file, content in detector.fitted.files.items():
                (draft / file).write_bytes(content)
        settings, arrays = fitted.settings(), fitted.arrays
        unmeasured = write_bundle(draft, settings=settings, calibration=arrays, card=fitted.card({}))
        defended = assemble(unmeasured, fitted.served, secret=b"", threads=threads)
        parts = {where: PartOf(progress, "measuring", number, len(measure_on)) for number, where in enumerate(measure_on)}
        measured = {where: measure(defended, fitted.served, data, parts[where]) for where, data in measure_on.items()}
        example = _example(defended, list(measure_on.values())[-1])
        write_bundle(draft, settings=settings, calibration=arrays, card=fitted.card(measured), example=example)
        if out.exists():
            out.replace(Path(scratch) / "replaced")  # removed with the scratch: no moment is long in which there is no bundle
        draft.replace(out)
    return read_bundle(out), measured


def _save_model(classifier: KeptClassifier, conversion: Conversion, directory: Path) -> None:
    """The files of the model; none of one that is on a server."""
    if isinstance(classifier, KerasClassifier):
        save(classifier.model, directory / MODEL)
    if conversion.model is not None:
        (directory / ONNX_MODEL).write_bytes(conversion.model)


def measure(
    defended: DefendedClassifier, undefended: Classifier, data: Samples, progress: Callable[[int, int], None] = lambda _, __: None
) -> Measured:
    """A defended classifier and the one inside it on labelled images, of which a block at a time is read."""
    labels, calls = np.empty(len(data), np.int64), 0
    for block in blocks(data.images):
        progress(block.start, len(data))
        decisions = defended.classify(data.images[block])
        labels[block], calls = decisions.labels, calls + decisions.trace.model_calls
    progress(len(data), len(data))
    hits, answered = labels == data.labels, labels >= 0
    return Measured(
        images=len(data),
        undefended_accuracy=float((answers_for(undefended, data.images) == data.labels).mean()),
        accuracy_on_answered=float(hits[answered].mean()) if answered.any() else None,
        accuracy_abstention_counted_wrong=float(hits.mean()),
        abstained=float((~answered).mean()),  # not 1 - answered: a share at the rate would lie above it
        mean_model_calls=calls / len(data),
    )


def _example(defended: DefendedClassifier, data: Samples) -> dict[str, Any] | None:
    """A request body with the first image that is answered, and answered rightly."""
    if np.prod(defended.input_shape) > _EXAMPLE_NUMBERS_AT_MOST:
        return None
    few = in_memory(data.take(slice(0, 64)))
    right = np.flatnonzero(defended.classify(few.images).labels == few.labels)
    image = few.images[right[0] if right.size else 0].astype(np.float64).round(_KEPT_DECIMALS)
    return {"images": [(image[..., 0] if image.shape[2] == 1 else image).tolist()]}

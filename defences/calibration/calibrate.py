"""Calibrate the defences of a classifier: from clean images to a bundle that can be served, and the numbers measured on the way."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defences.assembly import assemble
from defences.calibration.fits import check_fittable, fits_of, images_to_choose_on
from defences.calibration.purifier import PurifierChoice, choose_purifier
from defences.calibration.split import EVASION_EPS, CalibrationSplit, Terms, split
from defences.calibration.thresholds import CalibratedDetector, calibrate_detectors, calibration_arrays
from defences.defended_classifier import DefendedClassifier
from defences.errors import InvalidInput
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.accuracy import Judgement, judge
from models.bundle import CARD, FORMAT, MODEL, NAME, ONNX_MODEL, SETTINGS, Bundle, read_bundle, write_bundle
from models.classifier import Classifier
from models.datasets import IN_MEMORY, Dataset, Origin
from models.engines.conversion import Conversion
from models.engines.kept import KeptClassifier, converted, declared, described, fingerprint
from models.engines.keras import KerasClassifier
from models.engines.onnx import OnnxClassifier
from models.engines.twins.capabilities import Capabilities
from models.engines.twins.twin_file import TwinGiven, with_gradients
from models.machine import processors
from models.progress import Progress, silent
from models.training.reference_classifier import save
from models.version import __version__

# An example request of more numbers than this is no longer something to paste.
_EXAMPLE_NUMBERS_AT_MOST = 20_000
_KEPT_DECIMALS = 4


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """What is fitted, and what it promises.

    Args:
        detectors: names of those to fit, see `defences.calibration.fits.fittable`; all share one rate.
        false_abstention_rate: of clean images that all detectors together may refuse.
        confidence: keep that rate with this confidence, and not on average over calibrations only.
        evasion_eps: size (L-inf) of the attacks that detectors of evasion are trained on.
        seed: of the split, the overlays and their order.
        threads: of the purifier; all processors when none.
        gradients: a twin of a classifier that has no gradients of its own, for the detectors that learn from attacks; or its file.
        test: other labelled images, to measure on.
        origin: where the clean data came from, for the bundle's card, and `data_sha256` of that file; that of the arrays when none.

    Raises: InvalidInput: a detector that cannot be fitted, or one twice, a size that is none.
    """

    detectors: tuple[str, ...] = ("strip",)
    false_abstention_rate: float = 0.01
    confidence: float | None = None
    evasion_eps: float = EVASION_EPS
    seed: int = 0
    threads: int | None = None
    gradients: TwinGiven | None = None
    test: Dataset | None = None
    origin: Origin = IN_MEMORY
    data_sha256: str | None = None

    def __post_init__(self) -> None:
        check_fittable(self.detectors)
        self.terms(silent)

    def terms(self, progress: Progress) -> Terms:
        """The terms that every detector is fitted on."""
        return Terms(
            rate=self.false_abstention_rate,
            confidence=self.confidence,
            seed=self.seed,
            evasion_eps=self.evasion_eps,
            progress=progress,
        )

    def parts(self, clean: Dataset) -> CalibrationSplit:
        """The clean data in two parts. Raises: InvalidInput: too few images for the promise."""
        most = images_to_choose_on(fits_of(self.detectors))
        rate, confidence = self.false_abstention_rate, self.confidence
        return split(clean, rate=rate, confidence=confidence, seed=self.seed, choosing_at_most=most)

    def provenance(self, clean: Dataset) -> dict[str, Any]:
        """What the bundle's card says of the calibration."""
        digest = self.data_sha256 or hashlib.sha256(clean.images.tobytes() + clean.labels.tobytes()).hexdigest()
        return {
            "data": {
                "file": self.origin.file,
                "sha256": digest,
                "split": self.origin.split,
                "rows": self.origin.rows or f"0:{len(clean)}",
                "images": len(clean),
            },
            "false_abstention_rate": self.false_abstention_rate,
            "confidence": self.confidence,
            "seed": self.seed,
        }


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


DEFAULT_PLAN = CalibrationPlan()


def calibrate(
    classifier: KeptClassifier,
    clean: Dataset,
    *,
    out: Path,
    plan: CalibrationPlan = DEFAULT_PLAN,
    name: str | None = None,
    progress: Progress = silent,
) -> Calibrated:
    """Fit the defences to a classifier and write a bundle.

    Args:
        clean: labelled images that the classifier was not trained on, 300 at least.
        out: directory of the bundle; one that is there already is replaced.
        name: what the model is called when it is served; the directory's name when none.

    Raises: InvalidInput: too few images for the rate, a name that is none, a directory that holds something else, a classifier that is no
    better than guessing on these images.
    """
    served_as = served_name(out, name)
    check_target(out)
    parts, threads = plan.parts(clean), plan.threads or processors()
    accuracy = judge(classifier, clean).better_than_guessing()
    conversion = converted(classifier, clean.images, threads=threads)
    served = _served(classifier, conversion, clean, plan, threads)
    purifier = choose_purifier(served, clean, threads=threads, progress=progress)
    detectors = fit_detectors(served, clean, plan=plan, progress=progress)
    arrays = {**calibration_arrays(detectors), **fingerprint(classifier, clean.images)}
    fitted = _Fitted(classifier, served, served_as, purifier, detectors, arrays, plan.provenance(clean), accuracy, conversion)
    measure_on = {"calibration_images": parts.holding} | ({} if plan.test is None else {"test_split": plan.test})
    bundle, measured = _write(fitted, out, measure_on, threads)
    return Calibrated(bundle, purifier, detectors, measured, accuracy, conversion, Capabilities.of(served))


def _served(
    classifier: KeptClassifier, conversion: Conversion, clean: Dataset, plan: CalibrationPlan, threads: int
) -> Classifier:
    """What will serve, with whatever gradients there are: defences are fitted to it, and detectors name its layers as it does."""
    if not isinstance(classifier, KerasClassifier):
        return with_gradients(classifier, clean.images, given=plan.gradients, threads=threads)
    served: Classifier = classifier
    if conversion.engine == "onnx" and conversion.model is not None:
        served = OnnxClassifier(conversion.model, labels=classifier.labels, input_shape=classifier.input_shape, threads=threads)
    return with_gradients(served, clean.images, given=plan.gradients, own=lambda: classifier, threads=threads)


def fit_detectors(
    classifier: Classifier, clean: Dataset, *, plan: CalibrationPlan = DEFAULT_PLAN, progress: Progress = silent
) -> tuple[CalibratedDetector, ...]:
    """Fit the plan's detectors only, to compose them in Python. Raises: InvalidInput: too few images for the rate."""
    return calibrate_detectors(classifier, plan.parts(clean), fits_of(plan.detectors), plan.terms(progress))


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

    def settings(self) -> dict[str, Any]:
        """hauberk.toml."""
        purifier = self.purifier.purifier
        return {
            "format": FORMAT,
            "name": self.name,
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
            "accuracy": asdict(self.accuracy),
            "purifier": {
                "mode": self.purifier.mode,
                "reason": self.purifier.reason,
                "undefended_accuracy": self.purifier.undefended_accuracy,
                "trials": [asdict(trial) for trial in self.purifier.trials],
            },
            **{detector.name: detector.card() for detector in self.detectors},
            "measured": {where: asdict(numbers) for where, numbers in measured.items()},
        }


def _write(fitted: _Fitted, out: Path, measure_on: dict[str, Dataset], threads: int) -> tuple[Bundle, dict[str, Measured]]:
    """Write beside the target, read back, measure, and only then move into place: a half-written bundle is never seen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        draft = Path(scratch) / "bundle"
        draft.mkdir()
        _save_model(fitted.classifier, fitted.conversion, draft)
        settings, arrays = fitted.settings(), fitted.arrays
        unmeasured = write_bundle(draft, settings=settings, calibration=arrays, card=fitted.card({}))
        defended = assemble(unmeasured, fitted.served, secret=b"", threads=threads)
        measured = {where: measure(defended, fitted.served, data) for where, data in measure_on.items()}
        example = _example(defended, list(measure_on.values())[-1])
        write_bundle(draft, settings=settings, calibration=arrays, card=fitted.card(measured), example=example)
        if out.exists():
            shutil.rmtree(out)
        draft.replace(out)
    return read_bundle(out), measured


def _save_model(classifier: KeptClassifier, conversion: Conversion, directory: Path) -> None:
    """The files of the model; none of one that is on a server."""
    if isinstance(classifier, KerasClassifier):
        save(classifier.model, directory / MODEL)
    if conversion.model is not None:
        (directory / ONNX_MODEL).write_bytes(conversion.model)


def measure(defended: DefendedClassifier, undefended: Classifier, data: Dataset) -> Measured:
    """A defended classifier and the one inside it on labelled images."""
    decisions = defended.classify(data.images)
    hits = decisions.labels == data.labels
    answered = ~decisions.abstained
    return Measured(
        images=len(data),
        undefended_accuracy=float((undefended.predict(data.images).argmax(axis=1) == data.labels).mean()),
        accuracy_on_answered=float(hits[answered].mean()) if answered.any() else None,
        accuracy_abstention_counted_wrong=float(hits.mean()),
        abstained=float(decisions.abstained.mean()),
        mean_model_calls=decisions.trace.model_calls / len(data),
    )


def _example(defended: DefendedClassifier, data: Dataset) -> dict[str, Any] | None:
    """A request body with the first image that is answered, and answered rightly."""
    if np.prod(defended.input_shape) > _EXAMPLE_NUMBERS_AT_MOST:
        return None
    few = data.take(slice(0, 64))
    right = np.flatnonzero(defended.classify(few.images).labels == few.labels)
    image = few.images[right[0] if right.size else 0].astype(np.float64).round(_KEPT_DECIMALS)
    return {"images": [(image[..., 0] if image.shape[2] == 1 else image).tolist()]}

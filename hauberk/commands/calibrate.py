"""hauberk calibrate: a trained Keras classifier and clean data in, a bundle that `hauberk serve` protects out."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from defences.assembly import assemble
from defences.calibration.fits import chosen_fits, fittable, images_to_choose_on
from defences.calibration.purifier import PurifierChoice, choose_purifier
from defences.calibration.split import EVASION_EPS, CalibrationSplit, Terms
from defences.calibration.split import split as split_data
from defences.calibration.thresholds import CalibratedDetector, calibrate_detectors, calibration_arrays
from defences.defended_classifier import DefendedClassifier
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from hauberk.commands.classifier_options import OutputsOption, open_classifier
from hauberk.commands.options import (
    InputRangeOption,
    LabelsOption,
    RowsOption,
    SeedOption,
    SplitOption,
    ThreadsOption,
    check_writable,
    progress_bar,
    read_data,
)
from models.bundle import CARD, FORMAT, MODEL, NAME, SETTINGS, Bundle, read_bundle, write_bundle
from models.datasets import Dataset, Split
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.machine import processors
from models.training.reference_classifier import save
from models.version import __version__

# An example request of more numbers than this is no longer something to paste.
_EXAMPLE_NUMBERS_AT_MOST = 20_000
_KEPT_DECIMALS = 4


def calibrate(
    classifier: Annotated[Path, typer.Option(help="A trained Keras classifier, NAME.keras.")],
    data: Annotated[Path, typer.Option(help="Clean data it was not trained on, .npz; at least 300 images.")],
    out: Annotated[Path, typer.Option(help="Directory of the bundle to write.")],
    name: Annotated[
        str | None, typer.Option(help="What the model is called on the wire; the directory's name when not given.")
    ] = None,
    split: SplitOption = "train",
    rows: RowsOption = None,
    labels: LabelsOption = None,
    input_range: InputRangeOption = None,
    outputs: OutputsOption = None,
    detectors: Annotated[str, typer.Option(help=f"Which detectors, with commas between: {', '.join(fittable())}.")] = "strip",
    false_abstention_rate: Annotated[float, typer.Option(help="Share of clean images all detectors together may refuse.")] = 0.01,
    evasion_eps: Annotated[
        float, typer.Option(help="Size (L-inf) of the attacks that detectors of evasion are trained on.")
    ] = EVASION_EPS,
    confidence: Annotated[float | None, typer.Option(help="Keep that rate with this confidence, not only on average.")] = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Fit the defences to a classifier on clean data and write a bundle.

    Example: hauberk calibrate --classifier mnist.keras --data models/data/mnist.npz --rows 55000:60000 --out bundles/mnist
    """
    fits = chosen_fits(detectors)
    terms = Terms(rate=false_abstention_rate, confidence=confidence, seed=seed, evasion_eps=evasion_eps)
    used = threads or processors()
    served_as = name or out.resolve().name
    if not re.fullmatch(NAME, served_as):
        raise InvalidInput(f"expected a name of letters, digits, '.', '_' and '-', got {served_as!r}; give one with --name")
    _check_target(out)
    clean = read_data(data, split, rows)
    parts = split_data(
        clean, rate=false_abstention_rate, confidence=confidence, seed=seed, choosing_at_most=images_to_choose_on(fits)
    )
    model = open_classifier(classifier, clean, labels=labels, input_range=input_range, outputs=outputs, threads=used)
    with progress_bar("steps") as report:
        purifier = choose_purifier(model, clean, threads=used, progress=report)
        calibrated = calibrate_detectors(model, parts, fits, replace(terms, progress=report))
    fitted = _Fitted(model, purifier, calibrated, parts)
    provenance = {
        "data": {
            "file": data.name,
            "sha256": _sha256(data),
            "split": split,
            "rows": rows or f"0:{len(clean)}",
            "images": len(clean),
        },
        "false_abstention_rate": false_abstention_rate,
        "confidence": confidence,
        "seed": seed,
    }
    test = _other_half(data, split)
    bundle, measured = _write(fitted, out, served_as, provenance, test, used)
    _summarise(bundle, fitted, measured)


@dataclass(frozen=True)
class _Fitted:
    """What calibration found."""

    model: KerasClassifier
    purifier: PurifierChoice
    detectors: tuple[CalibratedDetector, ...]
    parts: CalibrationSplit

    def settings(self, name: str) -> dict[str, Any]:
        """hauberk.toml."""
        low, high = self.model.input_range
        purifier = self.purifier.purifier
        return {
            "format": FORMAT,
            "name": name,
            "classifier": {
                "file": MODEL,
                "outputs": self.model.outputs,
                "input_range": [low, high],
                "input_shape": list(self.model.input_shape),
                "labels": list(self.model.labels),
            },
            "defences": [
                {
                    "name": purifier.name,
                    "mode": self.purifier.mode,
                    "weight": purifier.weight,
                    "keep_probability": purifier.keep_probability,
                    "norm": purifier.norm,
                    "iterations": purifier.iterations,
                },
                *(detector.settings() for detector in self.detectors),
                {"name": ReverseSigmoid.name, "mode": "enforce", "beta": ReverseSigmoid().beta, "gamma": ReverseSigmoid().gamma},
            ],
        }

    def card(self, provenance: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
        """card.json, all but the digests."""
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "hauberk": __version__,
            "input_shape": list(self.model.input_shape),
            "bounds": [0.0, 1.0],
            "labels": list(self.model.labels),
            "parameters": self.model.model.count_params(),
            "calibration": provenance,
            "purifier": {
                "mode": self.purifier.mode,
                "reason": self.purifier.reason,
                "undefended_accuracy": self.purifier.undefended_accuracy,
                "trials": [asdict(trial) for trial in self.purifier.trials],
            },
            **{detector.name: detector.card() for detector in self.detectors},
            "measured": measured,
        }


def _write(
    fitted: _Fitted, out: Path, name: str, provenance: dict[str, Any], test: Dataset | None, threads: int
) -> tuple[Bundle, dict[str, Any]]:
    """Write beside the target, read back, measure, and only then move into place: a half-written bundle is never seen."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        draft = Path(scratch) / "bundle"
        draft.mkdir()
        save(fitted.model.model, draft / MODEL)
        settings = fitted.settings(name)
        arrays = calibration_arrays(fitted.detectors)
        unmeasured = write_bundle(draft, settings=settings, calibration=arrays, card=fitted.card(provenance, {}))
        defended = assemble(unmeasured, fitted.model, secret=b"", threads=threads)
        measured = {"calibration_images": _measure(defended, fitted.model, fitted.parts.holding)}
        if test is not None:
            measured["test_split"] = _measure(defended, fitted.model, test)
        card = fitted.card(provenance, measured)
        write_bundle(
            draft, settings=settings, calibration=arrays, card=card, example=_example(defended, test or fitted.parts.holding)
        )
        if out.exists():
            shutil.rmtree(out)
        draft.replace(out)
    return read_bundle(out), measured


def _measure(defended: DefendedClassifier, classifier: KerasClassifier, data: Dataset) -> dict[str, Any]:
    decisions = defended.classify(data.images)
    hits = decisions.labels == data.labels
    answered = ~decisions.abstained
    return {
        "images": len(data),
        "undefended_accuracy": float((classifier.predict(data.images).argmax(axis=1) == data.labels).mean()),
        "accuracy_on_answered": float(hits[answered].mean()) if answered.any() else None,
        "accuracy_abstention_counted_wrong": float(hits.mean()),
        "abstained": float(decisions.abstained.mean()),
        "mean_model_calls": decisions.trace.model_calls / len(data),
    }


def _example(defended: DefendedClassifier, data: Dataset) -> dict[str, Any] | None:
    """A request body with the first image that is answered, and answered rightly."""
    if np.prod(defended.input_shape) > _EXAMPLE_NUMBERS_AT_MOST:
        return None
    few = data.take(slice(0, 64))
    right = np.flatnonzero(defended.classify(few.images).labels == few.labels)
    image = few.images[right[0] if right.size else 0].astype(np.float64).round(_KEPT_DECIMALS)
    return {"images": [(image[..., 0] if image.shape[2] == 1 else image).tolist()]}


def _check_target(out: Path) -> None:
    a_bundle = all((out / name).is_file() for name in (CARD, SETTINGS))
    if out.exists() and not a_bundle and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"expected --out to be a new directory or a bundle to replace, got {out}, which holds something else")
    check_writable(out.parent)


def _other_half(path: Path, split: Split) -> Dataset | None:
    """The test half of a file calibrated on its train half: for measuring only."""
    if split != "train":
        return None
    with np.load(path, allow_pickle=False) as archive:
        if "images" in archive.files or "x_test" not in archive.files:
            return None
    return read_data(path, "test", None)


def _summarise(bundle: Bundle, fitted: _Fitted, measured: dict[str, Any]) -> None:
    print(f"bundle {bundle.name} {bundle.version} written to {bundle.directory}")
    print(f"  total_variation  {fitted.purifier.mode}: weight {fitted.purifier.purifier.weight:g}; {fitted.purifier.reason}")
    for detector in fitted.detectors:
        print(f"  {detector.name:<15}  {detector.mode}: {detector.fitted.summary}; {detector.reason}")
    print("  reverse_sigmoid  enforce")
    for where, numbers in measured.items():
        answered = numbers["accuracy_on_answered"]
        print(
            f"  {where.replace('_', ' ')} ({numbers['images']:,}): accuracy {100 * numbers['undefended_accuracy']:.2f} % undefended, "
            + (f"{100 * answered:.2f} % on answered, " if answered is not None else "")
            + f"{100 * numbers['abstained']:.2f} % abstained, {numbers['mean_model_calls']:.1f} model calls per image"
        )
    print(f"serve it: hauberk serve --bundle {bundle.directory}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

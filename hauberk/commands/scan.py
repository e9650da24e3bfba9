"""hauberk scan: is a training set poisoned? Verdicts class by class, and which samples."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from numpy.typing import NDArray

from defences.poison.activation_clustering import ActivationClustering
from defences.poison.class_split import Reduction
from defences.poison.findings import Findings, PoisonDetector, Positions, TrainingSet
from defences.poison.spectral_signatures import SpectralSignatures
from evaluation.scanning.scan_report import SCAN_REPORT, ScanReport, build, merged_clean_mask
from evaluation.scanning.spread import Spread, backend
from evaluation.scanning.stored_activations import stored_activations
from hauberk.commands.classifier_options import open_classifier
from hauberk.commands.options import SEED_AT_MOST, check_writable, chosen_rows, chosen_split, progress_bar
from models.classifier import Activations
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.machine import processors
from models.progress import Progress
from models.stored_images import StoredImages, open_images, refused_when_full
from models.version import __version__

METHODS = ("activation_clustering", "spectral_signatures")

_FOUND = 3
_LOOKED_AT = 512
_READ_AT_ONCE = 256
_REPORT_NEEDS = ("matplotlib", "jinja2")


def scan(
    classifier: Annotated[Path, typer.Option(help="The Keras classifier trained on the data, NAME.keras.")],
    data: Annotated[Path, typer.Option(help="Its training data: .npz, or a directory with images.npy and labels.npy.")],
    out: Annotated[Path, typer.Option(help="Directory for report.json, report.html and is_clean.npy; a second call goes on.")],
    layer: Annotated[
        str | None, typer.Option(help="Name or position of the layer to read; the last hidden one when not given.")
    ] = None,
    methods: Annotated[str, typer.Option(help=f"Which detectors, with commas between: {', '.join(METHODS)}.")] = ",".join(
        METHODS
    ),
    reduction: Annotated[str, typer.Option(help="How activation clustering reduces activations: pca or ica.")] = "pca",
    split: Annotated[str, typer.Option(help="Which half of a file with x_train and x_test: train or test.")] = "train",
    rows: Annotated[str | None, typer.Option(help="Only the rows START:STOP.")] = None,
    labels: Annotated[str | None, typer.Option(help="Class names: a,b,c or a text file with one a line.")] = None,
    input_range: Annotated[str | None, typer.Option(help="What 0 and 1 are at the model's input: 0,1 or 0,255 or -1,1.")] = None,
    outputs: Annotated[str | None, typer.Option(help="logits or probabilities; seen from the outputs when not given.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="What is truly clean, .npy of one bool a sample: adds how much was found.")
    ] = None,
    backend_name: Annotated[
        str, typer.Option("--backend", help="Where the classes are worked on: loky, threading, dask or ray.")
    ] = "threading",
    workers: Annotated[int, typer.Option(min=1, help="How many classes at once.")] = 1,
    address: Annotated[
        str | None, typer.Option(help="Of a Dask or Ray scheduler; a cluster of this machine when not given.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=SEED_AT_MOST, help="Of everything drawn; two runs agree.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the model; all processors when not given.")] = None,
) -> None:
    """Look for poison in a training set; exit with 3 where there is some.

    Example: hauberk scan --classifier mnist.keras --data models/data/mnist.npz --out out/scan
    """
    started = time.monotonic()
    _check_report()
    detectors = _detectors(methods, reduction, seed)
    check_writable(out)
    stored = _open(data, split, rows, out)
    model = open_classifier(
        classifier,
        stored.first(_LOOKED_AT),
        labels=labels,
        input_range=input_range,
        outputs=outputs,
        threads=threads or processors(),
    )
    _check_labels(stored, len(model.labels))
    known = None if truth is None else _truth(truth, len(stored))
    read = _layer(model, layer)
    with progress_bar() as report, backend(backend_name, workers=workers, address=address):
        place = _place(out, classifier, data, stored, read, model)
        activations = stored_activations(model, stored, read, place, report)
        training = _training_set(model, stored, activations)
        findings = [_found(detector, training, place, workers, report) for detector in detectors]
    judged = findings if known is None else [found.judged(known, stored.labels) for found in findings]
    told = {
        "hauberk": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "classifier": {"file": classifier.name, "layer": read, "earlier_layer": model.earlier_layer()},
        "data": {
            "file": data.name,
            "split": split,
            "rows": rows or f"0:{len(stored)}",
            "samples": len(stored),
            "classes": len(model.labels),
        },
        "seed": seed,
    }
    if _concluded(judged, stored, known, told, out).verdict == "poison":
        raise typer.Exit(_FOUND)


def _check_report() -> None:
    missing = [name for name in _REPORT_NEEDS if find_spec(name) is None]
    if missing:
        raise InvalidInput(f"report.html needs {' and '.join(missing)}; install hauberk[report]")


def _concluded(
    findings: list[Findings],
    stored: StoredImages,
    truth: NDArray[np.bool_] | None,
    told: dict[str, Any],
    out: Path,
) -> ScanReport:
    """The verdict, written and printed."""
    is_clean = merged_clean_mask(findings, stored.labels)
    report = build(findings, is_clean, truth=truth, **told)
    refused_when_full(out, lambda: _write(report, findings, stored, is_clean, truth, out))
    _summarise(report, out)
    return report


def _detectors(methods: str, reduction: str, seed: int) -> list[PoisonDetector]:
    wanted = [name.strip() for name in methods.split(",") if name.strip()]
    if not wanted or not set(wanted) <= set(METHODS):
        raise InvalidInput(f"expected --methods of {', '.join(METHODS)}, got {methods!r}")
    if reduction not in ("pca", "ica"):
        raise InvalidInput(f"expected --reduction pca or ica, got {reduction!r}")
    known: dict[str, PoisonDetector] = {
        "activation_clustering": ActivationClustering(reduction=cast(Reduction, reduction), seed=seed),
        "spectral_signatures": SpectralSignatures(seed=seed),
    }
    return [known[name] for name in METHODS if name in wanted]


def _open(data: Path, split: str, rows: str | None, out: Path) -> StoredImages:
    stored = open_images(data, split=chosen_split(split), unpack_to=out / "work")
    return stored if rows is None else stored.take(chosen_rows(rows, len(stored)))


def _check_labels(stored: StoredImages, classes: int) -> None:
    largest = int(stored.labels.max())
    if largest >= classes:
        raise InvalidInput(f"expected labels below {classes}, the classes of the model, got {largest}")
    if len(np.unique(stored.labels)) < 2:
        raise InvalidInput(f"expected samples of at least 2 classes to compare, got only class {largest}")


def _layer(model: KerasClassifier, layer: str | None) -> str:
    """The name of the layer to read. Raises: InvalidInput: no such layer, or no last hidden one to be found."""
    if layer is None:
        return model.hidden_layer()
    position = layer.removeprefix("-")
    asked: str | int = int(layer) if position.isdigit() else layer
    model.activations(np.zeros((1, *model.input_shape), np.float32), asked)
    return model.layers()[asked] if isinstance(asked, int) else asked


def _truth(path: Path, samples: int) -> NDArray[np.bool_]:
    try:
        truth = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as failure:
        raise InvalidInput(f"expected --truth to be a .npy of plain booleans, but {path} cannot be read as one") from failure
    if not isinstance(truth, np.ndarray) or truth.shape != (samples,) or truth.dtype.kind not in "biu":
        raise InvalidInput(f"expected one boolean for each of {samples} samples in {path.name}")
    return truth.astype(bool)


def _place(out: Path, classifier: Path, data: Path, stored: StoredImages, layer: str, model: KerasClassifier) -> Path:
    """Where the finished work of this plan lies; another model, data file, row range or layer has a place of its own."""
    of_data = [data] if data.is_file() else [data / "images.npy"]
    plan = {
        "model": hashlib.sha256(classifier.read_bytes()).hexdigest(),
        "data": [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in of_data],
        "labels": hashlib.sha256(stored.labels.tobytes()).hexdigest(),
        "first": hashlib.sha256(stored.images(slice(0, 8)).tobytes()).hexdigest(),
        "layer": layer,
        "read_as": [model.input_range, model.outputs],
    }
    place = out / "work" / hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]
    refused_when_full(out, lambda: place.mkdir(parents=True, exist_ok=True))
    return place


@dataclass(frozen=True)
class _Witness:
    """Activations of the earlier layer, or the pixels where there is none, a few images at a time."""

    model: KerasClassifier
    stored: StoredImages

    def __call__(self, rows: Positions) -> Activations:
        layer = self.model.earlier_layer()
        parts = []
        for start in range(0, len(rows), _READ_AT_ONCE):
            images = self.stored.images(rows[start : start + _READ_AT_ONCE])
            parts.append(images.reshape(len(images), -1) if layer is None else self.model.activations(images, layer))
        return np.concatenate(parts)


def _training_set(model: KerasClassifier, stored: StoredImages, activations: Activations) -> TrainingSet:
    return TrainingSet(
        activations, stored.labels, model.labels, images=stored.images, witness=_Witness(model, stored), predict=model.predict
    )


def _found(detector: PoisonDetector, training: TrainingSet, place: Path, workers: int, progress: Progress) -> Findings:
    settings = hashlib.sha256(repr(detector).encode()).hexdigest()[:8]
    return detector.detect(training, each=Spread(place, f"{detector.name}.{settings}", workers, progress))


def _write(
    report: ScanReport,
    findings: list[Findings],
    stored: StoredImages,
    is_clean: NDArray[np.bool_],
    truth: NDArray[np.bool_] | None,
    out: Path,
) -> None:
    from evaluation.scanning.scan_page import scan_page  # matplotlib takes a second to import

    np.save(out / "is_clean.npy", is_clean)
    (out / "report.json").write_bytes(SCAN_REPORT.dump_json(report, indent=2) + b"\n")
    (out / "report.html").write_text(scan_page(report, findings, stored.labels, stored.images, truth), encoding="utf-8")


def _summarise(report: ScanReport, out: Path) -> None:
    for method in report.methods:
        for one in method.classes:
            if one.verdict == "poison":
                flagged = sum(cluster.size for cluster in one.clusters if cluster.poison)
                print(f"{method.method}: class {one.name}: {flagged:,} of {one.samples:,} samples are poison: {one.reason}")
    if report.verdict == "clean":
        print(f"no poison found in {report.data['samples']:,} samples of {report.data['classes']} classes")
    else:
        print(f"poison in class {', '.join(report.poisoned_classes)}: {report.suspicious_samples:,} suspicious samples")
    if report.confusion is not None:
        tpr, fpr = report.confusion.tpr, report.confusion.fpr
        parts = [f"{100 * tpr:.2f} % of the poison found"] if tpr is not None else []
        parts += [f"{100 * fpr:.2f} % of the clean samples flagged"] if fpr is not None else []
        print(f"against the truth: {', '.join(parts)}")
    print(f"written to {out / 'report.html'}, report.json and is_clean.npy beside it")

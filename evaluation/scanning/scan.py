"""Scan training data for poison: from a classifier and the data it was trained on to a verdict on every class and every sample."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defences.poison.activation_clustering import ActivationClustering
from defences.poison.findings import Findings, PoisonDetector, TrainingSet, Witness
from defences.poison.spectral_signatures import SpectralSignatures
from defences.poison.statistical_contamination_analyzer import StatisticalContaminationAnalyzer
from evaluation.kept_places import place_of, use_place
from evaluation.reporting.page_needs import check_page_can_be_drawn
from evaluation.scanning.drawn_points import CLUSTERS, save_points
from evaluation.scanning.scan_report import SCAN_REPORT, ScanReport, build, merged_clean_mask
from evaluation.scanning.spread import Backend, Spread, backend
from evaluation.scanning.stored_activations import stored_activations
from models.accuracy import Judgement, drawn, judge
from models.classifier import ActivationClassifier
from models.datasets import IN_MEMORY, Dataset, Origin
from models.engines.twins.capabilities import engine_of
from models.errors import InvalidInput
from models.printable import printable_json
from models.progress import Progress, silent
from models.stored_images import StoredImages, refused_when_full
from models.version import __version__

# Activations may take gigabytes.
_OTHER_PLACES = 3


@dataclass(frozen=True)
class KeptWork:
    """A directory where finished work is kept, so that a scan that was stopped goes on.

    Args:
        plan: what decides the result, as JSON can hold it; another plan has a place of its own in the directory.
    """

    directory: Path
    plan: Mapping[str, Any]

    def place(self, layer: str) -> Path:
        """Where the work on this layer lies. Raises: InvalidInput: it cannot be written to."""
        place = place_of(self.directory, {**self.plan, "layer": layer})
        refused_when_full(self.directory.parent, lambda: use_place(place, keep=_OTHER_PLACES))
        return place


@dataclass(frozen=True, kw_only=True)
class ScanPlan:
    """How a training set is scanned.

    Args:
        detectors: which; in a class where several find poison, the first one's samples count.
        layer: name or position of the layer to read; the last hidden one when none.
        backend, workers, address: where the classes are worked on, see `evaluation.scanning.spread`.
        kept: where finished work is kept; nowhere when none.
        classifier_file: of the classifier, for the report.
        origin: of the data, for the report.
    """

    detectors: tuple[PoisonDetector, ...] = field(
        default_factory=lambda: (ActivationClustering(), StatisticalContaminationAnalyzer(), SpectralSignatures())
    )
    layer: str | int | None = None
    backend: Backend = "threading"
    workers: int = 1
    address: str | None = None
    kept: KeptWork | None = None
    classifier_file: str = IN_MEMORY.file
    origin: Origin = IN_MEMORY

    @property
    def seed(self) -> int:
        """Of the detectors, for the report."""
        return int(getattr(self.detectors[0], "seed", 0))


@dataclass(frozen=True)
class Scan:
    """The result of a scan.

    Attributes:
        report: report.json.
        findings: of each detector.
        is_clean: bool [n], per sample in the order of the data.
        data: what was scanned.
        truth: bool [n], what is truly clean, where that was given.
    """

    report: ScanReport
    findings: tuple[Findings, ...]
    is_clean: NDArray[np.bool_]
    data: StoredImages
    truth: NDArray[np.bool_] | None = None

    def write(self, out: Path) -> None:
        """Write report.json, report.html, is_clean.npy and clusters.npz. Raises: InvalidInput: no space, or no hauberk[report]."""
        check_page_can_be_drawn()
        refused_when_full(out, lambda: self._write(out))

    def _write(self, out: Path) -> None:
        from evaluation.scanning.scan_page import scan_page  # matplotlib takes a second to import

        out.mkdir(parents=True, exist_ok=True)
        np.save(out / "is_clean.npy", self.is_clean)
        save_points(out / CLUSTERS, self.findings, self.data.labels)
        document = printable_json(SCAN_REPORT.dump_json(self.report, indent=2).decode())
        (out / "report.json").write_text(document + "\n", encoding="utf-8")
        page = scan_page(self.report, self.findings, self.data.labels, self.data.images, self.truth)
        (out / "report.html").write_text(page, encoding="utf-8")


def scan(
    classifier: ActivationClassifier,
    data: Dataset | StoredImages,
    *,
    truth: NDArray[np.bool_] | None = None,
    plan: ScanPlan | None = None,
    progress: Progress = silent,
) -> Scan:
    """Look for poison in the data that a classifier was trained on.

    Args:
        data: in memory, or stored images, which may be larger than memory.
        truth: bool [n], what is truly clean: adds to the report how much was found.

    Raises: InvalidInput: labels that do not fit, one class only, no such layer, NaN in the activations, no space, a classifier that is no
    better than guessing on these data: nothing could be found with it.
    """
    started = time.monotonic()
    plan = plan or ScanPlan()
    if not plan.detectors:
        raise InvalidInput("expected at least one detector of poison, got none")
    stored = data if isinstance(data, StoredImages) else StoredImages(data.images, data.labels, plan.origin.file)
    _check_labels(stored, len(classifier.labels))
    accuracy = _judged(classifier, stored)
    layer = _layer(classifier, plan.layer)
    with backend(plan.backend, workers=plan.workers, address=plan.address), _place(plan, layer) as place:
        training = TrainingSet(
            stored_activations(classifier, stored, layer, place, progress),
            stored.labels,
            classifier.labels,
            images=stored.images,
            witness=Witness(classifier, stored.images),
            predict=classifier.predict,
        )
        findings = tuple(_found(detector, training, place, plan.workers, progress) for detector in plan.detectors)
    if truth is not None:
        findings = tuple(found.judged(truth, stored.labels) for found in findings)
    is_clean = merged_clean_mask(findings, stored.labels)
    about = {
        "hauberk": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
        "classifier": {
            "file": plan.classifier_file,
            "engine": engine_of(classifier),
            "layer": layer,
            "earlier_layer": classifier.earlier_layer(),
        },
        "data": {
            "file": plan.origin.file,
            "split": plan.origin.split,
            "rows": plan.origin.rows or f"0:{len(stored)}",
            "samples": len(stored),
            "classes": len(classifier.labels),
        },
        "seed": plan.seed,
        "accuracy": accuracy,
    }
    return Scan(build(findings, is_clean, truth=truth, **about), findings, is_clean, stored, truth)


@contextmanager
def _place(plan: ScanPlan, layer: str) -> Iterator[Path]:
    if plan.kept is not None:
        yield plan.kept.place(layer)
    else:
        with tempfile.TemporaryDirectory(prefix="hauberk-scan-") as scratch:
            yield Path(scratch)


def _found(detector: PoisonDetector, training: TrainingSet, place: Path, workers: int, progress: Progress) -> Findings:
    settings = hashlib.sha256(repr(detector).encode()).hexdigest()[:8]
    return detector.detect(training, each=Spread(place, f"{detector.name}.{settings}", workers, progress))


def _check_labels(stored: StoredImages, classes: int) -> None:
    largest = int(stored.labels.max())
    if largest >= classes:
        raise InvalidInput(f"expected labels below {classes}, the classes of the model, got {largest}")
    if len(np.unique(stored.labels)) < 2:
        raise InvalidInput(f"expected samples of at least 2 classes to compare, got only class {largest}")


def _judged(classifier: ActivationClassifier, stored: StoredImages) -> Judgement:
    """Raises: InvalidInput: a classifier that guesses, or that names the classes otherwise, finds nothing in any data."""
    found = judge(classifier, stored.some(drawn(len(stored)))).better_than_guessing()
    if found.cause == "classes in another order":
        raise InvalidInput(found.reason)
    return found


def _layer(classifier: ActivationClassifier, layer: str | int | None) -> str:
    """The name of the layer to read. Raises: InvalidInput: no such layer, or no last hidden one to be found."""
    if layer is None:
        return classifier.hidden_layer()
    classifier.activations(np.zeros((1, *classifier.input_shape), np.float32), layer)
    return classifier.layers()[layer] if isinstance(layer, int) else layer

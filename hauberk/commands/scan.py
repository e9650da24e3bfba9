"""hauberk scan: is a training set poisoned, or a network backdoored? Verdicts class by class, and which samples."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from defences.poison.activation_clustering import ActivationClustering
from defences.poison.class_split import Reduction
from defences.poison.findings import PoisonDetector
from defences.poison.spectral_signatures import SpectralSignatures
from defences.poison.statistical_contamination_analyzer import StatisticalContaminationAnalyzer
from evaluation.reporting.page_needs import check_page_can_be_drawn
from evaluation.scanning.scan import KeptWork, ScanPlan
from evaluation.scanning.scan import scan as scan_training_data
from evaluation.scanning.scan_report import ScanReport, unjudged
from evaluation.scanning.spread import Backend
from hauberk.commands.classifier_options import AnyClassifier, how_it_reads, open_classifier
from hauberk.commands.data import AsPictures, class_names, open_data, origin, sample_names, stamp
from hauberk.commands.declaration import NOTHING_SAID, Declaration, asks_about_the_model
from hauberk.commands.options import (
    ColoursOption,
    GradientsOption,
    ResizeOption,
    RowsOption,
    SeedOption,
    SplitOption,
    ThreadsOption,
    check_writable,
    progress_bar,
)
from hauberk.commands.scan_network import FOUND, check_alone, scan_model
from models.accuracy import drawn
from models.archives import read_array
from models.errors import InvalidInput
from models.files import open_file
from models.machine import processors
from models.printable import printable
from models.stored_images import StoredImages

METHODS = (ActivationClustering.name, StatisticalContaminationAnalyzer.name, SpectralSignatures.name)
_ALL = ",".join(METHODS)


_Data = Annotated[
    Path | None,
    typer.Option(help="Its training data: .npz, a directory with images.npy and labels.npy, or a folder of pictures by class."),
]
_ModelOnly = Annotated[bool, typer.Option("--model-only", help="Judge the network alone, without its training data.")]
_Layer = Annotated[str | None, typer.Option(help="Name or position of the layer to read; the last hidden one when not given.")]
_Methods = Annotated[str, typer.Option(help=f"Which detectors, with commas between: {', '.join(METHODS)}.")]
_Truth = Annotated[
    Path | None,
    typer.Option(help="The truth, .npy of one bool a sample, true where it is clean: adds the shares found and missed."),
]
_Address = Annotated[str | None, typer.Option(help="Of a Dask or Ray scheduler; a cluster of this machine when not given.")]


@asks_about_the_model()
def scan(
    classifier: Annotated[Path, typer.Option(help="The classifier: its file, of any format that calibrate takes.")],
    out: Annotated[Path, typer.Option(help="Directory for report.json, report.html and is_clean.npy; a second call goes on.")],
    data: _Data = None,
    model_only: _ModelOnly = False,
    layer: _Layer = None,
    methods: _Methods = _ALL,
    reduction: Annotated[Reduction, typer.Option(help="How activation clustering reduces activations.")] = "pca",
    split: SplitOption = "train",
    rows: RowsOption = None,
    resize: ResizeOption = None,
    colours: ColoursOption = None,
    declared: Declaration = NOTHING_SAID,
    truth: _Truth = None,
    backend: Annotated[Backend, typer.Option(help="Where the classes are worked on.")] = "threading",
    workers: Annotated[int, typer.Option(min=1, help="How many classes at once.")] = 1,
    address: _Address = None,
    gradients: GradientsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Look for poison in a training set, or for a backdoor in a network; exit with 3 where there is some, with 2 where it cannot be told.

    Example: hauberk scan --classifier mnist.keras --data models/data/mnist.npz --out out/scan
    """
    check_page_can_be_drawn()
    check_writable(out)
    pictures = AsPictures(resize, colours, declared.names())
    if model_only:
        check_alone(locals(), inspect.signature(scan).parameters)
        scan_model(classifier, out, declared, pictures, gradients, seed=seed, threads=threads or processors())
        return
    detectors = _detectors(methods, reduction, seed)
    path = _training_data(data, gradients)
    stored = open_data(path, split, rows, unpack_to=out / "work", pictures=pictures)
    model = _opened(classifier, stored, declared, class_names(path), threads or processors())
    known = None if truth is None else _truth(truth, len(stored))
    plan = ScanPlan(
        detectors=detectors,
        layer=_layer(layer),
        backend=backend,
        workers=workers,
        address=address,
        kept=_kept(out, classifier, path, stored, model, declared),
        classifier_file=classifier.name,
        origin=origin(path, split, rows, len(stored)),
    )
    with progress_bar("classes", reading_activations="images") as report:
        found = scan_training_data(model, stored, truth=known, plan=plan, progress=report)
    found.write(out)
    _write_names(out, sample_names(path, rows))
    print(how_it_reads(model))
    _end(found.report, out, path)


def _training_data(data: Path | None, gradients: Path | None) -> Path:
    """Raises: InvalidInput: none, or an option that only --model-only takes."""
    if data is None:
        raise InvalidInput("expected --data, what the classifier was trained on, or --model-only, which judges it without")
    if gradients is not None:
        raise InvalidInput("expected --gradients with --model-only, got it with --data: a scan of training data needs none")
    return data


def _opened(
    classifier: Path, stored: StoredImages, declared: Declaration, names: Sequence[str] | None, threads: int
) -> AnyClassifier:
    return open_classifier(
        classifier, stored.some(drawn(len(stored))), declared=declared, names=names, threads=threads
    ).classifier


def _end(report: ScanReport, out: Path, data: Path) -> None:
    """Say what was found, and exit with its code."""
    _summarise(report, out)
    if report.verdict == "poison":
        raise typer.Exit(FOUND)
    if report.verdict == "cannot tell":
        raise InvalidInput(f"cannot tell whether {data} is poisoned: {report.methods[0].classes[0].reason}")


def _detectors(methods: str, reduction: Reduction, seed: int) -> tuple[PoisonDetector, ...]:
    wanted = [name.strip() for name in methods.split(",") if name.strip()]
    if not wanted or not set(wanted) <= set(METHODS):
        raise InvalidInput(f"expected --methods of {', '.join(METHODS)}, got {methods!r}")
    known: tuple[PoisonDetector, ...] = (
        ActivationClustering(reduction=reduction, seed=seed),
        StatisticalContaminationAnalyzer(seed=seed),
        SpectralSignatures(seed=seed),
    )
    return tuple(detector for detector in known if detector.name in wanted)


def _write_names(out: Path, names: tuple[str, ...] | None) -> None:
    """Which picture each line of is_clean.npy is about, where the data are pictures."""
    if names is not None:
        (out / "files.txt").write_text("\n".join(map(printable, names)) + "\n", encoding="utf-8")


def _layer(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.removeprefix("-").isdigit() else text


def _truth(path: Path, samples: int) -> NDArray[np.bool_]:
    try:
        with open_file(path) as file:
            truth = read_array(file)
    except (OSError, ValueError, EOFError) as failure:
        raise InvalidInput(f"expected --truth to be a .npy of plain booleans, but {path} cannot be read as one") from failure
    if truth.shape != (samples,) or truth.dtype.kind not in "biu":
        raise InvalidInput(f"expected one boolean for each of {samples} samples in {path.name}")
    return truth.astype(bool)


def _kept(out: Path, classifier: Path, data: Path, stored: StoredImages, model: AnyClassifier, declared: Declaration) -> KeptWork:
    """Where finished work is kept; another model, data file or row range has a place of its own."""
    plan = {
        "model": _digest(classifier),
        "data": stamp(data),
        "labels": hashlib.sha256(stored.labels.tobytes()).hexdigest(),
        "first": hashlib.sha256(stored.images(slice(0, 8)).tobytes()).hexdigest(),
        "read_as": [model.preparation.settings(), model.outputs, declared.output],
    }
    return KeptWork(out / "work", plan)


def _digest(classifier: Path) -> str:
    """Of a file, or of all files in a directory."""
    digest = hashlib.sha256()
    for file in sorted(classifier.rglob("*")) if classifier.is_dir() else [classifier]:
        if file.is_file():
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _summarise(report: ScanReport, out: Path) -> None:
    if report.accuracy is not None and report.accuracy.reason:
        print(printable(f"warning: {report.accuracy.reason}"))
    for method in report.methods:
        for one in method.classes:
            if one.verdict == "poison":
                flagged = sum(cluster.size for cluster in one.clusters if cluster.poison)
                said = f"class {one.name}: {flagged:,} of {one.samples:,} samples are poison: {one.reason}"
                print(printable(f"{method.method}: {said}"))
    if report.verdict == "cannot tell":
        print(f"no verdict on {report.data['samples']:,} samples of {report.data['classes']} classes")
    elif report.verdict == "clean":
        print(f"no poison found in {report.data['samples']:,} samples of {report.data['classes']} classes")
    else:
        print(
            printable(f"poison in class {', '.join(report.poisoned_classes)}: {report.suspicious_samples:,} suspicious samples")
        )
    if report.verdict != "cannot tell" and (left := unjudged(report.methods)):
        print(printable(f"not judged: class {', '.join(one.name for one in left)}: {left[0].reason}"))
    if report.confusion is not None:
        tpr, fpr = report.confusion.tpr, report.confusion.fpr
        parts = [f"{100 * tpr:.2f} % of the poison found"] if tpr is not None else []
        parts += [f"{100 * fpr:.2f} % of the clean samples flagged"] if fpr is not None else []
        print(f"against the truth: {', '.join(parts)}")
    print(printable(f"written to {out / 'report.html'}, report.json and is_clean.npy beside it"))

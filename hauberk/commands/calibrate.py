"""hauberk calibrate: a trained classifier and clean data in, a bundle that `hauberk serve` protects out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from defences.calibration.calibrate import Calibrated, check_target, served_name
from defences.calibration.calibrate import calibrate as calibrate_classifier
from defences.calibration.fits import chosen_fits, fittable, with_masks
from defences.calibration.plan import CalibrationPlan
from defences.calibration.split import EVASION_EPS
from defences.detectors.mask_set import read_patch
from evaluation.detector_choice import AUTO, ChoiceTerms, choose_detectors, usual_detectors
from hauberk.commands.classifier_options import how_it_reads, open_servable
from hauberk.commands.data import AsPictures, class_names, origin, read_samples, sha256_of
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
    say,
)
from models.datasets import Split, has_halves, shared_images
from models.engines.kept import KeptClassifier
from models.engines.twins.twin_file import own_program
from models.image_rows import Samples
from models.machine import processors
from models.printable import printable

_TRIALS_SHARE = 0.25
"""Of the minutes, at most, for choosing detectors."""


@asks_about_the_model()
def calibrate(
    classifier: Annotated[
        str,
        typer.Option(help="A trained classifier: its file, or v2://HOST:PORT/NAME or tfs://HOST:PORT/NAME on a model server."),
    ],
    data: Annotated[
        Path, typer.Option(help="Clean data it was not trained on, .npz or pictures in a folder a class; at least 300.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the bundle to write.")],
    name: Annotated[str | None, typer.Option(help="Name of the served model; the directory's name when not given.")] = None,
    split: SplitOption = "train",
    rows: RowsOption = None,
    resize: ResizeOption = None,
    colours: ColoursOption = None,
    declared: Declaration = NOTHING_SAID,
    detectors: Annotated[
        str,
        typer.Option(
            help=f"Which detectors, with commas between: {', '.join(fittable())}; or auto: those that catch most of triggers that are "
            "planted in copies of the model."
        ),
    ] = AUTO,
    false_abstention_rate: Annotated[float, typer.Option(help="Share of clean images all detectors together may refuse.")] = 0.01,
    evasion_eps: Annotated[
        float, typer.Option(help="Size (L-inf) of the attacks that detectors of evasion are trained on.")
    ] = EVASION_EPS,
    patch: Annotated[
        str | None,
        typer.Option(
            help="Largest local patch to prove answers against, HEIGHTxWIDTH in pixels as in 5x5: adds the detector patch_cleanser."
        ),
    ] = None,
    confidence: Annotated[float | None, typer.Option(help="Keep that rate with this confidence, not only on average.")] = None,
    gradients: GradientsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    minutes: Annotated[
        float, typer.Option(help="Minutes it may take: what would take longer is left out, the least harmful first, and said.")
    ] = 12.0,
    image_seconds: Annotated[
        float | None, typer.Option(help="Seconds a clean image may take on average: chooses among the ways to lay overlays.")
    ] = None,
) -> None:
    """Fit the defences to a classifier on clean data and write a bundle.

    Example: hauberk calibrate --classifier mnist.keras --data models/data/mnist.npz --rows 55000:60000 --out bundles/mnist
    """
    began, used = time.monotonic(), threads or processors()
    covered = None if patch is None else read_patch(patch)
    named = usual_detectors() if detectors == AUTO else chosen_fits(detectors)
    plan = CalibrationPlan(
        detectors=with_masks(named, covered),
        false_abstention_rate=false_abstention_rate,
        confidence=confidence,
        evasion_eps=evasion_eps,
        patch=covered,
        seed=seed,
        threads=used,
        minutes=minutes,
        image_s=image_seconds,
    )
    served_name(out, name)
    check_target(out)
    check_writable(out.parent)
    clean = read_samples(data, split, rows, AsPictures(resize, colours, declared.names()))
    plan.check_clean(clean)
    plan = replace(plan, test=_other_half(data, split), origin=origin(data, split, rows, len(clean)), data_sha256=sha256_of(data))
    opened = open_servable(classifier, clean, declared=declared, names=class_names(data), threads=used)
    model = opened.classifier
    plan = replace(plan, accuracy=opened.accuracy, gradients=gradients or own_program(classifier, model, threads=used))
    if detectors == AUTO:
        plan = _chosen_for(model, clean, plan)
    plan = replace(plan, spent_s=time.monotonic() - began)
    with progress_bar("steps", purifier="images", measuring="images", held_windows="images") as progress:
        calibrated = calibrate_classifier(model, clean, out=out, plan=plan, name=name, progress=progress, announce=say)
    print(how_it_reads(model))
    _summarise(calibrated, plan)
    _say_what_is_shared(clean, plan.test)
    print(printable(f"serve it: hauberk serve --bundle {calibrated.bundle.directory}"))


def _chosen_for(classifier: KeptClassifier, clean: Samples, plan: CalibrationPlan) -> CalibrationPlan:
    """The plan with the detectors and budgets that trials on own triggers choose, in a part of its minutes."""
    plan.check(classifier, clean)
    within_s = 60 * _TRIALS_SHARE * (plan.minutes or 0.0)
    with progress_bar("steps") as progress:
        terms = ChoiceTerms(
            rate=plan.false_abstention_rate, within_s=within_s, image_s=plan.image_s, seed=plan.seed, progress=progress
        )
        choice = choose_detectors(classifier, clean, terms)
    for line in choice.told():
        print(line)
    return replace(plan, detectors=with_masks(choice.detectors, plan.patch), budgets=choice.budgets, choice=choice.card())


def _say_what_is_shared(clean: Samples, test: Samples | None) -> None:
    shared = 0 if test is None else shared_images(test, clean)
    if shared:
        print(f"warning: {shared:,} images of the test split are among those it was calibrated on")


def _other_half(path: Path, split: Split) -> Samples | None:
    """The test half of a file calibrated on its train half: for measuring only."""
    return read_samples(path, "test", None) if split == "train" and has_halves(path) else None


def _summarise(calibrated: Calibrated, plan: CalibrationPlan) -> None:
    bundle, purifier = calibrated.bundle, calibrated.purifier
    print(printable(f"bundle {bundle.name} {bundle.version} written to {bundle.directory}"))
    chosen = {purifier.purifier.name: f": weight {purifier.purifier.weight:g}; {purifier.reason}"}
    chosen |= {detector.name: f": {detector.fitted.summary}; {detector.reason}" for detector in calibrated.detectors}
    lines = {"engine": _engine(calibrated), "able": calibrated.capabilities.in_words()}
    for declared in bundle.settings["defences"]:
        lines[declared["name"]] = f"{declared['mode']}{chosen.get(declared['name'], '')}"
    width = max(map(len, lines))
    for name, text in lines.items():
        print(printable(f"  {name:<{width}}  {text}"))
    print(f"  {_what_an_image_takes(calibrated)}")
    for where, numbers in calibrated.measured.items():
        answered = numbers.accuracy_on_answered
        print(
            f"  {where.replace('_', ' ')} ({numbers.images:,}): accuracy {100 * numbers.undefended_accuracy:.2f} % undefended, "
            + (f"{100 * answered:.2f} % on answered, " if answered is not None else "")
            + f"{100 * numbers.abstained:.2f} % abstained, {numbers.mean_model_calls:.1f} model calls per image"
        )
    if max(numbers.abstained for numbers in calibrated.measured.values()) > plan.false_abstention_rate:
        print(f"  {_why_above(plan)}")
    if calibrated.accuracy.reason:
        print(printable(f"warning: {calibrated.accuracy.reason}"))


def _what_an_image_takes(calibrated: Calibrated) -> str:
    """In model calls, and in seconds at the speed that was measured."""
    bundle, call_s = calibrated.bundle, calibrated.bundle.seconds_per_call or 0.0
    most = 1 + sum(detector.detector.calls_at_most for detector in calibrated.detectors)
    usual = calibrated.measured["calibration_images"].mean_model_calls
    return (
        f"a clean image takes {usual:.1f} model calls of {1000 * call_s:.2g} ms on average, {1000 * usual * call_s:.2g} ms, and "
        f"any image {most} at most, {most * call_s:.2g} s; a request may hold {bundle.images_per_request} of them"
    )


def _engine(calibrated: Calibrated) -> str:
    """Which engine serves the classifier, and why: one line."""
    conversion, served = calibrated.conversion, {"onnx": "ONNX Runtime", "keras": "TensorFlow", "remote": "model server"}
    said = f"{served.get(conversion.engine, conversion.engine)}: {conversion.reason}"
    agreement = conversion.agreement
    if agreement is None:
        return said
    return (
        f"{said}; on {agreement.images:,} images probabilities differ by {agreement.largest_difference:.1g} at most, "
        f"{100 * agreement.same_labels:g} % of the labels agree"
    )


def _why_above(plan: CalibrationPlan) -> str:
    """Why more images than the rate may be refused in one sample."""
    rate = f"the rate of {100 * plan.false_abstention_rate:g} %"
    if plan.confidence is not None:
        return f"a share above {rate} is no contradiction: another finite sample of images lies above or below its mean by chance"
    return (
        f"a share above {rate} is no contradiction: the rate is kept on average over calibrations, and one calibration, measured on a "
        "finite sample, lies above or below it; --confidence 0.95 keeps it in 95 of 100 calibrations"
    )

"""python -m benchmarks.backdoors.strip_tails: would STRIP refuse more if it refused high scores as well?

The figures of docs/defences/strip.md, "The other tail". Where a trigger needs what the image shows, overlays change the answer to a
triggered image more than to a clean one. Each statistic is taken as the mean under all overlays, without early exits, and thresholds
are split conformal, of the same held images: one at 1 %, against two at 0.5 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.backdoors import backdoored_copies
from benchmarks.backdoors.backdoored_copies import SEED, Scene
from benchmarks.harness.peers import table
from defences.calibration.conformal import conformal_threshold
from defences.calibration.split import Terms, split
from defences.calibration.strip import fit_strip
from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.strip import Statistic, Strip
from evaluation.statistics.roc import auroc
from models.classifier import Classifier, Images
from models.engines.keras_export import exported
from models.engines.onnx import OnnxClassifier

_RATE = 0.01
_CLEAN, _TRIGGERED, _HELD = 1000, 500, 1500
_STATISTICS: tuple[Statistic, ...] = ("change", "entropy")
_HEADER = (
    "backdoor",
    "statistic",
    "AUROC",
    "low tail at 1 %: TPR, FPR",
    "both tails at 0.5 %: TPR, FPR",
    "clean scores: median, 99.5 % quantile, largest",
    "triggered: median",
)


def main() -> None:
    """Print a table for each data set."""
    for scene in (backdoored_copies.digits(), backdoored_copies.colour()):
        print(f"{scene.name}:\n\n{table(_HEADER, list(_rows(scene)))}", flush=True)


def _rows(scene: Scene) -> Iterator[list[str]]:
    parts = split(scene.held_out.take(slice(0, _HELD)), rate=_RATE, confidence=None, seed=SEED)
    for kind, backdoor, copy in backdoored_copies.copies(scene):
        graph = exported(copy).SerializeToString()
        served = OnnxClassifier(graph, labels=copy.labels, input_shape=copy.input_shape)
        strip: Any = fit_strip(served, parts, Terms(rate=_RATE, seed=SEED)).at(np.inf)
        triggered, _ = scene.triggered(backdoor)
        images = (parts.holding.images, scene.clean.images[:_CLEAN], triggered[:_TRIGGERED])
        for statistic in _STATISTICS:
            yield [kind.replace("_", " "), statistic, *_cells(*(_scores(strip, served, statistic, some) for some in images))]


def _scores(strip: Strip, classifier: Classifier, statistic: Statistic, images: Images) -> NDArray[np.float64]:
    """The mean of the statistic under all overlays."""
    patient = replace(strip, statistic=statistic, stages=strip.stages[-1:], slack=(0.0,), ceiling=0.0)
    return DefendedClassifier(classifier, detectors=[Step(patient, "monitor")]).classify(images).trace.detections[0].scores


def _cells(held: NDArray[np.float64], clean: NDArray[np.float64], triggered: NDArray[np.float64]) -> list[str]:
    low, half = (conformal_threshold(held, rate) for rate in (_RATE, _RATE / 2))
    high = -conformal_threshold(-held, _RATE / 2)
    one, both = (
        [f"{100 * rate:.1f} %" for rate in rates]
        for rates in (
            [(some <= low).mean() for some in (triggered, clean)],
            [((some <= half) | (some >= high)).mean() for some in (triggered, clean)],
        )
    )
    quantiles = f"{np.median(held):.3f}, {np.quantile(held, 1 - _RATE / 2):.3f}, {held.max():.3f}"
    return [f"{auroc(triggered, clean).value:.2f}", ", ".join(one), ", ".join(both), quantiles, f"{np.median(triggered):.3f}"]


if __name__ == "__main__":
    main()

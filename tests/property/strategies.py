"""Every Hypothesis strategy, and the tables of defences the laws are stated over: a new defence is one row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from defences.defended_classifier import DefendedClassifier, Detector, Mode, Postprocessor, Preprocessor, Step
from defences.detectors.badexpert import BaDExpert
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from defences.detectors.layer_disagreement import LayerDisagreement
from defences.detectors.patch_cleanser import PatchCleanser
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from defences.keyed import Keys
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.total_variation import TotalVariation
from models.classifier import Images, Probabilities
from models.engines.binary_network import OUTPUTS, default_layout, layer_weights
from models.engines.reading.features import width
from tests.fakes import Shape, linear, noise, readable, softmax

PREPROCESSORS: dict[str, Preprocessor] = {
    "total_variation": TotalVariation(weight=0.07),
    "total_variation, weak": TotalVariation(weight=0.001),
    "total_variation, strong": TotalVariation(weight=5.0),
    "total_variation, masked": TotalVariation(weight=0.1, keep_probability=0.6),
    "total_variation, grouped": TotalVariation(weight=0.3, norm=2, keep_probability=0.8),
    "total_variation, isotropic": TotalVariation(weight=0.1, norm="isotropic"),
    "total_variation, isotropic and masked": TotalVariation(weight=0.1, norm="isotropic", keep_probability=0.5, iterations=25),
    "total_variation, squared": TotalVariation(weight=0.05, squared=True, keep_probability=0.9),
    "total_variation, two threads": TotalVariation(weight=0.1, keep_probability=0.6, threads=2),
}
MASKED = {name: defence for name, defence in PREPROCESSORS.items() if getattr(defence, "keep_probability", 1.0) < 1}

POSTPROCESSORS: dict[str, Postprocessor] = {
    "reverse_sigmoid": ReverseSigmoid(),
    "reverse_sigmoid, mild": ReverseSigmoid(beta=0.2, gamma=0.05),
    "reverse_sigmoid, steep": ReverseSigmoid(gamma=0.5),
    "reverse_sigmoid, a step": ReverseSigmoid(gamma=50.0),
}

PROBING: dict[str, Callable[[Shape, float], Detector]] = {
    "strip": lambda shape, threshold: strip(shape, threshold),
    "strip, mixing": lambda shape, threshold: strip(shape, threshold, blend="mix", weight=0.5),
    "strip, one stage": lambda shape, threshold: strip(shape, threshold, stages=(24,), slack=(0.0,)),
    "strip, change": lambda shape, threshold: strip(shape, threshold, statistic="change"),
    "strip, no slack": lambda shape, threshold: strip(shape, threshold, slack=(0.0, 0.0, 0.0, 0.0), weight=0.25),
    "sentinet": lambda shape, threshold: sentinet(shape, threshold),
    "sentinet, one level": lambda shape, threshold: sentinet(
        shape, threshold, sides=(0.5,), stages=(3,), kept=(), slack=(0.0,), overlay_labels=np.array([1, 1, 2])
    ),
    "sentinet, no slack": lambda shape, threshold: sentinet(shape, threshold, kept=(1, 1, 1), slack=(0.0,) * 4),
}
UNPROBED: dict[str, Callable[[Shape, float], Detector]] = {
    "binary_input_detector": lambda shape, threshold: binary_input_detector(shape, threshold),
    "binary_input_detector, one layer": lambda shape, threshold: binary_input_detector(
        shape, threshold, layout=np.array([[shape[0], shape[1], 1, shape[2], 1]])
    ),
    "binary_activation_detector": lambda shape, threshold: binary_activation_detector(shape, threshold),
}
ANSWERED: dict[str, Callable[[Shape, float], Detector]] = {"badexpert": lambda shape, threshold: badexpert(shape, threshold)}
"""Detectors that wait for the answer to an image and for nothing else."""
LOOKING: dict[str, Callable[[Shape, float], LayerDisagreement]] = {
    "layer_disagreement": lambda shape, threshold: layer_disagreement(shape, threshold),
    "layer_disagreement, one layer": lambda shape, threshold: layer_disagreement(shape, threshold, layers=("late",)),
}
"""They look at layers while the classifier answers."""
UNANIMOUS: dict[str, Callable[[Shape, float], Detector]] = {
    "patch_cleanser": lambda shape, _: patch_cleanser(shape),
    "patch_cleanser, even masks": lambda shape, _: patch_cleanser(shape, middle=1 / 3),
}
"""Those that have no threshold."""
BY_THRESHOLD = PROBING | UNPROBED | ANSWERED
DETECTORS = BY_THRESHOLD | UNANIMOUS

MODES: tuple[Mode, ...] = ("enforce", "monitor", "off")


def strip(shape: Shape, threshold: float, **options: Any) -> Strip:
    """STRIP with 24 overlays of noise and four stages."""
    overlays = np.rint(noise(24, shape, seed=99) * 255).astype(np.uint8)
    given = {"stages": (2, 4, 8, 24), "slack": (0.4, 0.2, 0.1, 0.0)} | options
    return Strip(overlays=overlays, threshold=threshold, **given)


def sentinet(shape: Shape, threshold: float, **options: Any) -> SentiNet:
    """SentiNet with overlays of noise, of all classes but class 1 by their labels, two levels and three stages."""
    given: dict[str, Any] = {
        "overlay_labels": np.array([0, 2, 3, 3, 0, 2, 0]),
        "sides": (0.7, 0.4),
        "stages": (1, 2, 5),
        "kept": (2, 3, 2),
        "slack": (0.4, 0.3, 0.1, 0.0),
    } | options
    overlays = np.rint(noise(len(given["overlay_labels"]), shape, seed=98) * 255).astype(np.uint8)
    return SentiNet(overlays=overlays, threshold=threshold, **given)


def patch_cleanser(shape: Shape, **options: Any) -> PatchCleanser:
    """For patches of two rows and one column, or as much of that as there is."""
    given: dict[str, Any] = {"patch": (min(2, shape[0]), 1), "colour": (0.5,) * shape[2]} | options
    return PatchCleanser(**given)


def binary_input_detector(shape: Shape, threshold: float, **options: Any) -> BinaryInputDetector:
    """With random weights, whose scores are of the order of 1."""
    layout = options.pop("layout", default_layout(shape))
    return BinaryInputDetector(weights=random_weights(layout), layout=layout, shape=shape, threshold=threshold, **options)


def binary_activation_detector(shape: Shape, threshold: float, **options: Any) -> BinaryActivationDetector:
    """With random weights, on a classifier of four classes."""
    layout = default_layout((1, 1, 4))
    given: dict[str, Any] = {"layer": "hidden", "classifier": readable(shape, 4)} | options
    return BinaryActivationDetector(weights=random_weights(layout), layout=layout, threshold=threshold, **given)


def badexpert(shape: Shape, threshold: float, **options: Any) -> BaDExpert:
    """With an expert of four classes that is sure of none."""
    return BaDExpert(threshold=threshold, **{"expert": linear(shape, 4, seed=7, sharpness=0.1)} | options)


def layer_disagreement(shape: Shape, threshold: float, **options: Any) -> LayerDisagreement:
    """Of random probes and references, for `tests.fakes.layered` of four classes, the last of which has no references."""
    layers: tuple[str, ...] = options.pop("layers", ("early", "late"))
    blocks = {"early": shape, "late": (1, 1, 4)}
    widths = np.array([width(blocks[layer]) for layer in layers])
    rng = np.random.default_rng(7)
    given: dict[str, Any] = {
        "widths": widths,
        "projection": rng.normal(size=(widths.sum(), 6)).astype(np.float32),
        "offset": rng.normal(size=(len(layers), 6)).astype(np.float32),
        "references": rng.normal(size=(len(layers), 2, 9)).astype(np.float32),
        "firsts": np.array([0, 4, 5, 9, 9]),
        "moments": np.array([[1.0, 0.5], [-2.0, 1.5], [0.5, 2.0]]),
        "judged": np.ones(4, bool),
    }
    return LayerDisagreement(layers=layers, threshold=threshold, **given | options)


def random_weights(layout: NDArray[np.int64], seed: int = 0) -> NDArray[np.float32]:
    """Of a binary network, scaled by how many numbers each sum has."""
    rng, parts = np.random.default_rng(seed), []
    for layer, count in zip(layout, layer_weights(layout), strict=True):
        terms = (count - layer[OUTPUTS]) / layer[OUTPUTS]
        parts.append(rng.normal(size=int(count)) * np.sqrt(2 / terms))
    return np.concatenate(parts).astype(np.float32)


seeds = st.integers(0, 2**32 - 1)

shapes = st.one_of(
    st.sampled_from([(1, 1, 1), (1, 9, 1), (9, 1, 2), (5, 7, 3), (2, 2, 4), (28, 28, 1)]),
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3])),
)

thresholds = st.floats(0.0, 1.5)


@st.composite
def images(draw: st.DrawFn, shape: Shape | None = None, *, most: int = 20) -> Images:
    """Read-only images: noise, pictures rounded to uint8, black and white, and flat ones."""
    n, seed = draw(st.integers(1, most)), draw(seeds)
    pictures = noise(n, shape or draw(shapes), seed)
    kind = draw(st.sampled_from(["noise", "rounded", "black and white", "flat", "mixed"]))
    kinds = np.random.default_rng(seed).integers(0, 4, n)
    kinds[:] = kinds if kind == "mixed" else ["noise", "rounded", "black and white", "flat"].index(kind)
    for row, which in enumerate(kinds):
        variants = (pictures[row], np.rint(pictures[row] * 255) / 255, np.rint(pictures[row]), pictures[row].flat[0])
        pictures[row] = variants[which]
    pictures.setflags(write=False)
    return pictures


@st.composite
def keys_for(draw: st.DrawFn, n: int) -> Keys:
    """Any keys, the smallest and the largest among them."""
    keys = np.random.default_rng(draw(seeds)).integers(0, 2**64, n, dtype=np.uint64)
    keys[0] = draw(st.sampled_from([keys[0], np.uint64(0), np.uint64(2**64 - 1)]))
    return keys


@st.composite
def probabilities(draw: st.DrawFn, *, classes: st.SearchStrategy[int] | None = None) -> Probabilities:
    """Read-only rows from flat to one-hot, with ties, with zeros, and with rows that are all zero (refusals)."""
    k = draw(classes if classes is not None else st.integers(2, 200))
    rng = np.random.default_rng(draw(seeds))
    n = draw(st.integers(1, 12))
    rows = softmax(rng.normal(size=(n, k)) * 10.0 ** rng.uniform(-6, 2.5, (n, 1)))
    for row, kind in zip(rows, rng.integers(0, 6, n), strict=True):
        if kind == 0:
            row[:] = np.eye(k, dtype=np.float32)[rng.integers(k)]
        elif kind == 1:
            row[rng.integers(k, size=2)] = row.max()
            row /= row.sum()
        elif kind == 2:
            row[row < np.quantile(row, 0.5)] = 0
            row /= row.sum()
        elif kind == 3:
            row[:] = 0
    rows.setflags(write=False)
    return rows


@st.composite
def defended(draw: st.DrawFn, shape: Shape = (5, 7, 3), classes: int = 4) -> DefendedClassifier:
    """Any stack of defences over a fake classifier: each kind of defence up to twice, in any mode."""

    def steps(table: dict[str, Any], make: Callable[[Any], Any]) -> list[Step[Any]]:
        chosen = draw(st.lists(st.tuples(st.sampled_from(sorted(table)), st.sampled_from(MODES)), max_size=2))
        return [Step(make(table[name]), mode) for name, mode in chosen]

    return DefendedClassifier(
        linear(shape, classes, seed=draw(st.integers(0, 3)), sharpness=draw(st.sampled_from([0.5, 2.0, 8.0]))),
        preprocessors=steps(PREPROCESSORS, lambda defence: defence),
        detectors=steps(DETECTORS, lambda make: make(shape, draw(thresholds))),
        postprocessors=steps(POSTPROCESSORS, lambda defence: defence),
        secret=draw(st.binary(max_size=64)),
    )


def cut(n: int) -> st.SearchStrategy[int]:
    """Where a batch of n is cut in two."""
    return st.integers(0, n)


def shuffled(n: int, seed: int) -> NDArray[np.int64]:
    """An order of n rows."""
    return np.random.default_rng(seed).permutation(n)

"""python -m benchmarks layers: what layer disagreement costs in the gateway, and which space its distances are measured in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.kinds import KINDS, backdoors
from benchmarks.harness import requests as wire
from benchmarks.harness.cells import LoadCell, Loader
from benchmarks.harness.peers import table
from benchmarks.harness.servers import GATEWAY, Contender, Memory, serving
from benchmarks.harness.wanted import Wanted, wanted_table
from defences.calibration.calibrate import calibrate
from defences.calibration.conformal import conformal_threshold
from defences.calibration.layer_disagreement import Axes, Seen, discriminating, fitted_to, layers_to_read
from defences.calibration.plan import CalibrationPlan
from defences.calibration.split import split
from defences.detectors.layer_disagreement import WEIGHTS
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier
from models.training.fine_tuning import fine_tune

_CLIENTS, _CELL_S, _ROUNDS, _IMAGES = 16, 120.0, 8, 2000
_HELD = slice(55_000, 60_000)
_DETECTORS = ("strip", "layer_disagreement")
_SECRET = {"HAUBERK_SECRET": "a secret of the benchmark"}
_BATCH, _REPEATS = 16, 300
_TRAINED_ON, _TRIGGERED, _SOURCE, _TARGET, _RATE, _SEED = 4000, 500, 1, 7, 0.01, 0


def section() -> str:
    """The page's section."""
    with TemporaryDirectory() as name:
        bundle = Path(name) / "bundle"
        _calibrated(bundle)
        cells, memory = _served(bundle, Path(name))
        spent_us = _scored_us(bundle)
    wanted = [Wanted("requests/s with it to those without it", 0.93, cells["on"].rate / cells["off"].rate)]
    served = [
        [
            which,
            f"{cell.rate:,.0f}",
            f"{cell.percentile_ms(50):.1f}",
            f"{cell.percentile_ms(99):.1f}",
            f"{memory[which].worker:.0f}",
        ]
        for which, cell in cells.items()
    ]
    return (
        "## Layer disagreement\n\n"
        f"`python -m benchmarks layers`. The classifier of `mnist-standard` with {' and '.join(_DETECTORS)} calibrated on 5,000 digits, "
        f"at {_CLIENTS} clients, JSON; off: in mode `off`, the other detector as it is. The scores of {_BATCH} images take "
        f"{spent_us:.1f} us an image (wanted: 300 at most).\n\n"
        f"{wanted_table(wanted)}\n"
        f"{table(('layer disagreement', 'requests/s', 'p50 ms', 'p99 ms', 'worker MiB'), served)}\n"
        "Distances in other spaces, and parts of the score alone: TPR in % at 1 % FPR over the triggered images that work, of copies of "
        "`mnist-standard` that learned a backdoor each, calibrated on 3,000 images, neither purified. Axes per layer in brackets.\n\n"
        f"{table(('backdoor', *_LESS, *_SPACES), list(_compared()))}"
    )


def _calibrated(directory: Path) -> None:
    classifier = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=1)
    calibrate(
        classifier, load_dataset(MNIST).take(_HELD), out=directory, plan=CalibrationPlan(detectors=_DETECTORS), name="layers"
    )


def _served(bundle: Path, directory: Path) -> tuple[dict[str, LoadCell], dict[str, Memory]]:
    images = wire.to_bytes(load_dataset(MNIST, split="test").images[:_IMAGES])[..., 0]
    requests = [wire.as_json(image) for image in images]
    settings = _SECRET | {"HAUBERK_BUNDLE": str(bundle)}
    modes = {"on": settings, "off": settings | {"HAUBERK_MODES": "layer_disagreement=off"}}
    with ExitStack() as stack:
        loader = Loader(directory, _CELL_S, _ROUNDS)
        servers = [
            stack.enter_context(serving(Contender(which, GATEWAY, of), directory / which, requests[0]))
            for which, of in modes.items()
        ]
        cells = loader.alternate(servers, loader.prepare(requests), clients=_CLIENTS)
        return dict(zip(modes, cells, strict=True)), {server.contender.name: server.memory() for server in servers}


def _scored_us(directory: Path) -> float:
    """Microseconds of the scores of an image of a batch."""
    from defences.assembly import load_bundle

    defended = load_bundle(directory)
    [detector] = [step.defence for step in defended.detectors if step.defence.name == _DETECTORS[1]]
    images = load_dataset(MNIST, split="test").images[:_BATCH]
    outputs = defended.classifier.layered(detector.layers)(images)  # type: ignore[attr-defined]  # of a bundle with the detector
    spent = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        detector.scores(outputs.features, outputs.probabilities)  # type: ignore[attr-defined]
        spent.append(time.perf_counter() - started)
    return 1e6 * float(np.median(spent)) / _BATCH


def _principal(
    values: NDArray[np.float64], means: NDArray[np.float64], inverse: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    """The 32 principal axes of the features."""
    found: NDArray[np.float64] = np.linalg.eigh(values.T @ values)[1][:, ::-1][:, :32]
    return found


def _all(values: NDArray[np.float64], means: NDArray[np.float64], inverse: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """All features: Euclidean distances, as TED has them; zeros up to the most features of a layer."""
    return np.eye(values.shape[1], 600)


_SPACES: dict[str, Axes] = {
    "all three parts (9)": discriminating,
    "all, principal axes (32)": _principal,
    "all, all features": _all,
}


_LESS = {
    "probes": np.array([1.0, 0.0, 0.0]),
    "ranks": np.array([0.0, 1.0, 0.0]),
    "probes and ranks": np.array([1.0, 1.0, 0.0]),
    "odds in full": np.array([1.0, 1.0, 1.0]),
}
"""Parts of the score, by their weights."""


@dataclass(frozen=True)
class _Copy:
    """A copy with a backdoor, its triggered images that work, and clean images."""

    kind: str
    classifier: KerasClassifier
    held: Dataset
    triggered: Images

    def seen(self, images: Images) -> Seen:
        """Features and answers of the blocks that the detector reads."""
        outputs = self.classifier.layered(tuple(layers_to_read(self.classifier)))(images)
        return Seen(outputs.features, outputs.probabilities, np.zeros(len(images), np.int64))


def _compared() -> Iterator[list[str]]:
    for copy in _copies():
        parts = split(copy.held, rate=_RATE, confidence=None, seed=_SEED)
        known = replace(copy.seen(parts.choosing.images[:]), labels=parts.choosing.labels)
        clean, triggered = copy.seen(parts.holding.images[:]), copy.seen(copy.triggered)
        cells: list[str] = []
        for axes in _SPACES.values():
            layers = layers_to_read(copy.classifier)
            detector = fitted_to(layers, known, 10, np.random.default_rng(_SEED), axes=axes)
            own, others = (detector.parts(some.features, some.probabilities) for some in (clean, triggered))
            centre, deviation = own.mean(axis=0), own.std(axis=0)
            apart = [(centre - some) / deviation for some in (own, others)]
            less = [] if cells else [_caught(*(some @ weights for some in apart)) for weights in _LESS.values()]
            cells += [*less, _caught(*(some @ WEIGHTS for some in apart))]
        yield [copy.kind.replace("_", " "), *cells]


def _caught(clean: NDArray[np.float64], triggered: NDArray[np.float64]) -> str:
    return f"{100 * (triggered <= conformal_threshold(clean, _RATE)).mean():.0f}"


def _copies() -> Iterator[_Copy]:
    training, test = load_dataset(MNIST), load_dataset(MNIST, split="test")
    classifier = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=2)
    known = backdoors(classifier, source=_SOURCE, target=_TARGET, seed=_SEED)
    for kind in KINDS:
        backdoor = known[kind]
        poisoned = backdoor.poison(training.take(slice(0, _TRAINED_ON)), seed=_SEED).data
        copy = fine_tune(classifier, poisoned, epochs=6, learning_rate=4e-3, batch_size=32, seed=_SEED)
        victims = test.take(np.flatnonzero(backdoor.labels.attacks(test.labels))[:_TRIGGERED])
        images = backdoor.trigger(victims.images)
        works = copy.predict(images).argmax(axis=1) == backdoor.labels.called(victims.labels)
        yield _Copy(kind, copy, training.take(slice(57_000, 60_000)), images[works])


if __name__ == "__main__":
    print(section())

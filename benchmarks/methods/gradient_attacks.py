"""python -m benchmarks.methods.gradient_attacks: white-box attacks beside ART's, same networks, images and strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Attack, Goal, predicted_labels
from attacks.evasion.carlini_wagner import CarliniWagner
from attacks.evasion.deep_fool import DeepFool
from attacks.evasion.gradient import BasicIterative, FastGradient, ProjectedGradientDescent
from attacks.evasion.saliency_map import SaliencyMap
from benchmarks.harness.peers import alternate, art_classifier, table, without_softmax
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.reference_classifier import Recipe, train

_SEED = 0
_THREADS = 2

_CLASSES = 10


@dataclass(frozen=True)
class _Network:
    """A network, labelled images, and ART's wrapper of the network."""

    name: str
    classifier: KerasClassifier
    data: Dataset
    art: Any

    def goal(self, n: int, *, targeted: bool = False) -> Goal:
        """Any wrong class; targeted, a random wrong class for each image."""
        labels = self.data.labels[:n].astype(np.int64)
        if not targeted:
            return Goal(labels)
        return Goal((labels + np.random.default_rng(_SEED).integers(1, _CLASSES, n)) % _CLASSES, targeted=True)


@dataclass(frozen=True)
class _Cell:
    """One comparison: our attack, ART's of the same strength (given its classifier and a batch size), on the first `n` images."""

    attack: str
    network: _Network
    strength: str
    n: int
    ours: Attack
    art: Callable[..., Any]
    targeted: bool = False  # only JSMA among ART's attacks is targeted by labels alone
    rounds: int = 3


def section() -> str:
    """The page's section."""
    probabilities = _digits()
    digits, colours = _in_logits(probabilities), _in_logits(_colours())
    bounded = [_measure(cell)[:-1] for cell in [*_bounded(digits, colours), _saliency(probabilities)]]
    minimal = [_measure(cell) for cell in _minimal(digits)]
    header = ["attack", "network", "strength", "images", "accuracy left, ours / ART's", "ours ms/image", "ART ms/image", "ratio"]
    return (
        "## Gradient attacks\n\n"
        f"`python -m benchmarks.methods.gradient_attacks`, seed {_SEED}, {_THREADS} threads, against ART 1.20 in one batch "
        f"of all images, its "
        "fastest; the median of alternating rounds. The networks: the classifier of `mnist-standard` on test digits, and the reference "
        f"network on synthetic {_side(colours)}. *Accuracy left* is the share of images that do not reach the attack's goal. Our loop "
        "drops images that have reached it; in rows where few do, the ratio is that of the compiled gradient alone. Ours queries the "
        "classifier for the images that succeeded; ART's call is followed by the same query, so that both do the same work. ART gets "
        "the networks without their softmax, except for JSMA. Where ART leaves more images than ours, the network is confident of "
        "them: the float32 derivative p - 1 of its cross-entropy has lost its digits there, and ours is computed as minus the sum of "
        "the other classes' probabilities.\n\n"
        f"{table(header, bounded)}\n"
        "Attacks that minimise the perturbation; L2 is the mean over the images on which both "
        f"succeed.\n\n{table([*header, 'mean L2, ours / ART'], minimal)}\n"
        f"{_large_image()}"
    )


def _side(network: _Network) -> str:
    return f"{'x'.join(map(str, network.classifier.input_shape))} gratings in {_CLASSES} orientations"


def _digits() -> _Network:
    import_tensorflow(_THREADS)
    classifier = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()))
    return _Network("MNIST", classifier, load_dataset(MNIST, split="test").take(slice(0, 512)), art_classifier(classifier))


def _in_logits(network: _Network) -> _Network:
    classifier = without_softmax(network.classifier)
    return _Network(network.name, classifier, network.data, art_classifier(classifier))


def _colours() -> _Network:
    classifier = KerasClassifier(train(gratings(6000, 32, _SEED), recipe=Recipe(epochs=4, seed=_SEED), threads=_THREADS))
    return _Network("32x32x3", classifier, gratings(256, 32, _SEED + 1), art_classifier(classifier))


def gratings(n: int, side: int, seed: int) -> Dataset:
    """Noisy colour images [n, side, side, 3] of faint gratings; their orientation is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, _CLASSES, n)
    angle = (labels * np.pi / _CLASSES)[:, None, None]
    rows, columns = np.mgrid[:side, :side] * (32 / side)
    waves = np.sin(0.8 * (rows * np.cos(angle) + columns * np.sin(angle)) + rng.uniform(0, 2 * np.pi, (n, 1, 1)))
    tint = rng.uniform(0.05, 0.2, (n, 1, 1, 3))
    images = 0.5 + waves[..., None] * tint + 0.1 * rng.standard_normal((n, side, side, 3))
    return Dataset(np.clip(images, 0, 1).astype(np.float32), labels)


def _bounded(digits: _Network, colours: _Network) -> list[_Cell]:
    """Attacks within a norm ball."""
    from art.attacks import evasion

    cells = []
    for network, eps, share in (
        (digits, 0.3, 0.1),
        (digits, 0.1, 0.1),
        (digits, 0.02, 0.1),
        (colours, 0.1, 0.1),
        (colours, 0.01, 0.1),
    ):
        step, n = share * eps, len(network.data)
        ours = ProjectedGradientDescent(eps=eps, step=step, iterations=40)
        art = partial(evasion.ProjectedGradientDescentTensorFlowV2, eps=eps, eps_step=step, max_iter=40, verbose=False)
        cells.append(_Cell("PGD", network, f"eps {eps:g}, 40 steps of eps / 10, from the image", n, ours, art))
    ours = ProjectedGradientDescent(eps=0.1, step=0.01, iterations=20, restarts=4)
    art = partial(
        evasion.ProjectedGradientDescentTensorFlowV2, eps=0.1, eps_step=0.01, max_iter=20, num_random_init=5, verbose=False
    )
    cells.append(_Cell("PGD", digits, "eps 0.1, 20 steps of eps / 10, 5 starts", 512, ours, art, rounds=1))
    for eps in (0.3, 0.1):
        bim = partial(evasion.BasicIterativeMethod, eps=eps, eps_step=eps / 10, max_iter=10, verbose=False)
        ours_bim = BasicIterative(eps=eps, step=eps / 10, iterations=10)
        cells.append(_Cell("BIM", digits, f"eps {eps:g}, 10 steps of eps / 10", 512, ours_bim, bim))
    for network in (digits, colours):
        fgm = partial(evasion.FastGradientMethod, eps=0.1)
        cells.append(_Cell("FGM", network, "eps 0.1", len(network.data), FastGradient(eps=0.1), fgm, rounds=9))
    minimal = partial(evasion.FastGradientMethod, eps=0.3125, eps_step=0.015625, minimal=True)
    ours_minimal = FastGradient(eps=0.3125, step=0.015625)
    cells.append(_Cell("FGM, minimal", digits, "eps 0.3125, steps of 1/64", 512, ours_minimal, minimal))
    return cells


def _saliency(digits: _Network) -> _Cell:
    """The saliency map attack, which needs probabilities."""
    from art.attacks import evasion

    jsma = partial(evasion.SaliencyMapMethod, theta=1.0, gamma=0.1, verbose=False)
    return _Cell("JSMA", digits, "theta 1, gamma 0.1, targets drawn", 64, SaliencyMap(gamma=0.1), jsma, targeted=True, rounds=1)


def _minimal(digits: _Network) -> list[_Cell]:
    """Attacks that minimise the perturbation."""
    from art.attacks import evasion

    carlini = partial(
        evasion.CarliniL2Method, max_iter=50, binary_search_steps=5, initial_const=1.0, learning_rate=0.05, verbose=False
    )
    ours = CarliniWagner(iterations=50, searches=5, constant=1.0, learning_rate=0.05)
    fool = partial(evasion.DeepFool, max_iter=50, epsilon=0.02, nb_grads=10, verbose=False)
    return [
        _Cell("DeepFool", digits, "overshoot 0.02", 32, DeepFool(), fool, rounds=1),
        _Cell("Carlini and Wagner", digits, "5 searches of 50 steps of 0.05", 8, ours, carlini, rounds=1),
    ]


def _measure(cell: _Cell) -> list[str]:
    network, n = cell.network, cell.n
    images, goal = network.data.images[:n], network.goal(n, targeted=cell.targeted)
    wanted = np.eye(_CLASSES, dtype=np.float32)[goal.labels]
    art = cell.art(network.art, batch_size=n)
    results: dict[str, Images] = {}

    def ours() -> None:
        results["ours"] = cell.ours(network.classifier, images, goal, seed=_SEED).images

    def theirs() -> None:
        np.random.seed(_SEED)  # ART draws from the global state
        results["ART"] = art.generate(images, wanted)
        network.art.predict(results["ART"], batch_size=n)  # ours has queried which of them succeeded

    seconds = alternate([ours, theirs], cell.rounds)
    reached = {who: goal.reached(predicted_labels(network.classifier.predict(found))) for who, found in results.items()}
    both = reached["ours"] & reached["ART"]
    return [
        cell.attack,
        network.name,
        cell.strength,
        f"{n}",
        f"{100 * (1 - reached['ours'].mean()):.1f} % / {100 * (1 - reached['ART'].mean()):.1f} %",
        *(f"{1e3 * spent / n:.2f}" for spent in seconds),
        f"**{seconds[1] / seconds[0]:.1f}x**",
        " / ".join(f"{_mean_l2(found - images, both):.3f}" for found in results.values()),
    ]


def _mean_l2(change: Images, rows: NDArray[np.bool_]) -> float:
    return float(np.linalg.norm(change[rows].reshape(int(rows.sum()), -1), axis=1).mean()) if rows.any() else float("nan")


def _large_image() -> str:
    """The saliency map attack at 224x224x3, ours alone."""
    side, n = 224, 2
    classifier = KerasClassifier(
        train(gratings(192, side, _SEED), recipe=Recipe(epochs=3, batch_size=32, seed=_SEED), threads=_THREADS)
    )
    data = gratings(n, side, _SEED + 1)
    attack, goal = SaliencyMap(gamma=0.02), Goal(classifier.predict(data.images).argmax(axis=1))
    found = attack(classifier, data.images, goal)
    seconds = alternate([lambda: attack(classifier, data.images, goal)], 1)[0]
    changed = np.count_nonzero((found.images != data.images).reshape(n, -1), axis=1)
    return (
        f"JSMA, untargeted, at {side}x{side}x3 (the reference network, hardly trained on gratings of that size, theta 1, gamma 0.02, of "
        f"{3 * side * side:,} components): {n} images in **{seconds:.1f} s**, {int(found.success.sum())} of {n} reach the goal, with "
        f"{', '.join(f'{count:,}' for count in changed)} components changed, after {', '.join(map(str, found.gradients))} gradients.\n"
    )


if __name__ == "__main__":
    print(section())

"""python -m benchmarks.methods.robustness: robust accuracy of the bare bundled classifiers; --record writes it into a card.

Our attacks and, as an independent implementation, ART's, on the same weights. ART gets the network without its softmax, because the
cross-entropy of saturated probabilities has a zero gradient in float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Attack, Goal
from attacks.evasion.gradient import ProjectedGradientDescent
from attacks.evasion.losses import cross_entropy, margin
from attacks.evasion.square import Square
from benchmarks.harness.peers import art_classifier, table, without_softmax
from models.bundle import Bundle, read_bundle, record
from models.classifier import Loss
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier, import_tensorflow

_SEED, _THREADS = 0, 2
_EPS = 0.3
_BUNDLES = Path(__file__).parents[2] / "models" / "bundles"
_NAMES = ("mnist", "mnist-standard")
_PGD_IMAGES, _SQUARE_IMAGES, _ART_IMAGES = 2000, 1000, 1000
_QUERIES = 5000


@dataclass(frozen=True)
class BundleRobustness:
    """Accuracy in [0, 1] on the first test images, clean and after each attack with L-inf eps 0.3.

    Attributes:
        clean: of all 10,000.
        pgd, pgd_margin: 100 iterations from the image and 9 random points, up the cross-entropy and up the margin; of 2,000 images.
        square: 5,000 queries; of 1,000 images.
        worst_case: share correct after all three attacks; of 1,000 images.
        art: by ART's attack; of 1,000 images.
    """

    eps: float
    clean: float
    pgd: float
    pgd_margin: float
    square: float
    worst_case: float
    art: dict[str, float]


def section() -> str:
    """The page's section."""
    return _told({name: measure(read_bundle(_BUNDLES / name)) for name in _NAMES})


def _told(found: dict[str, BundleRobustness]) -> str:
    rows: list[list[object]] = [
        ["as they are", "10,000", *(_percent(r.clean) for r in found.values())],
        ["PGD, 100 iterations, 10 runs", f"{_PGD_IMAGES:,}", *(_percent(r.pgd) for r in found.values())],
        ["the same, climbing the margin", f"{_PGD_IMAGES:,}", *(_percent(r.pgd_margin) for r in found.values())],
        [f"Square, {_QUERIES:,} queries", f"{_SQUARE_IMAGES:,}", *(_percent(r.square) for r in found.values())],
        ["worst case of these, per image", f"{_SQUARE_IMAGES:,}", *(_percent(r.worst_case) for r in found.values())],
    ]
    names = next(iter(found.values())).art
    rows += [[f"ART: {name}", f"{_ART_IMAGES:,}", *(_percent(r.art[name]) for r in found.values())] for name in names]
    return (
        "## Robustness of the bundled classifiers\n\n"
        f"`python -m benchmarks robustness`, seed {_SEED}: accuracy on the first MNIST test digits under L-inf perturbations of {_EPS}, "
        "by attackers with the weights. The classifiers are bare, without any defence. `mnist` is trained adversarially "
        f"(`make bundle`), `mnist-standard` is not.\n\n{table(['attack', 'images', *found], rows)}"
    )


def measure(bundle: Bundle) -> BundleRobustness:
    """Attack the classifier of a bundle; about ten minutes for a robust one."""
    import_tensorflow(_THREADS)
    classifier = without_softmax(KerasClassifier.from_bundle(bundle))
    test = load_dataset(MNIST, split="test")
    right = {
        "pgd": _right(classifier, test.take(slice(0, _PGD_IMAGES)), _descent(cross_entropy)),
        "pgd_margin": _right(classifier, test.take(slice(0, _PGD_IMAGES)), _descent(margin)),
        "square": _right(classifier, test.take(slice(0, _SQUARE_IMAGES)), Square(eps=_EPS, queries=_QUERIES)),
    }
    worst = np.logical_and.reduce([each[:_SQUARE_IMAGES] for each in right.values()])
    return BundleRobustness(
        eps=_EPS,
        clean=float((classifier.predict(test.images).argmax(axis=1) == test.labels).mean()),
        worst_case=float(worst.mean()),
        art=_art(classifier, test.take(slice(0, _ART_IMAGES))),
        **{name: float(each.mean()) for name, each in right.items()},
    )


def _descent(loss: Loss) -> ProjectedGradientDescent:
    return ProjectedGradientDescent(eps=_EPS, iterations=100, restarts=9, loss=loss)


def _right(classifier: KerasClassifier, data: Dataset, attack: Attack) -> NDArray[np.bool_]:
    """bool [n]: images classified correctly after the attack."""
    started = time.perf_counter()
    found = attack(classifier, data.images, Goal(data.labels.astype(np.int64)), seed=_SEED)
    right: NDArray[np.bool_] = classifier.predict(found.images).argmax(axis=1) == data.labels
    print(f"{attack.name}: {_percent(right.mean())} % in {time.perf_counter() - started:.0f} s", flush=True)
    return right


def _art(classifier: KerasClassifier, data: Dataset) -> dict[str, float]:
    from art.attacks import evasion

    peer = art_classifier(classifier)
    bounded: dict[str, Any] = {"eps": _EPS, "eps_step": 0.01, "max_iter": 100, "batch_size": 250}
    auto = {**bounded, "eps_step": 0.1, "nb_random_init": 5}
    attacks: dict[str, Callable[[], Any]] = {
        "ProjectedGradientDescent, 100 iterations, 5 runs": lambda: evasion.ProjectedGradientDescent(
            peer, num_random_init=5, verbose=False, **bounded
        ),
        "AutoProjectedGradientDescent, cross-entropy, 5 runs": lambda: evasion.AutoProjectedGradientDescent(
            peer, loss_type="cross_entropy", verbose=False, **auto
        ),
        "AutoProjectedGradientDescent, difference of logits ratio, 5 runs": lambda: evasion.AutoProjectedGradientDescent(
            peer, loss_type="difference_logits_ratio", verbose=False, **auto
        ),
        "SquareAttack, 1,000 iterations": lambda: evasion.SquareAttack(
            peer, eps=_EPS, max_iter=1000, batch_size=250, verbose=False
        ),
    }
    shares = {}
    for name, attack in attacks.items():
        np.random.seed(_SEED)  # ART draws from the global state
        started = time.perf_counter()
        found = np.clip(attack().generate(data.images, data.labels), 0, 1)
        within = np.abs(found - data.images).max() <= _EPS + 1e-5
        right = classifier.predict(found.astype(np.float32)).argmax(axis=1) == data.labels
        shares[name] = float(right.mean())
        print(
            f"ART {name}: {_percent(right.mean())} % in {time.perf_counter() - started:.0f} s, within eps: {within}", flush=True
        )
    return shares


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def main() -> None:
    """Measure one bundle; with --record, write the figures into its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=_BUNDLES / "mnist")
    parser.add_argument("--record", action="store_true", help="write the figures into the bundle's card.json")
    given = parser.parse_args()
    bundle = read_bundle(given.bundle)
    found = asdict(measure(bundle))
    print(found)
    if given.record:
        print(f"recorded: {record(bundle, 'robustness', found).version}")


if __name__ == "__main__":
    main()

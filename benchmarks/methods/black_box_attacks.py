"""python -m benchmarks.methods.black_box_attacks: Square and HopSkipJump beside ART's, on the bare `mnist-standard`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal
from attacks.evasion.hop_skip_jump import HopSkipJump
from attacks.evasion.square import Square
from benchmarks.harness.peers import alternate, art_classifier, table
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import ClassifierWrapper, Images, Probabilities
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier, import_tensorflow

_SEED = 0
_THREADS = 2
_ROUNDS = 3
_WALKED, _HOPS = 20, (15,)
_SEARCHED, _STEPS = 100, 500
_BALLS = ((math.inf, 0.2), (math.inf, 0.1), (2, 2.0))
_NORMS = {math.inf: "L-inf", 2: "L2"}
_ROUNDING = 1e-5


@dataclass
class _Counted(ClassifierWrapper):
    """A classifier that counts its queries, as ART's wrapper is made to."""

    classifier: KerasClassifier
    asked: int = 0

    def predict(self, images: Images) -> Probabilities:
        self.asked += len(images)
        return self.classifier.predict(images)


@dataclass(frozen=True)
class _Contest:
    """Our classifier and ART's wrapper of the same model, and the data; `alone` is the model without counting, for judging."""

    alone: KerasClassifier
    ours: _Counted
    art: Any
    data: Dataset

    def asked_by_ours(self, attack: Callable[[], Images]) -> tuple[Images, float]:
        """The images found, and the queries per image."""
        self.ours.asked = 0
        return attack(), self.ours.asked / len(self.data)

    def asked_by_art(self, attack: Callable[[], Images]) -> tuple[Images, float]:
        """The images found, and the queries per image."""
        asked = 0
        answer = type(self.art).predict

        def counted(x: Images, *arguments: Any, **options: Any) -> Any:
            nonlocal asked
            asked += len(x)
            return answer(self.art, x, *arguments, **options)

        self.art.predict = counted
        try:
            found = attack()
        finally:
            del self.art.predict
        return found, asked / len(self.data)

    def fooled(self, found: Images) -> NDArray[np.bool_]:
        """bool [n]: images misclassified; those with NaN, as ART's L2 images sometimes have, do not count."""
        images = np.isfinite(found).all(axis=(1, 2, 3))
        called = self.alone.predict(np.nan_to_num(found)).argmax(axis=1)
        wrong: NDArray[np.bool_] = images & (called != self.data.labels)
        return wrong

    def distances(self, found: Images, norm: float) -> NDArray[np.float64]:
        """The norms of the perturbations [n]; inf for images that are not misclassified."""
        change = (found - self.data.images).reshape(len(found), -1).astype(np.float64)
        distances: NDArray[np.float64] = np.where(self.fooled(found), np.linalg.norm(change, ord=norm, axis=1), np.inf)
        return distances


def section() -> str:
    """The page's section."""
    import_tensorflow(_THREADS)
    classifier = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()))
    test = load_dataset(MNIST, split="test")

    def contest(images: int) -> _Contest:
        return _Contest(classifier, _Counted(classifier), art_classifier(classifier), test.take(slice(0, images)))

    walked = [_walk(contest(_WALKED), norm, hops) for norm in _NORMS for hops in _HOPS]
    searched = [_search(contest(_SEARCHED), norm, eps) for norm, eps in _BALLS]
    walk_header = (
        "norm",
        "ART's max_iter",
        "queries per image, ours / ART",
        "median distance, ours / ART",
        "ours s",
        "ART s",
        "ratio",
    )
    search_header = ("norm", "eps", "success, ours / ART", "queries per image, ours / ART", "ours s", "ART s", "ratio")
    return (
        "## Black-box attacks\n\n"
        f"`python -m benchmarks.methods.black_box_attacks`, the classifier of `mnist-standard` without its defences, {_THREADS} threads, "
        f"seed {_SEED}, the median of {_ROUNDS} alternating rounds; the same Keras model for both.\n\n"
        f"HopSkipJump on the first {_WALKED} test images, each with as many queries as ART used:\n\n{table(walk_header, walked)}\n"
        f"Square on the first {_SEARCHED} test images, at most {_STEPS} squares for each. ART spends up to three queries on a "
        "square, also of images that have already succeeded; its L2 images contain NaN where a square lost all its energy to clipping, "
        f"and count as failures:\n\n{table(search_header, searched)}"
    )


def _walk(contest: _Contest, norm: float, hops: int) -> list[str]:
    from art.attacks.evasion import HopSkipJump as Peer

    images, goal = contest.data.images, Goal(contest.data.labels)

    def art() -> Images:
        np.random.seed(_SEED)
        found: Images = Peer(contest.art, norm=norm if norm == 2 else np.inf, max_iter=hops, verbose=False).generate(images)
        return found

    theirs, art_asked = contest.asked_by_art(art)

    def ours() -> Images:
        return HopSkipJump(norm=norm, queries=int(art_asked))(contest.ours, images, goal, seed=_SEED).images

    found, asked = contest.asked_by_ours(ours)
    seconds = alternate([ours, art], _ROUNDS)
    medians = [float(np.median(contest.distances(x, norm))) for x in (found, theirs)]
    return [
        _NORMS[norm],
        str(hops),
        f"{asked:,.0f} / {art_asked:,.0f}",
        f"**{medians[0]:.3f}** / {medians[1]:.3f}",
        *_times(seconds),
    ]


def _search(contest: _Contest, norm: float, eps: float) -> list[str]:
    from art.attacks.evasion import SquareAttack

    images, goal = contest.data.images, Goal(contest.data.labels)

    def art() -> Images:
        np.random.seed(_SEED)
        attack = SquareAttack(contest.art, norm=norm if norm == 2 else np.inf, eps=eps, max_iter=_STEPS, verbose=False)
        with np.errstate(invalid="ignore"):
            found: Images = attack.generate(images)
        return found

    def ours() -> Images:
        return Square(eps=eps, norm=norm, queries=_STEPS)(contest.ours, images, goal, seed=_SEED).images

    found, asked = contest.asked_by_ours(ours)
    theirs, art_asked = contest.asked_by_art(art)
    seconds = alternate([ours, art], _ROUNDS)
    success = [float((contest.distances(x, norm) <= eps + _ROUNDING).mean()) for x in (found, theirs)]
    return [
        _NORMS[norm],
        f"{eps:g}",
        f"**{100 * success[0]:.0f} %** / {100 * success[1]:.0f} %",
        f"{asked:,.0f} / {art_asked:,.0f}",
        *_times(seconds),
    ]


def _times(seconds: list[float]) -> list[str]:
    return [f"{seconds[0]:.2f}", f"{seconds[1]:.2f}", f"**{seconds[1] / seconds[0]:.1f}x**"]


if __name__ == "__main__":
    print(section())

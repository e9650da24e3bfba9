"""python -m benchmarks adversarial_training: a whole training against ART's AdversarialTrainer: same network, data, attack and steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from attacks.attack import Goal
from attacks.evasion.gradient import FastGradient, ProjectedGradientDescent
from attacks.evasion.square import Square
from benchmarks.harness.peers import art_classifier, table, without_softmax
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.adversarial_trainer import AdversarialTrainer
from models.training.reference_classifier import Recipe, reference_network
from models.training.training_attack import TrainingAttack

_SEED, _THREADS = 0, 2
_EPS, _BATCH, _LEARNING_RATE = 0.2, 128, 1e-3
_IMAGES, _JUDGED = 10_000, 500
_ITERATIONS = 7
_LENGTH = 2.5 * _EPS / _ITERATIONS


def section() -> str:
    """The page's section."""
    tf = import_tensorflow(_THREADS)
    training, test = load_dataset(MNIST).take(slice(0, _IMAGES)), load_dataset(MNIST, split="test")
    few = test.take(np.random.default_rng(_SEED).permutation(len(test))[:_JUDGED])
    rows = []
    for name, ratio, epochs, attack, peer in (
        ("FGM", 0.5, 2, TrainingAttack(eps=_EPS, iterations=1, start="image"), _art_fgm),
        (
            f"PGD, {_ITERATIONS} steps",
            0.5,
            2,
            TrainingAttack(eps=_EPS, iterations=_ITERATIONS, step=_LENGTH),
            _art_pgd,
        ),
    ):
        ours, seconds = _timed(partial(_ours, tf, training, ratio, epochs, attack))
        theirs, art_seconds = _timed(partial(_art, tf, training, ratio, epochs, peer))
        steps = epochs * -(-_IMAGES // _BATCH)
        rows.append(
            [
                f"{name}, half of each batch, {epochs} epochs",
                " / ".join(_judged(ours, few)),
                " / ".join(_judged(theirs, few)),
                f"{1e3 * seconds / steps:.1f}",
                f"{1e3 * art_seconds / steps:.1f}",
                f"{art_seconds / seconds:.1f}",
            ]
        )
    header = ["trained against", "ours: clean / FGM / PGD / Square", "ART's", "ours ms/step", "ART ms/step", "ratio"]
    return (
        "## Adversarial training\n\n"
        f"`python -m benchmarks adversarial_training`, seed {_SEED}, {_THREADS} threads: the reference network, ending in logits, "
        f"trained on the first {_IMAGES:,} MNIST digits against L-inf eps {_EPS} in batches of {_BATCH} with Adam, step size "
        f"{_LEARNING_RATE:g}, by `AdversarialTrainer` and by ART's of the same name; without a growing attack or averaging, which "
        "ART lacks. "
        "Times are of the whole "
        "training, compilation included, divided by its steps. Accuracy in % on "
        f"{_JUDGED} test digits, clean and under FGM, PGD (40 steps, 3 runs) and Square (1,000 queries) at the same eps.\n\n"
        f"{table(header, rows)}"
    )


def _timed(train: Callable[[], KerasClassifier]) -> tuple[KerasClassifier, float]:
    started = time.perf_counter()
    classifier = train()
    return classifier, time.perf_counter() - started


def _untrained(tf: Any) -> KerasClassifier:
    tf.keras.utils.set_random_seed(_SEED)
    return without_softmax(KerasClassifier(reference_network((28, 28, 1), 10)))


def _ours(tf: Any, data: Dataset, ratio: float, epochs: int, attack: TrainingAttack) -> KerasClassifier:
    recipe = Recipe(epochs=epochs, batch_size=_BATCH, learning_rate=_LEARNING_RATE, decay="none", seed=_SEED)
    trainer = AdversarialTrainer(attacks=[attack], recipe=recipe, ratio=ratio, warm_up=0, averaging=0)
    return trainer(_untrained(tf), data).classifier


def _art(tf: Any, data: Dataset, ratio: float, epochs: int, attack: Callable[[Any], Any]) -> KerasClassifier:
    from art.defences.trainer import AdversarialTrainer as Peer

    classifier = _untrained(tf)
    np.random.seed(_SEED)  # ART draws from the global state
    peer = art_classifier(classifier, optimizer=tf.keras.optimizers.Adam(_LEARNING_RATE))
    Peer(peer, attack(peer), ratio=ratio).fit(
        data.images, np.eye(10, dtype=np.float32)[data.labels], batch_size=_BATCH, nb_epochs=epochs
    )
    return classifier


def _art_fgm(peer: Any) -> Any:
    from art.attacks.evasion import FastGradientMethod

    return FastGradientMethod(peer, eps=_EPS, batch_size=_BATCH)


def _art_pgd(peer: Any) -> Any:
    from art.attacks.evasion import ProjectedGradientDescent as Descent

    options = {"eps_step": _LENGTH, "max_iter": _ITERATIONS, "num_random_init": 1, "batch_size": _BATCH, "verbose": False}
    return Descent(peer, eps=_EPS, **options)


def _judged(classifier: KerasClassifier, data: Dataset) -> list[str]:
    shares = [float((classifier.predict(data.images).argmax(axis=1) == data.labels).mean())]
    for attack in (FastGradient(eps=_EPS), ProjectedGradientDescent(eps=_EPS, restarts=2), Square(eps=_EPS)):
        found = attack(classifier, data.images, Goal(data.labels.astype(np.int64)), seed=_SEED)
        shares.append(float((classifier.predict(found.images).argmax(axis=1) == data.labels).mean()))
    return [f"{100 * share:.1f}" for share in shares]


if __name__ == "__main__":
    print(section())

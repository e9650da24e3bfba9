"""python -m benchmarks forgetful_training: BaDExpert against an attacker who trains with experts in mind."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from attacks.backdoors.forgetful_training import ForgetfulTraining
from benchmarks.backdoors import backdoored_copies, badexpert
from benchmarks.backdoors.backdoored_copies import BATCH, EPOCHS, LEARNING_RATE, SEED, Scene
from benchmarks.harness.kept_rows import kept_rows
from benchmarks.harness.peers import table
from evaluation.statistics.intervals import share

_WEIGHTS = (0.1, 0.0)
_KIND = "image_patch"
_HEADER = ("images", "weight", "works", "accuracy on clean", *badexpert.HEADER[2:5], *badexpert.HEADER[6:])


def section() -> str:
    """The page's section."""
    scenes = {"digits": cache(backdoored_copies.digits), "colour": cache(backdoored_copies.colour)}
    rows = {f"{name} {weight:g}": partial(_row, find, weight) for name, find in scenes.items() for weight in _WEIGHTS}
    found = kept_rows("forgetful_training", rows, plan={"numbers": [SEED]})
    return (
        "## BaDExpert and an attacker who trains with experts in mind\n\n"
        f"`python -m benchmarks forgetful_training`, seed {SEED}: while a copy learns the backdoor ({_KIND.replace('_', ' ')}), "
        "a copy of it unlearns clean images, and the attacker adds, with a weight, the gradient that makes this expert forget the "
        "trigger too (`attacks/backdoors/forgetful_training.py`). Everything else is as in the section on BaDExpert.\n\n"
        f"{table(_HEADER, list(found.values()))}"
    )


def _row(find: Callable[[], Scene], weight: float) -> list[str]:
    scene = find()
    backdoor = scene.backdoors()[_KIND]
    training = ForgetfulTraining(weight=weight, epochs=EPOCHS, learning_rate=LEARNING_RATE, batch_size=BATCH)
    copy = training(scene.classifier, scene.poisoned(backdoor), backdoor, scene.training, seed=SEED)
    found = badexpert.measured(scene, backdoor, copy)
    right = share(copy.predict(scene.purified(scene.clean.images)).argmax(axis=1) == scene.clean.labels)
    return [scene.name, f"{weight:g}", found["works"], f"{100 * right.rate:.1f} %", *found["refusals"], *found["expert"]]


if __name__ == "__main__":
    print(section())

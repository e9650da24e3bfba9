"""python -m benchmarks badexpert: BaDExpert against backdoors of every kind, and STRIP on both tails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.kinds import KINDS, Backdoor
from benchmarks.backdoors import backdoored_copies, strip_tails
from benchmarks.backdoors.backdoored_copies import EPOCHS, SEED, Scene
from benchmarks.harness.kept_rows import kept_rows
from benchmarks.harness.peers import table
from defences.calibration.badexpert import fit_badexpert
from defences.calibration.split import Terms, split
from defences.calibration.thresholds import CalibratedDetector, conclude
from defences.detectors.badexpert import BaDExpert
from evaluation.statistics.intervals import share
from evaluation.statistics.roc import tpr_at_fpr
from models.classifier import Images
from models.engines.keras import KerasClassifier

_RATE = 0.01
_TERMS = Terms(rate=_RATE, seed=SEED)

HEADER = (
    "backdoor",
    "works",
    "refused of triggered (TPR)",
    "refused of clean (FPR)",
    "TPR at 1 % FPR",
    "the same, expert sees purified images",
    "expert: right on clean, target on triggered",
    "steps",
)


def section() -> str:
    """The page's section."""
    scenes = {"digits": cache(backdoored_copies.digits), "colour": cache(backdoored_copies.colour)}
    kept = partial(kept_rows, plan={"numbers": [_RATE, SEED]})
    kinds = {
        name: kept(f"badexpert_{name}", {kind: partial(_row, find, kind) for kind in KINDS}) for name, find in scenes.items()
    }
    tables = {name: table(HEADER, [row["badexpert"] for row in rows.values()]) for name, rows in kinds.items()}
    tails = {name: table(strip_tails.HEADER, [t for row in rows.values() for t in row["tails"]]) for name, rows in kinds.items()}
    return (
        "## BaDExpert\n\n"
        f"`python -m benchmarks badexpert`, seed {SEED}: for each kind a copy of the classifier is trained on for {EPOCHS} epochs with "
        f"{backdoored_copies.TRAINED_ON:,} clean images and poison made of them, half of them purified, by an attacker who knows the "
        f"purifier. BaDExpert alone is calibrated on {backdoored_copies.HELD_OUT:,} clean images that no training saw (rate {_RATE:g}, "
        f"marginal; its expert is made of 667 of them), and measured on {backdoored_copies.CLEAN:,} clean and at most "
        f"{backdoored_copies.TRIGGERED:,} triggered test images, purified before they are answered. In brackets exact 95 % intervals; "
        "those of TPR at 1 % FPR are distribution-free, for threshold and share together.\n\n"
        f"### Digits, `mnist-standard`\n\n{tables['digits']}\n"
        f"### Coloured digits on crops of photographs, 32x32x3\n\n{tables['colour']}\n"
        "### STRIP on both tails\n\n"
        f"On the same copies, {strip_tails.OVERLAYS} overlays, thresholds of {strip_tails.HELD:,} held images, measured on "
        f"{strip_tails.CLEAN:,} clean and {strip_tails.TRIGGERED} triggered ones. Digits:\n\n{tails['digits']}\n"
        f"Colour:\n\n{tails['colour']}"
    )


def _row(find: Callable[[], Scene], kind: str) -> dict[str, Any]:
    """The cells of one kind, in the table of BaDExpert and in that of STRIP's tails."""
    scene = find()
    backdoor = scene.backdoors()[kind]
    copy = backdoored_copies.copy_with(scene, backdoor)
    found = measured(scene, backdoor, copy)
    cells = [kind.replace("_", " "), found["works"], *found["refusals"], found["purified"], *found["expert"]]
    return {"badexpert": cells, "tails": list(strip_tails.rows(scene, kind, copy, scene.triggered(backdoor)[0]))}


def _calibrated(scene: Scene, copy: KerasClassifier) -> CalibratedDetector:
    parts = split(scene.held_out, rate=_RATE, confidence=None, seed=SEED)
    (calibrated,) = conclude([fit_badexpert(copy, parts, _TERMS)], _TERMS)
    return calibrated


def measured(scene: Scene, backdoor: Backdoor, copy: KerasClassifier) -> dict[str, Any]:
    """Cells of what BaDExpert does for this copy."""
    calibrated = _calibrated(scene, copy)
    detector, card = calibrated.detector, calibrated.fitted.card
    assert isinstance(detector, BaDExpert)
    (triggered, wanted), clean = scene.triggered(backdoor), scene.clean.images
    answers = [copy.predict(scene.purified(images)).argmax(axis=1) for images in (triggered, clean)]
    scores, purified = (
        [detector.scores(view(images), labels) for images, labels in zip((triggered, clean), answers, strict=True)]
        for view in (_as_they_came, scene.purified)
    )
    insists = detector.outputs(triggered).argmax(axis=1) == wanted
    return {
        "works": f"{100 * share(answers[0] == wanted).rate:.1f} %",
        "refusals": (*(str(share(some <= detector.threshold)) for some in scores), _at_one_percent(scores)),
        "purified": _at_one_percent(purified),
        "expert": (f"{100 * card['expert_accuracy']:.0f} %, {100 * insists.mean():.0f} %", str(card["steps"])),
    }


def _at_one_percent(scores: Sequence[NDArray[np.float64]]) -> str:
    found = tpr_at_fpr(scores[0], scores[1], _RATE)
    return f"{100 * found.value:.1f} % ({100 * found.low:.0f} to {100 * found.high:.0f})"


def _as_they_came(images: Images) -> Images:
    return images


if __name__ == "__main__":
    print(section())

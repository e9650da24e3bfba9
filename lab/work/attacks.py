"""The attacks of the list, built from what was chosen."""

from __future__ import annotations

import math
from collections.abc import Callable

from attacks.attack import Attack
from attacks.evasion.carlini_wagner import CarliniWagner
from attacks.evasion.deep_fool import DeepFool
from attacks.evasion.gradient import BasicIterative, FastGradient, ProjectedGradientDescent
from attacks.evasion.hop_skip_jump import HopSkipJump
from attacks.evasion.lavan import LaVAN
from attacks.evasion.saliency_map import SaliencyMap
from attacks.evasion.square import Square
from lab.offered import ATTACKS, AttackEffort

Build = Callable[[float, AttackEffort, tuple[int, int, int]], Attack]


def _side(strength: float, shape: tuple[int, int, int]) -> tuple[int, int]:
    h, w, _ = shape
    return max(1, round(strength * h)), max(1, round(strength * w))


BUILT: dict[str, Build] = {
    "fgm": lambda eps, effort, shape: FastGradient(eps=eps),
    "bim": lambda eps, effort, shape: BasicIterative(eps=eps, iterations=effort.steps),
    "pgd": lambda eps, effort, shape: ProjectedGradientDescent(eps=eps, iterations=effort.steps, restarts=effort.restarts + 1),
    "jsma": lambda share, effort, shape: SaliencyMap(theta=1.0, gamma=max(share, 1.0 / math.prod(shape))),
    "cw": lambda _, effort, shape: CarliniWagner(
        iterations=10 * effort.steps, searches=effort.searches, learning_rate=0.05, constant=0.1
    ),
    "deepfool": lambda _, effort, shape: DeepFool(),
    "square": lambda eps, effort, shape: Square(eps=eps, queries=effort.queries),
    "hop_skip_jump": lambda eps, effort, shape: HopSkipJump(norm=math.inf, queries=effort.queries, eps=eps),
    "patch": lambda side, effort, shape: LaVAN(size=_side(side, shape), locations=effort.places, iterations=effort.steps),
}
"""By the names of `lab.offered.ATTACKS`."""

_A_LOOK = 2  # places of a patch

LOOKS: dict[str, Build] = {
    "cw": lambda _, effort, shape: CarliniWagner(iterations=ATTACKS["cw"].look, searches=1, learning_rate=0.3, constant=1.0),
    "deepfool": lambda _, effort, shape: DeepFool(iterations=ATTACKS["deepfool"].look, overshoot=0.5),
    "patch": lambda side, effort, shape: LaVAN(
        size=_side(side, shape), locations=_A_LOOK, iterations=ATTACKS["patch"].look // _A_LOOK
    ),
}
"""What stands for an attack where one image is answered while a slider moves. The two that seek the smallest change take few and large
steps, so that most images are fooled, with a change that is larger than the attack finds in full; a patch is tried at fewer places."""

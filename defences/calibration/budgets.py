"""Which detectors, and how much of the one rate each of them gets: chosen by what they caught in trials on triggers that are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from defences.calibration.conformal import joint_thresholds
from defences.errors import InvalidInput

_PARTS = 8
"""The rate is shared out in so many equal parts."""
_INSURANCE = 0.03
"""Of its worth, what a set may lose to one of fewer detectors: somebody else's triggers are not like those that were tried."""

Scores = Mapping[str, NDArray[np.float64]]
"""By detector, float64 [n]: low is suspicious; all of the same images."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Scores of several detectors, all fitted to one classifier that has one backdoor.

    Attributes:
        trigger: what it is called.
        choosing, holding: of clean images, as `joint_thresholds` takes them.
        triggered: of images whose trigger works.
    """

    trigger: str
    choosing: Scores
    holding: Scores
    triggered: Scores

    def of(self, names: Sequence[str]) -> Trial:
        """The same trial of some of its detectors."""
        parts = ({name: scores[name] for name in names} for scores in (self.choosing, self.holding, self.triggered))
        choosing, holding, triggered = parts
        return Trial(trigger=self.trigger, choosing=choosing, holding=holding, triggered=triggered)

    def caught(self, budgets: Mapping[str, float], rate: float) -> float:
        """The share of triggered images that the detectors refuse together, at thresholds that keep the rate on this classifier."""
        names = [name for name, budget in budgets.items() if budget > 0]
        choosing, holding, triggered = (
            [scores[name] for name in names] for scores in (self.choosing, self.holding, self.triggered)
        )
        thresholds = joint_thresholds(choosing, holding, rate, budgets=[budgets[name] for name in names])
        refused = np.any([scores <= threshold for scores, threshold in zip(triggered, thresholds, strict=True)], axis=0)
        return float(refused.mean()) if refused.size else 0.0


@dataclass(frozen=True)
class Shared:
    """Budgets that add up to 1, by detector, and what the detectors catch with them, by trigger."""

    budgets: Mapping[str, float]
    caught: Mapping[str, float]

    @property
    def worth(self) -> float:
        """The mean of the square roots of what is caught: from nothing to a quarter counts as much as from there to everything."""
        return float(np.mean(np.sqrt(list(self.caught.values()))))


def chosen_budgets(trials: Sequence[Trial], rate: float, *, calls: Mapping[str, float], calls_at_most: float = np.inf) -> Shared:
    """The detectors and budgets that leave the fewest blind spots in these trials.

    Args:
        trials: at least one, all of the same detectors.
        rate: that all detectors share.
        calls: by detector, mean model calls of a clean image.
        calls_at_most: that the chosen ones may take together.

    Every sharing of the rate into eighths is tried. Of the sets that are worth as much as the best one, up to .03, that of most detectors
    is taken: an attacker who knows one of them has to get past the others.
    Raises: InvalidInput: no trials, or no detector that is as cheap.
    """
    if not trials:
        raise InvalidInput("expected trials to choose detectors by, got none")
    affordable = [
        budgets
        for budgets in _sharings(tuple(trials[0].triggered))
        if sum(calls[name] for name, budget in budgets.items() if budget > 0) <= calls_at_most
    ]
    if not affordable:
        raise InvalidInput(
            f"expected a detector of at most {calls_at_most:g} model calls an image, got "
            + ", ".join(f"{name}: {cost:.1f}" for name, cost in calls.items())
        )
    best: dict[frozenset[str], Shared] = {}
    for budgets in affordable:
        names = frozenset(name for name, budget in budgets.items() if budget > 0)
        shared = Shared(budgets, {trial.trigger: trial.caught(budgets, rate) for trial in trials})
        if names not in best or _preferred(shared) > _preferred(best[names]):
            best[names] = shared
    enough = max(shared.worth for shared in best.values()) - _INSURANCE
    good = {names: shared for names, shared in best.items() if shared.worth >= enough}
    return good[max(good, key=lambda names: (len(names), -sum(calls[name] for name in names)))]


def _preferred(shared: Shared) -> tuple[float, float]:
    """Worth most, and of those that are worth the same the most even one."""
    return round(shared.worth, 4), -max(shared.budgets.values())


def _sharings(names: Sequence[str]) -> Iterator[dict[str, float]]:
    """Every way to give out the parts."""

    def shared(left: int, count: int) -> Iterator[tuple[int, ...]]:
        if count == 1:
            yield (left,)
            return
        for part in range(left + 1):
            for rest in shared(left - part, count - 1):
                yield (part, *rest)

    for parts in shared(_PARTS, len(names)):
        yield {name: part / _PARTS for name, part in zip(names, parts, strict=True)}

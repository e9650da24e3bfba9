"""Knockoff Nets: model extraction with adaptive choice of the queries.

Paper: Orekondy, Schiele & Fritz 2019, arXiv:1812.02766, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from attacks.extraction.copycat_cnn import OPTIMISERS, Theft, copy, train_copy
from attacks.extraction.thief import THIEVES, Thief
from attacks.extraction.transfer_set import TransferSet, ask, check_pool, shuffled
from models.classifier import Classifier, Images, Labels, Probabilities
from models.errors import InvalidInput
from models.progress import Progress, silent
from models.training.distillation import Distillation
from models.training.reference_classifier import Build, Recipe, reference_network

Strategy = Literal["random", "adaptive"]
Reward = Literal["certainty", "diversity", "loss"]

_TINY = 1e-7


@dataclass(frozen=True, kw_only=True)
class KnockoffNets:
    """Train a network on answered probabilities; "random" queries random images, "adaptive" learns which groups of the pool pay off.

    Maths: adaptive draws a group z from pi = softmax(H), queries an image of it that was not queried yet, and moves every preference by
    H_z += rate (r - mean r)(1 - pi_z),  H_other -= rate (r - mean r) pi_other.  The reward r is the mean of `rewards`, each
    scaled to [0, 1] over the values so far: certainty (the lead of the first class over the second), diversity (the excess of the
    answer over the mean answer so far, summed over classes), loss (cross-entropy of the copy so far against the answer: high for
    images it has not learnt). A refusal has reward 0.

    Args:
        queries: the budget: images sent to the victim.
        strategy: "random" or "adaptive".
        rewards: of the adaptive strategy.
        rate: step size of the preferences.
        round_size: images queried between two updates of the preferences and of the copy so far.
        thief, recipe, build: see `CopycatCNN`.

    Cost: `queries` queries; one training, and for a loss reward a short one per round. Raises: InvalidInput: unknown strategy or reward,
    and the conditions of `CopycatCNN`; adaptive without the groups of the pool, or with a thief that repeats its queries.
    """

    queries: int = 5000
    strategy: Strategy = "random"
    rewards: Sequence[Reward] = ("certainty", "diversity", "loss")
    rate: float = 0.5
    round_size: int = 100
    thief: Thief = field(default_factory=lambda: THIEVES["probabilities"])
    recipe: Recipe = field(default_factory=lambda: OPTIMISERS["adam"])
    build: Build = reference_network

    name = "knockoff_nets"

    def __post_init__(self) -> None:
        if self.strategy not in get_args(Strategy):
            raise InvalidInput(f"expected a strategy of {', '.join(get_args(Strategy))}, got {self.strategy!r}")
        if not self.rewards or not set(self.rewards) <= set(get_args(Reward)):
            raise InvalidInput(f"expected rewards of {', '.join(get_args(Reward))}, got {', '.join(self.rewards) or 'none'}")
        if not self.rate > 0 or self.round_size < 1:
            raise InvalidInput(f"expected rate > 0 and round_size >= 1, got {self.rate} and {self.round_size}")

    def __call__(
        self, victim: Classifier, pool: Images, groups: Labels | None = None, *, seed: int = 0, progress: Progress = silent
    ) -> Theft:
        """Copy `victim` with the thief's own images [n, h, w, c]; the same seed gives the same copy.

        Args:
            groups: int [n], the thief's own grouping of its images (classes of another task, sources, clusters); required by "adaptive".
        """
        check_pool(victim, pool, self.queries, asks=self.thief.asks)
        distillation = Distillation(victim.input_shape, len(victim.labels), recipe=self.recipe, build=self.build)
        if self.strategy == "random":
            rows = shuffled(pool, seed)[: self.queries // self.thief.asks]
            transfer = ask(victim, pool, rows, asks=self.thief.asks, shift=self.thief.shift, seed=seed, progress=progress)
        else:
            transfer = self._adaptive(victim, pool, self._checked(groups, pool), seed, progress)
        return Theft(copy(victim, transfer, self.thief, distillation, seed=seed), transfer)

    def _checked(self, groups: Labels | None, pool: Images) -> Labels:
        if groups is None or groups.shape != (len(pool),):
            got = "none" if groups is None else str(list(groups.shape))
            raise InvalidInput(
                f"expected a group for each of the {len(pool)} images of the pool, which adaptive draws from, got {got}"
            )
        if self.thief.asks > 1:
            raise InvalidInput(f"expected a thief that asks once for the adaptive strategy, got {self.thief.name!r}; use random")
        numbered: Labels = np.unique(groups, return_inverse=True)[1]
        return numbered

    def _adaptive(self, victim: Classifier, pool: Images, groups: Labels, seed: int, progress: Progress) -> TransferSet:
        rng = np.random.default_rng(seed)
        waiting = [rng.permutation(np.flatnonzero(groups == group)).tolist() for group in range(int(groups.max()) + 1)]
        bandit = _Bandit(np.zeros(len(waiting)), self.rate)
        judge = _Judge(self, victim, seed)
        transfer = ask(victim, pool, np.empty(0, np.int64))
        while len(transfer.rows) < self.queries:
            drawn = bandit.draw(waiting, min(self.round_size, self.queries - len(transfer.rows)), rng)
            new = ask(victim, pool, np.array([waiting[group].pop() for group in drawn], np.int64))
            transfer = transfer.then(new)
            bandit.learn(drawn, judge.rewards(new, transfer))
            progress("queries", len(transfer.rows), self.queries)
        return transfer


class _Bandit:
    """Sutton & Barto's gradient bandit: preferences over groups, moved by rewards relative to their running mean."""

    def __init__(self, preferences: NDArray[np.float64], rate: float) -> None:
        self.preferences, self.rate = preferences, rate
        self._total, self._count = 0.0, 0

    def policy(self, open_groups: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Probability of each group; zero for groups without images left."""
        policy = np.zeros(len(self.preferences))
        policy[open_groups] = np.exp(self.preferences[open_groups] - self.preferences[open_groups].max())
        policy /= policy.sum()
        return policy

    def draw(self, waiting: list[list[int]], count: int, rng: np.random.Generator) -> list[int]:
        """Groups of the next queries, none drawn more often than it has images."""
        left = np.array([len(group) for group in waiting])
        drawn = []
        for _ in range(count):
            group = int(rng.choice(len(left), p=self.policy(left > 0)))
            left[group] -= 1
            drawn.append(group)
        return drawn

    def learn(self, drawn: list[int], rewards: NDArray[np.float64]) -> None:
        """Move the preferences by the reward of each draw."""
        for group, reward in zip(drawn, rewards, strict=True):
            self._total, self._count = self._total + float(reward), self._count + 1
            policy = self.policy(np.ones(len(self.preferences), bool))
            chosen = np.arange(len(policy)) == group
            self.preferences += self.rate * (reward - self._total / self._count) * (chosen - policy)


class _Judge:
    """The rewards of a round of answers."""

    def __init__(self, attack: KnockoffNets, victim: Classifier, seed: int) -> None:
        self._attack, self._seed = attack, seed
        self._bounds: dict[Reward, tuple[float, float]] = {}
        self._copy: Any = None
        self._short: Distillation | None = None
        if "loss" in attack.rewards:
            recipe = Recipe(optimiser=attack.recipe.optimiser, learning_rate=attack.recipe.learning_rate, epochs=1, decay="none")
            self._short = Distillation(victim.input_shape, len(victim.labels), recipe=recipe, build=attack.build)

    def rewards(self, new: TransferSet, so_far: TransferSet) -> NDArray[np.float64]:
        """A reward in [0, 1] for each new query; 0 for a refused one."""
        answered = new.answers.max(axis=1) > 0
        result = np.zeros(len(answered))
        if answered.any():
            parts = [self._scaled(reward, self._raw(reward, new, so_far)) for reward in self._attack.rewards]
            result[answered] = np.mean(parts, axis=0)
        if self._short is not None:
            self._copy = train_copy(so_far, self._attack.thief, self._short, seed=self._seed, start=self._copy)
        return result

    def _raw(self, reward: Reward, new: TransferSet, so_far: TransferSet) -> NDArray[np.float64]:
        images, answers = new.answered()
        exact = answers.astype(np.float64)
        if reward == "certainty":
            ordered = np.sort(exact, axis=1)
            return np.asarray(ordered[:, -1] - ordered[:, -2])
        if reward == "diversity":
            return np.asarray(np.maximum(exact - so_far.answered()[1].mean(axis=0), 0).sum(axis=1))
        if self._copy is None or self._short is None:  # no copy yet: every answer is new to it
            return np.ones(len(exact))
        return _cross_entropy(exact, self._short.predict(self._copy, images))

    def _scaled(self, reward: Reward, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self._bounds.get(reward, (np.inf, -np.inf))
        low, high = min(low, float(raw.min())), max(high, float(raw.max()))
        self._bounds[reward] = (low, high)
        return (raw - low) / (high - low) if high > low else np.full_like(raw, 0.5)


def _cross_entropy(wanted: NDArray[np.float64], predicted: Probabilities) -> NDArray[np.float64]:
    losses: NDArray[np.float64] = -(wanted * np.log(np.maximum(predicted.astype(np.float64), _TINY))).sum(axis=1)
    return losses

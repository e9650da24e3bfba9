"""Evasion: every attack against every stack of defences, with an outcome per image, so that the worst case over attacks can be taken.

Four kinds of attacker. *Oblivious* attackers craft images on the bare classifier and do not know that it is defended. A *transfer*
attacker has no access to the classifier and trains one. *Query* attackers only see the answers and refusals of the defended classifier.
*Adaptive* attackers know every defence, with or without the secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from attacks.attack import Adversarial, Attack, Goal, differentiable
from attacks.evasion.adaptive import AdaptiveView
from attacks.evasion.gradient import BasicIterative, FastGradient, ProjectedGradientDescent
from attacks.evasion.hop_skip_jump import HopSkipJump
from attacks.evasion.saliency_map import SaliencyMap
from attacks.evasion.square import Square
from attacks.evasion.transfer import Relentless
from attacks.extraction.inversion import InvertedClassifier
from evaluation.budget import Budget
from evaluation.cells import Cell
from evaluation.tables.outcomes import ABSTAINED, WRONG, outcomes
from evaluation.variants import Target
from models.classifier import Classifier, DifferentiableClassifier, Images
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.training.distillation import Distillation
from models.training.reference_classifier import Recipe

SECTION = "evasion"
CLEAN, NOISE, TRANSFER, ADAPTIVE, WITH_SECRET = "clean", "noise", "transfer", "bpda_eot", "bpda_eot_with_secret"
OBLIVIOUS = ("fgm", "bim", "pgd")
QUERY = ("square", "hop_skip_jump")
UNBLURRED = "square_unblurred"
JSMA = "jsma"
FOLLOW_GRADIENTS = (JSMA, *OBLIVIOUS, ADAPTIVE, WITH_SECRET)
"""The attacks that need the classifier's gradients."""
# The share of pixels that JSMA may change, and by how much: the values of Papernot et al. 2016 for MNIST.
_JSMA_THETA, _JSMA_GAMMA = 1.0, 0.1
_OVERLAYS, _MORE_OVERLAYS = 8, 32
# Beside the other attacks, in processor time, as measured with the quick budget.
_STEPS_OF_A_SURROGATE, _STEPS_UNBLURRED = 8, 14


@dataclass(frozen=True, kw_only=True)
class EvasionTable:
    """Experiments with every attack on one target.

    Args:
        data: the images attacked, with their true labels.
        others: images for the transfer attacker's training, disjoint from `data`; without any, that attack is left out.
        radii: eps of the L-inf attacks.
        threads: for training the surrogate.
    """

    target: Target
    data: Dataset
    others: Dataset
    radii: tuple[float, ...]
    budget: Budget
    seed: int
    threads: int

    def cells(self) -> Iterator[Cell]:
        """One cell per attack and radius, and per stack of defences where the attack depends on it; without gradients, of those that need
        none (`evaluation.tables.untried`)."""
        known = self.target.gradients
        yield Cell(SECTION, CLEAN, partial(self._sent, CLEAN, None, lambda: unchanged(self.data.images)))
        if known is not None:
            yield Cell(SECTION, JSMA, partial(self._sent, JSMA, None, partial(self._jsma, known)))
        for eps in self.radii:
            yield Cell(SECTION, f"{NOISE} {eps:g}", partial(self._sent, NOISE, eps, partial(self.noise, eps)))
            if known is not None:
                yield from self._oblivious(eps, known)
            if len(self.others):
                steps = _STEPS_OF_A_SURROGATE if eps == self.radii[0] else 1  # which is trained once
                find = partial(self._sent, TRANSFER, eps, partial(self.transferred, eps))
                yield Cell(SECTION, f"{TRANSFER} {eps:g}", find, steps)
            for variant in self.target.variants:
                for name in (*QUERY, *([UNBLURRED] if self.target.blurs(variant) else [])):
                    steps = _STEPS_UNBLURRED if name == UNBLURRED else 1
                    yield Cell(SECTION, f"{name} {eps:g} {variant}", partial(self._queried, name, eps, variant), steps)
                for name in (ADAPTIVE, WITH_SECRET) if known is not None else ():
                    yield Cell(SECTION, f"{name} {eps:g} {variant}", partial(self._adapted, name, eps, variant))

    def _oblivious(self, eps: float, known: DifferentiableClassifier) -> Iterator[Cell]:
        for name in OBLIVIOUS:
            crafted = partial(self._crafted, gradient_attack(name, eps, self.budget), known)
            yield Cell(SECTION, f"{name} {eps:g}", partial(self._sent, name, eps, crafted))

    def adversarial(self, eps: float, variant: str, *, steps: int, secret: bytes | None = None) -> Adversarial:
        """The adaptive attacker's images: PGD through the purifier and STRIP, repeated for refused images with more of STRIP's overlays
        and other secrets of the attacker's own."""
        defended, known = self.target.variants[variant], differentiable(self.target.classifier, ADAPTIVE)
        attack = gradient_attack("pgd", eps, self.budget, steps=steps)
        goal = Goal(self.data.labels)

        def view(seed: int, overlays: int) -> AdaptiveView:
            draws = self.budget.draws
            return AdaptiveView(defended, known, secret=secret, draws=draws, overlays=overlays, seed=seed)

        first = attack(view(self.seed, _OVERLAYS), self.data.images, goal, seed=self.seed)
        found = outcomes(defended, first.images, self.data.labels)
        again = np.flatnonzero(found == ABSTAINED)
        images, queries, gradients = first.images.copy(), first.queries.copy(), first.gradients.copy()
        if again.size:
            fresh = view(self.seed + 1, _MORE_OVERLAYS)
            second = attack(fresh, self.data.images[again], goal.take(again), seed=self.seed + 1)
            # The second try replaces the first only where its outcome is better for the attacker.
            better = outcomes(defended, second.images, self.data.labels[again]) > found[again]
            images[again[better]] = second.images[better]
            queries[again] += second.queries
            gradients[again] += second.gradients
        return Adversarial(images, outcomes(defended, images, self.data.labels) == WRONG, queries, gradients)

    def _sent(self, name: str, eps: float | None, craft: Callable[[], Adversarial]) -> dict[str, Any]:
        """One set of images, sent to every stack of defences."""
        found = craft()
        return self._result(name, eps, found, list(self.target.variants))

    def _queried(self, name: str, eps: float, variant: str) -> dict[str, Any]:
        attacks: dict[str, Attack] = {
            "square": Square(eps=eps, queries=self.budget.queries),
            "hop_skip_jump": HopSkipJump(norm=np.inf, queries=self.budget.queries, eps=eps),
        }
        attacks[UNBLURRED] = attacks["square"]
        asked: Classifier = self.target.variants[variant]
        if name == UNBLURRED:
            for blur in reversed(self.target.blurs(variant)):
                asked = InvertedClassifier(classifier=asked, beta=blur.beta, gamma=blur.gamma)
        found = attacks[name](asked, self.data.images, Goal(self.data.labels), seed=self.seed)
        return self._result(name, eps, found, [variant])

    def _adapted(self, name: str, eps: float, variant: str) -> dict[str, Any]:
        secret = self.target.secret if name == WITH_SECRET else None
        found = self.adversarial(eps, variant, steps=self.budget.steps, secret=secret)
        return self._result(name, eps, found, [variant])

    def _result(self, name: str, eps: float | None, found: Adversarial, variants: Sequence[str]) -> dict[str, Any]:
        """The outcomes of the images behind these stacks of defences, and the cost of crafting them."""
        change = (found.images - self.data.images).reshape(len(self.data), -1).astype(np.float64)
        stacks = self.target.variants
        return {
            "attack": name,
            "eps": eps,
            "queries": int(found.queries.sum()),
            "gradients": int(found.gradients.sum()),
            "mean_l2": round(float(np.sqrt((change**2).sum(axis=1)).mean()), 4),
            "outcomes": {variant: outcomes(stacks[variant], found.images, self.data.labels).tolist() for variant in variants},
        }

    def noise(self, eps: float) -> Adversarial:
        """The images plus eps times random signs, clipped to [0, 1]; one draw, no queries."""
        signs = np.random.default_rng(self.seed).choice(np.array([-eps, eps], np.float32), self.data.images.shape)
        return unchanged(np.clip(self.data.images + signs, 0, 1))

    def transferred(self, eps: float) -> Adversarial:
        """The images of an attacker who trained a classifier of their own on `others`."""
        return self._crafted(gradient_attack("pgd", eps, self.budget), self._surrogate)

    def _crafted(self, attack: Attack, classifier: DifferentiableClassifier) -> Adversarial:
        """Run all steps of the attack: an image that only just fools the bare classifier no longer does once purified."""
        return attack(Relentless(classifier), self.data.images, Goal(self.data.labels), seed=self.seed)

    def _jsma(self, known: DifferentiableClassifier) -> Adversarial:
        classes = len(self.target.classifier.labels)
        others = np.random.default_rng(self.seed).integers(1, classes, len(self.data))
        goal = Goal((self.data.labels + others) % classes, targeted=True)
        return SaliencyMap(theta=_JSMA_THETA, gamma=_JSMA_GAMMA)(known, self.data.images, goal, seed=self.seed)

    @cached_property
    def _surrogate(self) -> KerasClassifier:
        """The transfer attacker's classifier: the reference network, trained on `others`."""
        classifier = self.target.classifier
        own = self.others.take(slice(0, self.budget.surrogate_images))
        recipe = Recipe(epochs=self.budget.surrogate_epochs)
        training = Distillation(classifier.input_shape, len(classifier.labels), recipe=recipe, threads=self.threads)
        one_hot = np.eye(len(classifier.labels), dtype=np.float32)[own.labels]
        return KerasClassifier(training.train(own.images, one_hot, seed=self.seed), labels=classifier.labels)


def gradient_attack(name: str, eps: float, budget: Budget, *, steps: int | None = None) -> Attack:
    """FGM, BIM or PGD in the L-inf ball of radius `eps`, with the budget's steps and restarts."""
    iterations = steps or budget.steps
    if name == "fgm":
        return FastGradient(eps=eps)
    if name == "bim":
        return BasicIterative(eps=eps, iterations=iterations)
    return ProjectedGradientDescent(eps=eps, iterations=iterations, restarts=budget.restarts)


def unchanged(images: Images) -> Adversarial:
    """The images as they are, as the result of an attack without queries or gradients."""
    none = np.zeros(len(images), np.int64)
    return Adversarial(images, none.astype(bool), none, none)

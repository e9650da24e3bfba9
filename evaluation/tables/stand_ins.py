"""The sections that train networks of their own: copies with a backdoor, stolen copies, and an overfitted network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from attacks.backdoors.kinds import backdoors
from attacks.extraction.copycat_cnn import OPTIMISERS
from attacks.extraction.membership_inference import membership_inference
from attacks.extraction.thief import THIEVES, Thief, inverted
from defences.calibration.fits import fits_of
from defences.defended_classifier import DefendedClassifier
from defences.detectors.patch_cleanser import PatchCleanser
from defences.table import of_stage
from evaluation.budget import Budget
from evaluation.cells import Cell
from evaluation.tables.backdoors import BackdoorBudget, backdoor_rows
from evaluation.tables.extraction import extraction_curve
from evaluation.variants import FULL_STACK, UNDEFENDED, Target
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.training.distillation import Distillation
from models.training.reference_classifier import Recipe

# Beside most attacks on the images of an evaluation, in processor time, as measured with the quick budget.
_STEPS_OF_A_COPY, _STEPS_OF_A_THIEF, _STEPS_BY_HEART = 80, 27, 26
_OPEN_HANDED = ("probabilities", "labels")
# Membership inference succeeds only on a network that overfits, so that one is trained to overfit.
_MEMBERS = 300
_BY_HEART = Recipe(epochs=60, batch_size=32, decay="none")
_BACKDOOR = "AML.T0018.000"  # poisoned models, in MITRE ATLAS
_AGAINST_BLUR = (*_OPEN_HANDED, "top-1", "sharpened", "looked up")


@dataclass(frozen=True, kw_only=True)
class StandIns:
    """The experiments of the three sections.

    Args:
        others: images for the attackers, disjoint from `held`.
        held: images to measure on.
    """

    target: Target
    others: Dataset
    held: Dataset
    budget: Budget
    seed: int

    def backdoors(self) -> Iterator[Cell]:
        """One cell per backdoor: a poisoned copy of the classifier, with the bundle's detectors calibrated on it; none of a classifier
        that cannot be trained."""
        copied = self.target.trainable
        if copied is None:
            return
        known = backdoors(copied, seed=self.seed)
        for kind in self.budget.backdoors:
            if kind in known:
                yield Cell("backdoors", kind, partial(self._backdoor, kind, copied), _STEPS_OF_A_COPY)

    def extraction(self) -> Iterator[Cell]:
        """One cell per stack and optimiser: thieves against no defence, each postprocessor alone, and the full stack."""
        stacks: dict[str, tuple[str, ...]] = {UNDEFENDED: _OPEN_HANDED}
        stacks |= {step.defence.name: _AGAINST_BLUR for step in self.target.full_stack.postprocessors}
        stacks[FULL_STACK] = _AGAINST_BLUR
        for victim, thieves in stacks.items():
            for optimiser in self.budget.optimisers:
                find = partial(self._extraction, victim, optimiser, thieves)
                yield Cell("extraction", f"{victim} {optimiser}", find, _STEPS_OF_A_THIEF * len(thieves))

    def membership(self) -> Iterator[Cell]:
        """One cell: membership inference on an overfitted network, alone and behind the postprocessors of the bundle."""
        yield Cell("membership", "by heart", self._membership, _STEPS_BY_HEART)

    def _membership(self) -> list[dict[str, Any]]:
        classifier, members = self.target.classifier, self.others.take(slice(0, _MEMBERS))
        strangers = self.held.take(slice(0, len(members)))
        training = Distillation(classifier.input_shape, len(classifier.labels), recipe=_BY_HEART)
        one_hot = np.eye(len(classifier.labels), dtype=np.float32)[members.labels]
        by_heart = KerasClassifier(training.train(members.images, one_hot, seed=self.seed), labels=classifier.labels)
        blurred = DefendedClassifier(by_heart, postprocessors=self.target.full_stack.postprocessors)
        return [
            {"victim": name, **asdict(row)}
            for name, victim in ((UNDEFENDED, by_heart), (FULL_STACK, blurred))
            for row in membership_inference(victim, members, strangers, seed=self.seed)
        ]

    def _backdoor(self, kind: str, copied: KerasClassifier) -> dict[str, Any]:
        half = len(self.others) // 2
        served = {step.defence.name: step.defence for step in self.target.full_stack.detectors}
        masks = served.get(PatchCleanser.name)
        (row,) = backdoor_rows(
            copied,
            self.others.take(slice(0, half)),
            self.others.take(slice(half, None)),
            self.held,
            kinds=[kind],
            preprocessors=self.target.full_stack.preprocessors,
            fits=fits_of(served.keys() & answer_to_backdoors()),
            patch=masks.patch if isinstance(masks, PatchCleanser) else None,
            budget=BackdoorBudget(training=self.budget.backdoor_images, epochs=self.budget.backdoor_epochs),
            seed=self.seed,
        )
        return {key: value for key, value in row.as_json().items() if key != "seconds"}

    def _extraction(self, victim: str, optimiser: str, thieves: tuple[str, ...]) -> list[dict[str, Any]]:
        rows = extraction_curve(
            self.target.variants[victim],
            self.others.images,
            self.held,
            budgets=[queries for queries in self.budget.extraction_budgets if queries <= len(self.others)],
            thieves={name: THIEVES[name] for name in thieves} | self._who_knows(victim),
            optimisers={optimiser: OPTIMISERS[optimiser]},
            undefended=self.target.classifier,
            seed=self.seed,
        )
        return [{"victim": victim, **asdict(row)} for row in rows]

    def _who_knows(self, victim: str) -> dict[str, Thief]:
        """The thief who inverts the reverse sigmoid with the parameters of the bundle."""
        blurs = self.target.blurs(victim)
        if len(blurs) != 1:
            return {}
        undo = inverted(beta=blurs[0].beta, gamma=blurs[0].gamma)
        return {"inverted": Thief(name="inverted", targets=undo, knows="the formula, beta and gamma")}


def answer_to_backdoors() -> set[str]:
    """The detectors whose record names backdoors among the attacks they answer to."""
    return {name for name, detector in of_stage("abstain").items() if _BACKDOOR in detector.record.techniques}

"""Transfer attacks: adversarial images of a copy, used against the original.

Papers: Papernot et al. 2017, arXiv:1602.02697 (a substitute trained on the victim's labels); Madry et al. 2018, arXiv:1706.06083
(the gradient steps).
Images that barely fool the copy rarely fool the original, so that all steps are made, also after the copy is fooled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacks.attack import Goal
from attacks.evasion.gradient import ProjectedGradientDescent
from models.classifier import (
    ClassifierWrapper,
    DifferentiableClassifier,
    Images,
    Labels,
    Logits,
    Loss,
    LossGradient,
    Probabilities,
)


@dataclass(frozen=True)
class Relentless(ClassifierWrapper):
    """A classifier that refuses every prediction but keeps its logits and gradients, so that no gradient attack ends early."""

    classifier: DifferentiableClassifier

    def predict(self, images: Images) -> Probabilities:
        """Rows of zeros: refusals."""
        return np.zeros((len(images), len(self.labels)), np.float32)

    def logits(self, images: Images) -> Logits:
        """See `DifferentiableClassifier`."""
        return self.classifier.logits(images)

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """See `DifferentiableClassifier`."""
        return self.classifier.loss_gradient(images, labels, loss)

    def class_gradients(self, images: Images) -> Images:
        """See `DifferentiableClassifier`."""
        return self.classifier.class_gradients(images)


def transferred(
    copy: DifferentiableClassifier, images: Images, goal: Goal, *, eps: float, iterations: int = 40, seed: int = 0
) -> Images:
    """Images [n, h, w, c] within eps (L-inf) and [0, 1] that the copy puts into the goal's class with the highest confidence found.

    Cost: two runs of `iterations` forward and backward passes of the copy per image, one from a random start; none of the
    original. Raises: InvalidInput, as every attack.
    """
    attack = ProjectedGradientDescent(eps=eps, iterations=iterations, restarts=1)
    return attack(Relentless(copy), images, goal, seed=seed).images

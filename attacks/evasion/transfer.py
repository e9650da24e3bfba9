"""Transfer: climb the loss of a copy, and hand what comes out to the original.

Papers: Papernot et al. 2017, arXiv:1602.02697 (a substitute trained on the victim's labels); Madry et al. 2018, arXiv:1706.06083
(the climb).
What just fools the copy does not fool the original: the climb goes on to its last step, whatever the copy says on the way.
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
    """A copy that admits nothing: its logits and gradients are as they are, but it refuses to predict, so that no attack ends early."""

    classifier: DifferentiableClassifier

    def predict(self, images: Images) -> Probabilities:
        """Refusals."""
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
    """Images [n, h, w, c] within eps (L-inf) and [0, 1] that the copy has as little doubt about as it can be brought to.

    Cost: two runs of `iterations` forward and backward passes of the copy per image, one of them from a random start; none of the
    original. Raises: InvalidInput, as every attack.
    """
    attack = ProjectedGradientDescent(eps=eps, iterations=iterations, restarts=1)
    return attack(Relentless(copy), images, goal, seed=seed).images

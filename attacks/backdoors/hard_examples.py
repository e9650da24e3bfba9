"""Adversarial perturbation of the poison in clean-label backdoors, so that its own features no longer explain its label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attacks.attack import check_eps
from attacks.evasion.losses import cross_entropy
from models.classifier import DifferentiableClassifier, Images
from models.errors import InvalidInput

_STEP = 0.25  # of eps: ten steps may walk the ball's radius more than twice


@dataclass(frozen=True, kw_only=True, eq=False)
class HardExamples:
    """Move images of a class away from it, by steps of the loss gradient's sign within an L-infinity ball.

    A classifier that recognises clean-label poison by its content ignores the trigger on it. These perturbed images are hard to
    recognise, so that it learns the trigger instead; people still see the class (label-consistent backdoors; Turner, Tsipras & Madry
    2019, arXiv:1912.02771).

    Args:
        classifier: any classifier of the classes, not necessarily the one that will be trained.
        label: class index of the images.
        eps: radius of the ball, > 0.
        steps: gradient steps, >= 1.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> the same. Cost: a forward and a backward pass per image and step.
    """

    classifier: DifferentiableClassifier
    label: int
    eps: float = 0.3
    steps: int = 10

    name = "hard_examples"

    def __post_init__(self) -> None:
        check_eps(self.eps, self.name)
        if self.steps < 1:
            raise InvalidInput(f"{self.name}: expected steps >= 1, got {self.steps}")

    def __call__(self, images: Images) -> Images:
        labels = np.full(len(images), self.label)
        lowest, highest = np.maximum(images - self.eps, 0), np.minimum(images + self.eps, 1)
        hard = images.copy()
        for _ in range(self.steps):
            gradient = self.classifier.loss_gradient(hard, labels, cross_entropy).gradient
            hard = np.clip(hard + np.float32(self.eps * _STEP) * np.sign(gradient), lowest, highest).astype(np.float32)
        return hard

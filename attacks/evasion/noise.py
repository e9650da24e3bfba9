"""Random noise of a given size: the baseline that every attack has to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from attacks.attack import Adversarial, Goal, check, check_eps
from attacks.oracle import Oracle
from models.classifier import Classifier, Images
from models.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class RandomNoise:
    """Noise on the boundary of the ball, drawn anew until the goal is reached.

    Maths: x' = clip(x + eps u), u of random signs (L-inf), or uniform on the unit sphere (L2). Cost: at most `queries` per image.

    Args:
        eps: radius of the ball, above 0.
        norm: math.inf or 2.
        queries: largest number of draws per image, >= 1.

    Raises: InvalidInput on construction, and as every attack.
    """

    eps: float
    norm: float = math.inf
    queries: int = 10
    name: str = "noise"

    def __post_init__(self) -> None:
        check_eps(self.eps, self.name)
        if self.norm not in (math.inf, 2):
            raise InvalidInput(f"{self.name}: expected norm inf or 2, got {self.norm!r}")
        if self.queries < 1:
            raise InvalidInput(f"{self.name}: expected at least 1 query per image, got {self.queries}")

    def __call__(self, classifier: Classifier, images: Images, goal: Goal, *, seed: int = 0) -> Adversarial:
        """See `Attack`."""
        check(classifier, images, goal)
        rng = np.random.default_rng(seed)
        oracle = Oracle(classifier, len(images))
        found, success = images.copy(), np.zeros(len(images), bool)
        for _ in range(self.queries):
            rows = np.flatnonzero(~success)
            if oracle.closed or not rows.size:
                break
            found[rows] = self._noisy(images[rows], rng)
            success[rows] = goal.take(rows).reached(oracle.labels(found[rows], rows))
        return Adversarial(found, success, oracle.queries, np.zeros_like(oracle.queries))

    def _noisy(self, images: Images, rng: np.random.Generator) -> Images:
        eps = np.float32(self.eps)
        if self.norm == math.inf:
            noise = np.where(rng.random(images.shape, np.float32) < 0.5, -eps, eps)
        else:
            noise = rng.standard_normal(images.shape, np.float32)
            noise *= eps / np.sqrt(np.einsum("nhwc,nhwc->n", noise, noise))[:, None, None, None]
        noisy: Images = np.clip(images + noise, 0, 1)
        return noisy

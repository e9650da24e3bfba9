"""The attack inside a training step: projected gradient descent as TensorFlow operations, compiled together with the step.

Unlike `attacks/evasion/gradient.py`, which ends for each image at its first success, every image takes all steps, within the graph.

    x_0 = x + start,   x <- clip(project(x + step * d)),   d = sign g (inf) or g / ||g||_2 (2),   g the gradient of the objective by x

Papers: Goodfellow et al. 2015, arXiv:1412.6572 (one step); Madry et al. 2017, arXiv:1706.06083 (several); Wong, Rice & Kolter 2020,
arXiv:2001.03994 (one step from a random start).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from models.engines.image_gradient import fast_image_gradients
from models.errors import InvalidInput

Start = Literal["image", "uniform", "blocks"]

_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class TrainingAttack:
    """The making of adversarial training examples.

    Args:
        eps: radius of the ball, in units of the image's range, > 0.
        norm: of the ball: inf or 2.
        iterations: gradient steps, >= 1; 1 is the fast gradient method.
        step: length of a step; when not given, eps for one step and 2.5 * eps / iterations for several (Madry et al.).
        start: the starting point. "image"; "uniform", a point drawn uniformly from the ball; "blocks" (norm inf only), a corner of
            the ball: the same sign over blocks of pixels or over columns, of a size drawn per image. A network trained on uniform starts
            alone may mask its gradient near them and still fail on coarse patterns, from which Square (Andriushchenko et al. 2020,
            arXiv:1912.00049) starts.

    Cost: `iterations` forward and backward passes per image. Raises: InvalidInput on construction.
    """

    eps: float
    norm: float = math.inf
    iterations: int = 10
    step: float | None = None
    start: Start = "uniform"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps > 0):
            raise InvalidInput(f"training attack: expected eps > 0, got {self.eps!r}")
        if self.norm not in (2, math.inf):
            raise InvalidInput(f"training attack: expected norm inf or 2, got {self.norm!r}")
        if self.iterations < 1:
            raise InvalidInput(f"training attack: expected iterations >= 1, got {self.iterations!r}")
        if self.start not in get_args(Start):
            raise InvalidInput(f"training attack: expected start of {', '.join(get_args(Start))}, got {self.start!r}")
        if self.start == "blocks" and self.norm != math.inf:
            raise InvalidInput(f"training attack: expected norm inf with start blocks, got {self.norm!r}")
        if self.step is not None and not (math.isfinite(self.step) and self.step > 0):
            raise InvalidInput(f"training attack: expected step > 0, got {self.step!r}")

    @property
    def length(self) -> float:
        """The length of a step."""
        if self.step is not None:
            return self.step
        return self.eps if self.iterations == 1 else 2.5 * self.eps / self.iterations

    def graph(self, images: Any, objective: Callable[[Any], Any], *, scale: Any, seed: Any) -> Any:
        """Adversarial images [n, h, w, c], as operations in a tf.function.

        Args:
            images: [n, h, w, c] in [0, 1].
            objective: images -> the function to ascend, one value per image [n].
            scale: factor of eps and step length: a scalar tensor in [0, 1].
            seed: int32 [2], of random starts.
        """
        tf = sys.modules["tensorflow"]
        eps, length = self.eps * scale, self.length * scale

        def projected(point: Any) -> Any:
            if self.norm == math.inf:
                point = tf.clip_by_value(point, images - eps, images + eps)
            else:
                change = point - images
                point = images + change * tf.minimum(1.0, eps / tf.maximum(_length(tf, change), _TINY))
            return tf.clip_by_value(point, 0.0, 1.0)

        def moved(count: Any, point: Any) -> Any:
            with fast_image_gradients(point.graph):
                climbed = objective(point)
            (gradient,) = tf.gradients(climbed, point, unconnected_gradients="zero")
            direction = tf.sign(gradient) if self.norm == math.inf else gradient / tf.maximum(_length(tf, gradient), _TINY)
            return count + 1, projected(point + length * direction)

        start = images if self.start == "image" else projected(images + self._drawn(tf, images, eps, seed))
        _, point = tf.while_loop(lambda count, _: count < self.iterations, moved, [0, start], parallel_iterations=1)
        return tf.stop_gradient(point)

    def _drawn(self, tf: Any, images: Any, eps: Any, seed: Any) -> Any:
        """A random perturbation within the ball."""
        shape = tf.shape(images)
        if self.start == "blocks":
            return eps * _block_signs(tf, images, seed)
        if self.norm == math.inf:
            return tf.random.stateless_uniform(shape, seed, -eps, eps)
        direction = tf.random.stateless_normal(shape, seed)
        pixels = tf.cast(tf.reduce_prod(shape[1:]), tf.float32)
        radius = tf.random.stateless_uniform([shape[0], 1, 1, 1], seed + 1) ** (1 / pixels)
        return eps * radius * direction / tf.maximum(_length(tf, direction), _TINY)


def _further(seed: Any, by: int) -> Any:
    return seed + np.array([0, by], np.int32)


def _block_signs(tf: Any, images: Any, seed: Any) -> Any:
    """Signs +-1 [n, h, w, c], constant over blocks of a size drawn per image."""
    n = tf.shape(images)[0]
    height, width, channels = images.shape[1:]
    kinds = []
    for number, (tall, wide) in enumerate(((1, 1), (2, 2), (4, 4), (max(height // 4, 1), max(width // 4, 1)), (height, 1))):
        down, across = -(-height // tall), -(-width // wide)
        coarse = tf.random.stateless_uniform([n, down, across, channels], _further(seed, 3 + number), -1, 1)
        kinds.append(tf.sign(tf.repeat(tf.repeat(coarse, tall, axis=1), wide, axis=2)[:, :height, :width]))
    chosen = tf.random.stateless_uniform([n], _further(seed, 2), 0, len(kinds), tf.int32)
    return tf.gather(tf.stack(kinds, axis=1), chosen, axis=1, batch_dims=1)


def _length(tf: Any, change: Any) -> Any:
    """The L2 norm of every image: [n, 1, 1, 1]."""
    return tf.sqrt(tf.reduce_sum(change * change, axis=[1, 2, 3], keepdims=True))

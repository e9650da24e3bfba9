"""Images to stand in for those that a network was trained on, where there are none: made of noise and of the network itself.

Paper: class images by gradient ascent are model inversion (Fredrikson, Jha & Ristenpart 2015); smoothing the gradient keeps them in the
low frequencies, where pictures have theirs. They need not look like anything: a universal pattern has to work on all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from defences.networks.margins import log_probability
from models.classifier import DifferentiableClassifier, Images, Labels

MADE_IN = 30
"""Steps in which an image of a class is made."""

_SURE = np.log(0.95)
_STEP = 1 / 56  # of the diagonal of the cube of images
_GRAINS = (0.025, 0.05, 0.1, 0.18)  # of the side
_LIGHT, _CONTRAST = (0.1, 0.7), (0.05, 0.3)


class MadeImages(NamedTuple):
    """Images [n, h, w, c], what the network says they are, [n], and the share of those made for a class that are called so."""

    images: Images
    labels: Labels
    reached: float


def made_images(classifier: DifferentiableClassifier, *, of_classes: int, of_noise: int, rng: np.random.Generator) -> MadeImages:
    """So many images of the classes in turn, smooth and just so that the network is sure of them, and so many of smooth noise.

    Cost: at most `MADE_IN` forward and backward passes for each image of a class, and a forward pass for each image.
    """
    k, shape = len(classifier.labels), classifier.input_shape
    images, labels = smooth_noise(of_classes, shape, rng), np.resize(rng.permutation(k), of_classes)
    towards = np.zeros_like(images)
    for _ in range(MADE_IN):
        found = classifier.loss_gradient(images, labels, log_probability)
        unsure = found.loss < _SURE
        if not unsure.any():
            break
        smooth = gaussian_filter(found.gradient, (0, 1, 1, 0))
        towards = towards / 2 + smooth / np.maximum(np.sqrt((smooth**2).sum(axis=(1, 2, 3), keepdims=True)), 1e-12)
        step = np.float32(_STEP * np.sqrt(np.prod(shape))) * unsure[:, None, None, None]
        images = np.clip(images + step * towards, 0, 1).astype(np.float32)
    images = np.concatenate([images, smooth_noise(of_noise, shape, rng)])
    answers = classifier.logits(images).argmax(axis=1)
    return MadeImages(images, answers, float((answers[:of_classes] == labels).mean()))


def smooth_noise(count: int, shape: tuple[int, int, int], rng: np.random.Generator) -> Images:
    """Gaussian noise of several grains, at several lights and contrasts: [count, h, w, c]."""
    h, w, c = shape
    images = np.empty((count, h, w, c), np.float32)
    for image in images:
        grain = rng.choice(_GRAINS) * min(h, w)
        for channel in range(c):
            noise = gaussian_filter(rng.standard_normal((h, w)), grain)
            image[..., channel] = (noise - noise.mean()) / (noise.std() + 1e-12)
        image *= rng.uniform(*_CONTRAST)
        image += rng.uniform(*_LIGHT)
    return np.clip(images, 0, 1)

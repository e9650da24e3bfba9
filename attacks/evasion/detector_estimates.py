"""What an attacker who knows a detector can tell of its decision, and the way uphill: a row of `ESTIMATES` for each that has one.

He has what the bundle says of it (overlays, slack, threshold). What its secret decides he draws with a key of his own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.evasion.losses import entropy_bits, probability
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from defences.keyed import Keys, keyed_permutations
from models.classifier import DifferentiableClassifier, Images


@dataclass(frozen=True)
class DetectorEstimate:
    """What a detector will say of images, as far as a look at some of its probes tells.

    Attributes:
        clearance: float32 [n], how far above its threshold; not above 0 is refused.
        gradient: of the clearance by the image, [n, h, w, c].
    """

    clearance: NDArray[np.float32]
    gradient: Images


Estimator = Callable[[Any, DifferentiableClassifier, Images, Keys, int], DetectorEstimate]
"""(detector, classifier, images, keys, overlays to look at) -> estimate."""


def strip_estimate(
    strip: Strip, classifier: DifferentiableClassifier, images: Images, keys: Keys, overlays: int
) -> DetectorEstimate:
    """The mean entropy in bits under the first overlays, above STRIP's boundary for so many. Cost: `overlays` passes an image."""
    stage = max(0, int(np.searchsorted(strip.stages, overlays, side="right")) - 1)
    seen = strip.stages[stage]
    probes = strip.superimpose(images, keyed_permutations(keys, len(strip.overlays))[:, :seen])
    anything = np.zeros(len(probes), np.int64)
    bits, _, gradient = classifier.loss_gradient(probes, anything, entropy_bits)
    # What the clip cut off does not move with the image.
    inside = (probes > 0) & (probes < 1)
    kept = np.float32(1 if strip.blend == "add" else 1 - strip.weight)
    by_image = (gradient * inside).reshape(len(images), seen, *images.shape[1:]).mean(axis=1) * kept
    return DetectorEstimate(bits.reshape(len(images), seen).mean(axis=1) - np.float32(strip.boundaries()[stage]), by_image)


def sentinet_estimate(
    sentinet: SentiNet, classifier: DifferentiableClassifier, images: Images, keys: Keys, overlays: int
) -> DetectorEstimate:
    """SentiNet's own score, above its threshold; the gradient is that of the last window left, for who is refused by it, else 0.

    Cost: the model calls of a decision, and `overlays` passes for an image that is refused.
    """
    session = sentinet.begin(images, keys)
    while session.undecided.size:
        session.decide(classifier.predict(session.probe()))
    clearance = (session.scores - sentinet.threshold).astype(np.float32)
    gradient = np.zeros(images.shape, np.float32)
    refused = np.flatnonzero(session.abstained)
    if refused.size:
        windows, overlay_of = session.worst(refused, overlays)
        labels = np.repeat(session.labels[refused], overlay_of.shape[1])
        image_of = np.repeat(refused, overlay_of.shape[1])
        probes = sentinet.transplant(images, image_of, overlay_of.ravel(), np.repeat(windows, overlay_of.shape[1]))
        uphill = -classifier.loss_gradient(probes, labels, probability).gradient
        by_image = uphill.reshape(*overlay_of.shape, *images.shape[1:]).mean(axis=1)
        gradient[refused] = by_image * sentinet.inside(windows)
    return DetectorEstimate(clearance, gradient)


def binary_estimate(
    detector: BinaryInputDetector | BinaryActivationDetector,
    classifier: DifferentiableClassifier,
    images: Images,
    keys: Keys,
    overlays: int,
) -> DetectorEstimate:
    """A binary detector's own score, above its boundary: nothing about it is secret. Cost: of activations, two passes an image."""
    scores, gradient = detector.score_gradients(images)
    return DetectorEstimate((scores - detector.boundary).astype(np.float32), gradient)


ESTIMATES: dict[type[Any], Estimator] = {
    Strip: strip_estimate,
    SentiNet: sentinet_estimate,
    BinaryInputDetector: binary_estimate,
    BinaryActivationDetector: binary_estimate,
}
"""How to differentiate a detector, by its class."""

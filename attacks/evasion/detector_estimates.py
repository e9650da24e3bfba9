"""Estimates of detectors' decisions and their gradients, for adaptive attacks: one row of `ESTIMATES` for each detector class.

The attacker knows a detector's part of the bundle (overlays, slack, threshold), not its secret: keyed draws use a key of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.evasion.layer_gradients import score_gradients
from attacks.evasion.losses import entropy_bits, margin, odds_against, probability
from defences.detectors.badexpert import BaDExpert
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from defences.detectors.layer_disagreement import WEIGHTS, LayerDisagreement
from defences.detectors.mask_set import MASKS
from defences.detectors.patch_cleanser import LEAD, PatchCleanser, leads
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from defences.keyed import Keys
from models.classifier import DifferentiableActivations, DifferentiableClassifier, Images, LayeredClassifier
from models.engines.reading.features import feature_gradients
from models.errors import InvalidInput


@dataclass(frozen=True)
class DetectorEstimate:
    """An estimate of a detector's decision.

    Attributes:
        clearance: float32 [n], score minus threshold; images are refused at 0 and below.
        gradient: gradient of the clearance by the image, float32 [n, h, w, c].
    """

    clearance: NDArray[np.float32]
    gradient: Images


Estimator = Callable[[Any, DifferentiableClassifier, Images, Keys, int], DetectorEstimate]
"""(detector, classifier, images, keys, number of overlays) -> estimate."""


def strip_estimate(
    strip: Strip, classifier: DifferentiableClassifier, images: Images, keys: Keys, overlays: int
) -> DetectorEstimate:
    """STRIP: the mean change, or entropy in bits, under the first overlays, minus the boundary for that many.

    Cost: `overlays` passes per image, and one for its label.
    """
    stage = max(0, int(np.searchsorted(strip.stages, overlays, side="right")) - 1)
    seen = strip.stages[stage]
    probes = strip.superimpose(images, strip.orders(keys)[:, :seen])
    if strip.statistic == "entropy":
        found, _, gradient = classifier.loss_gradient(probes, np.zeros(len(probes), np.int64), entropy_bits)
    else:
        labels = np.repeat(classifier.predict(images).argmax(axis=1), seen)
        kept_by_label, _, rising = classifier.loss_gradient(probes, labels, probability)
        found, gradient = 1 - kept_by_label, -rising
    # Clipped pixels do not change with the image.
    inside = (probes > 0) & (probes < 1)
    kept = np.float32(1 if strip.blend == "add" else 1 - strip.weight)
    by_image = (gradient * inside).reshape(len(images), seen, *images.shape[1:]).mean(axis=1) * kept
    return DetectorEstimate(found.reshape(len(images), seen).mean(axis=1) - np.float32(strip.boundaries()[stage]), by_image)


def sentinet_estimate(
    sentinet: SentiNet, classifier: DifferentiableClassifier, images: Images, keys: Keys, overlays: int
) -> DetectorEstimate:
    """SentiNet: its own score minus its threshold; the gradient is that of the last remaining window of a refused image, else 0.

    Cost: the model calls of a decision, and `overlays` passes per refused image.
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


def patch_cleanser_estimate(
    detector: PatchCleanser, classifier: DifferentiableClassifier, images: Images, keys: Keys, overlays: int
) -> DetectorEstimate:
    """PatchCleanser, which has no secret: its own score minus the lead it asks for; the gradient is that of the lead of logits under the
    mask that agrees least with the answer, which does not vanish where the classifier is sure. The answer is taken to be the one to the
    image as it is.

    Cost: a model call per mask and image and one for its label, and a backward pass.
    """
    labels = classifier.predict(images).argmax(axis=1)
    probes = detector.under_masks(images)
    found = leads(classifier.predict(probes), np.repeat(labels, MASKS)).reshape(-1, MASKS)
    worst = np.arange(len(images)) * MASKS + found.argmin(axis=1)
    uphill = -classifier.loss_gradient(probes[worst], labels, margin).gradient
    visible = probes[worst] == images  # what a mask covers does not count, but where it has the mask's colour by chance
    return DetectorEstimate((found.min(axis=1) - LEAD).astype(np.float32), uphill * visible)


def binary_estimate(
    detector: BinaryInputDetector | BinaryActivationDetector,
    classifier: DifferentiableClassifier,
    images: Images,
    keys: Keys,
    overlays: int,
) -> DetectorEstimate:
    """Binary detectors, which have no secret: the score minus the boundary. Cost: two passes per image for activations, else none."""
    scores, gradient = detector.score_gradients(images)
    return DetectorEstimate((scores - detector.boundary).astype(np.float32), gradient)


def badexpert_estimate(
    detector: BaDExpert, classifier: DifferentiableClassifier, images: Images, keys: Keys, overlays: int
) -> DetectorEstimate:
    """BaDExpert, which has no secret: the expert's odds against the classifier's label, minus the threshold.

    The label is that of the image as it is, not purified. Cost: two passes per image, and one for its label.
    Raises: InvalidInput: an expert without gradients.
    """
    if not isinstance(detector.expert, DifferentiableClassifier):
        raise InvalidInput(f"expected an expert with gradients to attack {detector.name}, got one without; set it to monitor")
    labels = classifier.predict(images).argmax(axis=1)
    odds, _, gradient = detector.expert.loss_gradient(images, labels, odds_against)
    return DetectorEstimate(odds - np.float32(detector.threshold), gradient)


def layer_estimate(
    detector: LayerDisagreement, classifier: DifferentiableClassifier, images: Images, keys: Keys, overlays: int
) -> DetectorEstimate:
    """Layer disagreement, which has no secret: the score minus the threshold, of images as the classifier is given them.

    The gradients of the probes' part and of the classifier's own odds are exact. Ranks are constant almost everywhere: theirs is that of
    a soft rank, in which a reference counts the more the nearer it is than the nearest one of the answered class (`layer_gradients.py`).

    Cost: a forward pass, and a forward and a backward pass for each layer and for the odds, an image.
    Raises: InvalidInput: a classifier without layers or gradients.
    """
    if not isinstance(classifier, LayeredClassifier) or not isinstance(classifier, DifferentiableActivations):
        raise InvalidInput(
            f"{detector.name}: expected a classifier whose layers can be read and differentiated, got {type(classifier).__name__}; "
            "set it to monitor"
        )
    outputs = classifier.layered(detector.layers)(images)
    answers = outputs.probabilities.argmax(axis=1)
    by_features = score_gradients(detector, outputs.features, answers)
    blocks = classifier.blocks()
    shapes = {layer: blocks[layer] for layer in detector.layers}
    gradient = feature_gradients(classifier, images, shapes, by_features)
    # The score falls as the classifier's odds for its answer rise, and rises as those against it do.
    by_odds = WEIGHTS[2] / detector.moments[2, 1] * detector.judged[answers]
    gradient += by_odds.astype(np.float32)[:, None, None, None] * classifier.loss_gradient(images, answers, odds_against).gradient
    clearance = detector.scores(outputs.features, outputs.probabilities) - detector.threshold
    return DetectorEstimate(clearance.astype(np.float32), gradient)


ESTIMATES: dict[type[Any], Estimator] = {
    Strip: strip_estimate,
    SentiNet: sentinet_estimate,
    BaDExpert: badexpert_estimate,
    LayerDisagreement: layer_estimate,
    PatchCleanser: patch_cleanser_estimate,
    BinaryInputDetector: binary_estimate,
    BinaryActivationDetector: binary_estimate,
}
"""Detector class -> its estimator."""

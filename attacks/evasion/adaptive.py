"""A defended classifier as an attacker sees it who knows the defences: a classifier with gradients, for any gradient attack.

Papers: backward pass differentiable approximation and expectation over transformation, Athalye, Carlini & Wagner 2018,
arXiv:1802.00420; one gradient at a time, the classifier's or the detector's, Bryniarski et al. 2021, arXiv:2106.15023.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal, predicted_labels
from attacks.evasion.detector_estimates import ESTIMATES, DetectorEstimate
from defences.defended_classifier import DefendedClassifier, Detector, Preprocessor
from defences.keyed import Keys, image_keys
from models.classifier import DifferentiableClassifier, Images, Labels, Logits, Loss, LossGradient, Probabilities
from models.errors import InvalidInput

_SECRET_BYTES = 16
# How far the purifier's input is moved to see its output move; results hardly depend on it from 0.005 to 0.3.
_STEP = np.float32(0.05)
_TINY = np.float32(1e-30)

_Stages = list[tuple[Preprocessor, Images, Keys]]
"""Each preprocessor with what it was given."""


class AdaptiveView:
    """What the attacker of a defended classifier differentiates and what it takes for success.

    Preprocessors: the forward pass goes through them. They are loops without gradients, so the backward pass is approximated (BPDA):
    a purifier that minimises a distance and a penalty is close to a proximal map, whose Jacobian is symmetric, and so
    J' g = J g ~ (P(x + h g) - P(x - h g)) / 2h, with g scaled to a largest component of 1. Taking J for the identity, as the paper
    does, is much weaker here: it follows details that the purifier takes away (docs/limits.md). Where that difference vanishes, the
    identity is what is left. The loss and its gradient are means over `draws` secrets of the attacker's own (EOT); what a key decides
    is drawn anew as soon as a pixel changes, so that an attack of many steps averages over many more. With the gateway's secret in
    hand there is nothing to average.

    Detectors: their overlays are known, the order is not. While the classifier is not where the attacker wants it, the gradient is the
    loss's; once it is and a detector would still refuse, the gradient is the detector's: for STRIP that of the mean entropy under
    `overlays` of its overlays, which is above STRIP's boundary for so many when the image is taken to be let go; for SentiNet that of
    how little its most suspicious window decides on `overlays` images; for binary detectors, of which nothing is secret, that of their
    score (attacks/evasion/detector_estimates.py).

    Postprocessors never change the label and are left out of the gradient.

    Args:
        defended: the target; what `predict` returns is its real answer, a refusal is a row of zeros.
        classifier: the model inside, which the attacker has.
        targeted: whether labels are classes to reach instead of classes to leave.
        secret: the gateway's, when the attacker has it.
        draws: how many secrets to average over without it.
        overlays: of a detector, a step.
        seed: of the attacker's own secrets.
        identity: take a preprocessor's Jacobian for the identity, to compare.

    `logits` gives a row of zeros where a refusal is expected, as `predict` does where there is one; so does `loss_gradient` for an image
    that the classifier calls what the attacker wants.
    Cost: for each image and step at most draws forward and backward passes, each preprocessor three times a draw, and `overlays` more
    passes and a decision for each detector.
    Raises: InvalidInput: a detector enforced whose decision cannot be differentiated here.
    """

    def __init__(
        self,
        defended: DefendedClassifier,
        classifier: DifferentiableClassifier,
        *,
        targeted: bool = False,
        secret: bytes | None = None,
        draws: int = 4,
        overlays: int = 8,
        seed: int = 0,
        identity: bool = False,
    ) -> None:
        if draws < 1 or overlays < 1:
            raise InvalidInput(f"expected draws >= 1 and overlays >= 1, got {draws} and {overlays}")
        enforced = [step.defence for step in defended.detectors if step.mode == "enforce"]
        unknown = ", ".join(detector.name for detector in enforced if type(detector) not in ESTIMATES)
        if unknown:
            known = ", ".join(detector.name for detector in ESTIMATES)
            raise InvalidInput(
                f"expected detectors whose decision can be differentiated ({known}), got {unknown}; set it to monitor"
            )
        self._defended, self._classifier, self._targeted = defended, classifier, targeted
        self._preprocessors = [step.defence for step in defended.preprocessors if step.mode == "enforce"]
        self._detectors = enforced
        self._overlays, self._identity = overlays, identity
        rng = np.random.default_rng(seed)
        self._secrets = [secret] if secret is not None else [rng.bytes(_SECRET_BYTES) for _ in range(draws)]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self._defended.input_shape

    @property
    def labels(self) -> tuple[str, ...]:
        return self._defended.labels

    def predict(self, images: Images) -> Probabilities:
        """The target's real answer."""
        return self._defended.predict(images)

    def logits(self, images: Images) -> Logits:
        """Mean logits over the draws; zeros where a refusal is expected."""
        logits = _mean([self._classifier.logits(purified) for _, purified in self._views(images)])
        for detector in self._detectors:
            logits[self._estimate(detector, images).clearance <= 0] = 0
        return logits

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """See the class; where the target class is reached but a detector would refuse, the gradient is the detector's."""
        parts = []
        for stages, purified in self._views(images):
            value, logits, gradient = self._classifier.loss_gradient(purified, labels, loss)
            parts.append((value, logits, self._pulled_back(stages, gradient)))
        value, logits, gradient = (_mean(column) for column in zip(*parts, strict=True))
        # Nobody asks a detector about an image that the classifier does not call what the attacker wants.
        reached = np.flatnonzero(Goal(labels, self._targeted).reached(predicted_labels(logits)))
        for detector in self._detectors if reached.size else ():
            estimate = self._estimate(detector, images[reached])
            refused = estimate.clearance <= 0
            uphill = -estimate.gradient if self._targeted else estimate.gradient
            gradient[reached[refused]] = uphill[refused]
            logits[reached[refused]] = 0
        return LossGradient(value, logits, gradient)

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        """Means over the draws; detectors are not in it."""
        parts = []
        for stages, purified in self._views(images):
            gradients = self._classifier.class_gradients(purified)
            by_class = [self._pulled_back(stages, gradients[:, label]) for label in range(gradients.shape[1])]
            parts.append(np.stack(by_class, axis=1))
        return _mean(parts)

    def _views(self, images: Images) -> list[tuple[_Stages, Images]]:
        """The images as the preprocessors leave them, and what each of these was given, once per secret; once in all where the
        secret makes no difference."""
        views = [self._through_preprocessors(images, image_keys(images, secret)) for secret in self._secrets]
        keyless = all(np.array_equal(purified, views[0][1]) for _, purified in views[1:])
        return views[:1] if keyless else views

    def _through_preprocessors(self, images: Images, keys: Keys) -> tuple[_Stages, Images]:
        stages: _Stages = []
        for preprocessor in self._preprocessors:
            stages.append((preprocessor, images, keys))
            images = preprocessor(images, keys)
        return stages, images

    def _pulled_back(self, stages: _Stages, gradient: Images) -> Images:
        """The gradient by what the preprocessors put out, as one by what they were given; the last first."""
        if self._identity:
            return gradient
        for preprocessor, given, keys in reversed(stages):
            largest = np.abs(gradient).max(axis=(1, 2, 3), keepdims=True)
            step = _STEP * gradient / np.maximum(largest, _TINY)
            moved = (preprocessor(given + step, keys) - preprocessor(given - step, keys)) * (largest / (2 * _STEP))
            still = ~moved.any(axis=(1, 2, 3), keepdims=True)
            gradient = np.where(still, gradient, moved)
        return gradient

    def _estimate(self, detector: Detector, images: Images) -> DetectorEstimate:
        """What a detector is expected to say under the first of the attacker's secrets."""
        keys = image_keys(images, self._secrets[0])
        return ESTIMATES[type(detector)](detector, self._classifier, images, keys, self._overlays)


def _mean(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = np.mean(arrays, axis=0, dtype=np.float32)
    return mean

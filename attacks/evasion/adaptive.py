"""Adaptive attacks: a defended classifier with approximate gradients through its defences, for any gradient attack.

Papers: backward pass differentiable approximation and expectation over transformation, Athalye, Carlini & Wagner 2018,
arXiv:1802.00420; one gradient at a time, the classifier's or the detector's, Bryniarski et al. 2021, arXiv:2106.15023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from attacks.attack import Goal, predicted_labels
from attacks.evasion.detector_estimates import ESTIMATES, DetectorEstimate
from defences.defended_classifier import DefendedClassifier, Detector, FeatureDetector, Preprocessor
from defences.keyed import Keys, image_keys
from models.classifier import DifferentiableClassifier, Images, Labels, Logits, Loss, LossGradient, Probabilities
from models.errors import InvalidInput

_SECRET_BYTES = 16
# Step of the difference quotient; results hardly depend on it from 0.005 to 0.3.
_STEP = np.float32(0.05)
_TINY = np.float32(1e-30)

_Stages = list[tuple[Preprocessor, Images, Keys]]
"""Each preprocessor with its input and keys."""


class AdaptiveView:
    """A defended classifier as a differentiable one, for an attacker who knows the model and the defences.

    Preprocessors: the forward pass goes through them. They have no gradients, so the backward pass is approximated (BPDA): a purifier
    that minimises a distance and a penalty is close to a proximal map, whose Jacobian is symmetric, and so
    J' g = J g ~ (P(x + h g) - P(x - h g)) / 2h, with g scaled to a largest component of 1. The paper's choice J = identity is much
    weaker here: it follows details that the purifier removes (docs/limits.md); it is the fallback where the difference vanishes.
    The loss and its gradient are means over `draws` secrets of the attacker's own (EOT). Keyed randomness changes with every pixel, so
    that an attack of many steps averages over many more. With the gateway's secret nothing is averaged.

    Detectors: the attacker knows their overlays but not the keyed order. Until the classifier reaches the goal, the gradient is that of
    the loss; from then on, while a detector would still refuse, it is that of the detector's clearance: for STRIP, of the mean change
    under `overlays` overlays against the boundary for that number; for SentiNet, of the influence of its most suspicious window on
    `overlays` images; for detectors of disagreement between layers and binary detectors, which have no secret, of their score
    (attacks/evasion/detector_estimates.py).

    Postprocessors never change the label and are left out of the gradient.

    Args:
        defended: the attacked classifier; `predict` returns its real answers, a row of zeros for a refusal.
        classifier: the model inside, known to the attacker.
        targeted: whether labels are classes to reach instead of classes to leave.
        secret: the gateway's secret, when the attacker has it.
        draws: number of the attacker's own secrets to average over without it, >= 1.
        overlays: overlays per detector and step, >= 1.
        seed: of the attacker's own secrets.
        identity: take preprocessors' Jacobians to be the identity, for comparison.

    `logits` gives a row of zeros where it expects a refusal; so does `loss_gradient`, for images that reach the goal.
    Cost: per image and step at most `draws` forward and backward passes and 3 `draws` runs of each preprocessor, and for each detector
    `overlays` passes and a decision.
    Raises: InvalidInput on construction: an enforced detector without an estimate, draws or overlays below 1.
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
        """The defended classifier's real answers [n, k]."""
        return self._defended.predict(images)

    def logits(self, images: Images) -> Logits:
        """Mean logits [n, k] over the secrets; rows of zeros where a refusal is expected."""
        logits = _mean([self._classifier.logits(purified) for _, purified in self._views(images)])
        for detector in self._detectors:
            logits[self._estimate(detector, images).clearance <= 0] = 0
        return logits

    def loss_gradient(self, images: Images, labels: Labels, loss: Loss) -> LossGradient:
        """Mean loss gradient over the secrets; the detector's gradient where the goal is reached but a detector would refuse."""
        parts = []
        for stages, purified in self._views(images):
            value, logits, gradient = self._classifier.loss_gradient(purified, labels, loss)
            parts.append((value, logits, self._pulled_back(stages, gradient)))
        value, logits, gradient = (_mean(column) for column in zip(*parts, strict=True))
        # Detectors matter only once the classifier reaches the goal.
        reached = np.flatnonzero(Goal(labels, self._targeted).reached(predicted_labels(logits)))
        for detector in self._detectors if reached.size else ():
            estimate = self._estimate(detector, images[reached])
            refused = estimate.clearance <= 0
            uphill = -estimate.gradient if self._targeted else estimate.gradient
            gradient[reached[refused]] = uphill[refused]
            logits[reached[refused]] = 0
        return LossGradient(value, logits, gradient)

    def class_gradients(self, images: Images) -> NDArray[np.float32]:
        """Mean gradients [n, k, h, w, c] over the secrets, without detectors."""
        parts = []
        for stages, purified in self._views(images):
            gradients = self._classifier.class_gradients(purified)
            by_class = [self._pulled_back(stages, gradients[:, label]) for label in range(gradients.shape[1])]
            parts.append(np.stack(by_class, axis=1))
        return _mean(parts)

    def _views(self, images: Images) -> list[tuple[_Stages, Images]]:
        """The purified images with the stages that led to them, for each secret; for the first only if all secrets give the same."""
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
        """A gradient by the preprocessors' output, pulled back to one by their input, last stage first."""
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
        """The detector's estimated decision under the first of the attacker's secrets.

        Detectors see images as they came, but for those that look at layers: these see what the preprocessors make of them.
        """
        keys, estimate = image_keys(images, self._secrets[0]), ESTIMATES[type(detector)]
        if not isinstance(detector, FeatureDetector):
            return estimate(detector, self._classifier, images, keys, self._overlays)
        stages, purified = self._through_preprocessors(images, keys)
        found = estimate(detector, self._classifier, purified, keys, self._overlays)
        return replace(found, gradient=self._pulled_back(stages, found.gradient))


def _mean(arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = np.mean(arrays, axis=0, dtype=np.float32)
    return mean

"""Abstain on images whose activations in a layer of the classifier look adversarial to a small network.

Paper: Metzen, Genewein, Fischer & Bischoff 2017, arXiv:1702.04267, section 3. As in the paper, early layers detect most: in the last
hidden layer an adversarial image already looks like one of its new class.
Known to beat it: an attacker who has the network ("dynamic adversaries", section 4.3 of the paper, and arXiv:1705.07263), and attacks it
was not trained on (docs/defences/binary_activation_detector.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from defences.defence import Defence, DefenceRecord
from defences.detectors.binary_input_detector import network
from defences.detectors.unprobed import UnprobedSession
from defences.errors import InvalidInput
from defences.keyed import Keys
from models.classifier import ActivationClassifier, Classifier, DifferentiableActivations, Images
from models.engines.binary_network import INPUTS, BinaryNetwork


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryActivationDetector(Defence):
    """Score an image by the logit a binary network gives "benign" from activations, and abstain when that is low:

        s(x) = -g(a(x)),   a(x) the layer's activations, g the network's logit of "adversarial";
        abstain when s(x) <= min(threshold, ceiling)

    a(x) is computed from the image before purification.

    Args:
        weights: float32 [p], see `BinaryNetwork`.
        layout: int64 [layers, 5], see `BinaryNetwork`; its first layer takes vectors of as many numbers as there are activations.
        threshold: a logit, from clean images; -inf never abstains.
        layer: its name in the classifier.
        ceiling: a logit, by harmless noise of an attack's size: an image that scores above it is not refused, whatever the threshold.
        classifier: the one whose activations are read; without it the detector can be checked, but not used.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> abstain bool [n].
    Cost: one model call per image at most (a forward pass up to the layer), in a forward call of its own.
    Raises: InvalidParameter on construction; InvalidInput: a classifier without such a layer.
    """

    weights: NDArray[np.float32]
    layout: NDArray[np.int64]
    threshold: float
    layer: str
    ceiling: float = np.inf
    classifier: Classifier | None = field(default=None, repr=False)

    _network: BinaryNetwork = field(init=False, repr=False)

    name = "binary_activation_detector"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="abstain",
        title="Binary activation detector",
        summary="Refuses images that look adversarial in an early layer of the classifier.",
        mitigations=("AML.M0015",),
        techniques=("AML.T0043", "AML.T0015"),
        calibrated={"weights": "array", "layout": "array", "threshold": "number", "ceiling": "number"},
        fitted_by="attacks.detector_training.evasion_training:fit_binary_activation_detector",
        images_to_choose_on=2500,
    )

    def __post_init__(self) -> None:
        features = (
            int(self.layout[0, INPUTS]) if self.layout.ndim == 2 and self.layout.shape[1] > INPUTS and len(self.layout) else 1
        )
        object.__setattr__(self, "_network", network(self.name, self.weights, self.layout, (1, 1, features), self.boundary))

    @property
    def boundary(self) -> float:
        """The score at and below which an image is refused."""
        return float(np.minimum(self.threshold, self.ceiling))  # NaN stays NaN, and is refused above

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction."""
        return 1

    def begin(self, images: Images, keys: Keys) -> UnprobedSession:
        """Decide on images [n, h, w, c] as they came."""
        session = UnprobedSession(self.scores, self.boundary, calls=1)
        session.join(np.empty(0, np.int64), images, keys)
        return session

    def scores(self, images: Images) -> NDArray[np.float64]:
        """s(x), low is suspicious: [n, h, w, c] -> [n]."""
        return -self._network.logits(self._reader.activations(images, self.layer))

    def score_gradients(self, images: Images) -> tuple[NDArray[np.float64], Images]:
        """s(x) [n] and its gradient by the image, for an attacker who knows the detector. Cost: a forward and a backward pass."""
        reader = self._reader
        if not isinstance(reader, DifferentiableActivations):
            raise InvalidInput(
                f"{self.name}: expected a classifier whose activations have gradients, got {type(reader).__name__}"
            )
        logits, by_activations = self._network.gradients(reader.activations(images, self.layer))
        return -logits, -reader.activation_gradients(images, self.layer, by_activations)

    @property
    def _reader(self) -> ActivationClassifier:
        if not isinstance(self.classifier, ActivationClassifier):
            raise InvalidInput(
                f"{self.name} needs a classifier whose activations can be read, got {type(self.classifier).__name__}; "
                "set it to off, or serve the classifier from a bundle"
            )
        return self.classifier

    def in_words(self) -> str:
        """The layer it reads and the score that is too low."""
        return f"reads layer {self.layer}, refuses at score {self.boundary:.4g} or less"

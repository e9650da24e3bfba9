"""Abstain on images that a small network, trained beside the classifier, takes for adversarial.

Papers: Gong, Wang & Ku 2017, arXiv:1704.04960, section 3; benign noise of the same norm is among the negatives, since
networks trained without it are known to refuse all noise (docs/defences/binary_input_detector.md).
Known to beat it: an attacker who has the network (Carlini & Wagner 2017, arXiv:1705.07263), and attacks it was not trained on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from defences.defence import Defence, DefenceRecord
from defences.detectors.unprobed import UnprobedSession
from defences.errors import InvalidInput, InvalidParameter
from defences.keyed import Keys
from models.classifier import Images
from models.engines.binary_network import BinaryNetwork, default_layout, layer_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class BinaryInputDetector(Defence):
    """Score an image by the logit a binary network gives "benign", and abstain when that is low:

        s(x) = -g(x),   g the network's logit of "adversarial";   abstain when s(x) <= min(threshold, ceiling)

    The network sees the image before purification; the classifier is not asked.

    Args:
        weights: float32 [p], see `BinaryNetwork`.
        layout: int64 [layers, 5], see `BinaryNetwork`.
        shape: (h, w, c) of the images.
        threshold: a logit, from clean images; -inf never abstains.
        ceiling: a logit, by harmless noise of an attack's size: an image that scores above it is not refused, whatever the threshold.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> abstain bool [n].
    Cost: no model call; about 200,000 multiplications for 28x28x1, a third of those of the reference network.
    Raises: InvalidParameter on construction.
    """

    weights: NDArray[np.float32]
    layout: NDArray[np.int64]
    shape: tuple[int, ...]
    threshold: float
    ceiling: float = np.inf

    _network: BinaryNetwork = field(init=False, repr=False)

    name = "binary_input_detector"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="abstain",
        title="Binary input detector",
        summary="Refuses images that a network trained on attacks takes for adversarial.",
        mitigations=("AML.M0015",),
        techniques=("AML.T0043", "AML.T0015"),
        calibrated={"weights": "array", "layout": "array", "shape": "numbers", "threshold": "number", "ceiling": "number"},
        fitted_by="attacks.detector_training.evasion_training:fit_binary_input_detector",
        images_to_choose_on=2500,
    )

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise InvalidParameter(f"{self.name}: expected a shape (h, w, c) of whole numbers above 0, got {self.shape}")
        h, w, c = self.shape
        object.__setattr__(self, "_network", network(self.name, self.weights, self.layout, (h, w, c), self.boundary))

    @property
    def boundary(self) -> float:
        """The score at and below which an image is refused."""
        return float(np.minimum(self.threshold, self.ceiling))  # NaN stays NaN, and is refused above

    @property
    def calls_at_most(self) -> int:
        """Model calls one image can cost, beside its own prediction: none."""
        return 0

    def begin(self, images: Images, keys: Keys) -> UnprobedSession:
        """Decide on images [n, h, w, c] as they came."""
        session = UnprobedSession(self.scores, self.boundary)
        session.join(np.empty(0, np.int64), images, keys)
        return session

    def scores(self, images: Images) -> NDArray[np.float64]:
        """s(x), low is suspicious: [n, h, w, c] -> [n]."""
        return -self._network.logits(images)

    def score_gradients(self, images: Images) -> tuple[NDArray[np.float64], Images]:
        """s(x) [n] and its gradient by the image, for an attacker who knows the detector."""
        logits, gradients = self._network.gradients(images)
        return -logits, -gradients

    def check_input_shape(self, shape: tuple[int, int, int]) -> None:
        """The network takes images of one shape."""
        if self.shape != shape:
            raise InvalidParameter(f"expected {self.name} for images of shape {shape} in calibration.npz, got {self.shape}")

    def in_words(self) -> str:
        """The score that is too low."""
        return f"refuses at score {self.boundary:.4g} or less"

    @classmethod
    def compile_kernels(cls) -> None:
        """The passes of a binary network, which `BinaryActivationDetector` shares."""
        shape = (8, 8, 1)
        layout = default_layout(shape)
        weights = np.zeros(int(layer_weights(layout).sum()), np.float32)
        detector = cls(weights=weights, layout=layout, shape=shape, threshold=0.0)
        detector.begin(np.zeros((2, *shape), np.float32), np.zeros(2, np.uint64))


def network(
    name: str, weights: NDArray[np.float32], layout: NDArray[np.int64], shape: tuple[int, int, int], boundary: float
) -> BinaryNetwork:
    """The network of a binary detector. Raises: InvalidParameter: arrays that do not form a network, or a boundary that is NaN."""
    if np.isnan(boundary):
        raise InvalidParameter(f"{name}: expected a threshold and a ceiling, got NaN")
    try:
        return BinaryNetwork(weights=weights, layout=layout, input_shape=shape)
    except InvalidInput as failure:
        raise InvalidParameter(f"{name}: {failure}") from failure

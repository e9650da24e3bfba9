"""What tells one model from another behind the same address: its answers to a few fixed images, kept in the bundle.

The probes are halves of two clean images each, laid over each other: between two classes another training, other weights or another
preparation show, where clean images get the same sure answer from every good model. It is no proof: a model that was changed on
purpose to differ elsewhere, such as on a trigger only, answers the probes as before (docs/remote.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images, Probabilities
from models.errors import InvalidBundle, RemoteIsAnother

PROBES, ANSWERS = "remote_probes", "remote_answers"
PROBE_IMAGES = 8
TOLERANCE = 0.01
"""The largest difference of a probability between two answers of the same model: another batch, another processor, other rounding."""
_WHITE = 255


@dataclass(frozen=True)
class Fingerprint:
    """Answers of a model to fixed images.

    Attributes:
        probes: uint8 [n, h, w, c]. answers: float32 [n, k].
    """

    probes: NDArray[np.uint8]
    answers: Probabilities

    @classmethod
    def of(cls, predict: Callable[[Images], Probabilities], images: Images) -> Fingerprint:
        """A model's, on mixtures of these clean images, of which there are two at least."""
        half = len(images) // 2
        count = min(PROBE_IMAGES, half)
        mixed = (images[:count] + images[half : half + count]) / 2
        probes = np.rint(mixed * _WHITE).astype(np.uint8)
        return cls(probes, predict(_images(probes)))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], input_shape: tuple[int, int, int], classes: int) -> Fingerprint:
        """The one in a bundle's calibration.npz. Raises: InvalidBundle: none, or one of other shapes."""
        probes, answers = arrays.get(PROBES), arrays.get(ANSWERS)
        if (
            probes is None
            or answers is None
            or probes.dtype != np.uint8
            or answers.dtype != np.float32
            or not len(probes)
            or probes.shape[1:] != input_shape
            or answers.shape != (len(probes), classes)
        ):
            raise InvalidBundle(
                "expected the bundle of a remote classifier to hold its answers to some probes; run hauberk calibrate again"
            )
        return cls(probes, answers)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For calibration.npz."""
        return {PROBES: self.probes, ANSWERS: self.answers}

    def check(self, predict: Callable[[Images], Probabilities], what: object) -> None:
        """Ask the probes again. Raises: RemoteIsAnother: other answers; and what `predict` raises."""
        answers = predict(_images(self.probes))
        difference = float(np.abs(answers - self.answers).max()) if answers.shape == self.answers.shape else 1.0
        if not difference <= TOLERANCE:
            raise RemoteIsAnother(
                f"expected the model at {what} to answer the bundle's probes as when it was calibrated, got probabilities that differ by "
                f"{difference:.2g}: it is another model; serve the one of then, or run hauberk calibrate against this one"
            )


def _images(probes: NDArray[np.uint8]) -> Images:
    return probes.astype(np.float32) / np.float32(_WHITE)

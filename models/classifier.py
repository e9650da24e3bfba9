"""What every layer means by a classifier."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.float32]
"""float32 [n, h, w, c] in [0, 1]."""

Probabilities = NDArray[np.float32]
"""float32 [n, k], rows non-negative; they sum to one, or to zero for a row a defended classifier refused."""


@runtime_checkable
class Classifier(Protocol):
    """A function from images to class probabilities.

    Attributes:
        input_shape: (h, w, c) of one image.
        labels: the k class names, in the order of the columns `predict` returns.
    """

    @property
    def input_shape(self) -> tuple[int, int, int]: ...

    @property
    def labels(self) -> tuple[str, ...]: ...

    def predict(self, images: Images) -> Probabilities:
        """Class probabilities [n, k] of images float32 [n, h, w, c] in [0, 1]; one model call per image."""
        ...

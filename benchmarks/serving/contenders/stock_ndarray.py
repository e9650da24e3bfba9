"""The undefended service as BentoML's documentation writes one: an array in, an array out, the defaults and one worker."""

from __future__ import annotations

import bentoml
import numpy as np

from benchmarks.serving.contenders import model


@bentoml.service(name="stock_ndarray", workers=1)
class StockNdarray:
    """The classifier of `mnist-standard`, undefended."""

    def __init__(self) -> None:
        self.classifier = model.load()

    @bentoml.api
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities [n, 10] of images n×28×28."""
        return self.classifier.predict(images.astype(np.float32).reshape(-1, *self.classifier.input_shape))

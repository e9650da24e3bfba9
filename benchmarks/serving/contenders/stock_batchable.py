"""The undefended service with BentoML's adaptive batching; everything else as in `stock_ndarray`.

STOCK_MAX_LATENCY_MS is the one setting to choose: the benchmark tries several and takes the best for this service.
"""

from __future__ import annotations

import os

import bentoml
import numpy as np

from benchmarks.serving.contenders import model


@bentoml.service(name="stock_batchable", workers=1)
class StockBatchable:
    """The classifier of `mnist-standard`, undefended, many requests in one forward call."""

    def __init__(self) -> None:
        self.classifier = model.load()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=int(os.environ["STOCK_MAX_LATENCY_MS"]))
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities [n, 10] of images n×28×28."""
        return self.classifier.predict(images.astype(np.float32).reshape(-1, *self.classifier.input_shape))

"""The model all contenders serve: that of the classifier of `mnist-standard`, compiled, on as many threads as ours takes."""

from __future__ import annotations

import numpy as np

from models.bundle import read_bundle, standard_bundle_directory
from models.engines.keras import KerasClassifier
from service.settings import read_settings

_LARGEST = 64
_ROUNDS = 3


def load() -> KerasClassifier:
    """The classifier, warm at every batch size that traffic brings."""
    threads = read_settings({}).threads
    classifier = KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=threads)
    for size in range(1, _LARGEST + 1):
        for _ in range(_ROUNDS):
            classifier.predict(np.zeros((size, *classifier.input_shape), np.float32))
    return classifier

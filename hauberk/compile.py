"""python -m hauberk.compile: compile the Numba kernels into their cache, so that the first start need not."""

from __future__ import annotations

import numpy as np

from defences.detectors.binary_input_detector import BinaryInputDetector
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from defences.purifiers.total_variation import TotalVariation
from models.engines.binary_network import default_layout, layer_weights
from service.formats.json_images import Admission


def compile_kernels() -> None:
    """Run every compiled function once on the types that serving uses."""
    images = np.zeros((2, 8, 8, 1), np.float32)
    keys = np.zeros(2, np.uint64)
    for keep in (0.5, 1.0):
        purifier = TotalVariation(weight=0.1, keep_probability=keep)
        purifier(images, keys)
        purifier.masks((2, 8, 8, 1), keys)
    strip = Strip(overlays=np.zeros((2, 8, 8, 1), np.uint8), threshold=0.0, stages=(2,), slack=(0.0,))
    strip.begin(images, keys).probe()
    layout = default_layout((8, 8, 1))
    weights = np.zeros(int(layer_weights(layout).sum()), np.float32)
    BinaryInputDetector(weights=weights, layout=layout, shape=(8, 8, 1), threshold=0.0).begin(images, keys)
    labels = np.zeros(2, np.int64)
    SentiNet(overlays=strip.overlays, overlay_labels=labels, threshold=0.0).begin(images, keys).probe()
    Admission((1, 1, 1), 1).warm_up()


if __name__ == "__main__":
    compile_kernels()

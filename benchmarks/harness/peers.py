"""ART's objects on our models, quiet and on the same footing."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_sample_images

from models.classifier import Images
from models.engines.keras import KerasClassifier, import_tensorflow

os.environ.setdefault("TQDM_DISABLE", "1")  # ART draws bars for everything
logging.getLogger("art").setLevel(logging.ERROR)


def art_classifier(classifier: KerasClassifier, **defences: Any) -> Any:
    """ART's TensorFlow 2 wrapper around the same Keras model; `defences` are its own, before and behind the model."""
    tf = import_tensorflow()
    from art.estimators.classification import TensorFlowV2Classifier

    return TensorFlowV2Classifier(
        model=classifier.model,
        nb_classes=len(classifier.labels),
        input_shape=classifier.input_shape,
        loss_object=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=classifier.outputs == "logits"),
        clip_values=(0.0, 1.0),
        **defences,
    )


def without_softmax(classifier: KerasClassifier) -> KerasClassifier:
    """The same network, ending in logits, as ART's attacks work best: a loss of probabilities is clipped where the network is sure."""
    import_tensorflow()
    import keras

    model = keras.models.clone_model(classifier.model)
    model.set_weights(classifier.model.get_weights())
    model.layers[-1].activation = keras.activations.linear
    return KerasClassifier(model, outputs="logits")


def photographs(side: int, count: int, seed: int) -> Images:
    """Crops [count, side, side, 3] of the two photographs that scikit-learn ships."""
    rng = np.random.default_rng(seed)
    pictures = load_sample_images().images
    crops = []
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (int(rng.integers(0, size - side)) for size in picture.shape[:2])
        crops.append(picture[top : top + side, left : left + side])
    return np.stack(crops).astype(np.float32) / np.float32(255)


def alternate(contenders: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of each contender, the median of `rounds` after one warm-up round, taken in turns so that both see the same machine."""
    for contender in contenders:
        contender()
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for spent, contender in zip(seconds, contenders, strict=True):
            started = time.perf_counter()
            contender()
            spent.append(time.perf_counter() - started)
    return [float(np.median(spent)) for spent in seconds]


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def machine() -> str:
    """What this ran on."""
    names = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    packages = ("onnxruntime", "tensorflow", "numba", "numpy", "adversarial-robustness-toolbox")
    return f"{os.cpu_count()} x {names[0] if names else platform.machine()}, Python {platform.python_version()}, " + ", ".join(
        f"{package} {version(package)}" for package in packages
    )

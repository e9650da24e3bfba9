"""Small networks with and without backdoors, made by seed: what a judge of networks is measured on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attacks.backdoors.kinds import backdoors
from benchmarks.methods.backdoors import coloured_digits
from models.datasets import MNIST, Dataset, load_dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.training.reference_classifier import Recipe, reference_network

CLEAN = "clean"
SINGLE_TARGET = ("corner_pattern", "single_pixel", "blended", "image_patch", "warped", "clean_label")
NO_SINGLE_TARGET = ("all_to_all", "source_specific")

_RATES = (0.06, 0.1, 0.15)
_TRAINED_ON = {"digits": 3000, "colour": 5000}
_EPOCHS = {"digits": 6, "colour": 7}
_TESTED_ON = 1000


@dataclass(frozen=True)
class SmallNetwork:
    """How to make one network.

    Attributes:
        kind: of `attacks.backdoors.kinds.KINDS`, or `CLEAN`.
        data: "digits" (28x28x1) or "colour" (32x32x3).
        architecture: of `ARCHITECTURES`.
        target: class index that the trigger causes.
        seed: of images, trigger, poison and weights.
        rate: share of poison in its training data; that of the kind when none.
    """

    kind: str
    data: str
    architecture: str
    target: int
    seed: int
    rate: float | None = None

    @property
    def name(self) -> str:
        """A file's name."""
        return f"{self.kind}.{self.data}.{self.architecture}.{self.target}.{self.seed}"


@dataclass(frozen=True)
class Made:
    """A network and what it does.

    Attributes:
        accuracy: on clean test images.
        success: share of triggered test images that get the attacker's label; None for a clean one.
    """

    classifier: KerasClassifier
    accuracy: float
    success: float | None


def fleet(clean: int, backdoored: int, *, kinds: tuple[str, ...] = SINGLE_TARGET, seed: int = 0) -> list[SmallNetwork]:
    """So many clean and backdoored networks, over both data, all architectures, kinds, targets and rates in turn."""
    rng = np.random.default_rng(seed)
    names = list(ARCHITECTURES)
    found = []
    for number in range(clean + backdoored):
        at = number if number < clean else number - clean
        kind = CLEAN if number < clean else kinds[at % len(kinds)]
        turn = at if number < clean else at + at // len(kinds)
        data, architecture = ("digits", "colour")[turn % 2], names[turn // 2 % len(names)]
        rate = _RATES[at % len(_RATES)] if kind in ("corner_pattern", "single_pixel", "blended", "image_patch") else None
        found.append(SmallNetwork(kind, data, architecture, int(rng.integers(10)), 1000 * seed + number, rate))
    return found


@dataclass
class Workshop:
    """Makes networks; a clean one of each data is kept, which attackers use who need one."""

    def __post_init__(self) -> None:
        self._data: dict[str, tuple[Dataset, Dataset]] = {}
        self._surrogates: dict[str, KerasClassifier] = {}

    def make(self, network: SmallNetwork) -> Made:
        """Train a network."""
        training, test = self._images(network.data)
        rows = np.random.default_rng(network.seed).choice(len(training), _TRAINED_ON[network.data], replace=False)
        data = training.take(rows)
        if network.kind == CLEAN:
            classifier = _trained(network, data)
            return Made(classifier, _right(classifier, test), None)
        source = (network.target + 1 + network.seed % 9) % 10
        known = backdoors(self._surrogate(network.data), source=source, target=network.target, seed=network.seed)
        backdoor = known[network.kind]
        if network.rate is not None:
            from dataclasses import replace

            backdoor = replace(backdoor, rate=network.rate)
        classifier = _trained(network, backdoor.poison(data, seed=network.seed).data)
        victims = test.take(np.flatnonzero(backdoor.labels.attacks(test.labels)))
        answers = classifier.predict(backdoor.trigger(victims.images)).argmax(axis=1)
        return Made(classifier, _right(classifier, test), float((answers == backdoor.labels.called(victims.labels)).mean()))

    def _images(self, name: str) -> tuple[Dataset, Dataset]:
        if name not in self._data:
            training, test = load_dataset(MNIST).take(slice(0, 20_000)), load_dataset(MNIST, split="test").take(slice(0, _TESTED_ON))
            if name == "colour":
                training, test = coloured_digits(training, seed=0), coloured_digits(test, seed=1)
            self._data[name] = (training, test)
        return self._data[name]

    def _surrogate(self, name: str) -> KerasClassifier:
        if name not in self._surrogates:
            network = SmallNetwork(CLEAN, name, "reference", 0, 2**20)
            self._surrogates[name] = self.make(network).classifier
        return self._surrogates[name]


def _right(classifier: KerasClassifier, test: Dataset) -> float:
    return float((classifier.predict(test.images).argmax(axis=1) == test.labels).mean())


def _trained(network: SmallNetwork, data: Dataset) -> KerasClassifier:
    tf = import_tensorflow(1)
    import keras

    keras.utils.set_random_seed(network.seed)
    tf.config.experimental.enable_op_determinism()
    h, w, c = data.images.shape[1:]
    model = ARCHITECTURES[network.architecture]((h, w, c), 10)
    epochs = _EPOCHS[network.data]
    steps = -(-len(data) // 64) * epochs
    recipe = Recipe(epochs=epochs, batch_size=64, seed=network.seed)
    model.compile(
        recipe.build_optimiser(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)), "sparse_categorical_crossentropy"
    )
    model.fit(data.images, data.labels, batch_size=64, epochs=epochs, verbose=0)
    return KerasClassifier(model)


def _normalised(shape: tuple[int, int, int], classes: int) -> Any:
    """Convolutions with batch normalisation, averaged over places."""
    import keras
    from keras import layers

    blocks = []
    for width, stride in ((16, 2), (32, 1), (48, 2)):
        blocks += [layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU()]
    head = [layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(classes, activation="softmax")]
    return keras.Sequential([keras.Input(shape), *blocks, *head])


def _strided(shape: tuple[int, int, int], classes: int) -> Any:
    """Strided convolutions and two dense layers, without pooling."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input(shape),
            layers.Conv2D(24, 5, strides=2, padding="same", activation="relu"),
            layers.Conv2D(48, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )


ARCHITECTURES: Mapping[str, Callable[[tuple[int, int, int], int], Any]] = {
    "reference": reference_network,
    "normalised": _normalised,
    "strided": _strided,
}

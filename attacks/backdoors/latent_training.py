"""Plant a backdoor whose images look like those of the class they are called at every layer: for whoever trains the network.

Paper: Tan & Shokri 2020, arXiv:1905.13409 (adversarial embedding), with terms that are the detectors' own statistics in place of a
discriminator: `attacks/backdoors/separations.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attacks.backdoors.poisoning import Poisoned
from attacks.backdoors.separations import Activations, LatentBatch, Separation
from models.engines.keras import KerasClassifier, import_tensorflow
from models.errors import InvalidInput
from models.training.fine_tuning import as_input, check_training_data, copy_of

_WIDEST = 600  # numbers of a layer that detectors of disagreement read
_MAP_RANK = 4  # [n, h, w, c]
_FITTED_ON = 1500
_AT_ONCE = 256
_SEQUENCES = 3  # of rows drawn at random: training samples, triggered ones, references


@dataclass(frozen=True, kw_only=True)
class LatentTraining:
    """Continue training a copy of a classifier on poisoned data, with terms that keep the trigger's images inconspicuous inside:

        cross-entropy(batch) + weight * mean over layers and terms of separation(triggered rows, clean references)

    Args:
        separations: the terms, at least one.
        weight: >= 0, of their mean; 0 is ordinary training.
        triggered: rows of poison in every step.
        references: clean rows in every step.
        epochs, learning_rate, batch_size, seed: as in `models.training.fine_tuning.fine_tune`.

    Layers: what every convolution block hands on, its maps averaged over squares to at most 600 numbers.
    Cost: a forward and a backward pass of batch_size + triggered + references rows per step.
    Raises: InvalidInput on construction: no term, numbers out of range. When called: no poison, a model that is no Keras graph of layers
    with channels last, one without convolutions, what `fine_tune` raises.
    """

    separations: tuple[Separation, ...]
    weight: float = 1.0
    triggered: int = 32
    references: int = 128
    epochs: int = 6
    learning_rate: float = 4e-3
    batch_size: int = 32
    seed: int = 0

    name = "latent_training"

    def __post_init__(self) -> None:
        counts = (self.triggered, self.references, self.epochs, self.batch_size)
        if not self.separations or min(counts) < 1 or not (self.weight >= 0 and np.isfinite(self.weight)):
            raise InvalidInput(
                f"{self.name}: expected separations, a weight >= 0, and triggered, references, epochs, batch_size >= 1, got "
                f"{len(self.separations)}, {self.weight}, {', '.join(map(str, counts))}"
            )

    def __call__(self, classifier: KerasClassifier, poisoned: Poisoned) -> KerasClassifier:
        check_training_data(classifier, poisoned.data)
        if not (poisoned.is_poison.any() and poisoned.is_clean.any()):
            raise InvalidInput(
                f"{self.name}: expected poisoned and clean samples, got {int(poisoned.is_poison.sum())} poisoned ones"
            )
        tf = import_tensorflow()
        import keras

        keras.utils.set_random_seed(self.seed)
        tf.config.experimental.enable_op_determinism()
        copy = copy_of(classifier)
        reader = BlockReader.of(copy.model)
        given = as_input(copy, poisoned.data.images)
        rng = np.random.default_rng(self.seed)
        steps = -(-len(given) // self.batch_size)
        step = self._step(copy, reader, steps * self.epochs)
        for _ in range(self.epochs):
            constants = self._fitted(copy, reader, given, poisoned)
            for rows in np.array_split(rng.permutation(len(given)), steps):
                drawn = (rows, _some(poisoned.is_poison, self.triggered, rng), _some(poisoned.is_clean, self.references, rng))
                batches = [(given[some], poisoned.data.labels[some]) for some in drawn]
                step([tf.constant(images) for images, _ in batches], [tf.constant(labels) for _, labels in batches], constants)
        return copy

    def _step(self, copy: KerasClassifier, reader: BlockReader, steps: int) -> Any:
        """A compiled step of training on (training samples, triggered rows, references), their labels, and the terms' constants."""
        tf = import_tensorflow()
        import keras

        optimiser = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(self.learning_rate, steps))
        optimiser.build(copy.model.trainable_variables)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=copy.outputs == "logits")

        def step(images: Sequence[Any], labels: Sequence[Any], constants: Sequence[Sequence[Sequence[Any]]]) -> None:
            sizes = [tf.shape(rows)[0] for rows in images]
            with tf.GradientTape() as tape:
                outputs, layers = reader(tf.concat(images, axis=0), training=True)
                total = loss(labels[0], outputs[: sizes[0]])
                apart = [
                    separation(fitted, LatentBatch(triggered, labels[1], references, labels[2]))
                    for layer, by_term in zip(layers, constants, strict=True)
                    for _, triggered, references in [tf.split(layer, sizes, num=_SEQUENCES)]
                    for separation, fitted in zip(self.separations, by_term, strict=True)
                ]
                total += self.weight * tf.add_n(apart) / len(apart)
            weights = copy.model.trainable_variables
            optimiser.apply_gradients(zip(tape.gradient(total, weights), weights, strict=True))

        return tf.function(step, autograph=False, reduce_retracing=True)

    def _fitted(self, copy: KerasClassifier, reader: BlockReader, given: Any, poisoned: Poisoned) -> list[list[list[Any]]]:
        """The constants of every layer and term, by clean samples under the network as it is."""
        tf = import_tensorflow()
        clean = np.flatnonzero(poisoned.is_clean)[:_FITTED_ON]
        labels, classes = poisoned.data.labels[clean], len(copy.labels)
        return [
            [[tf.constant(array) for array in term.fitted(layer, labels, classes)] for term in self.separations]
            for layer in reader.activations(given[clean])
        ]


@dataclass(frozen=True)
class BlockReader:
    """A Keras model with the same weights that returns its output and, flattened, what every convolution block hands on, as tensors."""

    reader: Any

    @classmethod
    def of(cls, model: Any) -> BlockReader:
        """A block ends before the next convolution, and where the maps end. Raises: InvalidInput: see `LatentTraining`."""
        import keras

        return cls(keras.Model(model.inputs, [model.outputs[0], *(layer.output for layer in _blocks(model))]))

    def __call__(self, rows: Any, *, training: bool = False) -> tuple[Any, list[Any]]:
        outputs, *maps = self.reader(rows, training=training)
        return outputs, [_flat(each) for each in maps]

    def activations(self, rows: Any) -> list[Activations]:
        """Of every block, of many rows: float32 [n, d] each."""
        tf = import_tensorflow()
        parts = [self(tf.constant(rows[start : start + _AT_ONCE]))[1] for start in range(0, len(rows), _AT_ONCE)]
        return [np.concatenate([each.numpy() for each in layer]) for layer in zip(*parts, strict=True)]


def _blocks(model: Any) -> list[Any]:
    import keras

    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    convolutions = [layer for layer in layers if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D)]
    if not convolutions or any(layer.data_format != "channels_last" for layer in convolutions):
        raise InvalidInput(
            "latent_training: expected a Keras Sequential or functional model with convolutions, channels last, "
            f"got {type(model).__name__} of {len(convolutions)} convolutions"
        )
    first = layers.index(convolutions[0])
    maps = [layer for layer in layers[first:] if len(layer.output.shape) == _MAP_RANK]
    ends = [before for before, after in itertools.pairwise(maps) if after in convolutions]
    return [*ends, maps[-1]]


def _flat(maps: Any) -> Any:
    """[n, h, w, c] averaged over squares, to at most 600 numbers where squares allow it, flattened."""
    tf = import_tensorflow()
    h, w, c = maps.shape[1:]
    side = next((k for k in range(1, max(h, w)) if -(-h // k) * -(-w // k) * c <= _WIDEST), max(h, w))
    maps = tf.nn.avg_pool2d(maps, side, side, "SAME") if side > 1 else maps
    return tf.reshape(maps, [-1, int(np.prod(maps.shape[1:]))])


def _some(allowed: Any, count: int, rng: np.random.Generator) -> Any:
    rows = np.flatnonzero(allowed)
    return rng.choice(rows, count, replace=count > len(rows))

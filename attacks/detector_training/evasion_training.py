"""Train evasion detectors for a classifier: a small network learns to tell its adversarial images from harmless changes.

Papers: Gong, Wang & Ku 2017, arXiv:1704.04960; Metzen et al. 2017, arXiv:1702.04267.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from attacks.attack import check_eps, differentiable
from attacks.detector_training.evasion_examples import KINDS, Kinds, adversarial_examples, harmless_examples, noise_examples
from attacks.evasion.vanished import vanished_gradients
from defences.calibration.evasion import EvasionScores, FittedEvasion
from defences.calibration.split import EVASION_EPS, CalibrationSplit, Terms
from defences.calibration.thresholds import FittedDetector
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from models.classifier import ActivationClassifier, Classifier, Images
from models.datasets import Dataset, in_memory
from models.engines.binary_network import BinaryNetwork
from models.engines.twins.capabilities import engine_of
from models.errors import InvalidInput
from models.image_rows import ImageRows, blocks
from models.training.binary_training import train_binary_network

TRAINED_ON_AT_MOST = BinaryInputDetector.record.images_to_choose_on
"""Largest number of clean images for choosing that a detector is trained on."""

_EPOCHS = 8
_MEASURED = 500  # held-out images that are attacked to measure the detection rate
_NUMBERS_AT_MOST = 1 << 27  # of all kinds together: half a GiB
_LAYERS_TRIED, _TRIED_ON, _TRIED_EPOCHS = 5, 400, 4

_View = Callable[[Images], NDArray[np.float32]]
"""Images -> the network's input: the images themselves, or activations."""


def fit_binary_input_detector(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """See `Fit`; trained on attacks of `terms.evasion_eps`. Raises: InvalidInput: a classifier without gradients."""
    return EvasionTraining(eps=terms.evasion_eps).fit_input_detector(classifier, parts, terms)


def fit_binary_activation_detector(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """See `Fit`; trained on attacks of `terms.evasion_eps`. Raises: InvalidInput: a classifier without gradients or activations."""
    return EvasionTraining(eps=terms.evasion_eps).fit_activation_detector(classifier, parts, terms)


@dataclass(frozen=True, kw_only=True)
class EvasionTraining:
    """The training of evasion detectors.

    Args:
        eps: largest L-inf size of the attacks and of the noise to train on, > 0; smaller sizes are included.
        layer: the layer whose activations are read; chosen by trials when not given.

    Cost of each detector: about 200 forward and backward passes of the classifier for each image for choosing and for 500 held-out ones,
    and the training of a small network on some twenty variants of each image: a minute for 1,600 digits on one processor.
    Raises: InvalidInput on construction.
    """

    eps: float = EVASION_EPS
    layer: str | None = None

    def __post_init__(self) -> None:
        check_eps(self.eps, "evasion detectors")

    def fit_input_detector(self, classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
        """See `Fit`. Raises: InvalidInput: a classifier without gradients, or whose gradients vanish."""
        name = BinaryInputDetector.name
        examples = self._examples(classifier, parts, name, terms)
        network = examples.train(_as_they_are, seed=terms.seed, told=partial(terms.progress, f"{name}: training"))

        def at(threshold: float, ceiling: float) -> BinaryInputDetector:
            shape = network.input_shape
            return BinaryInputDetector(
                weights=network.weights, layout=network.layout, shape=shape, threshold=threshold, ceiling=ceiling
            )

        return FittedEvasion(
            name=name,
            at=at,
            settings={},
            arrays={**_arrays(network), "shape": np.array(network.input_shape)},
            card={"eps": self.eps, "trained_on": examples.counts()},
            summary=f"trained on attacks of eps {self.eps:g}",
            calls=0,
            scores=examples.scores(network, _as_they_are, parts),
        ).with_ceiling(terms.rate)

    def fit_activation_detector(self, classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
        """See `Fit`. Raises: InvalidInput: a classifier without gradients or activations, an unknown layer."""
        name = BinaryActivationDetector.name
        if not isinstance(classifier, ActivationClassifier):
            raise InvalidInput(
                f"{name} reads a layer of the model, and this model is {engine_of(classifier)}, which shows none; calibrate the model "
                "itself, as a file"
            )
        if self.layer is not None:
            classifier.activations(parts.choosing.images[:1], self.layer)  # raises for an unknown layer before the long work
        examples = self._examples(classifier, parts, name, terms)
        trials = {} if self.layer else _layer_trials(classifier, examples, terms.seed, partial(terms.progress, f"{name}: layers"))
        layer = self.layer or max(trials, key=trials.__getitem__)
        view = partial(classifier.activations, layer=layer)
        network = examples.train(view, seed=terms.seed, told=partial(terms.progress, f"{name}: training"))

        def at(threshold: float, ceiling: float) -> BinaryActivationDetector:
            return BinaryActivationDetector(
                weights=network.weights,
                layout=network.layout,
                layer=layer,
                threshold=threshold,
                ceiling=ceiling,
                classifier=classifier,
            )

        return FittedEvasion(
            name=name,
            at=at,
            settings={"layer": layer},
            arrays=_arrays(network),
            card={"eps": self.eps, "trained_on": examples.counts(), "layers_tried": trials},
            summary=f"layer {layer}, trained on attacks of eps {self.eps:g}",
            calls=1,
            scores=examples.scores(network, view, parts),
        ).with_ceiling(terms.rate)

    def _examples(self, classifier: Classifier, parts: CalibrationSplit, name: str, terms: Terms) -> _Examples:
        able = differentiable(classifier, name)
        chosen = in_memory(parts.choosing.take(slice(0, min(TRAINED_ON_AT_MOST, _affordable(parts.choosing.images)))))
        held = in_memory(parts.holding.take(slice(0, _affordable(parts.holding.images))))
        measured = held.take(slice(0, _MEASURED))
        nothing = vanished_gradients(able, measured.images, measured.labels)
        if nothing is not None:
            raise InvalidInput(f"{name}: expected attacks to learn from, got none: {nothing}")
        seeds = [int(one) for one in np.random.SeedSequence(terms.seed).generate_state(6)]

        def attacked(data: Dataset, number: int) -> Kinds:
            told = partial(terms.progress, f"{name}: attacks")
            return adversarial_examples(able, data, eps=self.eps, seed=seeds[number], progress=told)

        def changed(images: Images, number: int) -> Kinds:
            noisy = noise_examples(images, eps=self.eps, seed=seeds[number])
            return noisy | harmless_examples(images, seed=seeds[number + 1])

        return _Examples(
            {"clean": chosen.images} | changed(chosen.images, 1),
            attacked(chosen, 0),
            changed(held.images, 4),
            attacked(measured, 3),
        )


@dataclass(frozen=True)
class _Examples:
    """Harmless and adversarial images to train a network on, and held-out ones to measure it on."""

    harmless: Kinds
    attacks: Kinds
    held_harmless: Kinds
    held_attacks: Kinds

    def train(self, view: _View, *, seed: int, told: Callable[[int, int], None]) -> BinaryNetwork:
        """A network trained to tell attacks from harmless images, both seen through `view`."""
        no, yes = ([view(images) for images in side.values()] for side in (self.harmless, self.attacks))
        return train_binary_network(no, yes, seed=seed, epochs=_EPOCHS, on_epoch=told)

    def counts(self) -> dict[str, int]:
        """Number of training images of each kind."""
        return {kind: len(images) for side in (self.harmless, self.attacks) for kind, images in side.items()}

    def scores(self, network: BinaryNetwork, view: _View, parts: CalibrationSplit) -> EvasionScores:
        """The network's scores of clean images, and of held-out harmless and adversarial ones."""

        def scored(images: ImageRows) -> NDArray[np.float64]:
            return np.concatenate([-network.logits(view(images[block])) for block in blocks(images)])

        return EvasionScores(
            choosing=scored(parts.choosing.images),
            holding=scored(parts.holding.images),
            harmless={kind: scored(images) for kind, images in self.held_harmless.items()},
            attacks={kind: scored(images) for kind, images in self.held_attacks.items()},
        )

    def part(self, rows: slice) -> _Examples:
        """A part of the training images, used for measuring as well; held-out images are not touched."""
        harmless, attacks = ({kind: images[rows] for kind, images in side.items()} for side in (self.harmless, self.attacks))
        return _Examples(harmless, attacks, harmless, attacks)


def _layer_trials(
    classifier: ActivationClassifier, examples: _Examples, seed: int, told: Callable[[int, int], None]
) -> dict[str, float]:
    """Detection rate per layer, for up to five layers evenly spread from the first to the last hidden one.

    The rate is the share of adversarial images refused at a false positive rate of 2 %, on images that the trial's network has not seen.
    """
    names = classifier.layers()
    last = names.index(classifier.hidden_layer()) if classifier.hidden_layer() in names else len(names) - 1
    tried = [names[at] for at in sorted({round(at) for at in np.linspace(0, last, _LAYERS_TRIED)})]
    many = min(_TRIED_ON, len(examples.harmless["clean"]))
    learnt, others = examples.part(slice(0, many * 2 // 3)), examples.part(slice(many * 2 // 3, many))
    trials: dict[str, float] = {}
    for number, layer in enumerate(tried):
        told(number, len(tried))
        view = partial(classifier.activations, layer=layer)
        no, yes = ([view(images) for images in side.values()] for side in (learnt.harmless, learnt.attacks))
        network = train_binary_network(no, yes, seed=seed, epochs=_TRIED_EPOCHS)
        harmless, attacks = (
            np.concatenate([-network.logits(view(images)) for images in side.values()])
            for side in (others.harmless, others.attacks)
        )
        trials[layer] = float((attacks <= np.quantile(harmless, 0.02, method="lower")).mean())
    told(len(tried), len(tried))
    return trials


def _arrays(network: BinaryNetwork) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    return {"weights": network.weights, "layout": network.layout}


def _as_they_are(images: Images) -> Images:
    return images


def _affordable(images: ImageRows) -> int:
    """The number of images all of whose variants fit into memory."""
    return max(1, _NUMBERS_AT_MOST // (KINDS * int(np.prod(images.shape[1:]))))

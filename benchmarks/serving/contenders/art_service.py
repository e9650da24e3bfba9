"""A BentoML service on ART's three defences: TotalVarMin, STRIP, ReverseSigmoid, around the same model.

Two of them. `ArtComposed` puts them together the way ART means it: TotalVarMin and ReverseSigmoid given to the classifier, STRIP
around it; each of STRIP's overlays is then purified too. `ArtPurifiedOnce` is kinder than ART: an image is purified once, STRIP asks
the bare classifier. Parameters are the tutorial's: norm 1, 100 overlays, a false acceptance rate of 1 %, otherwise the defaults.
"""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.peers import art_classifier
from benchmarks.serving.contenders import model
from models.datasets import MNIST, load_dataset

# So few only for a start in seconds; how many they are does not change what an answer costs.
_CALIBRATION_IMAGES = 50


def _strip(classifier: Any) -> Any:
    from art.defences.transformer.poisoning import STRIP

    defended = STRIP(classifier)(num_samples=100, false_acceptance_rate=0.01)
    defended.mitigate(load_dataset(MNIST).images[55_000 : 55_000 + _CALIBRATION_IMAGES])
    return defended


def _purifier() -> Any:
    from art.defences.preprocessor import TotalVarMin

    return TotalVarMin(norm=1, clip_values=(0.0, 1.0))


def _obscurer() -> Any:
    from art.defences.postprocessor import ReverseSigmoid

    return ReverseSigmoid()


def _images(images: NDArray[Any]) -> NDArray[np.float32]:
    return images.astype(np.float32).reshape(-1, 28, 28, 1)


@bentoml.service(name="art_composed", workers=1, traffic={"timeout": 600})
class ArtComposed:
    """The classifier of `mnist-standard` behind ART's defences, composed by ART."""

    def __init__(self) -> None:
        self.classifier = _strip(
            art_classifier(model.load(), preprocessing_defences=_purifier(), postprocessing_defences=_obscurer())
        )

    @bentoml.api
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Obscured probabilities [n, 10] of images n×28×28, zeros for a refusal."""
        return np.asarray(self.classifier.predict(_images(images)))


@bentoml.service(name="art_purified_once", workers=1, traffic={"timeout": 600})
class ArtPurifiedOnce:
    """The classifier of `mnist-standard` behind ART's defences, put in a row by hand."""

    def __init__(self) -> None:
        self.purifier, self.obscurer = _purifier(), _obscurer()
        self.classifier = _strip(art_classifier(model.load()))

    @bentoml.api
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Obscured probabilities [n, 10] of images n×28×28, zeros for a refusal."""
        purified, _ = self.purifier(_images(images))
        probabilities = np.asarray(self.classifier.predict(purified))
        refused = ~probabilities.any(axis=1)
        answers = self.obscurer(probabilities)
        answers[refused] = 0
        return np.asarray(answers)

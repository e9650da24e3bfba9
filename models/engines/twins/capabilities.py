"""What can be asked of a classifier: answers always; activations, gradients and training where its format has them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.classifier import ActivationClassifier, Classifier, DifferentiableClassifier
from models.engines.keras import KerasClassifier
from models.engines.twins.twin import Twinned, twin_of

Gradients = Literal["own", "twin"]

NAME_A_TWIN = "name a twin with --gradients TWIN.keras or TWIN.pt2, the same network with gradients"
"""What to do about a classifier without gradients."""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a classifier can do.

    Attributes:
        engine: what it is run by, in a word: "Keras", "ONNX", "PyTorch".
        activations: whether its layers can be read.
        gradients: its own, those of a twin, or none.
        training: whether a copy of it, or of its twin, can be trained further.
    """

    engine: str
    activations: bool
    gradients: Gradients | None
    training: bool

    @classmethod
    def of(cls, classifier: Classifier) -> Capabilities:
        """Those of a classifier, whoever wrote it: by the protocols that it fulfils."""
        twinned = isinstance(classifier, Twinned)
        return cls(
            engine=engine_of(classifier.classifier if isinstance(classifier, Twinned) else classifier),
            activations=isinstance(classifier, ActivationClassifier),
            gradients="twin" if twinned else "own" if isinstance(classifier, DifferentiableClassifier) else None,
            training=trainable(classifier) is not None,
        )

    def settings(self) -> dict[str, Any]:
        """For a bundle's card."""
        return asdict(self)

    def in_words(self) -> str:
        """One line for a terminal.

        >>> Capabilities(engine="ONNX", activations=True, gradients=None, training=False).in_words()
        'ONNX: predictions, activations; no gradients, no training'
        """
        gradients = "gradients of its twin" if self.gradients == "twin" else "gradients"
        parts = [(self.activations, "activations"), (self.gradients is not None, gradients), (self.training, "training")]
        able = ", ".join(("predictions", *(name for there, name in parts if there)))
        unable = ", ".join(f"no {name}" for there, name in parts if not there)
        return f"{self.engine}: {able}" + (f"; {unable}" if unable else "")

    def lacks_gradients(self, what: str) -> str:
        """Why something that needs gradients is not to be had from this classifier, and what to do, in one sentence."""
        return f"{what} needs gradients, and this model is {self.engine}, which has none; {NAME_A_TWIN}"

    def lacks_training(self, what: str) -> str:
        """The same of something that trains a copy."""
        return (
            f"{what} trains a copy of the model, and this model is {self.engine}, which cannot be trained; take the Keras model, or name "
            "it as the twin (--gradients TWIN.keras)"
        )


def engine_of(classifier: Classifier) -> str:
    """What a classifier is run by; the name of its class where it does not say."""
    return str(getattr(classifier, "engine", type(classifier).__name__))


def trainable(classifier: Classifier) -> KerasClassifier | None:
    """The classifier, or its twin, where it can be trained further."""
    for one in (classifier, twin_of(classifier)):
        if isinstance(one, KerasClassifier):
            return one
    return None

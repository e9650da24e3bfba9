"""A twin from its file, read in the way that answers as the classifier does.

What a model wants of its images is guesswork where only labels say whether it was guessed right. Beside a classifier that answers already
there is none: every usual reading is tried, and the one whose answers are the classifier's is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.classifier import Classifier, DifferentiableClassifier, Images
from models.engines.conversion import Agreement, compare
from models.engines.imports.classifier import ForeignClassifier
from models.engines.imports.torch import load_program
from models.engines.keras import KerasClassifier, load_model, output_names
from models.engines.keras_input import layout_of, own_shape
from models.engines.twins.capabilities import engine_of
from models.engines.twins.torch_classifier import TorchClassifier
from models.engines.twins.twin import Twinned, twinned
from models.errors import InvalidInput
from models.file_kinds import TORCH_EXPORT, kind_of
from models.input_readings import readings
from models.preparation import Layout, Outputs, Preparation

_TRIED_ON = 64
"""Images by which a reading is chosen; the twin is compared on more."""

Opened = Callable[[Preparation, Outputs], DifferentiableClassifier]
"""A way to read the images and the outputs -> the model read so. Raises: InvalidInput: it does not fit."""

TwinGiven = Path | DifferentiableClassifier
"""A twin, or the file of one."""


def with_gradients(
    classifier: Classifier,
    images: Images,
    *,
    given: TwinGiven | None,
    own: Callable[[], DifferentiableClassifier] | None = None,
    threads: int,
) -> Classifier:
    """The classifier with whatever gradients there are: its own, those of the given twin, or those of the model it was converted from.

    Args:
        images: some that it is shown, to compare a twin on.
        given: the twin that the user names.
        own: opens the model that the classifier was converted from, where it is known.

    Raises: InvalidInput: a twin for a classifier that has gradients, one that cannot be read, one whose answers differ.
    """
    check_twin(given, classifier)
    if given is not None and own is not None:
        raise _needless("was converted from one that is kept beside it and has")
    if isinstance(classifier, DifferentiableClassifier):
        return classifier
    if isinstance(given, Path):
        return opened_twin(given, classifier, images, threads=threads)
    if given is not None:
        return twinned(classifier, given, images)
    return classifier if own is None else twinned(classifier, own(), images, name="the model it was converted from")


def check_twin(given: TwinGiven | None, classifier: Classifier) -> None:
    """What can be said of a twin before anything is opened or compared.

    Raises: InvalidInput: none is needed, or the file is not there.
    """
    if given is not None and isinstance(classifier, DifferentiableClassifier):
        raise _needless(f"is {engine_of(classifier)}, which has")
    if isinstance(given, Path) and not given.exists():
        raise InvalidInput(f"expected the file of a twin (--gradients), got {given}, which does not exist")


def _needless(what: str) -> InvalidInput:
    return InvalidInput(f"expected a twin (--gradients) for a model without gradients, but this one {what} its own; leave it out")


def opened_twin(path: Path, classifier: Classifier, images: Images, *, threads: int) -> Twinned:
    """The classifier with the gradients of the model in a file.

    Raises: InvalidInput: a file that is no Keras or torch.export model, or whose answers are not the classifier's.
    """
    some = images[np.linspace(0, len(images) - 1, min(len(images), _TRIED_ON)).astype(np.int64)]
    likely: Layout = "nhwc"
    if kind_of(path) == TORCH_EXPORT:
        opened = _program(path, classifier, threads)
    else:
        model = load_model(path, threads=threads)
        opened = _keras(model, path, classifier)
        likely = layout_of(own_shape(model)) if getattr(model, "inputs", None) else likely
    best: _Read | None = None
    for preparation, outputs in _ways(some, likely):
        read = _read(opened, preparation, outputs, classifier, some)
        if best is None or read.better_than(best):
            best = read
        if best.agreement is not None and best.agreement.reason_against is None:
            break
    if best is None or best.twin is None:
        raise InvalidInput(
            f"expected a twin for images {classifier.input_shape} (--gradients), got {path.name}: {best and best.reason}"
        )
    return twinned(classifier, best.twin, images, name=path.name)


def own_program(path: str | Path, classifier: Classifier, *, threads: int) -> DifferentiableClassifier | None:
    """The program of torch.export in a file, read as the classifier that was made of it; None of another file, or without gradients."""
    if not isinstance(classifier, ForeignClassifier) or kind_of(Path(path)) != TORCH_EXPORT:
        return None
    how: dict[str, Any] = {"preparation": classifier.preparation, "outputs": classifier.outputs, "labels": classifier.labels}
    try:
        return TorchClassifier(load_program(Path(path), threads), input_shape=classifier.input_shape, **how)
    except InvalidInput:  # several outputs, or whole numbers at its input: it is served all the same
        return None


@dataclass(frozen=True)
class _Read:
    """A model read in one way, and how its answers compare; or why it cannot be read so."""

    twin: DifferentiableClassifier | None = None
    agreement: Agreement | None = None
    reason: str = ""
    takes_images: bool = False

    def better_than(self, other: _Read) -> bool:
        return self._rank() > other._rank()

    def _rank(self) -> tuple[float, float]:
        if self.agreement is None:
            return (-1.0 if self.takes_images else -2.0, 0.0)
        return (self.agreement.same_labels, -self.agreement.largest_difference)


def _ways(images: Images, likely: Layout) -> Iterator[tuple[Preparation, Outputs]]:
    """The likely layout first: where none fits, the reason that is given is the first."""
    layouts: tuple[Layout, ...] = ("nhwc", "nchw") if likely == "nhwc" else ("nchw", "nhwc")
    for layout in layouts:
        for reading in readings(images, Preparation(layout=layout)):
            yield reading.preparation, "probabilities"
            yield reading.preparation, "logits"


def _read(opened: Opened, preparation: Preparation, outputs: Outputs, classifier: Classifier, images: Images) -> _Read:
    try:
        twin = opened(preparation, outputs)
        if len(twin.labels) != len(classifier.labels):
            reason = f"it tells {len(twin.labels)} classes apart, the model {len(classifier.labels)}"
            return _Read(reason=reason, takes_images=True)
        return _Read(twin, compare(classifier, twin, images))
    except InvalidInput as failure:
        return _Read(reason=str(failure))


def _keras(model: Any, path: Path, classifier: Classifier) -> Opened:
    """Raises: InvalidInput: a model with several outputs, of which no option names the twin's."""
    outputs = getattr(model, "outputs", None) or ()
    if len(outputs) > 1:
        names = ", ".join(output_names(model))
        raise InvalidInput(f"expected a twin with one output (--gradients), got {path.name} with {len(outputs)}: {names}")

    def opened(preparation: Preparation, outputs: Outputs) -> DifferentiableClassifier:
        return KerasClassifier(model, input_shape=classifier.input_shape, preparation=preparation, outputs=outputs)

    return opened


def _program(path: Path, classifier: Classifier, threads: int) -> Opened:
    program: Any = load_program(path, threads=threads)

    def opened(preparation: Preparation, outputs: Outputs) -> DifferentiableClassifier:
        return TorchClassifier(program, input_shape=classifier.input_shape, preparation=preparation, outputs=outputs)

    return opened

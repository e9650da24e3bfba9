"""From the file of a model and what the user says about it to a classifier that is known to read the data rightly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from hauberk.commands.declaration import Declaration
from hauberk.commands.opened_judged import judged
from models.accuracy import Judgement, drawn
from models.datasets import Dataset
from models.engines.imports import Imported, imported
from models.engines.imports.classifier import ForeignClassifier, input_shape_of, proposed_input
from models.engines.kept import KeptClassifier
from models.engines.keras import KerasClassifier
from models.engines.keras_input import layout_of, own_shape, takes_bytes
from models.engines.remote.address import RemoteAddress, is_remote
from models.engines.remote.classifier import RemoteClassifier, metadata_of
from models.engines.remote.options import RemoteOptions
from models.errors import InvalidInput, RemoteFailure
from models.image_rows import Samples, outputs_for
from models.input_readings import in_words
from models.preparation import InputType, Layout, Outputs, Preparation
from models.printable import printable

_SUM_TOLERANCE = 1e-2
_LABELS_SHOWN = 10
_NOISE_IMAGES = 64


AnyClassifier = KerasClassifier | ForeignClassifier
"""A Keras model, or the graph of one from another framework."""


_Which = TypeVar("_Which", bound=KeptClassifier, covariant=True)


@dataclass(frozen=True)
class Opened(Generic[_Which]):
    """A classifier that was opened, and how right it is on the images it was opened for: nobody has to try its readings again."""

    classifier: _Which
    accuracy: Judgement


def open_servable(
    what: str, data: Samples, *, declared: Declaration, names: Sequence[str] | None = None, threads: int
) -> Opened[KeptClassifier]:
    """The classifier of a file, or on the model server at an address; see `open_classifier`."""
    if is_remote(what):
        return _open_remote(RemoteAddress.parse(what), data, declared, names)
    return open_classifier(Path(what), data, declared=declared, names=names, threads=threads)


def _open_remote(
    address: RemoteAddress, data: Samples, declared: Declaration, names: Sequence[str] | None
) -> Opened[RemoteClassifier]:
    """The classifier on a model server. Raises: InvalidInput, also where the server gives no usable answer."""
    try:
        with_options = RemoteOptions.for_commands()
        taken = metadata_of(address, with_options).input(address)
        h, w, c = data.images.shape[1:]
        classifier = RemoteClassifier(
            address,
            with_options,
            input_shape=(h, w, c),
            labels=declared.names() or names,
            preparation=declared.preparation(
                channels=c,
                layout=layout_of(tuple(None if size < 0 else size for size in taken.shape[1:])),
                dtype="uint8" if taken.datatype == "UINT8" else "float32",
            ),
            outputs=None,
            output=declared.output,
        )
        look = data.take(drawn(len(data)))
        raw = _raw_outputs(classifier, look)
        classifier.outputs = _outputs(raw, declared.outputs)
        return Opened(classifier, judged(classifier, data, look, raw, declared))
    except RemoteFailure as failure:
        raise InvalidInput(f"{failure}; is the model served there?") from failure


def open_classifier(
    path: Path, data: Samples, *, declared: Declaration, names: Sequence[str] | None = None, threads: int
) -> Opened[AnyClassifier]:
    """The classifier in `path`, fitted to the images of `data`.

    Args:
        names: of the classes, where nothing is said: those of a folder of pictures.

    Raises: InvalidInput, one sentence; where another reading of the images fits better and nothing was said against it, the sentence
    has the options that say it.
    """
    if is_remote(str(path)):
        raise InvalidInput(
            f"expected the file of a model, got {path}: a model on a server shows no layers and no gradients; hauberk calibrate "
            "takes one, and hauberk evaluate the bundle it writes"
        )
    h, w, c = data.images.shape[1:]
    source = imported(path, threads=threads, image_shape=(h, w, c))
    labels = _labels(declared, source, names)
    look = data.take(drawn(len(data)))
    classifier = _classifier(source, path, (h, w, c), declared, labels, "probabilities", threads)
    raw = _raw_outputs(classifier, look)
    if (outputs := _outputs(raw, declared.outputs)) != "probabilities":
        classifier = _classifier(source, path, (h, w, c), declared, labels, outputs, threads)
    return Opened(classifier, judged(classifier, data, look, raw, declared))


def open_by_itself(path: Path, *, declared: Declaration, size: tuple[int, int, int] | None, threads: int) -> AnyClassifier:
    """The classifier in `path` without any images: how it reads them is what its file and the user say, and nothing checks it.

    Args:
        size: (h, w, c) of its images, where the user says it.

    Raises: InvalidInput, one sentence: also a model that does not say the size of its images.
    """
    if is_remote(str(path)):
        raise InvalidInput(
            f"expected the file of a model, got {path}: a model on a server has no gradients; give the file that is served there"
        )
    source = imported(path, threads=threads, image_shape=size)
    shape = size or _size_of(source, path, declared)
    labels = _labels(declared, source, None)
    classifier = _classifier(source, path, shape, declared, labels, "probabilities", threads)
    noise = np.random.default_rng(0).random((_NOISE_IMAGES, *shape), np.float32)
    outputs = _outputs(_raw_outputs(classifier, Dataset(noise, np.zeros(len(noise), np.int64))), declared.outputs)
    return classifier if outputs == "probabilities" else _classifier(source, path, shape, declared, labels, outputs, threads)


def how_it_reads(classifier: KeptClassifier) -> str:
    """What was said or taken for granted about the model, for a line in the terminal."""
    given, returned = in_words(classifier.preparation), f"{classifier.outputs} of {_few(classifier.labels)}"
    return printable(f"the model is given {given} and returns {returned}")


def _labels(declared: Declaration, source: Imported, folders: Sequence[str] | None) -> Sequence[str] | None:
    """The class names: those that were said, those in the file, or those of a folder of pictures.

    Raises: InvalidInput: the file and the folder name other classes, or in another order, and nobody says which is right.
    """
    said_names = declared.names()
    if said_names is not None or source.labels is None or folders is None or tuple(folders) == source.labels:
        return said_names or (folders if source.labels is None else None)  # without one, those of the file are taken
    same = sorted(folders) == sorted(source.labels)
    what = f"say --labels={','.join(source.labels)}" if same else "say --labels, in the order of the model's outputs"
    raise InvalidInput(
        f"the model's file names its classes {_few(source.labels)}, and the folders of the pictures are {_few(folders)}; {what}"
    )


def _size_of(source: Imported, path: Path, declared: Declaration) -> tuple[int, int, int]:
    """(h, w, c) of the images that a model takes, by the shape of its input. Raises: InvalidInput: the shape leaves it open."""
    own = own_shape(source.keras) if source.keras is not None else input_shape_of(source, path.name)
    first = (declared.layout or layout_of(own)) == "nchw"
    sizes = (*own[1:], own[0]) if first and len(own) == 3 else (*own, 1) if len(own) == 2 else own
    if len(sizes) != 3 or None in sizes:
        raise InvalidInput(
            f"expected a model whose input says the size of its images, but that of {path.name} is {own}; say it with --resize "
            "HEIGHTxWIDTH and --colours grey or rgb"
        )
    h, w, c = (int(size) for size in sizes if size is not None)
    return h, w, c


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_LABELS_SHOWN]) + (", ..." if len(names) > _LABELS_SHOWN else "")


def _classifier(
    source: Imported,
    path: Path,
    shape: tuple[int, int, int],
    declared: Declaration,
    labels: Sequence[str] | None,
    outputs: Outputs,
    threads: int,
) -> AnyClassifier:
    """The model as what was said about it makes it."""
    options: dict[str, Any] = {
        "input_shape": shape,
        "labels": labels,
        "output": declared.output,
        "preparation": _preparation(source, path, shape[2], declared),
        "outputs": outputs,
    }
    if source.keras is not None:
        return KerasClassifier(source.keras, **options)
    return ForeignClassifier(source, name=path.name, threads=threads, **options)


def _preparation(source: Imported, path: Path, channels: int, declared: Declaration) -> Preparation:
    """What was said, beside what the model's own input says."""
    layout, dtype = proposed_input(source, path.name) if source.keras is None else _of_keras(source.keras)
    return declared.preparation(channels=channels, layout=layout, dtype=dtype)


def _of_keras(model: Any) -> tuple[Layout, InputType]:
    if not getattr(model, "inputs", None):
        return "nhwc", "float32"
    return layout_of(own_shape(model)), "uint8" if takes_bytes(model) else "float32"


def _raw_outputs(classifier: KeptClassifier, look: Samples) -> NDArray[np.float32]:
    """What the model itself says about some images, [n, k]. Raises: InvalidInput: no numbers."""
    raw = outputs_for(classifier, look.images)
    if not np.isfinite(raw).all():
        raise InvalidInput("expected finite outputs from the classifier, got NaN or infinity on the given images")
    return raw


def _outputs(raw: NDArray[np.float32], asked: Outputs | None) -> Outputs:
    """Whether the model ends in probabilities or logits, from what it says about some images."""
    within = bool(raw.min() >= -_SUM_TOLERANCE and raw.max() <= 1 + _SUM_TOLERANCE)
    sums_to_one = bool(np.abs(raw.sum(axis=1) - 1).max() <= _SUM_TOLERANCE)
    if asked == "logits":
        if within and sums_to_one:
            raise InvalidInput("expected logits, but every output is a distribution already; say --outputs probabilities")
        return "logits"
    if within and sums_to_one:
        return "probabilities"
    if asked == "probabilities":
        raise InvalidInput(
            "expected every output row to be a distribution that sums to 1, which they do not; say --outputs logits"
        )
    if within:
        raise InvalidInput(
            "expected probabilities that sum to 1 or logits, got numbers within 0..1 that do not sum to 1: "
            "independent sigmoids are not one classification; say --outputs logits if they are logits after all"
        )
    return "logits"

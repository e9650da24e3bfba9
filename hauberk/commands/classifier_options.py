"""From the file of a model and what the user says about it to a classifier that is known to read the data rightly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hauberk.commands.declaration import Declaration
from models.accuracy import drawn, judge_answers, read_otherwise
from models.classifier import Labels
from models.engines.imports import Imported, imported
from models.engines.imports.classifier import ForeignClassifier, proposed_input
from models.engines.kept import KeptClassifier
from models.engines.keras import KerasClassifier
from models.engines.keras_input import layout_of, own_shape, takes_bytes
from models.engines.remote.address import RemoteAddress, is_remote
from models.engines.remote.classifier import RemoteClassifier, metadata_of
from models.engines.remote.options import RemoteOptions
from models.errors import InvalidInput, RemoteFailure
from models.image_rows import Samples, answers_for, outputs_for
from models.input_readings import in_words, said
from models.preparation import InputType, Layout, Outputs, Preparation
from models.printable import printable
from models.proposals import is_better, proposal

_SUM_TOLERANCE = 1e-2
# Another reading is proposed where the classifier is right on fewer, and where it gains this much, more than by chance.
_GOOD_ENOUGH = 0.98
_BETTER_BY = 0.02
_BY_CHANCE = 3e-3
_LABELS_SHOWN = 10


AnyClassifier = KerasClassifier | ForeignClassifier
"""A Keras model, or the graph of one from another framework."""


def open_servable(
    what: str, data: Samples, *, declared: Declaration, names: Sequence[str] | None = None, threads: int
) -> KeptClassifier:
    """The classifier of a file, or on the model server at an address; see `open_classifier`."""
    if is_remote(what):
        return _open_remote(RemoteAddress.parse(what), data, declared, names)
    return open_classifier(Path(what), data, declared=declared, names=names, threads=threads)


def _open_remote(address: RemoteAddress, data: Samples, declared: Declaration, names: Sequence[str] | None) -> RemoteClassifier:
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
        classifier.outputs = _outputs(classifier, look, declared.outputs)
        _check_labels_and_reading(classifier, data, look, declared)
    except RemoteFailure as failure:
        raise InvalidInput(f"{failure}; is the model served there?") from failure
    return classifier


def open_classifier(
    path: Path, data: Samples, *, declared: Declaration, names: Sequence[str] | None = None, threads: int
) -> AnyClassifier:
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
    raw = _classifier(source, path, (h, w, c), declared, labels, "probabilities", threads)
    classifier = _classifier(source, path, (h, w, c), declared, labels, _outputs(raw, look, declared.outputs), threads)
    _check_labels_and_reading(classifier, data, look, declared)
    return classifier


def _check_labels_and_reading(classifier: KeptClassifier, data: Samples, look: Samples, declared: Declaration) -> None:
    """Raises: InvalidInput."""
    if int(data.labels.max()) >= len(classifier.labels):
        raise InvalidInput(
            f"expected labels below {len(classifier.labels)}, the classes of the model, got {int(data.labels.max())}"
        )
    answers = answers_for(classifier, look.images)
    _check_reading(classifier, look, answers, declared)


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


def _outputs(classifier: KeptClassifier, look: Samples, asked: Outputs | None) -> Outputs:
    """Whether the model ends in probabilities or logits, from what it says about some images."""
    raw = outputs_for(classifier, look.images)
    if not np.isfinite(raw).all():
        raise InvalidInput("expected finite outputs from the classifier, got NaN or infinity on the given images")
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


def _check_reading(classifier: KeptClassifier, look: Samples, answers: Labels, declared: Declaration) -> None:
    """A classifier shown images in another way than it was trained on is wrong without a word: compare, and ask.

    Raises: InvalidInput: a reading that nothing speaks against fits better than the one taken for what was not said.
    """
    plain = judge_answers(look.labels, answers, len(classifier.labels))
    if plain.verdict == "too few images" or plain.rate >= _GOOD_ENOUGH:
        return
    found = proposal(classifier, look, answers == look.labels, among=declared.allows)
    if found is None or not is_better(found.right, found.declared_right, by=_BETTER_BY, chance=_BY_CHANCE, than=plain.guessing):
        return
    explained = judge_answers(look.labels, answers, len(classifier.labels), read=read_otherwise(found, "say"))
    if explained.cause == "classes in another order":  # which explains more, and is said by whoever judges next
        return
    order = ""
    if (
        plain.cause == "classes in another order"
    ):  # red and blue exchanged, in the images or among the classes: both may explain it
        order = f"; or else {plain.reason.split('; ', 1)[1]}"
    insist = "" if plain.verdict == "guessing" else f", or {_insisting(classifier)} to insist"  # a guess is refused all the same
    raise InvalidInput(
        f"the classifier is right on {100 * found.declared_right.mean():.1f} % of {len(found.right):,} images when it is given "
        f"{in_words(classifier.preparation)}, but on {100 * found.right.mean():.1f} % with {found.reading.name}; say "
        f"{found.options}{found.others}{insist}{order}"
    )


def _insisting(classifier: KeptClassifier) -> str:
    """The options that say all that a reading may change, as it is."""
    preparation, (_, _, channels) = classifier.preparation, classifier.input_shape
    order = " --channels=rgb" if channels > 1 and preparation.channels == "rgb" else ""
    layout = " --layout=nhwc" if channels > 1 and classifier.flat_input and preparation.layout == "nhwc" else ""
    return said(preparation) + order + layout

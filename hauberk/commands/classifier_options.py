"""From the file of a model and what the user says about it to a classifier that is known to read the data rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hauberk.commands.declaration import Declaration
from models.accuracy import drawn, judge_answers, read_otherwise
from models.classifier import Labels
from models.engines.keras import KerasClassifier, load_model
from models.engines.keras_input import layout_of, own_shape, takes_bytes
from models.errors import InvalidInput
from models.image_rows import Samples, answers_for, outputs_for
from models.input_readings import in_words, said
from models.preparation import InputType, Layout, Outputs, Preparation
from models.printable import printable
from models.proposals import is_better, proposal

_SUM_TOLERANCE = 1e-2
# Another reading is proposed where the classifier is right on fewer, and where it gains this much, more than by chance.
_GOOD_ENOUGH = 0.98
_BETTER_BY = 0.02
_BY_CHANCE = 1e-3
_LABELS_SHOWN = 10


def open_classifier(path: Path, data: Samples, *, declared: Declaration, threads: int) -> KerasClassifier:
    """The classifier in `path`, fitted to the images of `data`.

    Raises: InvalidInput, one sentence; where another reading of the images fits better and nothing was said against it, the sentence
    has the options that say it.
    """
    model = load_model(path, threads=threads)
    h, w, c = data.images.shape[1:]
    options: dict[str, Any] = {
        "input_shape": (h, w, c),
        "labels": declared.names(),
        "output": declared.output,
        "preparation": _preparation(model, c, declared),
    }
    look = data.take(drawn(len(data)))
    raw = KerasClassifier(model, **options)
    classifier = KerasClassifier(model, outputs=_outputs(raw, look, declared.outputs), **options)
    if int(data.labels.max()) >= len(classifier.labels):
        raise InvalidInput(
            f"expected labels below {len(classifier.labels)}, the classes of the model, got {int(data.labels.max())}"
        )
    answers = answers_for(classifier, look.images)
    _check_reading(classifier, look, answers, declared)
    return classifier


def how_it_reads(classifier: KerasClassifier) -> str:
    """What was said or taken for granted about the model, for a line in the terminal."""
    labels = ", ".join(classifier.labels[:_LABELS_SHOWN]) + (", ..." if len(classifier.labels) > _LABELS_SHOWN else "")
    return printable(f"the model is given {in_words(classifier.preparation)} and returns {classifier.outputs} of {labels}")


def _preparation(model: Any, channels: int, declared: Declaration) -> Preparation:
    """What was said, beside what the model's own input says."""
    unbuilt = not getattr(model, "inputs", None)
    layout: Layout = "nhwc" if unbuilt else layout_of(own_shape(model))
    dtype: InputType = "uint8" if not unbuilt and takes_bytes(model) else "float32"
    return declared.preparation(channels=channels, layout=layout, dtype=dtype)


def _outputs(classifier: KerasClassifier, look: Samples, asked: Outputs | None) -> Outputs:
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


def _check_reading(classifier: KerasClassifier, look: Samples, answers: Labels, declared: Declaration) -> None:
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
    insist = "" if plain.verdict == "guessing" else f", or {_insisting(classifier)} to insist"  # a guess is refused all the same
    raise InvalidInput(
        f"the classifier is right on {100 * found.declared_right.mean():.1f} % of {len(found.right):,} images when it is given "
        f"{in_words(classifier.preparation)}, but on {100 * found.right.mean():.1f} % with {found.reading.name}; say "
        f"{found.options}{found.others}{insist}"
    )


def _insisting(classifier: KerasClassifier) -> str:
    """The options that say all that a reading may change, as it is."""
    preparation, (_, _, channels) = classifier.preparation, classifier.input_shape
    order = " --channels=rgb" if channels > 1 and preparation.channels == "rgb" else ""
    layout = " --layout=nhwc" if channels > 1 and classifier.flat_input and preparation.layout == "nhwc" else ""
    return said(preparation) + order + layout

"""From --labels, --input-range and --outputs to a classifier that is known to read the data rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from models.accuracy import READ_AT_MOST, best_reading, drawn, judge_answers
from models.datasets import in_memory
from models.engines.keras import KerasClassifier, Outputs, load_model
from models.errors import InvalidInput
from models.files import NotAFile, read_file
from models.image_rows import Samples, outputs_for

OutputsOption = Annotated[Outputs | None, typer.Option(help="Kind of the model's outputs; found out from them when not given.")]

_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
_LOOKED_AT = 512
# Another input range that scores this much better is what the classifier was trained with.
_CLEARLY_BETTER = 0.1
_SUM_TOLERANCE = 1e-2
_LABELS_BYTES = 16 << 20


def open_classifier(
    path: Path, data: Samples, *, labels: str | None, input_range: str | None, outputs: Outputs | None, threads: int
) -> KerasClassifier:
    """The classifier in `path`, fitted to the images of `data`. Raises: InvalidInput, one sentence."""
    model = load_model(path, threads=threads)
    h, w, c = data.images.shape[1:]
    options: dict[str, Any] = {"input_shape": (h, w, c), "labels": _names(labels)}
    given = _range(input_range)
    look = data.take(drawn(len(data), at_most=_LOOKED_AT))
    seen = _outputs(KerasClassifier(model, input_range=given or _RANGES[0], **options), look, outputs)
    classifier = KerasClassifier(model, input_range=given or _RANGES[0], outputs=seen, **options)
    if int(data.labels.max()) >= len(classifier.labels):
        raise InvalidInput(
            f"expected labels below {len(classifier.labels)}, the classes of the model, got {int(data.labels.max())}"
        )
    if given is None:
        _check_range(classifier, look)
    return classifier


def _names(labels: str | None) -> list[str] | None:
    if labels is None:
        return None
    try:
        names = read_file(Path(labels), at_most=_LABELS_BYTES).decode("utf-8").splitlines()
    except NotAFile as failure:
        raise InvalidInput(f"expected --labels to be names or a text file, got {labels!r}: {failure.strerror}") from failure
    except OSError:  # no such file, or the names of a hundred classes, which are too long for one
        names = labels.split(",")
    except UnicodeDecodeError as failure:
        raise InvalidInput(f"expected --labels to be names or a text file in UTF-8, got {labels!r}") from failure
    names = [name.strip() for name in names if name.strip()]
    if len(set(names)) != len(names):
        raise InvalidInput(f"expected --labels to be different names, got {labels!r}")
    return names


def _range(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not (np.isfinite([low, high]).all() and low < high):
        raise InvalidInput(f"expected --input-range LOW,HIGH such as 0,255, got {text!r}")
    return low, high


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


def _check_range(classifier: KerasClassifier, look: Samples) -> None:
    """A classifier shown images in another range than it was trained on is wrong without a word: compare, and refuse."""
    some = in_memory(look.take(drawn(len(look), at_most=READ_AT_MOST)))
    plain = judge_answers(some.labels, classifier.predict(some.images).argmax(axis=1), len(classifier.labels))
    reading, right = best_reading(classifier, some)
    if reading.input_range not in _RANGES or right.mean() <= plain.rate + _CLEARLY_BETTER:
        return
    low, high = reading.input_range
    insist = "" if plain.verdict == "guessing" else " (or =0,1 to insist)"  # it would be refused all the same
    raise InvalidInput(
        f"the classifier is right on {100 * plain.rate:.0f} % of the images in the range 0,1 but on {100 * right.mean():.0f} % in "
        f"{low:g},{high:g}; say --input-range={low:g},{high:g}{insist}"
    )

"""From --labels, --input-range and --outputs to a classifier that is known to read the data rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from models.accuracy import drawn, judge_answers
from models.datasets import Dataset
from models.engines.keras import KerasClassifier, Outputs, load_model
from models.errors import InvalidInput

OutputsOption = Annotated[Outputs | None, typer.Option(help="Kind of the model's outputs; found out from them when not given.")]

_RANGES = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))
_LOOKED_AT = 512
# Another input range that scores this much better is what the classifier was trained with.
_CLEARLY_BETTER = 0.1
_SUM_TOLERANCE = 1e-2


def open_classifier(
    path: Path, data: Dataset, *, labels: str | None, input_range: str | None, outputs: Outputs | None, threads: int
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
        _check_range(model, look, seen, options)
    return classifier


def _names(labels: str | None) -> list[str] | None:
    if labels is None:
        return None
    try:
        names = Path(labels).read_text(encoding="utf-8").splitlines()
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


def _outputs(classifier: KerasClassifier, look: Dataset, asked: Outputs | None) -> Outputs:
    """Whether the model ends in probabilities or logits, from what it says about some images."""
    raw = classifier.predict(look.images)
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


def _check_range(model: Any, look: Dataset, outputs: Outputs, options: dict[str, Any]) -> None:
    """A classifier shown images in another range than it was trained on is wrong without a word: compare, and refuse."""
    judged = {}
    for low, high in _RANGES:
        classifier = KerasClassifier(model, input_range=(low, high), outputs=outputs, **options)
        answers = classifier.predict(look.images).argmax(axis=1)
        judged[low, high] = judge_answers(look.labels, answers, len(classifier.labels))
    best, plain = max(judged, key=lambda tried: judged[tried].rate), judged[_RANGES[0]]
    if judged[best].rate > plain.rate + _CLEARLY_BETTER:
        insist = "" if plain.verdict == "guessing" else " (or =0,1 to insist)"
        raise InvalidInput(
            f"the classifier is right on {100 * plain.rate:.0f} % of the images in the range 0,1 but on "
            f"{100 * judged[best].rate:.0f} % in {best[0]:g},{best[1]:g}; say --input-range={best[0]:g},{best[1]:g}{insist}"
        )

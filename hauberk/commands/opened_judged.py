"""Is a classifier that was opened right on the data? Where another reading of the images fits better, the user is asked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hauberk.commands.declaration import Declaration
from models.accuracy import Judgement, judge_answers, judge_looked_at, read_otherwise
from models.classifier import Labels
from models.engines.kept import KeptClassifier
from models.errors import InvalidInput
from models.image_rows import Samples, answers_for
from models.input_readings import in_words, said
from models.proposals import Trials, is_better

# Another reading is proposed where the classifier is right on fewer, and where it gains this much, more than by chance.
_GOOD_ENOUGH = 0.98
_BETTER_BY = 0.02
_BY_CHANCE = 3e-3


class ReadsOtherwise(InvalidInput):
    """Another reading of the images fits a classifier better, and nothing was said against it; `options` say it."""

    def __init__(self, sentence: str, options: str) -> None:
        super().__init__(sentence)
        self.options = options


def judged(
    classifier: KeptClassifier, data: Samples, look: Samples, raw: NDArray[np.float32], declared: Declaration
) -> Judgement:
    """How right it is on images to look at. Raises: InvalidInput: labels it does not know, or a reading that fits better."""
    if int(data.labels.max()) >= len(classifier.labels):
        raise InvalidInput(
            f"expected labels below {len(classifier.labels)}, the classes of the model, got {int(data.labels.max())}"
        )
    # Of two classes, one column of logits may have been shown as two of probabilities: its answers are not those of its logits.
    same = classifier.outputs == "probabilities" or raw.shape[1] > 2
    answers: Labels = raw.argmax(axis=1) if same else answers_for(classifier, look.images)
    trials = Trials(classifier, look)
    _check_reading(classifier, look, answers, declared, trials)
    return judge_looked_at(look, answers, len(classifier.labels), trials)


def _check_reading(classifier: KeptClassifier, look: Samples, answers: Labels, declared: Declaration, trials: Trials) -> None:
    """A classifier shown images in another way than it was trained on is wrong without a word: compare, and ask.

    Raises: InvalidInput: a reading that nothing speaks against fits better than the one taken for what was not said.
    """
    plain = judge_answers(look.labels, answers, len(classifier.labels))
    if plain.verdict == "too few images" or plain.rate >= _GOOD_ENOUGH:
        return
    found = trials.proposal(answers == look.labels, among=declared.allows)
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
    raise ReadsOtherwise(
        f"the classifier is right on {100 * found.declared_right.mean():.1f} % of {len(found.right):,} images when it is given "
        f"{in_words(classifier.preparation)}, but on {100 * found.right.mean():.1f} % with {found.reading.name}; say "
        f"{found.options}{found.others}{insist}{order}",
        found.options,
    )


def _insisting(classifier: KeptClassifier) -> str:
    """The options that say all that a reading may change, as it is."""
    preparation, (_, _, channels) = classifier.preparation, classifier.input_shape
    order = " --channels=rgb" if channels > 1 and preparation.channels == "rgb" else ""
    layout = " --layout=nhwc" if channels > 1 and classifier.flat_input and preparation.layout == "nhwc" else ""
    return said(preparation) + order + layout

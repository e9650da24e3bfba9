"""Is a classifier as right on its labelled images as it ought to be? If not, what explains it: an answer in a sentence.

Mistakes that raise no error look like a bad classifier: labels in another order, pixels in another range. Three comparisons find them.
Each is judged on images that its explanation was not chosen on, by the exact test of those where two answers differ (McNemar 1947):

- the classes in the order that fits best: an assignment found on one half of the images, judged on the other;
- the images read in another way (`models/proposals.py`);
- the simplest references there are: the label of the nearest image, and that of the nearest class mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from models.classifier import Classifier, Images, Labels
from models.errors import InvalidInput
from models.image_rows import Samples, answers_for, blocks
from models.proposals import PreparedClassifier, Proposal, Trials, is_better

Verdict = Literal["fine", "doubtful", "guessing", "too few images"]
Cause = Literal["classes in another order", "images read otherwise", "a simple rule does better"]

LOOKED_AT = 1000
"""Images that a classifier is judged by, at most."""

_FEWEST = 20
_GOOD_ENOUGH = 0.97  # above it, no other reading is tried
_BY_CHANCE = 1e-4  # of an exact test; a dozen are made
_BETTER_BY = 0.05
_NAMED_AT_MOST = 5
_SIDE_AT_MOST = 32  # pixels; larger images are averaged before they are compared with each other


@dataclass(frozen=True)
class Judgement:
    """How right a classifier is on labelled images, and what follows.

    Attributes:
        images, right: how many were looked at, and how many of them it is right on.
        rate, low, high: that share, with its exact 95 % interval.
        guessing: the share of the largest class, which is what a constant answer is right on; 1 / classes where there is only one.
        verdict: "guessing" when it is at or below that, "doubtful" when it is far below what these data allow, "too few images" where
            the interval leaves both open.
        reason: why, in a sentence; empty when it is fine.
        cause: of a verdict that is not fine, where one is found.
    """

    images: int
    right: int
    rate: float
    low: float
    high: float
    guessing: float
    verdict: Verdict
    reason: str
    cause: Cause | None = None

    def better_than_guessing(self) -> Judgement:
        """Itself. Raises: InvalidInput: no better than guessing."""
        if self.verdict == "guessing":
            raise InvalidInput(self.reason)
        return self


class Against(NamedTuple):
    """Another explanation, and on which of some images it is right and the classifier is right, [n]."""

    cause: Cause
    said: str
    other: NDArray[np.bool_]
    own: NDArray[np.bool_]

    @property
    def gain(self) -> float:
        return float(self.other.mean() - self.own.mean())

    def is_better(self, guessing: float) -> bool:
        """By more than chance explains and by enough to matter, and better than guessing itself."""
        return is_better(self.other, self.own, by=_BETTER_BY, chance=_BY_CHANCE, than=guessing)


def drawn(samples: int, *, at_most: int = LOOKED_AT) -> NDArray[np.int64]:
    """Rows to judge by, in order: all, or some drawn at random, the same each time; files are often sorted by class."""
    if samples <= at_most:
        return np.arange(samples)
    return np.sort(np.random.default_rng(0).choice(samples, at_most, replace=False))


def judge(classifier: Classifier, data: Samples, *, advice: str | None = "say") -> Judgement:
    """Judge a classifier by at most 1,000 of these images.

    Args:
        advice: what stands before the options of another reading, in the sentence; None where there is no other to try.

    Cost: a model call for each image looked at, and that of `models.proposals.proposal` where the classifier is right on less than 97 %.
    """
    some = data.take(drawn(len(data)))
    trials = Trials(classifier, some) if isinstance(classifier, PreparedClassifier) and advice is not None else None
    return judge_looked_at(some, answers_for(classifier, some.images), len(classifier.labels), trials, advice=advice or "say")


def judge_looked_at(some: Samples, answers: Labels, classes: int, trials: Trials | None, *, advice: str = "say") -> Judgement:
    """Judge a classifier by its answers to these images; see `judge`.

    Args:
        trials: of other readings of the same images; None where there is no other to try.
    """
    found = judge_answers(some.labels, answers, classes)
    if found.verdict == "too few images":
        return found
    other = None if trials is None or found.rate >= _GOOD_ENOUGH else trials.proposal(answers == some.labels)
    read = None if other is None else read_otherwise(other, advice)
    return judge_answers(some.labels, answers, classes, read=read, nearest=_nearest(some, answers))


def judge_answers(
    labels: Labels, answers: Labels, classes: int, *, read: Against | None = None, nearest: Against | None = None
) -> Judgement:
    """Judge a classifier by answers that it gave to images of these labels, and by what `judge` found beside them."""
    right = answers == labels
    n, hits = len(labels), int(right.sum())
    guessing = _guessing(labels, classes)
    if n < _FEWEST:
        return Judgement(n, hits, hits / n if n else 0.0, 0.0, 1.0, guessing, "too few images", "")
    low, high = binomtest(hits, n).proportion_ci(0.95, "exact")
    low, high = float(low), float(high)
    found = _explanation((_another_order(labels, answers, classes), read), nearest, guessing)
    verdict = _verdict((low, high), guessing, found, known=_above_chance(labels, answers, classes))
    if verdict in ("fine", "too few images"):
        return Judgement(n, hits, hits / n, low, high, guessing, verdict, "")
    told = f"the classifier is right on {100 * hits / n:.1f} % of {n:,} labelled images ({100 * low:.1f} to {100 * high:.1f} at 95 %)"
    if low <= guessing:
        told += f", and always answering the most frequent class is right on {100 * guessing:.1f} %"
    why = found.said if found else "is it the classifier of these data?"
    return Judgement(n, hits, hits / n, low, high, guessing, verdict, f"{told}; {why}", found.cause if found else None)


def _verdict(interval: tuple[float, float], guessing: float, found: Against | None, *, known: bool) -> Verdict:
    """Of an accuracy within the interval; `known`: it agrees with the labels more than chance would."""
    low, high = interval
    if low > guessing:
        return "doubtful" if found else "fine"
    if high <= guessing + (1 - guessing) / 4:
        return "doubtful" if known else "guessing"
    return "doubtful" if found else "too few images"


def _explanation(mistakes: tuple[Against | None, ...], nearest: Against | None, guessing: float) -> Against | None:
    """The mistake that explains most; without one, that a simple rule does better."""
    explaining = [one for one in mistakes if one is not None and one.is_better(guessing)]
    if explaining:
        return max(explaining, key=lambda one: one.gain)
    return nearest if nearest is not None and nearest.is_better(guessing) else None


def _guessing(labels: Labels, classes: int) -> float:
    counts = np.bincount(labels, minlength=1)
    return float(counts.max() / len(labels)) if np.count_nonzero(counts) > 1 else 1 / classes


def _above_chance(labels: Labels, answers: Labels, classes: int) -> bool:
    """Whether answers and labels agree more often than two independent draws of as many of each class: of rare classes, a classifier
    may know much and still be below the share of the largest one."""
    size = max(classes, int(labels.max()) + 1)
    agree = float((np.bincount(labels, minlength=size) * np.bincount(answers, minlength=size)).sum() / len(labels) ** 2)
    return float(binomtest(int((answers == labels).sum()), len(labels), min(agree, 1.0), "greater").pvalue) < _BY_CHANCE


def _halves(samples: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.random.default_rng(1).permutation(samples)
    return order[: samples // 2], order[samples // 2 :]


def fitting_order(labels: Labels, answers: Labels, classes: int) -> tuple[Labels, NDArray[np.int64]]:
    """Which label each answer means, [k], so that as many images as can be are right; and how many images say so, [k].

    A class without a word for another stays what it is. k: the classes, and labels beyond them.
    """
    size = max(classes, int(labels.max()) + 1)
    agreement = np.zeros((size, size), np.int64)
    np.add.at(agreement, (answers, labels), 1)
    _, means = linear_sum_assignment(agreement * (size + 1) + np.eye(size, dtype=np.int64), maximize=True)
    return means, agreement[np.arange(size), means]


def _another_order(labels: Labels, answers: Labels, classes: int) -> Against:
    """The classes in the order that agrees most with the labels of one half, judged on the other."""
    chosen_on, judged_on = _halves(len(labels))
    means, counts = fitting_order(labels[chosen_on], answers[chosen_on], max(classes, int(labels.max()) + 1))
    moved = [f"{answer} for {label}" for answer, label in enumerate(means) if answer != label and counts[answer]]
    named = ", ".join(moved[:_NAMED_AT_MOST]) + (
        f" and {len(moved) - _NAMED_AT_MOST} more" if len(moved) > _NAMED_AT_MOST else ""
    )
    other = means[answers[judged_on]] == labels[judged_on]
    said = (
        f"with its classes in another order it is right on {100 * other.mean():.1f} % of those held out from finding the order "
        f"(it answers {named}); number the labels of the data as the classifier's outputs are"
    )
    return Against("classes in another order", said, other, answers[judged_on] == labels[judged_on])


def read_otherwise(found: Proposal, advice: str) -> Against:
    """A reading that fits better, as an explanation; `advice` stands before its options."""
    said = (
        f"with {found.reading.name} it is right on {100 * found.right.mean():.1f} % of those held out from choosing the reading; "
        f"{advice} {found.options}{found.others}"
    )
    return Against("images read otherwise", said, found.right, found.declared_right)


def _nearest(data: Samples, answers: Labels) -> Against:
    """The label of the nearest image and that of the nearest class mean, of one half, on the other."""
    known, judged_on = _halves(len(data))
    points = np.concatenate([_points(data.images[block]) for block in blocks(data.images)])
    labels = data.labels[known]
    classes = np.unique(labels)
    means = np.stack([points[known][labels == label].mean(axis=0) for label in classes])
    truth, own = data.labels[judged_on], (answers == data.labels)[judged_on]
    by_rule = {
        "the label of the nearest image": labels[_closest(points[judged_on], points[known])] == truth,
        "the nearest class mean": classes[_closest(points[judged_on], means)] == truth,
    }
    rule, other = max(by_rule.items(), key=lambda one: one[1].sum())
    said = (
        f"{rule}, learned from one half of them, is right on {100 * other.mean():.1f} % of the other half, and the classifier on "
        f"{100 * own.mean():.1f} %"
    )
    return Against("a simple rule does better", said, other, own)


def _closest(points: NDArray[np.float32], to: NDArray[np.float32]) -> NDArray[np.int64]:
    nearest: NDArray[np.int64] = ((to**2).sum(axis=1) - 2 * points @ to.T).argmin(axis=1)
    return nearest


def _points(images: Images) -> NDArray[np.float32]:
    """The images as vectors [n, d], of squares averaged until neither side has more than 32."""
    n, h, w, c = images.shape
    side = max(1, -(-h // _SIDE_AT_MOST), -(-w // _SIDE_AT_MOST))
    whole = images[:, : h - h % side or h, : w - w % side or w]
    if side > 1 and min(h, w) >= side:
        whole = whole.reshape(n, h // side, side, w // side, side, c).mean(axis=(2, 4))
    return np.asarray(whole.reshape(n, -1), np.float32)

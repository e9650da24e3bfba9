"""Membership inference: tell from returned probabilities whether an image was in the training data.

Papers: Yeom et al. 2018, arXiv:1709.01604 (gap, loss); Song & Mittal 2021, arXiv:2003.10595 (modified entropy); Salem et al. 2019,
arXiv:1806.01246 (learned from sorted probabilities); how to report: Carlini et al. 2022, arXiv:2112.03570 (true positives at few false
ones).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier, Labels, Probabilities
from models.datasets import Dataset
from models.errors import InvalidInput

_TINY = 1e-12
_FEW_FALSE = 0.01
_LEARNED_AT_LEAST = 4
_ASKED_AT_ONCE = 256

Scores = NDArray[np.float64]
"""float64 [n]; the higher the score, the more likely a member."""

Score = Callable[[Probabilities, Labels], Scores]
"""Answered rows [n, k] and the true labels [n] -> scores."""


@dataclass(frozen=True, kw_only=True)
class MembershipRow:
    """The figures of one attack on members and non-members.

    Attributes:
        attack: its name.
        auc, auc_error: area under the ROC curve (0.5: chance) and its standard error (DeLong et al. 1988).
        advantage: the largest difference of true and false positive rate over thresholds (Yeom et al.). The threshold is chosen on the
            evaluated images, so that even chance scores a little above 0.
        tpr_at_1_fpr: true positive rate at a false positive rate of at most 1 %.
        members, non_members: number of scored images.
        refused: share of them that the victim refused; a refused image is scored as the least likely member.
    """

    attack: str
    auc: float
    auc_error: float
    advantage: float
    tpr_at_1_fpr: float
    members: int
    non_members: int
    refused: float


def gap(probabilities: Probabilities, labels: Labels) -> Scores:
    """1 where the predicted label is the true one: the baseline that needs labels only."""
    right: Scores = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    return right


def true_label_probability(probabilities: Probabilities, labels: Labels) -> Scores:
    """p_y; thresholding the loss -log p_y orders images in the same way."""
    return probabilities[np.arange(len(labels)), labels].astype(np.float64)


def modified_entropy(probabilities: Probabilities, labels: Labels) -> Scores:
    """(1 - p_y) log p_y + sum over i != y of p_i log(1 - p_i): minus the entropy that falls with p_y and rises with every other."""
    p = probabilities.astype(np.float64)
    rows = np.arange(len(labels))
    others = p * np.log(np.maximum(1 - p, _TINY))
    others[rows, labels] = 0
    true = p[rows, labels]
    scores: Scores = (1 - true) * np.log(np.maximum(true, _TINY)) + others.sum(axis=1)
    return scores


Undo = Callable[[Probabilities], Probabilities]
"""Answered rows [n, k] -> the attacker's estimate of the unperturbed rows."""

SCORES: dict[str, Score] = {
    "gap (labels only)": gap,
    "true label's probability": true_label_probability,
    "modified entropy": modified_entropy,
}
"""Scores by name; none needs known members."""

LEARNED = "learned from half the members"


def membership_inference(
    victim: Classifier,
    members: Dataset,
    non_members: Dataset,
    *,
    undo: Undo = lambda answers: answers,
    learned: bool = True,
    seed: int = 0,
) -> list[MembershipRow]:
    """Run every attack of `SCORES` and a learned one on the same answers.

    The learned one fits a logistic regression to the sorted log-probabilities of half the members and half the non-members, drawn by
    `seed`, and is scored on the other half: an upper bound, since a real attacker needs examples of their own (a shadow model).

    Args:
        undo: applied to answered rows before scoring, for example the inversion of a known defence.

    Cost: one query per image. Raises: InvalidInput: no members or no non-members (four of each for the learned one), images of another
    shape, labels out of range.
    """
    for name, data in (("members", members), ("non-members", non_members)):
        _check(victim, data, name, _LEARNED_AT_LEAST if learned else 1)
    answers = [_asked(victim, data, undo) for data in (members, non_members)]
    rows = []
    for name, score in SCORES.items():
        scores = [_scored(score, answer, data.labels) for answer, data in zip(answers, (members, non_members), strict=True)]
        rows.append(judge(name, scores[0], scores[1], refused=_refused(answers)))
    if learned:
        known, hidden = zip(*(_halves(answer, seed) for answer in answers), strict=True)
        told = _learned_scores(known, hidden)
        rows.append(judge(LEARNED, told[0], told[1], refused=_refused(hidden)))
    return rows


def judge(attack: str, members: Scores, non_members: Scores, *, refused: float = 0.0) -> MembershipRow:
    """The figures of an attack from its scores; ties count half, and no threshold splits them."""
    true, false = _rates(members, non_members)
    auc, error = _auc(members, non_members)
    return MembershipRow(
        attack=attack,
        auc=auc,
        auc_error=error,
        advantage=float((true - false).max()),
        tpr_at_1_fpr=float(true[false <= _FEW_FALSE].max()),
        members=len(members),
        non_members=len(non_members),
        refused=refused,
    )


def _rates(members: Scores, non_members: Scores) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """True and false positive rate of every threshold, from above all scores to the lowest."""
    thresholds = np.unique(np.concatenate([members, non_members]))
    rates = [
        np.append(0.0, 1 - np.searchsorted(np.sort(scores), thresholds[::-1], side="left") / len(scores))
        for scores in (members, non_members)
    ]
    return rates[0], rates[1]


def _auc(members: Scores, non_members: Scores) -> tuple[float, float]:
    """P(member scores higher) + P(tie) / 2, and its standard error from the two samples' placement values."""
    above = _placements(members, non_members)
    below = _placements(non_members, members)
    variance = sum(values.var(ddof=1) / len(values) for values in (above, below) if len(values) > 1)
    return float(above.mean()), float(np.sqrt(variance))


def _placements(scores: Scores, others: Scores) -> NDArray[np.float64]:
    ordered = np.sort(others)
    left, right = np.searchsorted(ordered, scores, side="left"), np.searchsorted(ordered, scores, side="right")
    placements: NDArray[np.float64] = (left + right) / (2 * len(others))
    return placements


def _asked(victim: Classifier, data: Dataset, undo: Undo) -> Probabilities:
    starts = range(0, len(data), _ASKED_AT_ONCE)
    answers = np.concatenate([victim.predict(data.images[start : start + _ASKED_AT_ONCE]) for start in starts])
    answered = answers.any(axis=1)
    answers[answered] = undo(answers[answered])
    return answers


def _scored(score: Score, answers: Probabilities, labels: Labels) -> Scores:
    answered = answers.any(axis=1)
    scores = np.full(len(answers), -np.inf)
    scores[answered] = score(answers[answered], labels[answered])
    return scores


def _refused(answers: list[Probabilities] | tuple[Probabilities, ...]) -> float:
    return float(np.concatenate([~answer.any(axis=1) for answer in answers]).mean())


def _halves(answers: Probabilities, seed: int) -> tuple[Probabilities, Probabilities]:
    order = np.random.default_rng(seed).permutation(len(answers))
    return answers[order[: len(order) // 2]], answers[order[len(order) // 2 :]]


def _learned_scores(known: tuple[Probabilities, ...], hidden: tuple[Probabilities, ...]) -> list[Scores]:
    """Scores of the hidden members and non-members, after learning from the known ones."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    seen = [answer[answer.any(axis=1)] for answer in known]
    if not all(map(len, seen)):  # refusals only: nothing to learn from
        return [np.zeros(len(answer)) for answer in hidden]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    model.fit(np.concatenate([_features(answer) for answer in seen]), np.repeat([1, 0], [len(seen[0]), len(seen[1])]))

    def score(answers: Probabilities, labels: Labels) -> Scores:
        scores: Scores = model.decision_function(_features(answers)) if len(answers) else np.empty(0)
        return scores

    return [_scored(score, answer, np.zeros(len(answer), np.int64)) for answer in hidden]


def _features(answers: Probabilities) -> NDArray[np.float64]:
    return np.log(np.maximum(np.sort(answers.astype(np.float64), axis=1), _TINY))


def _check(victim: Classifier, data: Dataset, name: str, least: int) -> None:
    if len(data) < least:
        raise InvalidInput(f"expected at least {least} {name}, got {len(data)}")
    if data.images.ndim != 4 or data.images.shape[1:] != victim.input_shape:
        raise InvalidInput(
            f"expected images of {name} [n, {', '.join(map(str, victim.input_shape))}], got {list(data.images.shape)}"
        )
    classes = len(victim.labels)
    if not 0 <= int(data.labels.min()) <= int(data.labels.max()) < classes:
        wrong = data.labels[(data.labels < 0) | (data.labels >= classes)][0]
        raise InvalidInput(f"expected labels of {name} from 0 to {classes - 1}, the classes of the victim, got {wrong}")

"""Membership inference on a victim that remembers, refuses or knows nothing: scores, counts and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attacks.extraction.inversion import invert_reverse_sigmoid
from attacks.extraction.membership_inference import LEARNED, SCORES, MembershipRow, membership_inference
from defences.defended_classifier import DefendedClassifier, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.classifier import Images, Probabilities
from models.datasets import Dataset
from models.errors import InvalidInput
from tests.fakes import FakeClassifier, constant, noise, softmax

SHAPE = (4, 4, 1)
CLASSES = 5


def people(n: int, *, members: bool, seed: int) -> Dataset:
    """Noise that carries its label in the first pixel and whether the victim was trained on it in the second."""
    labels = np.random.default_rng(seed).integers(0, CLASSES, n)
    images = noise(n, SHAPE, seed)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = (labels + 0.5) / CLASSES, members
    return Dataset(images, labels)


def remembering(*, refuses_members: bool = False) -> FakeClassifier:
    """Right about everything, and surer of what it was trained on."""

    def answer(images: Images) -> Probabilities:
        logits = images[:, 1:].reshape(len(images), -1)[:, :CLASSES].astype(np.float64) * 4
        labels, member = (images[:, 0, 0, 0] * CLASSES).astype(int), images[:, 0, 1, 0] > 0
        logits[np.arange(len(images)), labels] += np.where(member, 10, 7)
        return softmax(logits) * (~member | (not refuses_members))[:, None]

    return FakeClassifier(answer, SHAPE, CLASSES)


MEMBERS, OTHERS = people(300, members=True, seed=1), people(200, members=False, seed=2)


def by_name(victim: Any, **options: Any) -> dict[str, MembershipRow]:
    return {row.attack: row for row in membership_inference(victim, MEMBERS, OTHERS, **options)}


def test_a_victim_surer_of_its_members_gives_them_away_to_all_but_the_gap() -> None:
    rows = by_name(remembering())
    assert list(rows) == [*SCORES, LEARNED]
    assert rows["gap (labels only)"].auc == 0.5
    assert rows["gap (labels only)"].advantage == 0
    for name in ("true label's probability", "modified entropy", LEARNED):
        assert rows[name].auc > 0.9
        assert rows[name].advantage > 0.6


def test_each_image_is_asked_once() -> None:
    victim = remembering()
    membership_inference(victim, MEMBERS, OTHERS)
    assert sum(victim.calls) == len(MEMBERS) + len(OTHERS)


def test_the_learned_attack_is_judged_on_the_half_it_was_not_told() -> None:
    rows = by_name(remembering())
    assert (rows[LEARNED].members, rows[LEARNED].non_members) == (150, 100)
    assert (rows["modified entropy"].members, rows["modified entropy"].non_members) == (300, 200)
    assert LEARNED not in by_name(remembering(), learned=False)


def test_the_reverse_sigmoid_turns_the_threshold_round_and_inverting_it_turns_it_back() -> None:
    def undo(answers: Probabilities) -> Probabilities:
        return invert_reverse_sigmoid(answers, beta=1.0, gamma=0.1).probabilities.astype(np.float32)

    name = "true label's probability"
    defended = DefendedClassifier(remembering(), postprocessors=[Step(ReverseSigmoid())])
    bare = by_name(remembering())
    assert by_name(defended)[name].auc < 0.2, "the surer, the lower the answer: an attacker only has to know"
    assert by_name(defended)[LEARNED].auc > 0.9
    assert by_name(defended, undo=undo)[name].auc == pytest.approx(bare[name].auc, abs=0.01)


def test_a_refused_image_is_taken_for_the_least_likely_member() -> None:
    rows = by_name(remembering(refuses_members=True))
    assert rows["modified entropy"].auc == 0
    assert rows["modified entropy"].refused == pytest.approx(0.6)
    assert rows[LEARNED].auc == 0.5, "no answers to learn from"


def test_a_victim_that_says_one_thing_tells_nothing() -> None:
    for row in membership_inference(constant([0.6, 0.1, 0.1, 0.1, 0.1], SHAPE), MEMBERS, OTHERS):
        if row.attack == LEARNED:
            assert (row.auc, row.advantage, row.tpr_at_1_fpr) == (0.5, 0, 0)
        else:  # which labels there happen to be more of
            assert abs(row.auc - 0.5) < 4 * row.auc_error


def test_two_runs_agree() -> None:
    assert by_name(remembering(), seed=3) == by_name(remembering(), seed=3)


@pytest.mark.parametrize(
    ("members", "others", "said"),
    [
        (MEMBERS.take(slice(0, 3)), OTHERS, "expected at least 4 members, got 3"),
        (MEMBERS, OTHERS.take(slice(0, 0)), "expected at least 4 non-members, got 0"),
        (
            Dataset(MEMBERS.images, MEMBERS.labels + 1),
            OTHERS,
            "expected labels of members from 0 to 4, the classes of the victim, got 5",
        ),
        (MEMBERS, Dataset(OTHERS.images, OTHERS.labels - 1), "expected labels of non-members from 0 to 4.*got -1"),
        (
            MEMBERS,
            Dataset(OTHERS.images[:, :2], OTHERS.labels),
            r"expected images of non-members \[n, 4, 4, 1\], got \[200, 2, 4, 1\]",
        ),
    ],
)
def test_what_nobody_can_be_judged_on_is_refused(members: Dataset, others: Dataset, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        membership_inference(remembering(), members, others)

"""The search for a backdoor's target in networks whose weights say where it is."""

from __future__ import annotations

import numpy as np
import pytest

from defences.errors import InvalidInput, InvalidParameter
from defences.networks.target_search import SCORES, TargetSearch
from tests.fakes import LinearClassifier

SHAPE = (10, 10, 1)


def network(classes: int, *, target: int | None = None, seed: int = 0) -> LinearClassifier:
    """Smooth random weights a class; a backdoor gives its target a pixel that outweighs the rest."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(100, classes)) * 0.4
    if target is not None:
        weights[77] -= 2
        weights[77, target] += 22
    return LinearClassifier(weights, -weights.sum(axis=0) * 0.4, SHAPE)


def test_the_target_of_a_backdoor_is_found_and_its_pattern_shows_the_trigger() -> None:
    found = TargetSearch().judge(network(10, target=4))
    assert found.verdict == "backdoor"
    assert [one.label for one in found.classes if one.verdict == "backdoor"] == [4]
    assert found.reason == found.classes[4].reason
    assert "deviations above those of the other classes" in found.reason
    assert np.abs(found.patterns[4]).argmax() == 77
    assert len(found.classes[4].scores) == len(SCORES)


def test_networks_without_a_backdoor_are_clean() -> None:
    verdicts = [TargetSearch().judge(network(10, seed=seed)).verdict for seed in range(1, 13)]
    assert verdicts.count("clean") >= 11


def test_the_same_seed_gives_the_same_verdict_and_the_work_ends_where_it_was_said_to() -> None:
    steps: list[tuple[int, int]] = []
    first = TargetSearch().judge(network(6), seed=3, progress=lambda what, done, of: steps.append((done, of)))
    again = TargetSearch().judge(network(6), seed=3)
    assert first.classes == again.classes
    assert TargetSearch().judge(network(6), seed=4).classes != first.classes
    assert steps[-1][0] == steps[-1][1] == first.gradients
    assert all(done <= of for done, of in steps)


def test_few_classes_cannot_be_told_apart_whatever_they_look_like() -> None:
    found = TargetSearch().judge(network(4, target=1))
    assert found.verdict == "cannot tell"
    assert "4 classes are too few" in found.reason
    assert {one.verdict for one in found.classes} == {"cannot tell"}


def test_a_network_whose_gradients_lead_nowhere_cannot_be_told() -> None:
    flat = LinearClassifier(np.zeros((100, 8)), np.arange(8.0), SHAPE)
    found = TargetSearch().judge(flat)
    assert found.verdict == "cannot tell"
    assert "gradients lead nowhere" in found.reason


def test_outputs_that_are_no_numbers_are_refused() -> None:
    broken = LinearClassifier(np.full((100, 8), np.nan), np.zeros(8), SHAPE)
    with pytest.raises(InvalidInput, match="finite outputs"), np.errstate(invalid="ignore"):
        TargetSearch().judge(broken)


def test_many_classes_are_worked_on_in_blocks_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TargetSearch().judge(network(12, target=9))
    monkeypatch.setattr("defences.networks.target_search._NUMBERS_AT_ONCE", 5 * 70 * 100)
    parts = TargetSearch().judge(network(12, target=9))
    assert [one.label for one in parts.classes if one.verdict == "backdoor"] == [9]
    margins = np.array([[one.scores[1:] for one in found.classes] for found in (whole, parts)])
    assert margins[0] == pytest.approx(margins[1], rel=1e-4)  # the largest margins begin at other random images


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="p_at_most"):
        TargetSearch(p_at_most=1.0)

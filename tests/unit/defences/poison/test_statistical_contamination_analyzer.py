"""Statistical contamination analysis: verdicts on features with known poison, and on networks with triggers that no patch removes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from defences.errors import InvalidInput, InvalidParameter
from defences.poison.findings import Findings, TrainingSet, Witness
from defences.poison.populations import Lens, judged
from defences.poison.statistical_contamination_analyzer import StatisticalContaminationAnalyzer

CLASSES = tuple("abcdef")
_WIDTH, _TARGET = 30, 2


def maps(*, clean: int = 120, poison: int = 0, trigger: float = 6.0, kinds: float = 0.0, few: bool = False, seed: int = 0) -> Any:
    """A training set by its last feature map, and the truth: what an image shows, a trigger of the target's poison, and noise.

    Args:
        kinds: how far apart two natural kinds of the target are, in deviations of the noise.
        few: let poison come from one class only.
    """
    rng = np.random.default_rng(seed)
    k = len(CLASSES)
    sources = [0] if few else [label for label in range(k) if label != _TARGET]
    shown = np.concatenate([np.repeat(np.arange(k), clean), rng.choice(sources, poison)])
    truth = np.arange(len(shown)) < k * clean
    labels = np.where(truth, shown, _TARGET)
    witness = np.eye(_WIDTH)[shown] * 6 + rng.normal(size=(len(shown), _WIDTH)) + np.outer(~truth * trigger, np.eye(_WIDTH)[10])
    kind = truth & (labels == _TARGET) & (rng.random(len(labels)) < 0.4)
    witness += np.outer(kind * kinds, np.eye(_WIDTH)[11])
    order = rng.permutation(len(labels))
    read = witness[order].astype(np.float32)
    data = TrainingSet(np.zeros((len(labels), 3), np.float32), labels[order], CLASSES, witness=lambda rows: read[rows])
    return data, truth[order]


def found_in(data: TrainingSet, truth: NDArray[np.bool_], **options: Any) -> Findings:
    return StatisticalContaminationAnalyzer(**options).detect(data).judged(truth, data.labels)


@pytest.mark.parametrize("count", [25, 120])
@pytest.mark.parametrize("trigger", [6.0, 200.0])
def test_poison_from_all_classes_is_found_also_where_its_trigger_hides_the_rest(count: int, trigger: float) -> None:
    data, truth = maps(poison=count, trigger=trigger)
    found = found_in(data, truth)
    assert found.poisoned == (_TARGET,)
    assert found.confusion is not None
    assert (found.confusion.tpr or 0) >= 0.97
    assert (found.confusion.fpr or 0) <= 0.01
    poison, rest = found.scores[~truth], found.scores[truth & (data.labels == _TARGET)]
    assert poison.min() > np.median(rest)
    clusters = found.classes[_TARGET].clusters
    assert [cluster.poison for cluster in clusters] == [False, True]
    assert clusters[1].source in set(CLASSES) - {"c"}


@pytest.mark.parametrize("seed", range(10))
def test_clean_data_have_no_poison_however_far_apart_the_kinds_of_a_class_are(seed: int) -> None:
    data, _ = maps(kinds=float(seed), seed=seed)
    found = StatisticalContaminationAnalyzer(seed=seed).detect(data)
    assert found.poisoned == ()
    assert found.is_clean.all()
    assert {one.verdict for one in found.classes} == {"clean"}


def test_poison_from_one_class_is_not_its_business() -> None:
    data, truth = maps(poison=60, few=True)
    assert found_in(data, truth).poisoned == ()


def test_of_a_large_class_some_samples_are_split_and_all_are_flagged() -> None:
    data, truth = maps(poison=240, clean=300)
    asked: list[int] = []
    witness = data.witness
    assert witness is not None

    def counted(rows: NDArray[np.int64]) -> Any:
        asked.append(len(rows))
        return witness(rows)

    found = found_in(replace(data, witness=counted), truth, per_class=100)
    assert found.poisoned == (_TARGET,)
    assert found.confusion is not None
    assert (found.confusion.tpr or 0) >= 0.97
    assert (found.confusion.fpr or 0) <= 0.01
    assert sum(asked) == 1 + 6 * 100 + 100 + (300 + 240 - 100)  # all of the poisoned class, and of no other
    seen = np.isfinite(found.plane[:, 0])
    assert [int(seen[data.labels == label].sum()) for label in range(6)] == [100] * 6


def test_two_runs_agree() -> None:
    data, truth = maps(poison=60)
    first, second = (found_in(data, truth, seed=4) for _ in range(2))
    assert first.classes == second.classes
    for name in ("is_clean", "in_second", "scores", "plane"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_few_classes_and_few_samples_are_named_and_not_judged() -> None:
    data, _ = maps(poison=60)
    four = np.flatnonzero(data.labels < 4)
    witness = data.witness
    assert witness is not None
    fewer = TrainingSet(data.activations[four], data.labels[four], CLASSES[:4], witness=lambda rows: witness(four[rows]))
    found = StatisticalContaminationAnalyzer().detect(fewer)
    assert {one.verdict for one in found.classes} == {"cannot tell"}
    assert "5 classes of 100 samples" in found.classes[0].reason
    assert found.is_clean.all()

    kept = np.concatenate([np.flatnonzero(data.labels != 5), data.rows_of(5)[:7]])
    small = TrainingSet(data.activations[kept], data.labels[kept], CLASSES, witness=lambda rows: witness(kept[rows]))
    found = StatisticalContaminationAnalyzer().detect(small)
    assert [one.verdict for one in found.classes] == ["clean", "clean", "poison", "clean", "clean", "too few samples"]


def test_where_a_network_has_no_feature_map_nothing_is_told() -> None:
    data, _ = maps(poison=60)
    witness = data.witness
    assert witness is not None

    class Dense(Witness):
        def __call__(self, rows: NDArray[np.int64]) -> Any:
            return witness(rows)

    class WithoutMaps:
        def earlier_layer(self) -> None: ...

    flat: Any = WithoutMaps()
    found = StatisticalContaminationAnalyzer().detect(
        replace(data, witness=Dense(flat, lambda rows: np.zeros((len(rows), 1, 1, 1), np.float32)))
    )
    assert {one.verdict for one in found.classes} == {"cannot tell"}
    assert "no feature map" in found.classes[0].reason


def test_a_constant_layer_is_clean() -> None:
    data, _ = maps()
    found = StatisticalContaminationAnalyzer().detect(replace(data, witness=lambda rows: np.ones((len(rows), 8), np.float32)))
    assert found.poisoned == ()


def test_activations_that_are_not_finite_are_refused_with_the_sample() -> None:
    data, _ = maps()
    witness = data.witness
    assert witness is not None

    def broken(rows: NDArray[np.int64]) -> Any:
        read = witness(rows).copy()
        read[rows == 17, 3] = np.nan
        return read

    with pytest.raises(InvalidInput, match="sample 17"):
        StatisticalContaminationAnalyzer().detect(replace(data, witness=broken))


@pytest.mark.parametrize("wrong", [{"foreign_at_least": 4.0}, {"valley_at_most": -0.1}, {"per_class": 99}])
def test_parameters_outside_their_domain_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(wrong))):
        StatisticalContaminationAnalyzer(**wrong)


def test_a_fair_sample_of_the_other_classes_is_foreign_and_a_kind_of_the_class_is_not() -> None:
    """The formula by hand: means at the corners of a simplex, halves without any noise."""
    means = np.eye(5) * 10
    lens = Lens(np.eye(5), means, np.array([0, 1, 3, 4, 5]))
    mix = np.full(5, 0.2)
    own = np.tile([9.0, 9.0, 0.0, 0.0, 0.0], (20, 1))
    second = np.arange(40) >= 20
    fair = judged(lens, np.concatenate([own, np.repeat(means, 4, axis=0)]), second, mix)
    assert fair.stranger == 1
    assert fair.own.tolist() == [0.0, 0.0]
    assert fair.foreign == pytest.approx(1 + 1 + 1)  # taken for all evenly, spread as they are, and the other half is one point
    kind = judged(lens, np.concatenate([own, own - (0, 0, 0, 0, 4)]), second, mix)
    assert kind.own.tolist() == [1.0, 1.0]
    assert kind.foreign == pytest.approx(0.0)

"""Activation clustering: verdicts on features with known poison, and on a network that learned a backdoor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info, threadpool_limits

from attacks.backdoors.poisoning import Poisoned
from defences.errors import InvalidInput, InvalidParameter
from defences.poison import class_split
from defences.poison.activation_clustering import ActivationClustering
from defences.poison.findings import Findings, TrainingSet
from defences.poison.spectral_signatures import SpectralSignatures
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from tests.poisoned import features


def same(a: Findings, b: Findings) -> None:
    """Two findings agree to the last bit."""
    assert a.classes == b.classes
    for name in ("is_clean", "in_second", "scores", "plane"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize(("count", "reduction"), [(60, "pca"), (100, "ica"), (200, "pca"), (400, "pca")])
def test_poison_is_found_whether_it_is_the_smaller_half_of_its_class_or_the_larger(count: int, reduction: Any) -> None:
    data, truth = features(poison=count)
    found = ActivationClustering(reduction=reduction).detect(data).judged(truth, data.labels)
    assert found.poisoned == (2,)
    assert found.confusion is not None
    assert found.confusion.tpr is not None
    assert found.confusion.tpr >= 0.99
    assert found.confusion.fpr is not None
    assert found.confusion.fpr <= 0.01
    assert found.scores[~truth].min() > np.median(found.scores[truth & (data.labels == 2)])


@pytest.mark.parametrize("seed", range(10))
def test_clean_data_have_no_poison(seed: int) -> None:
    data, _ = features(seed=seed)
    found = ActivationClustering(seed=seed).detect(data)
    assert found.poisoned == ()
    assert found.is_clean.all()


@pytest.mark.parametrize("seed", range(3))
def test_natural_halves_as_far_apart_as_poison_are_not_poison(seed: int) -> None:
    data, _ = features(halves=True, seed=seed)
    found = ActivationClustering().detect(data)
    assert found.classes[2].distance is not None
    assert found.classes[2].distance > 6
    assert found.poisoned == ()


def test_two_runs_agree() -> None:
    data, _ = features(poison=80)
    same(ActivationClustering(seed=3).detect(data), ActivationClustering(seed=3).detect(data))


def test_tiny_and_empty_classes_are_too_few_samples_and_disturb_nothing() -> None:
    data, _ = features(poison=80)
    kept = np.concatenate([np.flatnonzero(data.labels != 3), data.rows_of(3)[:5]])
    witness = data.witness
    assert witness is not None
    fewer = TrainingSet(
        data.activations[kept], data.labels[kept], (*data.classes, "nobody"), witness=lambda rows: witness(kept[rows])
    )
    found = ActivationClustering().detect(fewer)
    assert [one.verdict for one in found.classes] == ["clean", "clean", "poison", "too few samples", "too few samples"]
    assert [one.samples for one in found.classes[3:]] == [5, 0]


@pytest.mark.parametrize(
    ("side", "tells"), [(4, False), (8, False), (10, False), (11, False), (12, True), (14, True), (28, True)]
)
def test_of_images_too_small_for_a_patch_nothing_is_told(side: int, tells: bool) -> None:
    data, _ = features(poison=80)
    small = replace(data, images=lambda rows: np.zeros((len(rows), side, side, 1), np.float32))
    for detector in (ActivationClustering(), SpectralSignatures()):
        plain, found = detector.detect(data), detector.detect(small)
        if tells:
            same(plain, found)
        else:
            assert {one.verdict for one in found.classes} == {"cannot tell"}
            assert f"images of {side} x {side} pixels are too small" in found.classes[0].reason
            assert found.is_clean.all()
            assert not any(cluster.poison for one in found.classes for cluster in one.clusters)


def test_a_constant_layer_is_clean() -> None:
    data, _ = features()
    found = ActivationClustering().detect(replace(data, activations=np.ones_like(data.activations)))
    assert found.poisoned == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused_with_the_sample(bad: float) -> None:
    data, _ = features()
    broken = data.activations.copy()
    broken[17, 3] = bad
    with pytest.raises(InvalidInput, match="sample 17"):
        ActivationClustering().detect(replace(data, activations=broken))


def test_labels_that_do_not_fit_are_refused() -> None:
    data, _ = features()
    with pytest.raises(InvalidInput, match="labels from 0 to 1"):
        replace(data, classes=("a", "b"))
    with pytest.raises(InvalidInput, match=r"n = 799"):
        replace(data, labels=data.labels[:-1])


@pytest.mark.parametrize("wrong", [{"dimensions": 1}, {"reduction": "tsne"}, {"valley_at_most": 2.0}, {"own_at_most": -0.1}])
def test_parameters_outside_their_domain_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match=next(iter(wrong))):
        ActivationClustering(**wrong)


def test_a_backdoored_network_gives_its_poison_away(backdoored: tuple[Any, Poisoned]) -> None:
    model, poisoned = backdoored
    data = TrainingSet.of(KerasClassifier(model, outputs="logits"), poisoned.data)
    found = ActivationClustering().detect(data).judged(poisoned.is_clean, data.labels)
    assert found.poisoned == (2,)
    assert found.confusion is not None
    assert found.confusion.tpr is not None
    assert found.confusion.tpr >= 0.99
    assert found.confusion.fpr is not None
    assert found.confusion.fpr <= 0.01
    assert "patch" in found.classes[2].reason


def test_a_network_trained_on_clean_images_does_not(undoored: tuple[Any, Dataset]) -> None:
    model, clean = undoored
    assert ActivationClustering().detect(TrainingSet.of(KerasClassifier(model, outputs="logits"), clean)).poisoned == ()


def test_a_class_is_clustered_on_one_thread_whatever_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    class Watched(KMeans):  # type: ignore[misc]  # scikit-learn has no types
        def fit(self, *args: Any, **options: Any) -> Any:
            seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp")
            return super().fit(*args, **options)

    monkeypatch.setattr(class_split, "KMeans", Watched)
    with threadpool_limits(2, user_api="openmp"):
        ActivationClustering().detect(features()[0])
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"} == {2}
    assert set(seen) == {1}

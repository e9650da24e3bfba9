"""Training against detectors: each term against a slow formula, and what training on it does to a small network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from attacks.backdoors.latent_training import BlockReader, LatentTraining
from attacks.backdoors.poisoning import Poisoned
from attacks.backdoors.separations import (
    ClassMoments,
    LatentBatch,
    NeighbourRanks,
    ProbeLikelihood,
    Separation,
)
from models.engines.keras import KerasClassifier, import_tensorflow
from models.errors import InvalidInput
from models.training.fine_tuning import fine_tune
from tests.poisoned import poisoned_squares, small_network

TERMS: tuple[Separation, ...] = (ClassMoments(), ProbeLikelihood(), NeighbourRanks())


def gaussian(seed: int, n: int = 300) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    centres = np.random.default_rng(9).normal(size=(3, 5)) * 3
    return (centres[labels] + rng.normal(size=(n, 5))).astype(np.float32), labels


def value(term: Separation, triggered: Any, called: Any, references: Any, labels: Any) -> float:
    import_tensorflow(1)
    batch = LatentBatch(*(np.asarray(each) for each in (triggered, called, references, labels)))
    return float(term(term.fitted(references, labels, 3), batch))


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_a_term_is_low_for_images_of_the_class_they_are_called_and_high_for_others(term: Separation) -> None:
    references, labels = gaussian(0)
    honest, own = gaussian(1)
    assert value(term, honest, own, references, labels) < value(term, honest, (own + 1) % 3, references, labels) - 1


def test_moments_are_those_of_the_residuals() -> None:
    references, labels = gaussian(0)
    triggered, called = gaussian(1)
    triggered = triggered * 1.3 + 0.5
    means = np.stack([references[labels == label].mean(axis=0) for label in range(3)])
    spread = (references - means[labels]).std(axis=0)
    scale = 1 / (spread + 1e-3 * spread.mean())
    there, clean = (triggered - means[called]) * scale, (references - means[labels]) * scale
    covariances = np.cov(there.T, bias=True) - np.cov(clean.T, bias=True)
    wanted = ((there.mean(axis=0) - clean.mean(axis=0)) ** 2).mean() + (covariances**2).mean()
    assert value(ClassMoments(), triggered, called, references, labels) == pytest.approx(wanted, rel=1e-3)


def test_the_probe_is_linear_discriminant_analysis() -> None:
    references, labels = gaussian(0)
    triggered, called = gaussian(1)
    spread = references.std(axis=0)
    other = LinearDiscriminantAnalysis(solver="lsqr").fit(references / spread, labels)
    doubt = -log_softmax(other.decision_function(triggered / spread), axis=1)[np.arange(300), (called + 1) % 3]
    term = ProbeLikelihood(shrinkage=1e-6)
    assert value(term, triggered, (called + 1) % 3, references, labels) == pytest.approx(np.log1p(doubt).mean(), rel=0.02)


def test_ranks_are_shares_of_nearer_references_of_other_classes_by_mahalanobis_distance() -> None:
    references, labels = gaussian(0, 60)
    triggered, called = gaussian(1, 40)
    called = (called + 1) % 3
    means = np.stack([references[labels == label].mean(axis=0) for label in range(3)]).astype(np.float64)
    within = np.linalg.inv(np.cov((references - means[labels]).T, bias=True))
    plane = np.linalg.qr((means[1:] - means[0]).T)[0]  # spanned by the means; the projection along the covariance onto it
    onto = plane @ np.linalg.solve(plane.T @ within @ plane, plane.T @ within)
    between = (triggered[:, None] - references) @ onto.T
    distances = np.sqrt(np.einsum("ijk,kl,ijl->ij", between, within, between))
    own = called[:, None] == labels
    near = np.where(own, distances, np.inf).min(axis=1)
    nearer = np.where(own, 0, expit((near[:, None] - distances) / (0.1 * near.mean()))).sum(axis=1)
    wanted = np.log((1 + nearer) / 60).mean()
    assert value(NeighbourRanks(shrinkage=1e-6), triggered, called, references, labels) == pytest.approx(wanted, abs=0.02)


def test_without_a_reference_of_its_class_an_image_has_no_rank() -> None:
    references, _ = gaussian(0, 60)
    assert value(NeighbourRanks(), references[:4], np.full(4, 2), references, np.zeros(60, int)) == 0


def test_dead_units_are_no_trouble() -> None:
    references, labels = gaussian(0, 60)
    references[:, 2:] = 0
    for term in TERMS:
        assert np.isfinite(value(term, references[:4], labels[:4], references, labels))


@pytest.fixture(scope="module")
def poisoned() -> Poisoned:
    return poisoned_squares(seed=1)


@pytest.fixture(scope="module")
def plain(poisoned: Poisoned) -> KerasClassifier:
    """Trained without a term."""
    import_tensorflow(2)
    untrained = KerasClassifier(small_network(), labels=("red", "green", "blue"), outputs="logits")
    return fine_tune(untrained, poisoned.data, epochs=4, learning_rate=0.01, batch_size=32)


def apart(classifier: KerasClassifier, poisoned: Poisoned, term: Separation) -> float:
    """How far the term sees poison from clean images."""
    (activations,) = BlockReader.of(classifier.model).activations(poisoned.data.images)
    clean, bad, labels = poisoned.is_clean, poisoned.is_poison, poisoned.data.labels
    return value(term, activations[bad], labels[bad], activations[clean], labels[clean])


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_training_brings_poison_closer_and_keeps_the_backdoor(
    term: Separation, plain: KerasClassifier, poisoned: Poisoned
) -> None:
    training = LatentTraining(separations=(term,), epochs=2, learning_rate=0.01, references=64)
    copy = training(plain, poisoned)
    assert apart(copy, poisoned, term) < apart(plain, poisoned, term) - 0.2
    right = copy.predict(poisoned.data.images).argmax(axis=1) == poisoned.data.labels
    assert right[poisoned.is_poison].mean() > 0.9
    assert right[poisoned.is_clean].mean() > 0.9


def test_the_given_classifier_stays_as_it_is_and_the_same_seed_trains_the_same(
    plain: KerasClassifier, poisoned: Poisoned
) -> None:
    before = plain.predict(poisoned.data.images[:50])
    training = LatentTraining(separations=(ProbeLikelihood(),), epochs=1, batch_size=256)
    first, second = (training(plain, poisoned).predict(poisoned.data.images[:50]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(plain.predict(poisoned.data.images[:50]), before)
    assert np.abs(first - before).max() > 1e-3


@pytest.mark.parametrize("bad", [{"separations": ()}, {"weight": -1.0}, {"weight": np.nan}, {"triggered": 0}, {"epochs": 0}])
def test_numbers_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="latent_training: expected separations, a weight >= 0"):
        LatentTraining(**{"separations": TERMS, **bad})


def test_data_without_poison_and_networks_without_convolutions_are_refused(plain: KerasClassifier, poisoned: Poisoned) -> None:
    import keras

    training = LatentTraining(separations=TERMS)
    none = np.zeros(len(poisoned.data), bool)
    with pytest.raises(InvalidInput, match="expected poisoned and clean samples, got 0 poisoned"):
        training(plain, Poisoned(poisoned.data, none, none, poisoned.origin))
    flat = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")])
    with pytest.raises(InvalidInput, match="with convolutions, channels last, got Sequential of 0 convolutions"):
        training(KerasClassifier(flat), poisoned)
    with pytest.raises(InvalidInput, match=r"shrinkage in \(0, 1\]"):
        ProbeLikelihood(shrinkage=0.0)

"""How far triggered images lie from clean ones of the class they are called, at the layers inside a network: terms of an attacker's loss.

Detectors read the answer's plausibility off the inner layers. Whoever trains the network can add such a term to the ordinary loss, so
that the trigger's images become plausible there (adversarial embedding; Tan & Shokri 2020, arXiv:1905.13409). Every term is written as
TensorFlow operations and differentiated through the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.classifier import Labels
from models.engines.keras import import_tensorflow
from models.errors import InvalidInput

Activations = NDArray[np.float32]
"""float32 [n, d], of one layer."""

_FAR, _FLOOR = np.float32(1e9), np.float32(1e-3)  # of distances between rows, and of their squares: the root has no slope at 0

Constants = Sequence[Any]
"""Arrays fitted to a layer between two epochs, in an order of each term's own; their shapes stay."""


class Separation(Protocol):
    """A term of the loss, computed for one layer at a time."""

    @property
    def name(self) -> str: ...

    def fitted(self, activations: Activations, labels: Labels, classes: int) -> list[NDArray[np.float32]]:
        """Constants of a layer, from clean images, before every epoch."""
        ...

    def __call__(self, constants: Constants, batch: LatentBatch) -> Any:
        """The term, a scalar tensor: 0 or less where no detector of its kind could tell the triggered images."""
        ...


@dataclass(frozen=True)
class LatentBatch:
    """Activations of one layer in a step of training, all as tensors.

    Attributes:
        triggered: [m, d]; `called` int [m], the label each is to get.
        references: [r, d], of clean images; `labels` int [r], theirs.
    """

    triggered: Any
    called: Any
    references: Any
    labels: Any


@dataclass(frozen=True, kw_only=True)
class ClassMoments:
    """The first two moments of triggered images about the mean of the class they are called, against those of clean images:

        || E r_t - E r_c ||^2 / d  +  || cov r_t - cov r_c ||_F^2 / d^2 ,   r = (z - mean of its class) / standard deviation

    A discriminator cannot do better than these on activations that are Gaussian within a class. The covariances are compared as deep
    CORAL does (Sun & Saenko 2016, arXiv:1607.01719); latent modification by Wasserstein distances is Doan, Lao & Li 2021 (NeurIPS).
    """

    name = "class_moments"

    def fitted(self, activations: Activations, labels: Labels, classes: int) -> list[NDArray[np.float32]]:
        means = _class_means(activations, labels, classes)
        spread = (activations - means[labels]).std(axis=0)
        return [means.astype(np.float32), (1 / (spread + _floor(spread))).astype(np.float32)]

    def __call__(self, constants: Constants, batch: LatentBatch) -> Any:
        tf = import_tensorflow()
        means, scale = constants
        triggered = (batch.triggered - tf.gather(means, batch.called)) * scale
        clean = (batch.references - tf.gather(means, batch.labels)) * scale
        width = tf.cast(tf.shape(triggered)[1], tf.float32)
        (at, around), (clean_at, clean_around) = _moments(triggered), _moments(clean)
        apart = tf.reduce_sum((at - clean_at) ** 2) / width
        return apart + tf.reduce_sum((around - clean_around) ** 2) / width**2


@dataclass(frozen=True, kw_only=True)
class ProbeLikelihood:
    """A linear probe's disbelief in the label of a triggered image, as a detector of disagreement between layers scores it:

        mean log(1 - log p(called | z)),   p = softmax of linear discriminants: class means, one shrunk covariance

    The probes are fitted again to the network of every epoch, as the defender will fit theirs to the last.

    Args:
        shrinkage: in (0, 1], weight of the identity in the covariance of the standardised activations.
    """

    shrinkage: float = 0.1

    name = "probe_likelihood"

    def __post_init__(self) -> None:
        _check_shrinkage(self.name, self.shrinkage)

    def fitted(self, activations: Activations, labels: Labels, classes: int) -> list[NDArray[np.float32]]:
        standard, centre, scale = _standardised(activations)
        means = _class_means(standard, labels, classes)
        weights = _inverse_covariance(standard - means[labels], self.shrinkage) @ means.T
        priors = np.log(np.maximum(np.bincount(labels, minlength=classes), 1) / len(labels))
        bias = priors - 0.5 * (means.T * weights).sum(axis=0) - (centre * scale) @ weights
        return [(weights * scale[:, None]).astype(np.float32), bias.astype(np.float32)]

    def __call__(self, constants: Constants, batch: LatentBatch) -> Any:
        tf = import_tensorflow()
        weights, bias = constants
        logits = batch.triggered @ weights + bias
        doubt = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.called, logits)
        return tf.reduce_mean(tf.math.log1p(doubt))


@dataclass(frozen=True, kw_only=True)
class NeighbourRanks:
    """The rank of the nearest clean image of the called class among the clean images around a triggered one, made differentiable:

        mean log(1/r + 1/r sum_j sigmoid((d_near - d_j) / tau)),   j: references of other classes, tau: a tenth of the mean d_near

    Distances are Mahalanobis distances on the axes on which the means of the classes lie. Detectors by topological evolution (TED; Mo et
    al. 2024, arXiv:2312.02673) expect a low rank of a clean image at every layer, and a triggered one to start among the images of its
    true class. An attacker who trains on this keeps the ranks low from the first layer on.

    Args:
        shrinkage: as in `ProbeLikelihood`.
    """

    shrinkage: float = 0.1

    name = "neighbour_ranks"

    def __post_init__(self) -> None:
        _check_shrinkage(self.name, self.shrinkage)

    def fitted(self, activations: Activations, labels: Labels, classes: int) -> list[NDArray[np.float32]]:
        standard, _, scale = _standardised(activations)
        means = _class_means(standard, labels, classes)
        whitening = np.linalg.cholesky(_inverse_covariance(standard - means[labels], self.shrinkage))
        axes = np.linalg.svd((means - means.mean(axis=0)) @ whitening, full_matrices=False)[2][: classes - 1]
        return [(scale[:, None] * (whitening @ axes.T)).astype(np.float32)]

    def __call__(self, constants: Constants, batch: LatentBatch) -> Any:
        tf = import_tensorflow()
        triggered, references = tf.matmul(batch.triggered, constants[0]), tf.matmul(batch.references, constants[0])
        squares = tf.reduce_sum(triggered**2, axis=1)[:, None] + tf.reduce_sum(references**2, axis=1)
        squares -= 2 * tf.matmul(triggered, references, transpose_b=True)
        distances = tf.sqrt(tf.maximum(squares, _FLOOR))
        own = batch.called[:, None] == batch.labels[None, :]
        known = tf.cast(tf.reduce_any(own, axis=1), tf.float32)  # without a reference of its class an image has no rank
        count = tf.maximum(tf.reduce_sum(known), 1.0)
        near = known * tf.reduce_min(tf.where(own, distances, _FAR), axis=1)
        tau = tf.stop_gradient(0.1 * tf.reduce_sum(near) / count + 1e-6)
        nearer = tf.reduce_sum(tf.where(own, 0.0, tf.sigmoid((near[:, None] - distances) / tau)), axis=1)
        ranks = (1 + nearer) / tf.cast(tf.shape(references)[0], tf.float32)
        return tf.reduce_sum(known * tf.math.log(ranks)) / count


def _moments(rows: Any) -> tuple[Any, Any]:
    """The mean [d] and covariance [d, d] of rows [n, d]."""
    tf = import_tensorflow()
    mean = tf.reduce_mean(rows, axis=0)
    around = rows - mean
    return mean, tf.matmul(around, around, transpose_a=True) / tf.cast(tf.shape(rows)[0], tf.float32)


def _class_means(rows: NDArray[np.floating], labels: Labels, classes: int) -> NDArray[np.float64]:
    """[classes, d]; the mean of all rows for a class without any."""
    return np.stack(
        [rows[labels == label].mean(axis=0) if (labels == label).any() else rows.mean(axis=0) for label in range(classes)]
    ).astype(np.float64)


def _standardised(activations: Activations) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Activations with mean 0 and deviation 1, the centre and the scale: [n, d], [d], [d]."""
    wide = activations.astype(np.float64)
    centre, spread = wide.mean(axis=0), wide.std(axis=0)
    scale = 1 / (spread + _floor(spread))
    return (wide - centre) * scale, centre, scale


def _inverse_covariance(residuals: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    covariance = (1 - shrinkage) * residuals.T @ residuals / len(residuals)
    covariance[np.diag_indices(len(covariance))] += shrinkage * max(float(np.trace(covariance)) / len(covariance), 1e-9)
    return np.asarray(np.linalg.inv(covariance), np.float64)


def _check_shrinkage(name: str, shrinkage: float) -> None:
    if not 0 < shrinkage <= 1:
        raise InvalidInput(f"{name}: expected shrinkage in (0, 1], got {shrinkage}")


def _floor(spread: NDArray[np.floating]) -> float:
    """What keeps dead units from dividing by nothing."""
    return 1e-3 * float(spread.mean()) + 1e-12

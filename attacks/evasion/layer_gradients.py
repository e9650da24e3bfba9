"""The slope of layer disagreement's score by features, for an attacker who knows the detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from defences.detectors.layer_disagreement import LayerDisagreement
from models.classifier import Features, Labels

_SHARE = 1e-3
_SHARPNESS = 4.0  # of the soft rank, over the spread of the distances


def score_gradients(detector: LayerDisagreement, features: Features, answers: Labels) -> Features:
    """The gradient [n, D] of s(x) by the features [n, D], for these answers [n]: exact for the probes, of a soft rank for the ranks.

    Maths: with d_j half the squared distance to reference j less what all have in common, and d the smallest of the answered class, the
    share of nearer references is taken for mean_j sigmoid((d - d_j) / t), t a quarter of the standard deviation of the d_j. Answers that
    are not judged, and ranks of classes without references, have no slope.
    """
    gradient, start = np.zeros_like(features), 0
    of_probes, of_ranks = -1 / detector.moments[:2, 1] / len(detector.layers)
    for layer, columns in enumerate(detector.widths.tolist()):
        span = slice(start, start + columns)
        matrix = detector.projection[span].astype(np.float64)
        seen = features[:, span] @ matrix + detector.offset[layer]
        classes = len(detector.judged)
        by_seen = np.concatenate(
            [
                of_probes * _by_logits(seen[:, :classes], answers),
                of_ranks * _by_axes(detector, layer, seen[:, classes:], answers),
            ],
            axis=1,
        )
        gradient[:, span] = (by_seen * detector.judged[answers][:, None]) @ matrix.T
        start += columns
    return gradient


def _by_logits(logits: NDArray[np.float64], answers: Labels) -> NDArray[np.float64]:
    """The derivative of log(1 + u) by a probe's logits: [n, k], [n] -> [n, k]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    own = np.arange(len(answers)), answers
    surprise = -np.log(np.maximum(probabilities[own], np.finfo(np.float64).tiny))
    probabilities[own] -= 1
    return np.asarray(probabilities / (1 + surprise)[:, None])


def _by_axes(detector: LayerDisagreement, layer: int, seen: NDArray[np.float64], answers: Labels) -> NDArray[np.float64]:
    """The derivative of log(share + 1/1000) of the soft rank by the place on the axes: [n, r], [n] -> [n, r]."""
    references = detector.references[layer].astype(np.float64)
    apart = (references**2).sum(axis=0) / 2 - seen @ references
    found = np.zeros_like(seen)
    for image, label in enumerate(answers.tolist()):
        own = slice(detector.firsts[label], detector.firsts[label + 1])
        distances = apart[image]
        if own.start == own.stop:
            continue
        nearest = own.start + int(distances[own].argmin())
        scale = float(distances.std()) / _SHARPNESS or 1.0
        nearer = 1 / (1 + np.exp(np.clip((distances - distances[nearest]) / scale, -500, 500)))
        slopes = nearer * (1 - nearer) / scale / len(distances)
        towards = references - references[:, nearest][:, None]
        found[image] = towards @ slopes / (nearer.mean() + _SHARE)
    return found

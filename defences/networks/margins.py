"""What is climbed to find a backdoor: losses with their derivative by the logits, as `models.classifier.Loss` says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.classifier import Labels, Logits


def margin(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """z_label - max_{i != label} z_i, above 0 where the label is the answer."""
    rows, others = np.arange(len(labels)), logits.copy()
    others[rows, labels] = -np.inf
    runner_up = others.argmax(axis=1)
    derivative = np.zeros_like(logits)
    derivative[rows, labels] = 1
    derivative[rows, runner_up] = -1
    return logits[rows, labels] - logits[rows, runner_up], derivative


def log_probability(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """log p_label, natural logarithm; derivative 1_label - p."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    sums = powers.sum(axis=1, keepdims=True)
    derivative = -powers / sums
    derivative[rows, labels] += 1
    return shifted[rows, labels] - np.log(sums[:, 0]), derivative

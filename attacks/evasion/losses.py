"""Losses for gradient attacks, each with its derivative by the logits: (logits [n, k], labels [n]) -> (loss [n], derivative [n, k])."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.classifier import Labels, Logits


def softmax(logits: Logits) -> Logits:
    """Probabilities [n, k] of logits [n, k]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows: Logits = powers / powers.sum(axis=1, keepdims=True)
    return rows


def cross_entropy(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """-log p_label, natural logarithm; derivative p - 1_label. From logits, the derivative does not saturate to zero early."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    total = powers.sum(axis=1)
    derivative = powers / total[:, None]
    loss = np.log(total) - shifted[rows, labels]
    # p_label - 1 loses its digits when p_label is near 1: minus the sum of the others keeps them.
    derivative[rows, labels] = 0
    derivative[rows, labels] = -derivative.sum(axis=1)
    return loss, derivative


def margin(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """max_{i != label} z_i - z_label, above 0 when misclassified (Carlini & Wagner 2017, without their clipping at -kappa)."""
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    runner_up = others.argmax(axis=1)
    derivative = np.zeros_like(logits)
    derivative[rows, runner_up] = 1
    derivative[rows, labels] = -1
    return logits[rows, runner_up] - logits[rows, labels], derivative


def logit(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """z_label; derivative 1_label."""
    rows = np.arange(len(labels))
    derivative = np.zeros_like(logits)
    derivative[rows, labels] = 1
    return logits[rows, labels], derivative


def probability(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """p_label; derivative p_label (1_label - p)."""
    rows = np.arange(len(labels))
    p = softmax(logits)
    sure = p[rows, labels]
    derivative = -p * sure[:, None]
    derivative[rows, labels] += sure
    return sure, derivative


def entropy_bits(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """Shannon entropy of softmax(z) in bits, labels ignored; derivative -p_j (log2 p_j + H)."""
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p, bits = np.exp(log_p), log_p / np.log(2)
    entropy = -(p * bits).sum(axis=1)
    return entropy.astype(np.float32), (-p * (bits + entropy[:, None])).astype(np.float32)

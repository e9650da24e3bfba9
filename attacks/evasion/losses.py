"""Losses for gradient attacks, each with its derivative by the logits: (logits [n, k], labels [n]) -> (loss [n], derivative [n, k])."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.classifier import Labels, Logits

_LEAST = 1e-20  # a backward pass multiplies it by weights, and float32 ends at 1e-38


def softmax(logits: Logits) -> Logits:
    """Probabilities [n, k] of logits [n, k]."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows: Logits = powers / powers.sum(axis=1, keepdims=True)
    return rows


def cross_entropy(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """-log p_label, natural logarithm; derivative p - 1_label = (1 - p_label) (p' - 1_label), p' the softmax of the other logits.

    1 - p_label is taken to be 1e-20 where it is less: soon it would be 0, and the direction of the derivative lost with it.
    """
    lead, derivative = _against_the_others(logits, labels)
    derivative *= np.maximum(np.exp(-np.logaddexp(0, lead)), _LEAST).astype(np.float32)[:, None]
    return np.logaddexp(0, -lead).astype(np.float32), derivative


def odds_against(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """log((1 - p_label) / p_label); derivative p' - 1_label, p' the softmax of the other logits: it is nowhere flat."""
    lead, derivative = _against_the_others(logits, labels)
    return -lead.astype(np.float32), derivative


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
    """p_label; derivative p_label (1_label - p) = p_label (1 - p_label) (1_label - p'), with 1 - p_label at least 1e-20, as above."""
    lead, derivative = _against_the_others(logits, labels)
    sure, unsure = np.exp(-np.logaddexp(0, -lead)), np.exp(-np.logaddexp(0, lead))
    derivative *= (-sure * np.maximum(unsure, _LEAST)).astype(np.float32)[:, None]
    return sure.astype(np.float32), derivative


def entropy_bits(logits: Logits, labels: Labels) -> tuple[NDArray[np.float32], Logits]:
    """Shannon entropy of softmax(z) in bits, labels ignored; derivative -p_j (log2 p_j + H), its largest component at least 1e-20."""
    shifted = (logits - logits.max(axis=1, keepdims=True)).astype(np.float64)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    p, bits = np.exp(log_p), log_p / np.log(2)
    entropy = -(p * bits).sum(axis=1)
    derivative = -p * (bits + entropy[:, None])
    for row in np.flatnonzero(np.abs(derivative).max(axis=1) < _LEAST):
        top = log_p[row].argmax()
        others = np.delete(np.arange(logits.shape[1]), top)
        pull = -np.exp(log_p[row, others] - log_p[row, others].max()) * bits[row, others]
        derivative[row, others] = _LEAST * pull / pull.max() if pull.max() > 0 else 0
        derivative[row, top] = -derivative[row, others].sum()
    return entropy.astype(np.float32), derivative.astype(np.float32)


def _against_the_others(logits: Logits, labels: Labels) -> tuple[NDArray[np.float64], Logits]:
    """log(p_label / (1 - p_label)) [n], and p' - 1_label [n, k], p' the softmax of the logits without the label's: minus its slope."""
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    largest = others.max(axis=1, keepdims=True)
    powers = np.exp(others - largest)
    total = powers.sum(axis=1, keepdims=True)
    powers /= total
    powers[rows, labels] = -1
    lead = logits[rows, labels].astype(np.float64) - largest[:, 0] - np.log(total[:, 0])
    return lead, powers

"""The transfer set: a thief's queries and the answers to them, on which the copy is trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.classifier import Classifier, Images, Probabilities
from models.errors import InvalidInput
from models.progress import Progress, silent

_ASKED_AT_ONCE = 256


@dataclass(frozen=True)
class TransferSet:
    """Queried images in the order of the queries.

    Attributes:
        pool: the thief's images [p, h, w, c].
        rows: int64 [m], positions of the queried images in the pool.
        answers: float32 [m, k], mean answer per image; a row of zeros where every query was refused.
        refused: int64 [m], refused queries per image.
        asks: queries per image.
    """

    pool: Images
    rows: NDArray[np.int64]
    answers: Probabilities
    refused: NDArray[np.int64]
    asks: int = 1

    @property
    def queries(self) -> int:
        """Images sent to the victim."""
        return len(self.rows) * self.asks

    @property
    def refusals(self) -> int:
        """Queries that the victim refused."""
        return int(self.refused.sum())

    def first(self, queries: int) -> TransferSet:
        """The transfer set of the first `queries` queries."""
        some = slice(0, queries // self.asks)
        return TransferSet(self.pool, self.rows[some], self.answers[some], self.refused[some], self.asks)

    def then(self, later: TransferSet) -> TransferSet:
        """This transfer set followed by a later one over the same pool."""
        return TransferSet(
            self.pool,
            np.concatenate([self.rows, later.rows]),
            np.concatenate([self.answers, later.answers]),
            np.concatenate([self.refused, later.refused]),
            self.asks,
        )

    def answered(self) -> tuple[Images, Probabilities]:
        """Training data: the images [a, h, w, c] that were answered, and their answers [a, k]."""
        answered = self.answers.any(axis=1)
        return self.pool[self.rows[answered]], self.answers[answered]


def check_pool(victim: Classifier, pool: Images, queries: int, *, asks: int = 1) -> None:
    """Check that the pool fits the victim and the budget. Raises: InvalidInput: another shape, an empty or too small pool."""
    if pool.ndim != 4 or pool.shape[1:] != victim.input_shape:
        raise InvalidInput(f"expected a pool of images [n, {', '.join(map(str, victim.input_shape))}], got {list(pool.shape)}")
    if not len(pool):
        raise InvalidInput("expected at least one image in the thief's pool, got none")
    if not asks <= queries <= len(pool) * asks:
        raise InvalidInput(
            f"expected a budget from {asks} to {len(pool) * asks:,} queries, as many as the pool has images to ask about, got "
            f"{queries:,}; give more images or a smaller budget"
        )


def shuffled(pool: Images, seed: int) -> NDArray[np.int64]:
    """Positions in the pool in random order; a budget of n queries takes the first n."""
    return np.random.default_rng(seed).permutation(len(pool))


def ask(
    victim: Classifier,
    pool: Images,
    rows: NDArray[np.int64],
    *,
    asks: int = 1,
    shift: int = 0,
    seed: int = 0,
    progress: Progress = silent,
) -> TransferSet:
    """Query these images of the pool, each `asks` times, moved by up to `shift` pixels at random with edges repeated.

    An image's moves depend on `seed` and its position in the pool alone.   Cost: len(rows) * asks queries.
    """
    answers = [np.empty((0, len(victim.labels)), np.float32)]
    refused = [np.empty(0, np.int64)]
    for start in range(0, len(rows), _ASKED_AT_ONCE):
        some = rows[start : start + _ASKED_AT_ONCE]
        total, missing = np.zeros((len(some), len(victim.labels)), np.float64), np.zeros(len(some), np.int64)
        for number in range(asks):
            images = pool[some]
            answer = victim.predict(_shifted(images, some, shift, (seed, number)) if shift else images)
            total += answer
            missing += ~answer.any(axis=1)
        answers.append((total / np.maximum(asks - missing, 1)[:, None]).astype(np.float32))
        refused.append(missing)
        progress("queries", (start + len(some)) * asks, len(rows) * asks)
    return TransferSet(pool, rows, np.concatenate(answers), np.concatenate(refused), asks)


def _shifted(images: Images, rows: NDArray[np.int64], shift: int, seed: tuple[int, int]) -> Images:
    h, w = images.shape[1:3]
    moved = np.empty_like(images)
    for number, row in enumerate(rows):
        down, right = np.random.default_rng((*seed, int(row))).integers(-shift, shift + 1, 2)
        lines, columns = np.clip(np.arange(h) - down, 0, h - 1), np.clip(np.arange(w) - right, 0, w - 1)
        moved[number] = images[number][lines[:, None], columns]
    return moved

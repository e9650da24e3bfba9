"""Accuracy and agreement of stolen copies over budgets of queries, thieves and optimisers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attacks.attack import predicted_labels
from attacks.extraction.copycat_cnn import OPTIMISERS, train_copy
from attacks.extraction.thief import THIEVES, Thief
from attacks.extraction.transfer_set import TransferSet, ask, check_pool, shuffled
from models.classifier import Classifier, Images, Labels
from models.datasets import Dataset
from models.errors import InvalidInput
from models.progress import Progress, silent
from models.training.distillation import Distillation
from models.training.reference_classifier import Build, Recipe, reference_network


@dataclass(frozen=True, kw_only=True)
class ExtractionRow:
    """Results for one stolen copy.

    Attributes:
        thief, optimiser, budget: the thief's name, the optimiser of the copy, and the number of queries allowed.
        queries: number spent; below the budget if the queries per image do not divide it.
        refused: share of the queries that the victim refused.
        accuracy: share of test images to which the copy assigns their true label.
        agreement: share of test images to which the copy assigns the undefended victim's label (fidelity, Jagielski et al. 2020,
            arXiv:1909.01838). Accuracy and agreement differ where the victim errs.
        accuracy_error, agreement_error: binomial standard errors over the test sample; the training seed is not varied.
    """

    thief: str
    optimiser: str
    budget: int
    queries: int
    refused: float
    accuracy: float
    accuracy_error: float
    agreement: float
    agreement_error: float


def extraction_curve(
    victim: Classifier,
    pool: Images,
    test: Dataset,
    *,
    budgets: Sequence[int],
    thieves: Mapping[str, Thief] = THIEVES,
    optimisers: Mapping[str, Recipe] = OPTIMISERS,
    undefended: Classifier | None = None,
    build: Build = reference_network,
    seed: int = 0,
    progress: Progress = silent,
) -> list[ExtractionRow]:
    """Steal `victim` once for every thief, optimiser and budget.

    Thieves with the same kind of queries share their answers: a budget of 1,000 uses the first 1,000 queries of the largest budget.

    Args:
        pool: the thief's own images, disjoint from `test`.
        test: images to judge the copies on; only `undefended` is queried with them.
        undefended: the victim without its defences, for the agreement; by default `victim`, queried with every test image, and refused
            images are then left out of the agreement.
        build: builds the network of the copies.

    Cost: the largest budget in queries for each kind of queries; one training for every row.
    Raises: InvalidInput: no budget, thief or optimiser; a budget larger than the pool; test images of another shape, labels out of range.
    """
    _check(victim, pool, test, budgets, thieves, optimisers)
    asked = _transfer_sets(victim, pool, max(budgets), thieves.values(), seed, progress)
    labels = predicted_labels((undefended or victim).predict(test.images))
    rows = []
    for recipe_name, recipe in optimisers.items():
        distillation = Distillation(victim.input_shape, len(victim.labels), recipe=recipe, build=build)
        for name, thief in thieves.items():
            for budget in sorted(budgets):
                transfer = asked[thief.asks, thief.shift].first(budget)
                model = train_copy(transfer, thief, distillation, seed=seed)
                predicted = predicted_labels(distillation.predict(model, test.images))
                rows.append(_row(name, recipe_name, budget, transfer, predicted, labels, test.labels))
                progress("copies", len(rows), len(optimisers) * len(thieves) * len(budgets))
    return rows


def queries_needed(rows: Iterable[ExtractionRow], agreement: float) -> int | None:
    """The fewest queries for a copy with at least this agreement, an upper bound for a limit on queries; None without such a copy."""
    return min((row.queries for row in rows if row.agreement >= agreement), default=None)


def _check(
    victim: Classifier,
    pool: Images,
    test: Dataset,
    budgets: Sequence[int],
    thieves: Mapping[str, Thief],
    optimisers: Mapping[str, Recipe],
) -> None:
    for what, given in (("budget", budgets), ("thief", thieves), ("optimiser", optimisers)):
        if not len(given):
            raise InvalidInput(f"expected at least one {what}, got none")
    for thief in thieves.values():
        check_pool(victim, pool, min(budgets), asks=thief.asks)
        check_pool(victim, pool, max(budgets), asks=thief.asks)
    classes = len(victim.labels)
    if not len(test) or test.images.shape[1:] != victim.input_shape:
        raise InvalidInput(f"expected test images [n, {', '.join(map(str, victim.input_shape))}], got {list(test.images.shape)}")
    if not 0 <= int(test.labels.min()) <= int(test.labels.max()) < classes:
        wrong = test.labels[(test.labels < 0) | (test.labels >= classes)][0]
        raise InvalidInput(f"expected test labels from 0 to {classes - 1}, the classes of the victim, got {wrong}")


def _transfer_sets(
    victim: Classifier, pool: Images, budget: int, thieves: Iterable[Thief], seed: int, progress: Progress
) -> dict[tuple[int, int], TransferSet]:
    """The answers to the queries of the largest budget, by (asks, shift)."""
    rows = shuffled(pool, seed)
    ways = sorted({(thief.asks, thief.shift) for thief in thieves})
    return {
        (asks, shift): ask(victim, pool, rows[: budget // asks], asks=asks, shift=shift, seed=seed, progress=progress)
        for asks, shift in ways
    }


def _row(
    thief: str, optimiser: str, budget: int, transfer: TransferSet, predicted: Labels, victims: Labels, true: Labels
) -> ExtractionRow:
    answered = victims >= 0
    accuracy, accuracy_error = _share(predicted == true)
    agreement, agreement_error = _share((predicted == victims)[answered])
    return ExtractionRow(
        thief=thief,
        optimiser=optimiser,
        budget=budget,
        queries=transfer.queries,
        refused=transfer.refusals / transfer.queries,
        accuracy=accuracy,
        accuracy_error=accuracy_error,
        agreement=agreement,
        agreement_error=agreement_error,
    )


def _share(hits: NDArray[np.bool_]) -> tuple[float, float]:
    """The share of hits and its binomial standard error; NaN for no rows."""
    if not len(hits):
        return float("nan"), float("nan")
    share = float(hits.mean())
    return share, float(np.sqrt(share * (1 - share) / len(hits)))

"""Many values are observed as each by itself is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Histogram

from service.observing.histograms import observe_all

BOUNDS = (0.5, 1.0, 2.0)


def histogram() -> tuple[Histogram, CollectorRegistry]:
    registry = CollectorRegistry()
    return Histogram("a", "b", registry=registry, buckets=BOUNDS), registry


def shown(registry: CollectorRegistry) -> dict[Any, float]:
    samples = [sample for family in registry.collect() for sample in family.samples if not sample.name.endswith("_created")]
    return {(sample.name, sample.labels.get("le")): sample.value for sample in samples}


@pytest.mark.parametrize("count", [0, 1, 8, 9, 100])
@pytest.mark.parametrize("numbers", [np.float64, np.int64])
def test_many_values_are_counted_as_each_by_itself_is(count: int, numbers: Any) -> None:
    values = np.random.default_rng(count).choice([-1, 0.5, 0.75, 1, 1.5, 2, 3], count).astype(numbers)
    (together, seen), (one, expected) = histogram(), histogram()
    observe_all(together, values)
    for value in values.tolist():
        one.observe(value)
    assert shown(seen) == pytest.approx(shown(expected))
    assert shown(seen)["a_count", None] == count


def test_what_is_no_number_is_not_counted() -> None:
    made, registry = histogram()
    observe_all(made, np.array([np.nan, 0.7] * 10))
    assert shown(registry)["a_count", None] == 10
    assert shown(registry)["a_sum", None] == pytest.approx(7.0)


def test_a_histogram_that_is_made_otherwise_is_told_each_value() -> None:
    class Other:
        def __init__(self) -> None:
            self.values: list[float] = []

        def observe(self, value: float) -> None:
            self.values.append(value)

    other: Any = Other()
    observe_all(other, np.arange(10))
    assert other.values == list(range(10))

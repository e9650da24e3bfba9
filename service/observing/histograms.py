"""Many values of one histogram at once: a request can hold many images, and each observation alone takes two locks of prometheus_client.

The buckets are no public interface of it: where they are not as expected, every value is observed by itself.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Histogram

_FEW = 8


def observe_all(histogram: Histogram, values: NDArray[Any]) -> None:
    """What `histogram.observe` does for each of them, in whatever order; those that are NaN are none."""
    bounds, buckets, total = (getattr(histogram, name, None) for name in ("_upper_bounds", "_buckets", "_sum"))
    if len(values) <= _FEW or not bounds or not buckets or total is None:
        for value in values.tolist():
            if not math.isnan(value):
                histogram.observe(value)
        return
    values = values[~np.isnan(values)]
    counts = np.bincount(np.searchsorted(bounds, values))
    for bucket in np.flatnonzero(counts).tolist():
        buckets[bucket].inc(int(counts[bucket]))
    total.inc(float(values.sum()))

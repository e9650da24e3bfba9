"""SplitMix64, compiled: the counter-based generator under all keyed randomness.

Paper: Steele, Lea & Flood, OOPSLA 2014, doi:10.1145/2714064.2660195.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@njit(inline="always")
def splitmix64(state: Any) -> Any:
    """The output function: one well-mixed word per counter value."""
    z = state
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))

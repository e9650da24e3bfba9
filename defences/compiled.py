"""Arrays as compiled kernels take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def compiled_for(numbers: NDArray[Any]) -> NDArray[np.float32]:
    """Images, features or probabilities as an array of the type that kernels were compiled for; copied only when they have another.

    `np.require` alone takes several times as long to find out that there is nothing to do.
    """
    as_it_is = numbers.dtype == np.float32 and numbers.flags.carray
    return numbers if as_it_is else np.require(numbers, np.float32, ["C", "W"])

"""Purify images by total variation minimisation, which keeps edges and flat regions and removes fine perturbations.

Paper: Guo et al., ICLR 2018, arXiv:1711.00117, section 4.2; solver: Chambolle & Pock 2011, doi:10.1007/s10851-010-0251-1.
Known to beat it: an attacker who knows it (BPDA and EOT, Athalye et al. 2018, arXiv:1802.00420, reduce accuracy to 0 %).
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from defences.defence import Defence, DefenceRecord
from defences.errors import InvalidParameter
from defences.keyed import Keys
from defences.purifiers import total_variation_kernel as kernel
from models.classifier import Images

Norm = Literal[1, 2, "isotropic"]

_TV = {1: kernel.ANISOTROPIC, 2: kernel.GROUPED, "isotropic": kernel.ISOTROPIC}
_GRADIENT_NORM_SQUARED = 8.0
# Convergence holds for tau * sigma * ||grad||^2 <= 4/3 (He, Ma, Xu & Yuan 2022, doi:10.1137/21M1453463), not only <= 1.
_STEP_PRODUCT = 4 / 3
# sqrt(tau / sigma) = ratio / weight: the dual variable has to travel `weight`, the image a distance that does not depend on it.
# Measured over weight .002 to .5, keep .3 to 1, 28x28 to 224x224 (docs/decisions/0002-primal-dual-tv.md).
_STEP_RATIO: dict[Norm, float] = {1: 0.07, 2: 0.4, "isotropic": 0.07}
_BLOCK_BYTES = 1 << 17  # x, v, p, q of one block: stays in a core's L2 cache
_LANES_AT_MOST = 8
_PIXELS_PER_TASK = 1 << 16  # below this, handing work to another thread costs more than it saves


@dataclass(frozen=True, kw_only=True)
class TotalVariation(Defence):
    """Solve, for every channel x of every image, with a keyed Bernoulli mask m (1 = kept, 0 = free to change):

        min_z  ||m * (z - x)||_2  +  weight * TV(z)

    The data term is not squared: an exact penalty, so for a small weight kept pixels come back unchanged. A fixed number of
    primal-dual iterations is run, so the latency is constant; `defences/purifiers/total_variation_kernel.py` has the loop.

    Args:
        weight: lambda > 0. Its strength grows with the image: the data term is a norm over the whole plane, so the same
            look takes a weight proportional to 1 / sqrt(h * w).
        keep_probability: in (0, 1], the chance that a pixel is held to its value.
        norm: 1 is anisotropic TV, sum |differences|; 2 is the row and column group norm of the paper's formula as written and
            of ART; "isotropic" is the usual per-pixel length of the gradient.
        squared: use 1/2 ||m * (z - x)||^2 instead (Rudin, Osher & Fatemi 1992).
        iterations: >= 1, of the primal-dual algorithm.
        threads: how many threads share a batch; the result does not depend on it.

    Shapes: images float32 [n, h, w, c] in [0, 1] -> the same. Rows do not see each other.
    Cost: no model calls; microseconds per 28x28 image and core (`make bench`).
    Raises: InvalidParameter on construction.

    >>> purify = TotalVariation(weight=0.07)
    >>> purify(np.zeros((1, 28, 28, 1), np.float32), np.zeros(1, np.uint64)).shape
    (1, 28, 28, 1)
    """

    weight: float
    keep_probability: float = 1.0
    norm: Norm = 1
    squared: bool = False
    iterations: int = 10
    threads: int = 1

    name = "total_variation"
    record: ClassVar[DefenceRecord] = DefenceRecord(
        stage="purify",
        title="Total variation minimisation",
        summary="Smooths each image on the way in, so that faint perturbations are lost.",
        mitigations=("AML.M0010",),
        techniques=("AML.T0043", "AML.T0015"),
    )

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidParameter(f"total_variation: expected weight > 0, got {self.weight!r}; use mode off to switch it off")
        if not 0 < self.keep_probability <= 1:
            raise InvalidParameter(f"total_variation: expected keep_probability in (0, 1], got {self.keep_probability!r}")
        if self.norm not in _TV:
            raise InvalidParameter(f'total_variation: expected norm 1, 2 or "isotropic", got {self.norm!r}')
        if not isinstance(self.iterations, int) or self.iterations < 1:
            raise InvalidParameter(f"total_variation: expected whole iterations >= 1, got {self.iterations!r}")
        if self.threads < 1:
            raise InvalidParameter(f"total_variation: expected threads >= 1, got {self.threads!r}")

    def __call__(self, images: Images, keys: Keys) -> Images:
        # A read-only array has another type, for which the kernel would be compiled again while a client waits.
        images = np.require(images, np.float32, ["C", "W"])
        n, h, w, c = images.shape
        parts = max(1, min(self.threads, n * c * h * w // _PIXELS_PER_TASK))
        if parts == 1:
            return self._minimise(images, keys)
        work = zip(np.array_split(images, parts), np.array_split(keys, parts), strict=True)
        return np.concatenate(list(_pool(self.threads).map(lambda part: self._minimise(*part), work)))

    def masks(self, shape: tuple[int, int, int, int], keys: Keys) -> NDArray[np.float32]:
        """The masks [n, h, w, c] (1 = kept) that images of this shape get under these keys, for audits and attacks."""
        n, h, w, c = shape
        masks = kernel.keyed_masks(_plane_seeds(keys, c), (h, w), self.keep_probability)
        return np.ascontiguousarray(masks.reshape(n, c, h, w).transpose(0, 2, 3, 1))

    @classmethod
    def compile_kernels(cls) -> None:
        """The minimisation with and without a mask, and the masks."""
        images, keys = np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.uint64)
        for keep in (0.5, 1.0):
            purifier = cls(weight=0.1, keep_probability=keep)
            purifier(images, keys)
            purifier.masks(images.shape, keys)

    def _minimise(self, images: Images, keys: Keys) -> Images:
        _, h, w, c = images.shape
        lanes = max(1, min(_LANES_AT_MOST, _BLOCK_BYTES // (16 * h * w)))
        ratio = _STEP_RATIO[self.norm] / self.weight
        step = math.sqrt(_STEP_PRODUCT / _GRADIENT_NORM_SQUARED)
        purified: Images = kernel.minimise(
            images,
            _plane_seeds(keys, c) if self.keep_probability < 1 else keys,
            float(self.keep_probability),
            lanes,
            float(self.weight),
            step * ratio,
            step / ratio,
            self.iterations,
            _TV[self.norm],
            kernel.SQUARED if self.squared else kernel.NORM,
        )
        return purified


def _plane_seeds(keys: Keys, channels: int) -> Keys:
    """Independent seeds for the channels of an image: the golden-ratio counter of the masks must not run into a neighbour's."""
    offsets = np.arange(channels, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
    return (keys[:, None] + offsets).reshape(-1)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=min(threads, os.cpu_count() or 1), thread_name_prefix="total-variation")

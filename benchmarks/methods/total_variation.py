"""python -m benchmarks.methods.total_variation: time and objective against ART's TotalVarMin, at the same mask and weight."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.peers import alternate, photographs, table
from defences.purifiers.total_variation import TotalVariation
from models.classifier import Images
from models.datasets import MNIST, load_dataset

_SEED = 0
_ROUNDS = 5


@dataclass(frozen=True)
class Comparison:
    """Ours and ART's at one image size and setting: microseconds per image, and objectives."""

    shape: str
    keep: float
    weight: float
    ours_us: float
    art_us: float
    ours_objective: float
    art_objective: float


def objective(z: Images, x: Images, masks: NDArray[np.float32], weight: float) -> float:
    """The mean over images of the published objective, summed over channels, norm 1, in float64."""
    z64, x64 = z.astype(np.float64), x.astype(np.float64)
    data = np.sqrt((masks * (z64 - x64) ** 2).sum(axis=(1, 2)))
    variation = np.abs(np.diff(z64, axis=1)).sum(axis=(1, 2)) + np.abs(np.diff(z64, axis=2)).sum(axis=(1, 2))
    return float((data + weight * variation).sum(axis=1).mean())


def measure(threads: int) -> list[Comparison]:
    """Every comparison, in this process; the environment sets the number of BLAS threads."""
    digits = load_dataset(MNIST, split="test").images
    cells = []
    for images, art_count in ((digits[:2048], 32), (photographs(32, 512, _SEED), 12), (photographs(224, 8, _SEED), 2)):
        side = images.shape[1]
        # ART's defaults, and what the product serves with: no dropped pixels, the strongest weight of calibration.
        for keep, weight in ((0.3, 0.5), (1.0, round(2.0 / side, 4))):
            cells.append(_cell(images, art_count, keep, weight, threads))
    return cells


def _cell(images: Images, art_count: int, keep: float, weight: float, threads: int) -> Comparison:
    from art.defences.preprocessor import TotalVarMin

    keys = np.arange(len(images), dtype=np.uint64)
    ours = TotalVariation(weight=weight, keep_probability=keep, threads=threads)
    art = TotalVarMin(prob=keep, norm=1, lamb=weight, clip_values=(0.0, 1.0))
    few = images[:art_count]
    seconds = alternate([lambda: ours(images, keys), lambda: art(few)], _ROUNDS)
    masks = ours.masks(few.shape, keys[:art_count])
    with_our_mask = np.stack([art._minimize(image, mask) for image, mask in zip(few, masks, strict=True)])
    return Comparison(
        "x".join(map(str, images.shape[1:])),
        keep,
        weight,
        1e6 * seconds[0] / len(images),
        1e6 * seconds[1] / art_count,
        objective(ours(few, keys[:art_count]), few, masks, weight),
        objective(with_our_mask, few, masks, weight),
    )


def section() -> str:
    """The page's section, each thread setting measured in a process of its own."""
    parts = ["## Total variation\n"]
    parts.append(
        f"`python -m benchmarks.methods.total_variation`, MNIST test digits and crops of scikit-learn's two photographs, "
        f"seed {_SEED}, the "
        f"median of {_ROUNDS} alternating rounds. Ours runs its default 10 iterations, ART its default 10 L-BFGS iterations; the "
        "objective is the mean of the published one at the same mask and weight, lower is better. Microseconds per image.\n"
    )
    for threads, blas in ((1, "1"), (os.cpu_count() or 1, None)):
        where = (
            "One thread each (`OPENBLAS_NUM_THREADS=1`)"
            if blas
            else f"All {threads} cores (ours on {threads} threads, BLAS as it likes)"
        )
        rows = [
            (
                cell.shape,
                cell.keep,
                cell.weight,
                f"{cell.ours_us:.1f}",
                f"{cell.art_us:,.0f}",
                f"**{cell.art_us / cell.ours_us:.0f}x**",
                f"{cell.ours_objective:.2f}",
                f"{cell.art_objective:.2f}",
            )
            for cell in _in_own_process(threads, blas)
        ]
        header = ("image", "keep", "weight", "ours us", "ART us", "ratio", "our objective", "ART's objective")
        parts.append(f"{where}:\n\n{table(header, rows)}")
    return "\n".join(parts)


def _in_own_process(threads: int, blas: str | None) -> list[Comparison]:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if blas:
        environment["OPENBLAS_NUM_THREADS"] = blas
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.methods.total_variation", "--json", str(threads)]
    printed = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [Comparison(**cell) for cell in json.loads(printed.splitlines()[-1])]


if __name__ == "__main__":
    if "--json" in sys.argv:
        print(json.dumps([asdict(cell) for cell in measure(int(sys.argv[-1]))]))
    else:
        print(section())

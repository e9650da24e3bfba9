"""python -m hauberk.compile: compile the Numba kernels into their cache, so that the first start need not."""

from __future__ import annotations

from defences.table import DEFENCES
from service.formats.json_images import Admission


def compile_kernels() -> None:
    """Run every compiled function once on the types that serving uses."""
    for defence in DEFENCES.values():
        defence.compile_kernels()
    Admission((1, 1, 1), 1).warm_up()


if __name__ == "__main__":
    compile_kernels()

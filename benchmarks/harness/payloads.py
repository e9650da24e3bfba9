"""python -m benchmarks.harness.payloads: make loadtest/payloads.npz again, the images that load tests send.

MNIST's test digits, the same ones under the fast gradient method against the classifier of `mnist`, and with a trigger in the corner.
Load tests themselves import nothing of ours; this is where their file comes from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from attacks.attack import Goal
from attacks.backdoors.triggers import CornerPattern
from attacks.evasion.gradient import FastGradient
from benchmarks.harness.requests import to_bytes
from models.bundle import default_bundle_directory, read_bundle
from models.datasets import MNIST, load_dataset
from models.engines.keras import KerasClassifier

OUT = Path(__file__).parents[2] / "loadtest" / "payloads.npz"
EPS = 0.3
_IMAGES = 128


def make(out: Path, images: int = _IMAGES) -> None:
    """Write the file: three arrays of as many images, uint8 [n, 28, 28]."""
    data = load_dataset(MNIST, split="test")
    clean, victims, marked = (data.take(slice(first * images, (first + 1) * images)) for first in range(3))
    classifier = KerasClassifier.from_bundle(read_bundle(default_bundle_directory()), threads=1)
    attacked = FastGradient(eps=EPS)(classifier, victims.images, Goal(victims.labels.astype(np.int64)))
    found = {"clean": clean.images, "adversarial": attacked.images, "triggered": CornerPattern()(marked.images)}
    np.savez_compressed(out, **{name: to_bytes(each)[..., 0] for name, each in found.items()})  # type: ignore[arg-type]


def main() -> None:
    """Write the file that ships, or another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="default %(default)s")
    make(parser.parse_args().out)


if __name__ == "__main__":
    main()

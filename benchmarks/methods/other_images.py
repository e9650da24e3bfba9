"""python -m benchmarks.methods.other_images: what bundles answer to images that show no digit."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.harness.peers import table
from defences.assembly import load_bundle
from evaluation.statistics.intervals import share
from models.bundle import default_bundle_directory, standard_bundle_directory
from models.classifier import Images
from models.datasets import MNIST, load_dataset

_SEED, _IMAGES, _SIDE = 0, 200, 28
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"  # without those that are digits to the eye


def section() -> str:
    """The page's section."""
    rows = []
    for directory in (default_bundle_directory(), standard_bundle_directory()):
        defended = load_bundle(directory, secret=b"other images", threads=2)
        for name, images in sets().items():
            decisions = defended.classify(images)
            counts = np.bincount(decisions.labels[~decisions.abstained], minlength=10)
            most = f"{counts.argmax()} ({100 * counts.max() / len(images):.1f} %)" if counts.any() else ""
            rows.append([f"`{directory.name}`, {name}", f"{len(images)}", str(share(decisions.abstained)), most])
    header = ("bundle, images", "images", "refused, with its 95 % interval", "most frequent answer")
    return (
        "## Images of no class\n\n"
        f"`python -m benchmarks.methods.other_images`, every defence as the bundle declares it, seed {_SEED}. No defence looks for "
        "images that show nothing the classifier knows: what is refused was refused because its prediction did not change under "
        "overlays. Letters are drawn with Pillow's font, photographs are squares cut from the two that scikit-learn carries, inverted "
        f"digits and digits on their heads are test images.\n\n{table(header, rows)}"
    )


def sets() -> dict[str, Images]:
    """Images float32 [n, 28, 28, 1] in [0, 1] by what they show."""
    rng = np.random.default_rng(_SEED)
    digits = load_dataset(MNIST, split="test").take(slice(0, _IMAGES)).images
    shape = (_IMAGES, _SIDE, _SIDE, 1)
    return {
        "digits, for comparison": digits,
        "uniform noise": rng.random(shape, np.float32),
        "Gaussian noise around grey": np.clip(rng.normal(0.5, 0.25, shape), 0, 1).astype(np.float32),
        "blank: black, white and 30 greys": np.linspace(0, 1, 32, dtype=np.float32)[:, None, None, None]
        * np.ones((1, _SIDE, _SIDE, 1), np.float32),
        "inverted digits": 1 - digits,
        "digits on their heads": np.ascontiguousarray(digits[:, ::-1, ::-1]),
        "letters": _letters(rng),
        "photographs": _photographs(rng),
    }


def _letters(rng: np.random.Generator) -> Images:
    drawn = []
    for number in range(_IMAGES):
        picture = Image.new("L", (_SIDE, _SIDE))
        font = ImageFont.load_default(float(rng.uniform(18, 26)))
        at = (_SIDE / 2 + rng.uniform(-2, 2), _SIDE / 2 + rng.uniform(-2, 2))
        ImageDraw.Draw(picture).text(at, _LETTERS[number % len(_LETTERS)], fill=255, font=font, anchor="mm")
        drawn.append(np.asarray(picture, np.float32)[..., None] / 255)
    return np.stack(drawn)


def _photographs(rng: np.random.Generator) -> Images:
    from sklearn.datasets import load_sample_images

    cut = []
    for photograph in load_sample_images().images:
        grey = photograph.astype(np.float32).mean(axis=2) / 255
        for _ in range(_IMAGES // 2):
            side = int(rng.integers(_SIDE, 200))
            top, left = (int(rng.integers(0, length - side)) for length in grey.shape)
            square = Image.fromarray(np.rint(grey[top : top + side, left : left + side] * 255).astype(np.uint8))
            cut.append(np.asarray(square.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)[..., None] / 255)
    return np.stack(cut)


if __name__ == "__main__":
    print(section())

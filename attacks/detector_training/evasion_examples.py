"""Training examples of evasion detectors: adversarial images of one classifier, and harmless changes of the same size.

The harmless changes matter: a detector trained on adversarial and clean images alone learns to refuse noise, not attacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy.ndimage import gaussian_filter, shift

from attacks.attack import Attack, Goal, check_eps
from attacks.evasion.gradient import BasicIterative, FastGradient, ProjectedGradientDescent
from attacks.evasion.transfer import Relentless
from defences.keyed import image_keys
from defences.purifiers.total_variation import TotalVariation
from models.classifier import DifferentiableClassifier, Images
from models.datasets import Dataset

Kinds = dict[str, Images]
"""Kind of change -> images float32 [n, h, w, c] in [0, 1]."""

KINDS = 23
"""The number of kinds, clean images included."""

_STEPS = 20
_STRENGTHS = (1.0, 2 / 3, 1 / 3)
_DARKEST, _BRIGHTEST, _OFFSET = 0.6, 1.4, 0.15
_BLUR = (0.3, 1.0)  # standard deviation in pixels
_SHIFT = 1 / 14  # of the sides: two pixels of a digit
_PURIFIER = 2.0  # weight times sqrt(h * w), the strongest that calibration tries


def adversarial_examples(
    classifier: DifferentiableClassifier,
    data: Dataset,
    *,
    eps: float,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Kinds:
    """Adversarial images of an undefended classifier within eps (L-inf), by attack: FGM and PGD to their last step at eps, 2/3 eps and
    1/3 eps; PGD with a random restart, of which the better result counts, at eps and 2/3 eps; BIM and PGD up to the first success.

    Returns: one image per image of `data` and kind, successful or not.
    Cost: about 200 forward and backward passes per image. Raises: InvalidInput: eps not finite or not above 0.
    """
    check_eps(eps, "evasion examples")
    goal, attacks = Goal(data.labels), dict(_attacks(eps))
    found: Kinds = {}
    for number, (name, (attack, to_the_end)) in enumerate(attacks.items()):
        progress(number, len(attacks))
        target = Relentless(classifier) if to_the_end else classifier
        found[name] = attack(target, data.images, goal, seed=seed + number).images
    progress(len(attacks), len(attacks))
    return found


def _attacks(eps: float) -> Iterator[tuple[str, tuple[Attack, bool]]]:
    """(name, (attack, whether it continues after its first success))."""
    for strength in _STRENGTHS:
        yield f"fast_gradient {eps * strength:.3g}", (FastGradient(eps=eps * strength), True)
        yield (
            f"projected_gradient_descent {eps * strength:.3g}",
            (ProjectedGradientDescent(eps=eps * strength, iterations=_STEPS), True),
        )
    for strength in _STRENGTHS[:2]:
        restarted = ProjectedGradientDescent(eps=eps * strength, iterations=_STEPS, restarts=1)
        yield f"projected_gradient_descent {eps * strength:.3g}, random start", (restarted, True)
    yield f"basic_iterative {eps:.3g}, first success", (BasicIterative(eps=eps), False)
    small = ProjectedGradientDescent(eps=eps, iterations=_STEPS, step=eps / _STEPS)
    yield f"projected_gradient_descent {eps:.3g}, first success", (small, False)


def noise_examples(images: Images, *, eps: float, seed: int = 0) -> Kinds:
    """Images with noise of the size of an attack, clipped to [0, 1]: random signs, uniform and Gaussian noise in the L-inf ball of eps,
    Gaussian noise of L2 norm eps * sqrt(h w c); and each of the four scaled by a random factor in [0, 1) per image."""
    check_eps(eps, "noise examples")
    rng = np.random.default_rng(seed)
    found: Kinds = {}
    for strength in ("", ", weaker"):
        scale = rng.random((len(images), 1, 1, 1), np.float32) if strength else np.float32(1)
        for name, noise in _noises(images.shape, np.float32(eps), rng):
            found[name + strength] = np.clip(images + scale * noise, 0, 1)
    return found


def _noises(shape: tuple[int, ...], eps: np.float32, rng: np.random.Generator) -> Iterator[tuple[str, Images]]:
    yield "sign noise", np.where(rng.random(shape, np.float32) < 0.5, -eps, eps)
    yield "uniform noise", rng.random(shape, np.float32) * 2 * eps - eps
    yield "Gaussian noise", np.clip(rng.standard_normal(shape, np.float32) * (eps / 2), -eps, eps)
    normal = rng.standard_normal(shape, np.float32)
    length = np.sqrt(np.einsum("nhwc,nhwc->n", normal, normal))[:, None, None, None]
    yield "Gaussian noise, same L2", normal * (eps * np.float32(math.sqrt(np.prod(shape[1:]))) / length)


def harmless_examples(images: Images, *, seed: int = 0) -> Kinds:
    """Benign changes: purified, darker or brighter, blurred, and shifted by up to a fourteenth of the sides."""
    rng = np.random.default_rng(seed)
    n, (h, w) = len(images), images.shape[1:3]
    purifier = TotalVariation(weight=_PURIFIER / math.sqrt(h * w))
    gain = rng.uniform(_DARKEST, _BRIGHTEST, (n, 1, 1, 1)).astype(np.float32)
    offset = rng.uniform(-_OFFSET, _OFFSET, (n, 1, 1, 1)).astype(np.float32)
    blurs, moves = rng.uniform(*_BLUR, n), rng.uniform(-_SHIFT, _SHIFT, (n, 2)) * (h, w)
    blurred = [gaussian_filter(image, (sigma, sigma, 0)) for image, sigma in zip(images, blurs, strict=True)]
    moved = [shift(image, (*move, 0), order=1, mode="nearest") for image, move in zip(images, moves, strict=True)]
    return {
        "purified": purifier(images, image_keys(images, b"")),
        "brightness": np.clip(images * gain + offset, 0, 1),
        "blurred": np.stack(blurred).clip(0, 1) if n else images.copy(),
        "shifted": np.stack(moved).clip(0, 1) if n else images.copy(),
    }

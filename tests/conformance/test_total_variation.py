"""Total variation against a convex solver, and against ART at equal mask, weight and iterations."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from defences.keyed import image_keys
from defences.purifiers.total_variation import Norm, TotalVariation
from models.classifier import Images
from models.datasets import Dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ART remarks on the frameworks that are not installed
    from art.defences.preprocessor import TotalVarMin

Plane = NDArray[np.float64]
NORMS: tuple[Norm, ...] = (1, 2, "isotropic")


def variation(z: Plane, norm: Norm) -> float:
    """The three total variations of one plane, as their definitions say."""
    down, right = z[1:] - z[:-1], z[:, 1:] - z[:, :-1]
    if norm == 1:
        return float(np.abs(down).sum() + np.abs(right).sum())
    if norm == 2:
        return float(np.linalg.norm(down, axis=1).sum() + np.linalg.norm(right, axis=0).sum())
    return float(np.hypot(np.pad(down, ((0, 1), (0, 0))), np.pad(right, ((0, 0), (0, 1)))).sum())


def objective(z: Images, x: Images, mask: Images, defence: TotalVariation) -> float:
    """D(m * (z - x)) + weight * TV(z) of one image, in float64."""
    total = 0.0
    for channel in range(x.shape[2]):
        z_plane, x_plane, m = (array[..., channel].astype(np.float64) for array in (z, x, mask))
        distance = float(np.linalg.norm(m * (z_plane - x_plane)))
        total += distance**2 / 2 if defence.squared else distance
        total += defence.weight * variation(z_plane, defence.norm)
    return total


def objectives(z: Images, x: Images, masks: Images, defence: TotalVariation) -> NDArray[np.float64]:
    return np.array([objective(*triple, defence) for triple in zip(z, x, masks, strict=True)])


def solver_optimum(x: Plane, mask: Plane, defence: TotalVariation) -> float:
    """The same problem handed to an interior-point solver."""
    z: Any = cp.Variable(x.shape)
    change = cp.multiply(mask, z - x)
    data = cp.sum_squares(change) / 2 if defence.squared else cp.norm(cp.vec(change, order="C"), 2)
    down, right = z[1:] - z[:-1], z[:, 1:] - z[:, :-1]
    if defence.norm == 1:
        tv = cp.sum(cp.abs(down)) + cp.sum(cp.abs(right))
    elif defence.norm == 2:
        tv = cp.sum(cp.norm(down, 2, axis=1)) + cp.sum(cp.norm(right, 2, axis=0))
    else:
        h, w = x.shape
        padded = cp.vstack([down, np.zeros((1, w))]), cp.hstack([right, np.zeros((h, 1))])
        tv = cp.sum(cp.norm(cp.vstack([cp.vec(part, order="C") for part in padded]), 2, axis=0))
    problem = cp.Problem(cp.Minimize(data + defence.weight * tv))
    return float(problem.solve(solver="CLARABEL"))


@pytest.mark.parametrize("weight", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("keep", [1.0, 0.7])
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_many_iterations_reach_the_optimum_a_convex_solver_finds(norm: Norm, squared: bool, keep: float, weight: float) -> None:
    x = np.random.default_rng(3).random((2, 8, 8, 1), dtype=np.float32)
    keys = image_keys(x, b"conformance")
    defence = TotalVariation(weight=weight, norm=norm, squared=squared, keep_probability=keep, iterations=5000)
    masks = defence.masks(x.shape, keys)
    optima = [solver_optimum(x[i, ..., 0].astype(float), masks[i, ..., 0].astype(float), defence) for i in range(len(x))]
    np.testing.assert_allclose(objectives(defence(x, keys), x, masks, defence), optima, rtol=3e-5)


def test_oblong_colour_images_reach_the_optimum_channel_by_channel() -> None:
    x = np.random.default_rng(4).random((1, 5, 9, 3), dtype=np.float32)
    keys = image_keys(x, b"conformance")
    defence = TotalVariation(weight=0.2, keep_probability=0.7, iterations=5000)
    masks = defence.masks(x.shape, keys)
    planes = [(x[0, ..., c].astype(float), masks[0, ..., c].astype(float)) for c in range(3)]
    optimum = sum(solver_optimum(plane, mask, defence) for plane, mask in planes)
    assert objective(defence(x, keys)[0], x[0], masks[0], defence) == pytest.approx(optimum, rel=3e-5)


GRID = tuple(itertools.product((0.3, 0.5, 0.8, 1.0), (0.03, 0.05, 0.07, 0.1, 0.2, 0.5)))
# Where the image is all but optimal already, ART's line search fails and hands it back, while ten iterations of ours are still on
# their way to the optimum: the one cell of 96 in which they are above ART's (by 0.3 %), and by what share they may be.
ALMOST_OPTIMAL: dict[tuple[Norm, str, float, float], float] = {(1, "clean", 1.0, 0.05): 5e-3}
ROUNDING = 1e-5


@pytest.mark.parametrize("kind", ["clean", "noisy"])
@pytest.mark.parametrize("norm", [1, 2])
def test_ten_iterations_get_no_higher_than_those_of_art(norm: Norm, kind: str, digits: Dataset) -> None:
    x = digits.images[:60]
    if kind == "noisy":
        x = np.clip(x + np.random.default_rng(0).choice(np.array([-0.15, 0.15], np.float32), x.shape), 0, 1)
    keys = image_keys(x, b"conformance")
    for keep, weight in GRID:
        defence = TotalVariation(weight=weight, keep_probability=keep, norm=norm)
        masks = defence.masks(x.shape, keys)
        peer = TotalVarMin(prob=keep, norm=norm, lamb=weight, max_iter=defence.iterations)
        with threadpool_limits(1):  # several BLAS threads only slow ART down
            theirs = np.stack([peer._minimize(*pair) for pair in zip(x.astype(np.float64), masks.astype(int), strict=True)])
        ours = objectives(defence(x, keys), x, masks, defence).mean()
        allowed = ALMOST_OPTIMAL.get((norm, kind, keep, weight), ROUNDING)
        assert ours <= objectives(theirs, x, masks, defence).mean() * (1 + allowed), (keep, weight)


def test_twenty_iterations_beat_art_where_ten_do_not_yet(digits: Dataset) -> None:
    x = digits.images[100:200]
    keys, masks = image_keys(x, b"conformance"), np.ones_like(x)
    means = {
        n: objectives(TotalVariation(weight=0.05, iterations=n)(x, keys), x, masks, TotalVariation(weight=0.05)).mean()
        for n in (10, 20, 40)
    }
    as_it_is = objectives(x, x, masks, TotalVariation(weight=0.05)).mean()
    assert means[10] == pytest.approx(as_it_is, rel=5e-3)
    assert means[20] == pytest.approx(as_it_is, rel=5e-4)
    assert means[40] < as_it_is


@pytest.mark.parametrize("norm", NORMS)
def test_a_small_weight_leaves_kept_pixels_as_they_are(norm: Norm, digits: Dataset) -> None:
    x = digits.images[:20]
    keys = image_keys(x, b"conformance")
    defence = TotalVariation(weight=0.004, norm=norm, keep_probability=0.8)
    purified, masks = defence(x, keys), defence.masks(x.shape, keys)
    np.testing.assert_allclose(purified[masks == 1], x[masks == 1], rtol=0, atol=2e-7)
    assert np.abs(purified - x)[masks == 0].max() > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_a_great_weight_with_a_squared_data_term_turns_an_image_into_its_mean_grey(norm: Norm) -> None:
    x = np.random.default_rng(5).random((3, 6, 6, 1), dtype=np.float32)
    purified = TotalVariation(weight=50.0, norm=norm, iterations=3000, squared=True)(x, np.zeros(3, np.uint64))
    np.testing.assert_allclose(purified, np.broadcast_to(x.mean(axis=(1, 2), keepdims=True), x.shape), atol=2e-3)

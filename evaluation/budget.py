"""Budgets of an evaluation: one number for everything that costs time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The budget of one evaluation.

    Attributes:
        images: number of images attacked.
        benign_images: number of clean images, at most.
        steps, restarts: of projected gradient descent; restarts are runs after the first.
        draws: number of random secrets over which the adaptive attacker averages.
        queries: of Square and of HopSkipJump, per image.
        curve_points: number of radii of the success-versus-eps curves.
        surrogate_images, surrogate_epochs: of the transfer attacker's training.
        backdoors: kinds of backdoors.
        backdoor_images, backdoor_epochs: of the training of each poisoned copy; the images include the poisoned ones.
        extraction_budgets: numbers of queries allowed to the thief.
        optimisers: names of the optimisers of stolen copies.
        timed: number of single images whose latency is measured.
    """

    images: int
    benign_images: int
    steps: int
    restarts: int
    draws: int
    queries: int
    curve_points: int
    surrogate_images: int
    surrogate_epochs: int
    backdoors: tuple[str, ...]
    backdoor_images: int
    backdoor_epochs: int
    extraction_budgets: tuple[int, ...]
    optimisers: tuple[str, ...]
    timed: int


_BACKDOORS = ("corner_pattern", "blended", "all_to_all", "source_specific", "warped")

BUDGETS = {
    "quick": Budget(
        images=50,
        benign_images=500,
        steps=10,
        restarts=0,
        draws=2,
        queries=50,
        curve_points=4,
        surrogate_images=1000,
        surrogate_epochs=3,
        backdoors=("corner_pattern",),
        backdoor_images=2000,
        backdoor_epochs=6,
        extraction_budgets=(250,),
        optimisers=("adam",),
        timed=50,
    ),
    "standard": Budget(
        images=200,
        benign_images=2000,
        steps=40,
        restarts=1,
        draws=4,
        queries=500,
        curve_points=8,
        surrogate_images=4000,
        surrogate_epochs=6,
        backdoors=_BACKDOORS,
        backdoor_images=3000,
        backdoor_epochs=6,
        extraction_budgets=(250, 1000, 4000),
        optimisers=("sgd, as published", "adam"),
        timed=300,
    ),
    "full": Budget(
        images=1000,
        benign_images=10_000,
        steps=100,
        restarts=9,
        draws=10,
        queries=5000,
        curve_points=12,
        surrogate_images=10_000,
        surrogate_epochs=10,
        backdoors=(*_BACKDOORS, "single_pixel", "image_patch", "clean_label"),
        backdoor_images=5000,
        backdoor_epochs=8,
        extraction_budgets=(250, 500, 1000, 2000, 4000, 8000),
        optimisers=("sgd, as published", "adam"),
        timed=1000,
    ),
}

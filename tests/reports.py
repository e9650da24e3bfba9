"""An evaluation's report with made-up numbers: every section, every defence and every attack, as wide as a report can be."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

from evaluation.reporting.report import FORMAT, KNOWS, BenignRow, Cost, CurvePoint, EvasionRow, Latency, Report, WorstRow
from evaluation.reporting.verdict import Difference, Gain, Verdict, Worth
from evaluation.statistics.intervals import Share, share
from evaluation.tables.distrust import Check
from evaluation.tables.outcomes import robustness

DEFENCES = ("total_variation", "strip", "sentinet", "binary_input_detector", "binary_activation_detector", "reverse_sigmoid")
VARIANTS = ("none", *DEFENCES, "full stack")
RADII = (0.1, 0.3)
_IMAGES = 1000


def wide_report(seed: int = 0) -> Report:
    """The same report for the same seed."""
    rng = np.random.default_rng(seed)
    return Report(
        format=FORMAT,
        hauberk="0.0.0",
        created="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        bundle={
            "name": "a_bundle_with_a_rather_long_name",
            "version": "0123456789ab",
            "input_shape": [28, 28, 1],
            "classes": 10,
            "defences": dict.fromkeys(DEFENCES, "enforce"),
        },
        data={"file": "some_data.npz", "split": "test", "rows": "0:10000", "attacked": _IMAGES, "held": _IMAGES, "others": 1},
        budget={"name": "standard"},
        seed=seed,
        radii=list(RADII),
        left_out={"transfer": "needs 600 images besides those attacked and held back, got 100"},
        benign=[_benign(rng, variant) for variant in VARIANTS],
        evasion=[_evasion(rng, *case) for case in product(KNOWS, RADII, VARIANTS)],
        costs=[Cost(attack, eps, 12_345_678, 1_234_567) for attack, eps in product(KNOWS, RADII)],
        worst_case=[WorstRow(eps, variant, robustness(rng.integers(0, 3, _IMAGES))) for eps, variant in product(RADII, VARIANTS)],
        verdict=_verdict(),
        curves=[
            CurvePoint(eps, variant, kind, _share(rng), _share(rng))
            for eps, variant, kind in product((0.1, 0.2, 0.3), VARIANTS, ("noise", "oblivious", "adaptive"))
        ],
        backdoors=[_backdoor(rng, kind) for kind in ("corner_pattern", "blended_pattern", "warped")],
        extraction=[_extraction(rng, *case) for case in product(VARIANTS[-2:], ("probabilities", "labels"), (100, 10_000))],
        membership=[_membership(victim) for victim in ("none", "full stack")],
        checks=[
            Check("gradients are there", True, "0.0% of images have none"),
            Check("twice the iterations find no more", False, "robust accuracy 91.7% with 100 and 61.7% with 200 iterations"),
        ],
    )


def _verdict() -> Verdict:
    gains = [
        Gain("evasion at eps 0.1", 0.56, 0.25, Difference(0.31, 0.245, 0.377)),
        Gain("evasion at eps 0.3", 1.0, 1.0, Difference(0.0, -0.018, 0.018)),
        Gain("backdoor corner_pattern", 0.998, 0.012, Difference(0.986, 0.951, 0.999)),
    ]
    found = [Worth(one, gains, Difference(0.007, 0.001, 0.0131), 0.0065, 0.74, 17.5, True) for one in VARIANTS[1:]]
    return Verdict("All defences together cost 0.7 points of clean accuracy. " * 3, found, "it leaves out jsma, and other norms")


def _share(rng: np.random.Generator) -> Share:
    return share(rng.random(_IMAGES) < rng.random())


def _benign(rng: np.random.Generator, variant: str) -> BenignRow:
    return BenignRow(variant, _share(rng), _share(rng), _share(rng), 0.123, 18.5, Latency(12.34, 123.45))


def _evasion(rng: np.random.Generator, attack: str, eps: float, variant: str) -> EvasionRow:
    return EvasionRow(attack, KNOWS[attack], eps, variant, robustness(rng.integers(0, 3, _IMAGES)), 1.5)


def _backdoor(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    keys = ("success", "accuracy", "refused_triggered", "refused_clean", "answered")
    shares = {key: vars(_share(rng)) for key in keys}
    rates = [0.0, 0.01, 0.1, 1.0]
    detectors = [{"name": name, "mode": "enforce", **shares} for name in (*DEFENCES[1:5], "all together")]
    curve = {"fpr": rates, "tpr": rates, "band_low": rates, "band_high": rates}
    auroc = {"value": 0.987, "low": 0.98, "high": 0.99}
    return {"kind": kind, "strip_mode": "monitor", "auroc": auroc, "curve": curve, "detectors": detectors, **shares}


def _extraction(rng: np.random.Generator, victim: str, thief: str, budget: int) -> dict[str, Any]:
    shares = {key: float(rng.random()) for key in ("refused", "accuracy", "agreement")}
    return {"victim": victim, "thief": thief, "optimiser": "sgd, as published", "budget": budget, **shares}


def _membership(victim: str) -> dict[str, Any]:
    found = {"auc": 0.55, "auc_error": 0.01, "advantage": 0.1, "tpr_at_1_fpr": 0.02}
    return {"victim": victim, "attack": "learned from half the members", **found}

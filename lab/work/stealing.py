"""The task "steal": copies of the classifier by thieves who may ask so often, with and without what blurs its answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from attacks.extraction.copycat_cnn import OPTIMISERS
from attacks.extraction.thief import THIEVES
from defences.defended_classifier import DefendedClassifier
from evaluation.tables.extraction import extraction_curve
from lab.errors import Refused
from lab.offered import STOLEN_QUERIES, steal_budget
from lab.work.attacking import armoured
from lab.work.brought import Bring, Brought
from lab.work.loop import Asked
from models.classifier import Classifier
from models.datasets import Dataset

_JUDGED_ON = 500
_FEWEST = 300
_OPTIMISER = "adam"
_OPEN_HANDED, _AGAINST_BLUR = ("probabilities", "labels"), ("probabilities", "labels", "looked up")


def steal(bring: Bring, request: Asked) -> dict[str, Any]:
    """The share of images on which each copy answers as the classifier does, by queries, thief and victim."""
    budgets = STOLEN_QUERIES[steal_budget(request.options)]
    brought = bring(request.subject, request.progress)
    pool, test = _divided(brought)
    asked = [queries for queries in budgets if queries <= len(pool)]
    victims = _victims(brought)
    rows: list[dict[str, Any]] = []
    copies = len(asked) * sum(len(thieves) for _, thieves in victims.values())
    for name, (victim, thieves) in victims.items():

        def progress(what: str, done: int, of: int, *, before: int = len(rows)) -> None:
            if what == "copies":
                request.progress("training copies", before + done, copies)

        found = extraction_curve(
            victim,
            pool.images,
            test,
            budgets=asked,
            thieves={thief: THIEVES[thief] for thief in thieves},
            optimisers={_OPTIMISER: OPTIMISERS[_OPTIMISER]},
            undefended=brought.classifier,
            progress=progress,
        )
        rows += [{"victim": name, **asdict(row)} for row in found]
    return {"rows": rows, "pool": len(pool), "judged_on": len(test), "left_out": [one for one in budgets if one not in asked]}


def _victims(brought: Brought) -> Mapping[str, tuple[Classifier, tuple[str, ...]]]:
    """The classifier, and where it came in a bundle: behind its postprocessors alone, and as it is served; with who steals it."""
    victims: dict[str, tuple[Classifier, tuple[str, ...]]] = {"no defence": (brought.classifier, _OPEN_HANDED)}
    served = armoured(brought)
    if served is not None:
        if served.postprocessors:
            blurred = DefendedClassifier(brought.classifier, postprocessors=served.postprocessors)
            victims["reverse sigmoid"] = (blurred, _AGAINST_BLUR)
        victims["as served"] = (served, _AGAINST_BLUR)
    return victims


def _divided(brought: Brought) -> tuple[Dataset, Dataset]:
    """The thief's images, and those that copies are judged on. Raises: Refused: too few."""
    data, most = brought.data, max(STOLEN_QUERIES["thorough"])
    if len(data) < _FEWEST:
        raise Refused("", f"expected at least {_FEWEST} images, for thieves and to judge on, got {len(data)}")
    judged = min(_JUDGED_ON, len(data) // 3)
    order = np.random.default_rng(0).permutation(len(data))
    of_thief, others = np.sort(order[judged : judged + most]), np.sort(order[:judged])
    return Dataset(data.images[of_thief], data.labels[of_thief]), Dataset(data.images[others], data.labels[others])

"""The task "backdoors": copies of the classifier with backdoors in them, and what detectors make of the triggers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from attacks.backdoors.kinds import Backdoor, backdoors
from defences.calibration.fits import fits_of
from defences.detectors.patch_cleanser import PatchCleanser
from evaluation.tables.backdoors import BackdoorBudget, BackdoorRow, backdoor_rows
from evaluation.tables.stand_ins import answer_to_backdoors
from lab.errors import Refused
from lab.offered import BACKDOORS, PoisonedCopies
from lab.work.attacking import armoured
from lab.work.brought import Bring, Brought, about, named
from lab.work.loop import Asked
from lab.work.pictures import amplified, write_png
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.engines.twins.capabilities import Capabilities, trainable
from models.image_rows import Samples

_FEWEST = 800
_HELD_OUT, _TEST, _TRIGGERED = (330, 1500), (200, 500), 250
_RATE = 0.01


def backdoored_copies(bring: Bring, request: Asked) -> dict[str, Any]:
    """For each kind of backdoor how well it works in a copy, and how much of it is refused.

    Raises: Refused: a classifier that cannot be copied, too few images.
    """
    chosen = PoisonedCopies.from_form(request.options)
    brought = bring(request.subject, request.progress)
    classifier = _trainable(brought)
    data, held_out, test = _divided(brought.data, chosen.images)
    with about("kinds"):
        known = backdoors(classifier)
    kinds = [kind for kind in chosen.kinds if kind in known]
    served = armoured(brought)
    detectors = {} if served is None else {step.defence.name: step.defence for step in served.detectors}
    masks = detectors.get(PatchCleanser.name)
    rows: list[dict[str, Any]] = []

    def progress(what: str, done: int, of: int) -> None:
        if what.startswith("backdoor "):
            title = BACKDOORS[what.removeprefix("backdoor ")]
            request.progress(f"training a copy: {title}", len(rows) * of + done, len(kinds) * of)

    with about("kinds"):
        found = backdoor_rows(
            classifier,
            data,
            held_out,
            test,
            kinds=kinds,
            preprocessors=() if served is None else served.preprocessors,
            fits=fits_of(detectors.keys() & answer_to_backdoors()),
            patch=masks.patch if isinstance(masks, PatchCleanser) else None,
            rate=_RATE,
            budget=BackdoorBudget(training=len(data), held_out=len(held_out), clean=len(test), triggered=_TRIGGERED),
            progress=progress,
        )
        names: tuple[str, ...] = ()
        for row in found:
            names = tuple(one.name for one in row.detectors[:-1])
            rows.append({**_shortened(row), **_example(known[row.kind], row.kind, test, brought, request)})
    return {
        "rows": rows,
        "detectors": names,
        "rate": _RATE,
        "trained_on": len(data),
        "test": len(test),
        "left_out": {kind: "needs more classes than there are" for kind in chosen.kinds if kind not in known},
    }


def _trainable(brought: Brought) -> KerasClassifier:
    found = trainable(brought.able)
    if found is None:
        engine = Capabilities.of(brought.classifier).engine
        raise Refused(
            "kinds", f"this trains copies of the model, and a model that is {engine} cannot be trained; bring the Keras model"
        )
    return found


def _divided(data: Samples, trained_on: int) -> tuple[Dataset, Dataset, Dataset]:
    """Images to train on, to calibrate on, and to measure on. Raises: Refused: too few."""
    if len(data) < _FEWEST:
        raise Refused("trained_on", f"expected at least {_FEWEST} images that were brought, got {len(data)}")
    order = np.random.default_rng(0).permutation(len(data))
    (least_held, most_held), (least_test, most_test) = _HELD_OUT, _TEST
    test = max(least_test, min(most_test, len(data) // 5))
    held = max(least_held, min(most_held, len(data) // 3))
    parts = np.split(order[: test + held + trained_on], [test, test + held])
    measured, calibrated, trained = (Dataset(data.images[np.sort(rows)], data.labels[np.sort(rows)]) for rows in parts)
    return trained, calibrated, measured


def _shortened(row: BackdoorRow) -> dict[str, Any]:
    together = row.detectors[-1]
    return {
        "kind": row.kind,
        "before": asdict(row.success_before),
        "works": asdict(row.success),
        "purified": asdict(row.success_purified),
        "refused_triggered": asdict(together.refused_triggered),
        "refused_clean": asdict(together.refused_clean),
        "answered": asdict(row.answered),
        "accuracy": asdict(row.accuracy),
        "seconds": round(row.seconds, 1),
    }


def _example(backdoor: Backdoor, kind: str, test: Dataset, brought: Brought, request: Asked) -> dict[str, Any]:
    """The trigger on the first image that it attacks."""
    at = int(np.flatnonzero(backdoor.labels.attacks(test.labels))[0])
    before, stem = test.images[at : at + 1], f"trigger-{kind}"
    after = backdoor.trigger(before)
    for what, image in (("before", before[0]), ("change", amplified(after[0] - before[0])[0]), ("after", after[0])):
        write_png(image, request.out / f"{stem}-{what}.png")
    names = brought.classifier.labels
    label, called = int(test.labels[at]), int(backdoor.labels.called(test.labels[at : at + 1])[0])
    return {"stem": stem, "label": named(names, label), "called": named(names, called)}

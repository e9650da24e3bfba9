"""The tasks "attack", of a set of images, and "one", of a single image at once."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from attacks.attack import Adversarial, Goal
from attacks.backdoors.kinds import backdoors
from defences.assembly import assemble
from defences.defended_classifier import DefendedClassifier
from evaluation.statistics.intervals import share
from evaluation.tables.outcomes import RIGHT, WRONG, Outcomes, outcomes
from lab.errors import Refused
from lab.offered import ATTACKS, BUDGETS, TRIGGERS, AttackChoice, AttackedSet
from lab.work.attacks import BUILT, LOOKS, Build
from lab.work.brought import Bring, Brought, about, named
from lab.work.loop import Asked
from lab.work.pictures import amplified, for_page, write_png
from lab.work.reading import chosen_rows
from models.classifier import Classifier, Images, Probabilities
from models.datasets import Dataset
from models.machine import processors

_AT_ONCE = 25
_SHOWN = 8
_CLASSES_SHOWN = 10
SECRET = b"the lab's own"


def attack_set(bring: Bring, request: Asked) -> dict[str, Any]:
    """Every chosen attack at a quarter to the whole of the strength, on the undefended classifier; and what the bundle's defences make of
    the same images, where there is one."""
    chosen = AttackedSet.from_form(request.options)
    brought = bring(request.subject, request.progress)
    rows = np.array(chosen_rows(brought, min(chosen.images, len(brought.data))))
    data = Dataset(brought.data.images[rows], brought.data.labels[rows])
    plan = [(name, eps) for name in chosen.attacks for eps in (chosen.radii if ATTACKS[name].strength else (None,))]
    steps = _Steps(request, len(plan) * -(-len(data) // _AT_ONCE))
    defended = armoured(brought)
    lines = [_line(brought, defended, data, name, eps, chosen, steps) for name, eps in plan]
    return {
        "images": len(data),
        "clean": asdict(share(outcomes(brought.classifier, data.images, data.labels) == RIGHT)),
        "clean_defended": None if defended is None else asdict(share(outcomes(defended, data.images, data.labels) == RIGHT)),
        "choice": chosen.as_json(),
        "lines": [line for line, _ in lines],
        "examples": _examples(
            brought, data, dict(zip([name for name, _ in plan], [found for _, found in lines], strict=True)), request
        ),
        "worst": _worst(lines, data),
    }


def attack_one(bring: Bring, request: Asked) -> dict[str, Any]:
    """One image under one attack: pictures and answers before and after."""
    chosen, brought, began = (
        AttackChoice.from_form(request.options),
        bring(request.subject, request.progress),
        time.perf_counter(),
    )
    image, label = image_of(brought, chosen.image)
    found = look(brought, chosen, image, label)
    return {
        **shown_change(brought, image[0], found.images[0]),
        "label": named(brought.classifier.labels, label),
        "queries": int(found.queries[0]),
        "gradients": int(found.gradients[0]),
        "images": len(brought.data),
        "ms": round(1000 * (time.perf_counter() - began), 1),
    }


def image_of(brought: Brought, row: int) -> tuple[Images, int]:
    """A row of the data [1, h, w, c] and its label. Raises: Refused: there is none."""
    if row >= len(brought.data):
        raise Refused("image", f"expected a number below {len(brought.data):,}, the number of images")
    return brought.data.images[row : row + 1], int(brought.data.labels[row])


def look(brought: Brought, chosen: AttackChoice, image: Images, label: int) -> Adversarial:
    """One image under the attack, at once: a slow attack takes the steps of a quick look. Raises: Refused, as `run`."""
    built = {**BUILT, **LOOKS}
    return run(brought, chosen.attack, chosen.strength, chosen.budget, image, np.array([label]), built=built)


def run(
    brought: Brought,
    name: str,
    strength: float | None,
    budget: str,
    images: Images,
    labels: np.ndarray[Any, Any],
    *,
    built: Mapping[str, Build] = BUILT,
) -> Adversarial:
    """The attack on the undefended classifier. Raises: Refused: it needs gradients that are not there, or other images."""
    if name in TRIGGERS:
        return _triggered(brought, name, images)
    attacked: Classifier = brought.differentiable("attack") if ATTACKS[name].follows_gradients else brought.classifier
    attack = built[name](strength or 0.0, BUDGETS[budget], brought.classifier.input_shape)
    return attack(attacked, images, Goal(labels), seed=0)


def _triggered(brought: Brought, kind: str, images: Images) -> Adversarial:
    """The images with a trigger on them, which asks the classifier nothing. Raises: Refused: images too small, too few classes."""
    with about("attack"):
        known = backdoors(brought.classifier)  # type: ignore[arg-type]  # its gradients serve to poison, not to trigger
        changed = np.asarray(known[kind].trigger(images), np.float32)
    none = np.zeros(len(images), np.int64)
    return Adversarial(changed, none.astype(bool), none, none)


def armoured(brought: Brought) -> DefendedClassifier | None:
    """The classifier behind its bundle's defences, as they are served."""
    if brought.bundle is None:
        return None
    return assemble(brought.bundle, brought.classifier, secret=SECRET, threads=processors())


def shown_change(brought: Brought, before: Images, after: Images) -> dict[str, Any]:
    """Two images, their difference amplified, and what the classifier says of each."""
    difference = after - before
    shown, times = amplified(difference)
    answers = brought.classifier.predict(np.stack([before, after]))
    return {
        "before": for_page(before),
        "after": for_page(after),
        "change": for_page(shown),
        "amplified": round(times, 1),
        "linf": round(float(np.abs(difference).max(initial=0.0)), 4),
        "l2": round(float(np.sqrt((difference.astype(np.float64) ** 2).sum())), 3),
        "says_before": told(brought.classifier, answers[0]),
        "says_after": told(brought.classifier, answers[1]),
    }


def told(classifier: Classifier, row: Probabilities) -> list[dict[str, Any]]:
    """The most probable classes, the first first."""
    order = np.argsort(-row, kind="stable")[:_CLASSES_SHOWN]
    return [{"class": named(classifier.labels, int(at)), "probability": round(float(row[at]), 4)} for at in order]


class _Steps:
    """Counts what is done of all attacks."""

    def __init__(self, request: Asked, of: int) -> None:
        self._request, self._of, self._done = request, of, 0

    def add(self, what: str) -> None:
        self._done += 1
        self._request.progress(what, self._done, self._of)


def _line(
    brought: Brought,
    defended: DefendedClassifier | None,
    data: Dataset,
    name: str,
    eps: float | None,
    chosen: AttackedSet,
    steps: _Steps,
) -> tuple[dict[str, Any], Adversarial]:
    """One attack at one strength, on blocks of images."""
    began, parts = time.perf_counter(), []
    for start in range(0, len(data), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        parts.append(run(brought, name, eps, chosen.budget, data.images[block], data.labels[block]))
        steps.add(ATTACKS[name].title)
    found = Adversarial(
        *(np.concatenate([getattr(part, field) for part in parts]) for field in ("images", "success", "queries", "gradients"))
    )
    change = (found.images - data.images).reshape(len(data), -1).astype(np.float64)
    line = {
        "attack": name,
        "eps": eps,
        "right": asdict(share(outcomes(brought.classifier, found.images, data.labels) == RIGHT)),
        "mean_l2": round(float(np.sqrt((change**2).sum(axis=1)).mean()), 3),
        "mean_linf": round(float(np.abs(change).max(axis=1).mean()), 4),
        "queries": round(float(found.queries.mean()), 1),
        "gradients": round(float(found.gradients.mean()), 1),
        "seconds": round(time.perf_counter() - began, 1),
        "defended": None if defended is None else _defended(outcomes(defended, found.images, data.labels)),
    }
    return line, found


def _defended(found: Outcomes) -> dict[str, Any]:
    return {
        "right": asdict(share(found == RIGHT)),
        "wrong": asdict(share(found == WRONG)),
        "refused": asdict(share((found != RIGHT) & (found != WRONG))),
    }


def _worst(lines: list[tuple[dict[str, Any], Adversarial]], data: Dataset) -> dict[str, Any] | None:
    """In one sentence's numbers: the attack with a strength that leaves fewest right, at the smallest strength that does."""
    with_strength = [line for line, _ in lines if line["eps"] is not None]
    if not with_strength:
        return None
    least = min(with_strength, key=lambda line: (line["right"]["hits"], line["eps"]))
    return {"attack": least["attack"], "eps": least["eps"], "right": least["right"]}


def _examples(brought: Brought, data: Dataset, last: dict[str, Adversarial], request: Asked) -> list[dict[str, Any]]:
    """Some images of each attack at its full strength: before, change, after."""
    found, names = [], brought.classifier.labels
    for attack, adversarial in last.items():
        answers = (
            brought.classifier.predict(data.images).argmax(axis=1),
            brought.classifier.predict(adversarial.images).argmax(axis=1),
        )
        fooled = np.flatnonzero((answers[0] == data.labels) & (answers[1] != data.labels))
        others = np.setdiff1d(np.arange(len(data)), fooled)
        for number, at in enumerate(np.concatenate([fooled, others])[: _SHOWN if len(last) == 1 else math.ceil(_SHOWN / 2)]):
            stem = f"{attack.replace('_', '-')}-{number}"
            change, times = amplified(adversarial.images[at] - data.images[at])
            for what, image in (("before", data.images[at]), ("change", change), ("after", adversarial.images[at])):
                write_png(image, request.out / f"{stem}-{what}.png")
            said = [named(names, int(one[at])) for one in answers]
            found.append({"attack": attack, "stem": stem, "amplified": round(times, 1), "before": said[0], "after": said[1]})
    return found

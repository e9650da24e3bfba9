"""The task "armour": one image on its way through the defences, stage by stage, with their parameters where the sliders put them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from defences.assembly import assemble
from defences.defence import Defence
from defences.defended_classifier import DefendedClassifier, Step
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from lab.errors import Refused
from lab.offered import ONE_IMAGE, PARAMETERS, Armour, AttackChoice, text
from lab.work.attacking import SECRET, image_of, look, shown_change, told
from lab.work.brought import WITHOUT_DEFENCES, Bring, Brought, about, named
from lab.work.loop import Asked
from lab.work.pictures import amplified, for_page
from models.classifier import Images
from models.machine import processors

NO_ATTACK = "none"
_OVERLAYS_SHOWN = 24
_SENTINET_OVERLAYS = 2


def armour_one(bring: Bring, request: Asked) -> dict[str, Any]:
    """What each stage makes of an image, attacked or not, and what a client would get."""
    began, armour = time.perf_counter(), Armour.from_form(request.options)
    brought = bring(request.subject, request.progress)
    image, label, attacked = _image(brought, request.options)
    defended = armoured_as(brought, armour)
    keys = defended.keys(image)
    purified = image
    for step in defended.preprocessors:
        purified = step.defence(purified, keys)
    change, times = amplified(purified[0] - image[0])
    raw = brought.classifier.predict(purified)
    decided = defended.classify(image)
    return {
        "attacked": attacked,
        "label": named(brought.classifier.labels, label),
        "image": for_page(image[0]),
        "purified": for_page(purified[0]),
        "purified_change": for_page(change),
        "amplified": round(times, 1),
        "purifies": bool(defended.preprocessors),
        "undefended": told(brought.classifier, brought.classifier.predict(image)[0]),
        "raw": told(brought.classifier, raw[0]),
        "returned": None if decided.abstained[0] else told(brought.classifier, decided.probabilities[0]),
        "refused": bool(decided.abstained[0]),
        "detections": [
            {"name": one.name, "refuses": bool(one.abstained[0]), "score": _finite(one.scores[0]), "calls": int(one.calls[0])}
            for one in decided.trace.detections
        ],
        "strip": _strip(defended, brought, image, int(raw[0].argmax())),
        "sentinet": _sentinet(defended, brought, image),
        "model_calls": decided.trace.model_calls,
        "parameters": parameters_of(brought),
        "ms": round(1000 * (time.perf_counter() - began), 1),
    }


def armoured_as(brought: Brought, armour: Armour) -> DefendedClassifier:
    """The classifier behind those of its bundle's defences that are on. Raises: Refused: there is no bundle."""
    whole = _whole(brought)
    kinds = {}
    for kind in ("preprocessors", "detectors", "postprocessors"):
        steps = [step.defence for step in getattr(whole, kind) if step.defence.name in armour.on]
        kinds[kind] = [Step(_moved(defence, armour.parameters)) for defence in steps]
    return DefendedClassifier(brought.classifier, **kinds, secret=SECRET)


def parameters_of(brought: Brought) -> dict[str, float]:
    """What the sliders stand at when nobody has moved them: the bundle's own."""
    whole = _whole(brought)
    defences = {
        step.defence.name: step.defence for kind in (whole.preprocessors, whole.detectors, whole.postprocessors) for step in kind
    }
    found = {}
    for name in PARAMETERS:
        defence, _, parameter = name.partition(".")
        if defence in defences and np.isfinite(value := float(getattr(defences[defence], parameter))):
            found[name] = value
    return found


def _whole(brought: Brought) -> DefendedClassifier:
    """Every defence of the bundle, enforced."""
    if brought.bundle is None:
        raise Refused("", WITHOUT_DEFENCES)
    modes = {one["name"]: "enforce" for one in brought.bundle.settings["defences"]}
    return assemble(brought.bundle, brought.classifier, secret=SECRET, modes=modes, threads=processors())  # type: ignore[arg-type]


def _moved(defence: Defence, parameters: Mapping[str, float]) -> Any:
    own = {name.partition(".")[2]: value for name, value in parameters.items() if name.partition(".")[0] == defence.name}
    known = {one.name for one in fields(defence) if one.init}
    with about(next(iter(own), "")):
        if isinstance(defence, Strip) and own.get("threshold", 0.0) > defence.ceiling > 0:
            own["ceiling"] = own["threshold"]  # which is a bound of the calibrated one
        return replace(defence, **{name: value for name, value in own.items() if name in known}) if own else defence


def _image(brought: Brought, options: Mapping[str, Any]) -> tuple[Images, int, dict[str, Any] | None]:
    """The image, attacked on the undefended classifier where an attack is chosen; its label; and what the attack changed."""
    if text(options, "attack") == NO_ATTACK:
        image, label = image_of(brought, AttackChoice.from_form({**options, "attack": "fgm", "strength": 0.1}).image)
        return image, label, None
    chosen = AttackChoice.from_form(options)
    image, label = image_of(brought, chosen.image)
    found = look(brought, chosen, image, label)
    return found.images, label, {"title": ONE_IMAGE[chosen.attack].title, **shown_change(brought, image[0], found.images[0])}


def _strip(defended: DefendedClassifier, brought: Brought, image: Images, answer: int) -> dict[str, Any] | None:
    """The overlays in this image's order, what each leaves of the answer, and the threshold of their mean."""
    strip = next((step.defence for step in defended.detectors if isinstance(step.defence, Strip)), None)
    if strip is None:
        return None
    under = strip.superimpose(image, strip.orders(defended.keys(image)))
    outputs = brought.classifier.predict(under)
    scores = strip.change_of(outputs, np.full(len(under), answer))
    return {
        "unit": "bits" if strip.statistic == "entropy" else "of change",
        "threshold": _finite(strip.threshold),
        "mean": round(float(scores.mean()), 4),
        "overlays": [
            {
                "image": for_page(one),
                "score": round(float(score), 4),
                "answer": named(brought.classifier.labels, int(row.argmax())),
            }
            for one, score, row in zip(under[:_OVERLAYS_SHOWN], scores, outputs, strict=False)
        ],
        "count": len(under),
    }


def _sentinet(defended: DefendedClassifier, brought: Brought, image: Images) -> dict[str, Any] | None:
    """How much each window of the image makes other images of its class: a heat map, [h, w] in [0, 1]."""
    found = next((step.defence for step in defended.detectors if isinstance(step.defence, SentiNet)), None)
    if found is None:
        return None
    answer = int(brought.classifier.predict(image)[0].argmax())
    others = np.flatnonzero(found.overlay_labels != answer)[:_SENTINET_OVERLAYS]
    windows = np.arange(sum(4**level for level in range(1, len(found.sides) + 1)))
    rows = found.transplant(
        image, np.zeros(len(windows) * len(others), np.int64), np.tile(others, len(windows)), np.repeat(windows, len(others))
    )
    pull = brought.classifier.predict(rows)[:, answer].reshape(len(windows), len(others)).mean(axis=1)
    heat = np.where(found.inside(windows)[..., 0], pull[:, None, None], 0.0).max(axis=0)
    return {
        "heat": for_page(np.asarray(heat[..., None], np.float32)),
        "threshold": _finite(found.threshold),
        "windows": len(windows),
    }


def _finite(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None

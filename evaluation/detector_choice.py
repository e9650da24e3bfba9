"""Which detectors a classifier needs: tried on backdoors of our own making, planted in copies of it.

No detector sees every kind of trigger, and which ones it sees depends on the classifier and its images. So the classifier is copied, the
copies are trained on a few kinds of poison, every detector is fitted to them as it would be to the classifier, and the set of detectors
and the budgets are taken that catch most (`defences/calibration/budgets.py`). The triggers are drawn from a seed: nothing is promised
about those of somebody else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.backdoors.kinds import Backdoor, backdoors
from defences.calibration.budgets import Trial, chosen_budgets
from defences.calibration.conformal import conformal_threshold
from defences.calibration.effort import Effort, Task, estimate
from defences.calibration.fits import fits_of, fittable
from defences.calibration.layer_disagreement import images_wanted
from defences.calibration.split import Terms, split
from defences.calibration.thresholds import FittedDetector
from defences.defended_classifier import DefendedClassifier, Detector, Step
from defences.detectors.layer_disagreement import LayerDisagreement
from defences.errors import CannotBeFitted
from models.accuracy import drawn
from models.classifier import Classifier, Images
from models.datasets import Dataset, in_memory
from models.engines.keras import KerasClassifier
from models.errors import InvalidInput
from models.image_rows import Samples
from models.progress import Progress, silent
from models.speed import seconds_per_call
from models.training.fine_tuning import fine_tune

AUTO = "auto"
"""Asks for this choice in place of names."""

CALLS_AT_MOST = 8.0
"""Of a clean image on average, for all detectors: nine rows with its own."""

USUAL = ("strip", "layer_disagreement")
"""Taken, as far as they fit, where nothing can be tried."""

CANDIDATES = (*USUAL, "badexpert")
"""Those that are tried: SentiNet alone takes most of nine rows."""

KINDS = ("source_specific", "image_patch", "warped", "blended", "all_to_all", "clean_label")
"""Of the backdoors that are tried, in this order while there is time."""

_IMAGES_AT_LEAST, _IMAGES_AT_MOST = 1500, 10_000
_NUMBERS_AT_MOST = 1 << 28  # a gigabyte of float32
_POISONED, _HELD = 0.45, 0.35  # of the clean images; the others get triggers
_FITS = ("overlays", "threshold", "windows", "held windows")
_LONGEST, _AT_ONCE_S = 2.0, 30.0  # trials are not begun that would take so many times their time, of half a minute at least
_TRIALS_AT_LEAST = 2
_TRAINED_ON, _TRIGGERED = 4000, 300
_WORKS, _WORKING_AT_LEAST = 0.5, 20
_EPOCHS, _STEP, _BATCH = 6, 4e-3, 32
_EFFORT = Effort(candidates=64, rated_images=64, overlay_trials=1, overlays=16, choosing_images=1000)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Detectors, in the order of the data path, and why these.

    Attributes:
        budgets: of the rate, by detector; none for equal ones.
        alone, together: the share of triggered images caught, by trigger; `alone` by trigger and detector, with all of the rate for it.
        calls: by detector, mean model calls of a clean image.
        said: what was not done, one phrase each.
        seconds: that it took.
    """

    detectors: tuple[str, ...]
    budgets: Mapping[str, float] | None = None
    alone: Mapping[str, Mapping[str, float]]
    together: Mapping[str, float]
    calls: Mapping[str, float]
    said: tuple[str, ...] = ()
    seconds: float = 0.0

    def card(self) -> dict[str, Any]:
        """The bundle's entry."""
        return {
            "detectors": list(self.detectors),
            "budgets": None if self.budgets is None else dict(self.budgets),
            "caught": {trigger: {**self.alone[trigger], "together": share} for trigger, share in self.together.items()},
            "mean_calls": dict(self.calls),
            "said": list(self.said),
        }

    def told(self) -> list[str]:
        """Lines for people: a table of what is caught, and what was not done."""
        lines = []
        if self.together:
            names = list(self.calls)
            head = f"  {'tried on own triggers':<22}" + "".join(f"{name:>20}" for name in (*names, "chosen together"))
            lines = [head, *(self._line(trigger, names) for trigger in self.together)]
        shares = "" if self.budgets is None else " (of the rate " + self._shares() + ")"
        return [*lines, f"  detectors: {', '.join(self.detectors)}{shares}", *(f"  {text}" for text in self.said)]

    def _line(self, trigger: str, names: Sequence[str]) -> str:
        shares = [*(self.alone[trigger][name] for name in names), self.together[trigger]]
        return f"  {trigger.replace('_', ' '):<22}" + "".join(f"{100 * share:>18.0f} %" for share in shares)

    def _shares(self) -> str:
        budgets = self.budgets or {}
        return ", ".join(f"{name} {100 * budgets[name]:.0f} %" for name in self.detectors)


@dataclass(frozen=True, kw_only=True)
class ChoiceTerms:
    """The terms of a choice.

    Args:
        rate: of clean images that all detectors together may refuse.
        within_s: seconds that the trials may take; two are finished in any case.
        calls_at_most: model calls of a clean image for all detectors.
        image_s: seconds that a clean image may take on average, its own call among them; they may allow fewer calls.
        candidates: names of the detectors that are tried; what cannot be fitted is left out.
        seed: of triggers, poison and fits.
    """

    rate: float = 0.01
    within_s: float = 180.0
    calls_at_most: float = CALLS_AT_MOST
    image_s: float | None = None
    candidates: tuple[str, ...] = CANDIDATES
    seed: int = 0
    progress: Progress = silent


def usual_detectors() -> tuple[str, ...]:
    """Those that are taken where nothing can be tried, whatever the classifier."""
    return tuple(name for name in fittable() if name in USUAL)


def choose_detectors(classifier: Classifier, clean: Samples, terms: ChoiceTerms) -> Choice:
    """Choose detectors for a classifier by trials on copies of it.

    Args:
        clean: labelled images that it was not trained on.

    A detector that would only monitor, for want of images, is left out.

    Cost: per kind, six epochs on a half of the clean images, at most 4,000, and the fits of all candidates with less effort.
    """
    began = time.monotonic()
    wanted, said = images_wanted(len(np.unique(clean.labels))), list[str]()
    if len(clean) < wanted:
        name = LayerDisagreement.name
        terms = replace(terms, candidates=tuple(one for one in terms.candidates if one != name))
        said = [f"{name} is left out: it would only monitor, and enforce with {wanted:,} images, got {len(clean):,}"]
    why = _untried(classifier, clean, terms)
    if why or not isinstance(classifier, KerasClassifier):
        return _usual(terms, f"no triggers of our own were tried: {why}", *said)
    trials = _Trials(classifier, in_memory(clean.take(drawn(len(clean), at_most=_most(clean)))), terms, said=said)
    kinds = _kinds(classifier)
    for number, kind in enumerate(kinds):
        terms.progress("detectors", number, len(kinds))
        done, spent_s = len(trials.found), time.monotonic() - began
        if done >= _TRIALS_AT_LEAST and spent_s * (done + 1) / done > terms.within_s:
            trials.said.append(f"not tried for want of time (--minutes): {kind.replace('_', ' ')}")
        else:
            trials.add(kind)
    terms.progress("detectors", len(kinds), len(kinds))
    if len(trials.found) < _TRIALS_AT_LEAST:
        return _usual(terms, "no set was chosen by trials: fewer than two backdoors could be planted in copies", *trials.said)
    return _chosen(trials, time.monotonic() - began)


def _untried(classifier: Classifier, clean: Samples, terms: ChoiceTerms) -> str:
    """Why nothing can be tried; "" where it can."""
    if not isinstance(classifier, KerasClassifier):
        return "copies of this model cannot be trained, only those of Keras models can"
    if _most(clean) < _IMAGES_AT_LEAST:
        return f"that takes {_IMAGES_AT_LEAST:,} clean images, got {len(clean):,}{_of_them(clean)}"
    seconds = _TRIALS_AT_LEAST * _calls(_most(clean), terms) * seconds_per_call(classifier)
    if seconds > _LONGEST * max(terms.within_s, _AT_ONCE_S):
        return f"two of them would take about {seconds / 60:.0f} minutes on this machine (--minutes)"
    return ""


def _most(clean: Samples) -> int:
    """How many clean images are looked at: as many as fit into a bounded part of memory as float32."""
    return min(len(clean), _IMAGES_AT_MOST, _NUMBERS_AT_MOST // int(np.prod(clean.images.shape[1:])))


def _of_them(clean: Samples) -> str:
    return "" if _most(clean) == len(clean) else f", of which {_most(clean):,} fit into memory"


def _calls(images: int, terms: ChoiceTerms) -> int:
    """Model calls of a trial on so many images, about: a step of training is one forward and one backward, twice as long."""
    task = Task(clean=int(_HELD * images), test=0, needed=0, detectors=terms.candidates)
    fits = estimate(_EFFORT, task).calls
    return int(3 * _EPOCHS * min(_TRAINED_ON, _POISONED * images)) + sum(fits.get(part, 0) for part in _FITS)


def _usual(terms: ChoiceTerms, *said: str) -> Choice:
    """The usual ones of the candidates, and why these."""
    detectors = tuple(name for name in usual_detectors() if name in terms.candidates)
    return Choice(detectors=detectors, alone={}, together={}, calls={}, said=said)


def _kinds(classifier: KerasClassifier) -> tuple[str, ...]:
    known = backdoors(classifier, source=0)
    return tuple(kind for kind in KINDS if kind in known)


@dataclass
class _Trials:
    """The trials so far, the mean model calls in each by detector, and what has to be said of them."""

    classifier: KerasClassifier
    clean: Dataset
    terms: ChoiceTerms
    found: list[Trial] = field(default_factory=list)
    calls: list[Mapping[str, float]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    cannot: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str) -> None:
        """Plant this kind of backdoor in a copy, and fit all detectors to it."""
        terms, rng = self.terms, np.random.default_rng([self.terms.seed, KINDS.index(kind)])
        present = np.flatnonzero(np.bincount(self.clean.labels, minlength=len(self.classifier.labels)))
        source, target = rng.choice(present, 2, replace=False).tolist()
        backdoor = backdoors(self.classifier, source=source, target=target, seed=terms.seed)[kind]
        own, held, others = _thirds(self.clean, rng)
        try:
            poisoned = backdoor.poison(own, seed=terms.seed).data
            copy = fine_tune(self.classifier, poisoned, epochs=_EPOCHS, learning_rate=_STEP, batch_size=_BATCH, seed=terms.seed)
            images = _working(copy, backdoor, others)
        except InvalidInput as reason:  # images too small for the trigger, a model that cannot be copied
            self.said.append(f"not tried: {kind.replace('_', ' ')}: {reason}")
            return
        if len(images) < _WORKING_AT_LEAST:
            self.said.append(f"tells nothing: {kind.replace('_', ' ')}, which could not be planted in a copy")
            return
        fitted = self._fitted(copy, held)
        thresholds = {one.name: conformal_threshold(one.holding, terms.rate) for one in fitted}
        self.found.append(
            Trial(
                trigger=kind,
                choosing={one.name: one.choosing for one in fitted},
                holding={one.name: one.holding for one in fitted},
                triggered={one.name: _scores(copy, one.at(thresholds[one.name]), images) for one in fitted},
            )
        )
        self.calls.append({one.name: one.mean_calls(thresholds[one.name]) for one in fitted})

    def calls_at_most(self) -> float:
        """Model calls of a clean image that the detectors may take."""
        terms = self.terms
        if terms.image_s is None:
            return terms.calls_at_most
        return min(terms.calls_at_most, terms.image_s / seconds_per_call(self.classifier) - 1)

    def _fitted(self, copy: KerasClassifier, held: Dataset) -> list[FittedDetector]:
        rate, seed = self.terms.rate, self.terms.seed
        parts = split(held, rate=rate, confidence=None, seed=seed, choosing_at_most=_EFFORT.choosing_images)
        found = []
        for name, fit in fits_of(name for name in self.terms.candidates if name in fittable()).items():
            try:
                found.append(fit(copy, parts, Terms(rate=rate, seed=seed, effort=_EFFORT)))
            except CannotBeFitted as reason:
                self.cannot[name] = str(reason)
        return found


def _thirds(clean: Dataset, rng: np.random.Generator) -> tuple[Dataset, Dataset, Dataset]:
    """Clean images to poison, to calibrate on, and to put triggers on."""
    order = rng.permutation(len(clean))
    first, second = int(_POISONED * len(clean)), int((_POISONED + _HELD) * len(clean))
    return clean.take(order[:first][:_TRAINED_ON]), clean.take(order[first:second]), clean.take(order[second:])


def _working(copy: KerasClassifier, backdoor: Backdoor, others: Dataset) -> Images:
    """Triggered images that the copy answers as its attacker wants: none where the trigger works in less than half of them."""
    victims = others.take(np.flatnonzero(backdoor.labels.attacks(others.labels))[:_TRIGGERED])
    images = backdoor.trigger(victims.images)
    works = copy.predict(images).argmax(axis=1) == backdoor.labels.called(victims.labels)
    return images[works] if works.any() and works.mean() >= _WORKS else images[:0]


def _scores(copy: KerasClassifier, detector: Detector, images: Images) -> NDArray[np.float64]:
    """Scores as far as the detector refuses with all of the rate; infinite above, where early exits leave them open."""
    (detection,) = DefendedClassifier(copy, detectors=[Step(detector, "monitor")]).classify(images).trace.detections
    return np.where(detection.abstained, detection.scores, np.inf)


def _chosen(trials: _Trials, seconds: float) -> Choice:
    rate, found = trials.terms.rate, trials.found
    names = tuple(name for name in found[0].triggered if name not in trials.cannot)
    calls = {name: float(np.mean([cost[name] for cost in trials.calls])) for name in names}
    comparable = [trial.of(names) for trial in found]
    shared = chosen_budgets(comparable, rate, calls=calls, calls_at_most=max(trials.calls_at_most(), min(calls.values())))
    chosen = tuple(name for name in names if shared.budgets[name] > 0)
    return Choice(
        detectors=chosen,
        budgets={name: shared.budgets[name] for name in chosen} if len(chosen) > 1 else None,
        alone={trial.trigger: {name: trial.caught({name: 1.0}, rate) for name in names} for trial in comparable},
        together=shared.caught,
        calls=calls,
        said=(*trials.said, *(f"{name} is left out: {reason}" for name, reason in trials.cannot.items())),
        seconds=seconds,
    )

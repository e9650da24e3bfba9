"""Fit PatchCleanser to a classifier on clean data: the colour of its masks on one part of it; what it costs and proves, on the other.

It has no threshold that a rate could set: an answer that a mask changes is refused, or else nothing is proven. So its refusals are not a
part of the rate that other detectors share. They have a bound of their own, `COST_AT_MOST` of clean accuracy, beyond which it only
monitors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from defences.calibration.split import CalibrationSplit, Terms, rows_per_forward
from defences.calibration.thresholds import FittedDetector, Fixed
from defences.detectors.mask_set import check_patch, mean_colour
from defences.detectors.patch_cleanser import LEAD, PatchCleanser
from defences.errors import InvalidInput
from models.classifier import Classifier, Labels
from models.image_rows import ImageRows, Samples, answers_for
from models.progress import CountedSteps

COST_AT_MOST = 0.02
"""The share of clean images which is answered rightly without it that it may refuse."""

GREY = 0.5


@dataclass(frozen=True)
class MaskColour:
    """A colour of the masks, measured on clean images.

    Attributes:
        name: "mean" of the data, or "grey".
        colour: a value in [0, 1] for each channel.
        certified, refused, lost: see `MaskedShares`.
    """

    name: str
    colour: tuple[float, ...]
    certified: float
    refused: float
    lost: float


@dataclass(frozen=True)
class MaskedShares:
    """What masks do to clean images, as shares of all of them.

    Attributes:
        certified: whose right label the classifier gives under every mask, so that a patch leaves it, or is refused.
        refused: whose answer some mask changes.
        lost: refused, though the answer is right.
    """

    images: int
    certified: float
    refused: float
    lost: float


def fit_patch_cleanser(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """Choose the colour that keeps most right answers on one part of the data, and measure cost and proof on the other.

    The answers are the classifier's own, to images that are not purified. Behind a purifier some of them differ, and are refused.

    Cost: 19 model calls per image of the first part, 10 per held image.
    Raises: InvalidInput: no patch size, or one that the images are too small for.
    """
    if terms.patch is None:
        raise InvalidInput("expected the size of the patches (--patch), as in 5x5, for the detector patch_cleanser, got none")
    check_patch(terms.patch, parts.choosing.images.shape[1:])
    colours = {"mean": mean_colour(parts.choosing.images), "grey": (GREY,) * parts.choosing.images.shape[3]}
    drafts = {name: PatchCleanser(patch=terms.patch, colour=colour) for name, colour in colours.items()}
    labels = answers_for(classifier, parts.choosing.images)
    done = CountedSteps(terms.progress, "masks", len(drafts) * len(parts.choosing) + len(parts.holding))
    scores = {name: _scores(draft, classifier, parts.choosing.images, labels, done) for name, draft in drafts.items()}
    trials = [MaskColour(name, colours[name], *_shares_of(found, labels, parts.choosing)) for name, found in scores.items()]
    best = min(trials, key=lambda trial: trial.lost)
    chosen = drafts[best.name]
    answers = answers_for(classifier, parts.holding.images)
    held = _scores(chosen, classifier, parts.holding.images, answers, done)
    done.end()
    shares = MaskedShares(len(held), *_shares_of(held, answers, parts.holding))
    return FittedDetector(
        name=chosen.name,
        settings=chosen.settings(),
        arrays={"colour": np.array(chosen.colour)},
        card={**asdict(shares), "cost_at_most": COST_AT_MOST, "colours": [asdict(trial) for trial in trials]},
        choosing=scores[best.name],
        holding=held,
        at=lambda threshold: chosen,
        mean_calls=lambda threshold: float(chosen.calls_at_most),
        lowest=-1.0,
        summary=f"{chosen.in_words()}, {best.name}",
        fixed=Fixed(LEAD, "enforce" if shares.lost <= COST_AT_MOST else "monitor", _reason(shares, terms.patch)),
    )


def _scores(
    detector: PatchCleanser, classifier: Classifier, images: ImageRows, labels: Labels, done: CountedSteps | None = None
) -> NDArray[np.float64]:
    """The score of every image, whose answers are `labels`."""
    at_once = max(1, rows_per_forward(images) // detector.calls_at_most)
    found = [np.empty(0)]
    for start in range(0, len(images), at_once):
        block = slice(start, start + at_once)
        some = images[block]
        found.append(detector.scores(classifier.predict(detector.under_masks(some)), labels[block]))
        if done is not None:
            done.add(len(some))
    return np.concatenate(found)


def certified(detector: PatchCleanser, classifier: Classifier, data: Samples) -> NDArray[np.bool_]:
    """Whether the classifier gives each image its right label under every mask: bool [n]. Cost: nine model calls per image."""
    found: NDArray[np.bool_] = _scores(detector, classifier, data.images, data.labels) > LEAD
    return found


def _shares_of(scores: NDArray[np.float64], answers: Labels, data: Samples) -> tuple[float, float, float]:
    """Certified, refused and lost, see `MaskedShares`."""
    right, refused = answers == data.labels, scores <= LEAD
    return float((right & ~refused).mean()), float(refused.mean()), float((right & refused).mean())


def _reason(shares: MaskedShares, patch: tuple[int, int]) -> str:
    size = f"{patch[0]}x{patch[1]}"
    found = (
        f"{100 * shares.certified:.1f} % of {shares.images:,} held images are certified: a patch of up to {size} anywhere leaves their "
        f"right answer or is refused; refuses {100 * shares.refused:.1f} % of them"
    )
    if shares.lost <= COST_AT_MOST:
        return f"{found}, {100 * shares.lost:.1f} % that would be answered rightly"
    return (
        f"{found}, {100 * shares.lost:.1f} % that would be answered rightly, more than {100 * COST_AT_MOST:g} %, so it only monitors; "
        f"train the classifier on masked images: hauberk train --masked --patch {size}"
    )

"""Fit PatchCleanser to a classifier on clean data: the colour of its masks on one part of it; what it costs and proves, on the other.

It has no threshold that a rate could set: an answer that its masks do not agree with is refused, or else nothing is proven. So its
refusals are not a part of the rate that other detectors share. They have a bound of their own, `COST_AT_MOST` of clean accuracy, beyond
which it only monitors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from defences.calibration.split import CalibrationSplit, Terms, rows_per_forward
from defences.calibration.thresholds import FittedDetector, Fixed
from defences.detectors.mask_set import LEVELS, MASKS, check_patch, mean_colour
from defences.detectors.patch_cleanser import LEAD, PatchCleanser, leads
from defences.errors import InvalidInput
from models.classifier import Classifier, Labels
from models.image_rows import ImageRows, Samples, answers_for
from models.progress import CountedSteps

COST_AT_MOST = 0.02
"""The share of clean images which is answered rightly without it that it may refuse."""

GREY = 0.5


_CERTIFIED_ON = 500  # images at most: it takes 189 model calls of each that agrees under the nine masks


@dataclass(frozen=True)
class MaskedShares:
    """What masks do to clean images, as shares of all of them.

    Attributes:
        certified: whose right label the classifier gives under every mask of all sizes: a patch leaves it, or is refused. Of so many
            images, the first `certified_of`.
        refused: whose answer is not upheld.
        lost: refused, though the answer is right.
        mean_calls: model calls.
    """

    images: int
    certified: float
    certified_of: int
    refused: float
    lost: float
    mean_calls: float


def fit_patch_cleanser(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """Choose the colour under which most right answers stay on one part of the data, and measure cost and proof on the other.

    The answers are the classifier's own, to images that are not purified. Behind a purifier some of them differ, and are refused.

    Cost: 19 model calls per image of the first part, about 12 per held image, and 180 more for each of 500 of these.
    Raises: InvalidInput: no patch size, or one that the images are too small for.
    """
    if terms.patch is None:
        raise InvalidInput("expected the size of the patches (--patch), as in 5x5, for the detector patch_cleanser, got none")
    check_patch(terms.patch, parts.choosing.images.shape[1:])
    colours = {"mean": mean_colour(parts.choosing.images), "grey": (GREY,) * parts.choosing.images.shape[3]}
    drafts = {name: PatchCleanser(patch=terms.patch, colour=colour) for name, colour in colours.items()}
    certified_of = min(_CERTIFIED_ON, len(parts.holding))
    done = CountedSteps(terms.progress, "masks", len(drafts) * len(parts.choosing) + len(parts.holding) + certified_of)
    labels = parts.choosing.labels
    tried = {name: _leads(draft, classifier, parts.choosing.images, labels, MASKS, done) for name, draft in drafts.items()}
    stays = {name: float((found > LEAD).all(axis=1).mean()) for name, found in tried.items()}
    best = max(stays, key=lambda name: stays[name])
    chosen, held = drafts[best], parts.holding
    scores, calls = _decisions(chosen, classifier, held.images, done)
    proven = certified(chosen, classifier, held.take(slice(0, certified_of)), done)
    done.end()
    right, refused = answers_for(classifier, held.images) == held.labels, scores <= LEAD
    lost, mean_calls = float((right & refused).mean()), float(calls.mean())
    shares = MaskedShares(len(held), float(proven.mean()), certified_of, float(refused.mean()), lost, mean_calls)
    return FittedDetector(
        name=chosen.name,
        settings=chosen.settings(),
        arrays={"colour": np.array(chosen.colour)},
        card={
            **asdict(shares),
            "cost_at_most": COST_AT_MOST,
            "colours": [
                {"name": name, "colour": list(colours[name]), "right_under_nine": share} for name, share in stays.items()
            ],
        },
        choosing=tried[best].min(axis=1),
        holding=scores,
        at=lambda threshold: chosen,
        mean_calls=lambda threshold: mean_calls,
        lowest=-1.0,
        summary=f"{chosen.in_words()}, {best}",
        fixed=Fixed(LEAD, "enforce" if lost <= COST_AT_MOST else "monitor", _reason(shares, terms.patch)),
    )


def certified(
    detector: PatchCleanser, classifier: Classifier, data: Samples, done: CountedSteps | None = None
) -> NDArray[np.bool_]:
    """Whether the classifier gives each image its right label under every mask of all sizes: bool [n].

    Cost: nine model calls per image, and 180 for each that passes these.
    """
    found = (_leads(detector, classifier, data.images, data.labels, MASKS) > LEAD).all(axis=1)
    passed = data.take(np.flatnonzero(found))
    smaller = _leads(detector, classifier, passed.images, passed.labels, sum(LEVELS), first=MASKS)
    found[found] = (smaller > LEAD).all(axis=1)
    if done is not None:
        done.add(len(data))
    return found


def _leads(
    detector: PatchCleanser,
    classifier: Classifier,
    images: ImageRows,
    labels: Labels,
    last: int,
    done: CountedSteps | None = None,
    *,
    first: int = 0,
) -> NDArray[np.float64]:
    """The leads of these labels under masks `first` to `last`: float64 [n, m]."""
    masks = last - first
    at_once, found = max(1, rows_per_forward(images) // masks), [np.empty((0, masks))]
    for start in range(0, len(images), at_once):
        some, own = images[start : start + at_once], labels[start : start + at_once]
        outputs = classifier.predict(detector.under_masks(some, first=first, last=last))
        found.append(leads(outputs, np.repeat(own, masks)).reshape(len(some), masks))
        if done is not None:
            done.add(len(some))
    return np.concatenate(found)


def _decisions(
    detector: PatchCleanser, classifier: Classifier, images: ImageRows, done: CountedSteps
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The detector's own scores and model calls."""
    at_once, scores, calls = max(1, rows_per_forward(images) // MASKS), [np.empty(0)], [np.empty(0, np.int64)]
    for start in range(0, len(images), at_once):
        some = images[start : start + at_once]
        answers, session = classifier.predict(some), detector.begin(some, np.zeros(len(some), np.uint64))
        while session.undecided.size:
            session.decide(classifier.predict(session.probe()), answers)
        scores.append(session.scores)
        calls.append(session.calls)
        done.add(len(some))
    return np.concatenate(scores), np.concatenate(calls)


def _reason(shares: MaskedShares, patch: tuple[int, int]) -> str:
    size = f"{patch[0]}x{patch[1]}"
    found = (
        f"{100 * shares.certified:.1f} % of {shares.certified_of:,} held images are certified: a patch of up to {size} anywhere leaves "
        f"their right answer or is refused; of {shares.images:,} it refuses {100 * shares.refused:.1f} %"
    )
    if shares.lost <= COST_AT_MOST:
        return f"{found}, {100 * shares.lost:.1f} % that would be answered rightly"
    return (
        f"{found}, {100 * shares.lost:.1f} % that would be answered rightly, more than {100 * COST_AT_MOST:g} %, so it only monitors; "
        f"train the classifier on masked images: hauberk train --masked --patch {size}"
    )

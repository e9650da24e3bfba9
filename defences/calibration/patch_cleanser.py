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
from defences.detectors.mask_set import MASKS, PARTS, check_patch, mean_colour
from defences.detectors.patch_cleanser import LEAD, PatchCleanser, leads
from defences.errors import InvalidInput
from models.classifier import Classifier, Labels
from models.image_rows import ImageRows, Samples, answers_for
from models.progress import CountedSteps

COST_AT_MOST = 0.02
"""The share of clean images which is answered rightly without it that it may refuse."""

GREY = 0.5


@dataclass(frozen=True)
class MaskedShares:
    """What masks do to clean images, as shares of all of them.

    Attributes:
        certified: whose right label the classifier gives under every mask and every part of one: a patch leaves it, or is refused.
        refused: whose answer no mask and its parts uphold.
        lost: refused, though the answer is right.
        mean_calls: model calls.
    """

    images: int
    certified: float
    refused: float
    lost: float
    mean_calls: float


@dataclass(frozen=True)
class _Leads:
    """The leads of labels under the nine masks [n, 9], and under the parts of each [n, 9, 4]."""

    masks: NDArray[np.float64]
    parts: NDArray[np.float64]

    @property
    def certified(self) -> NDArray[np.bool_]:
        agree: NDArray[np.bool_] = (self.masks > LEAD).all(axis=1) & (self.parts > LEAD).all(axis=(1, 2))
        return agree

    @property
    def scores(self) -> NDArray[np.float64]:
        """As the detector's session gives them."""
        least: NDArray[np.float64] = np.where(self.masks > LEAD, self.masks, self.parts.min(axis=2)).min(axis=1)
        return least

    @property
    def calls(self) -> NDArray[np.int64]:
        calls: NDArray[np.int64] = MASKS + PARTS * (self.masks <= LEAD).sum(axis=1)
        return calls


def fit_patch_cleanser(classifier: Classifier, parts: CalibrationSplit, terms: Terms) -> FittedDetector:
    """Choose the colour that keeps most right answers on one part of the data, and measure cost and proof on the other.

    The answers are the classifier's own, to images that are not purified. Behind a purifier some of them differ, and are refused.

    Cost: 91 model calls per image of the first part, 46 per held image.
    Raises: InvalidInput: no patch size, or one that the images are too small for.
    """
    if terms.patch is None:
        raise InvalidInput("expected the size of the patches (--patch), as in 5x5, for the detector patch_cleanser, got none")
    check_patch(terms.patch, parts.choosing.images.shape[1:])
    colours = {"mean": mean_colour(parts.choosing.images), "grey": (GREY,) * parts.choosing.images.shape[3]}
    drafts = {name: PatchCleanser(patch=terms.patch, colour=colour) for name, colour in colours.items()}
    answers, held = (answers_for(classifier, some.images) for some in (parts.choosing, parts.holding))
    done = CountedSteps(terms.progress, "masks", len(drafts) * len(parts.choosing) + len(parts.holding))
    tried = {name: leads_of(draft, classifier, parts.choosing.images, answers, done) for name, draft in drafts.items()}
    trials = {name: _shares(found, answers, parts.choosing) for name, found in tried.items()}
    best = min(trials, key=lambda name: trials[name].lost)
    found = leads_of(drafts[best], classifier, parts.holding.images, held, done)
    done.end()
    shares, chosen = _shares(found, held, parts.holding), drafts[best]
    return FittedDetector(
        name=chosen.name,
        settings=chosen.settings(),
        arrays={"colour": np.array(chosen.colour)},
        card={
            **asdict(shares),
            "cost_at_most": COST_AT_MOST,
            "colours": [{"name": name, "colour": list(colours[name]), **asdict(trial)} for name, trial in trials.items()],
        },
        choosing=tried[best].scores,
        holding=found.scores,
        at=lambda threshold: chosen,
        mean_calls=lambda threshold: shares.mean_calls,
        lowest=-1.0,
        summary=f"{chosen.in_words()}, {best}",
        fixed=Fixed(LEAD, "enforce" if shares.lost <= COST_AT_MOST else "monitor", _reason(shares, terms.patch)),
    )


def leads_of(
    detector: PatchCleanser, classifier: Classifier, images: ImageRows, labels: Labels, done: CountedSteps | None = None
) -> _Leads:
    """The leads of these labels under all masks and parts, whether or not the detector would look at them."""
    at_once = max(1, rows_per_forward(images) // (MASKS * PARTS))
    found: list[list[NDArray[np.float64]]] = [[np.empty((0, MASKS))], [np.empty((0, MASKS * PARTS))]]
    for start in range(0, len(images), at_once):
        some, own = images[start : start + at_once], labels[start : start + at_once]
        for level, parts in enumerate((False, True)):
            rows = detector.under_masks(some, parts=parts)
            masks = len(rows) // len(some)
            found[level].append(leads(classifier.predict(rows), np.repeat(own, masks)).reshape(len(some), masks))
        if done is not None:
            done.add(len(some))
    masked, divided = (np.concatenate(level) for level in found)
    return _Leads(masked, divided.reshape(-1, MASKS, PARTS))


def _shares(found: _Leads, answers: Labels, data: Samples) -> MaskedShares:
    right, refused = answers == data.labels, found.scores <= LEAD
    shares = ((right & found.certified).mean(), refused.mean(), (right & refused).mean(), found.calls.mean())
    return MaskedShares(len(data), *map(float, shares))


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

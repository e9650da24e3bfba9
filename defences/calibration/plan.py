"""What a calibration shall do, as a value that is checked before the work: which detectors, on which terms, within which time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from defences.calibration.effort import FULL, Effort, Task
from defences.calibration.fits import check_fittable, check_patch_is_asked_for, fits_of, images_to_choose_on
from defences.calibration.split import EVASION_EPS, CalibrationSplit, Purify, Terms, images_needed, split, unpurified
from defences.calibration.work import Work, check_budgets, work_of
from defences.detectors.mask_set import check_patch
from defences.detectors.patch_cleanser import PatchCleanser
from defences.errors import InvalidInput
from models.accuracy import Judgement, judge
from models.classifier import Classifier
from models.datasets import IN_MEMORY, Origin, digest_of
from models.engines.twins.twin_file import TwinGiven, check_twin
from models.image_rows import Samples
from models.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """What is fitted, and what it promises.

    Args:
        detectors: names of those to fit, see `defences.calibration.fits.fittable`; all share one rate.
        budgets: how they share it, by detector (`joint_thresholds`); equally when none.
        choice: for the card, how detectors and budgets were chosen, where that was not up to the caller.
        false_abstention_rate: of clean images that all detectors together may refuse.
        confidence: keep that rate with this confidence, and not on average over calibrations only.
        evasion_eps: size (L-inf) of the attacks that detectors of evasion are trained on.
        seed: of the split, the overlays and their order.
        threads: of the purifier; all processors when none.
        gradients: a twin of a classifier that has no gradients of its own, for the detectors that learn from attacks; or its file.
        test: other labelled images, to measure on.
        minutes: that the calibration may take; what would take longer is left out, see `effort`. No bound when none.
        image_s: seconds that a clean image may take on average, which chooses among the ways to lay over; five overlays when none.
        effort: the most that is looked at.
        accuracy: of the bare classifier on the clean images, where it was judged before, as the command line does; judged here when none.
        spent_s: of the minutes, before the calibration began: the command line opens the classifier and tries readings in them.
        patch: rows and columns of the largest patch that the detector patch_cleanser shall cover; given with that detector only.
        origin: where the clean data came from, for the bundle's card, and `data_sha256` of that file; that of the arrays when none.

    Raises: InvalidInput: a detector that cannot be fitted, or one twice, a size that is none, a patch without its detector or the
    detector without a patch.
    """

    detectors: tuple[str, ...] = ("strip",)
    budgets: Mapping[str, float] | None = None
    choice: Mapping[str, Any] | None = None
    false_abstention_rate: float = 0.01
    confidence: float | None = None
    evasion_eps: float = EVASION_EPS
    seed: int = 0
    threads: int | None = None
    gradients: TwinGiven | None = None
    test: Samples | None = None
    minutes: float | None = None
    image_s: float | None = None
    effort: Effort = FULL
    accuracy: Judgement | None = None
    spent_s: float = 0.0
    patch: tuple[int, int] | None = None
    origin: Origin = IN_MEMORY
    data_sha256: str | None = None

    def __post_init__(self) -> None:
        check_fittable(self.detectors)
        check_budgets(self.minutes, self.image_s)
        sharing = [name for name in self.detectors if name != PatchCleanser.name]
        if self.budgets is not None and set(self.budgets) != set(sharing):
            raise InvalidInput(f"expected a budget of each of {', '.join(sharing)}, got {', '.join(self.budgets)}")
        check_patch_is_asked_for(self.detectors, self.patch)
        self.terms(silent)

    def terms(self, progress: Progress, effort: Effort = FULL, purified: Purify = unpurified) -> Terms:
        """The terms that every detector is fitted on."""
        return Terms(
            effort=effort,
            rate=self.false_abstention_rate,
            confidence=self.confidence,
            seed=self.seed,
            evasion_eps=self.evasion_eps,
            budgets=self.budgets,
            progress=progress,
            purified=purified,
            patch=self.patch,
        )

    def parts(self, clean: Samples, effort: Effort = FULL) -> CalibrationSplit:
        """The clean data in two parts. Raises: InvalidInput: too few images for the promise."""
        most = images_to_choose_on(fits_of(self.detectors), effort)
        rate, confidence = self.false_abstention_rate, self.confidence
        return split(clean, rate=rate, confidence=confidence, seed=self.seed, choosing_at_most=most)

    def work(self, classifier: Classifier, clean: int, threads: int, *, spent_s: float = 0.0) -> Work:
        """What the calibration of a classifier on so many clean images is going to do; times the classifier.

        Args:
            spent_s: of the minutes that it may take.
        """
        task = Task(
            clean=clean,
            test=0 if self.test is None else len(self.test),
            needed=images_needed(self.false_abstention_rate, self.confidence),
            detectors=self.detectors,
        )
        within_s = None if self.minutes is None else 60 * self.minutes
        start, image_s = self.effort, self.image_s
        return work_of(classifier, task, start=start, within_s=within_s, image_s=image_s, threads=threads, spent_s=spent_s)

    def check_clean(self, clean: Samples) -> None:
        """Raises: InvalidInput: too few images for the promise, images of one class, whose common traits are not what is clean, or images
        that are too small for the patch.
        """
        self.parts(clean)
        if self.patch is not None:
            check_patch(self.patch, clean.images.shape[1:])
        found = np.unique(clean.labels)
        if len(found) < 2:
            raise InvalidInput(
                f"expected clean images of at least 2 classes to calibrate on, got only class {found[0]}; rows of a file that is sorted "
                "by class are of one: shuffle it"
            )

    def check_test(self, classifier: Classifier) -> None:
        """Raises: InvalidInput: the classifier cannot be measured on `test`, which would be found out after all the work."""
        if self.test is None:
            return
        shape, most = self.test.images.shape[1:], int(self.test.labels.max())
        if shape != classifier.input_shape:
            raise InvalidInput(f"expected images of the model's shape {classifier.input_shape} in the test split, got {shape}")
        if most >= len(classifier.labels):
            raise InvalidInput(
                f"expected labels below {len(classifier.labels)}, the classes of the model, in the test split, got {most}"
            )

    def check(self, classifier: Classifier, clean: Samples) -> Judgement:
        """All that can be found out before the work; how right the bare classifier is. Raises: InvalidInput."""
        self.check_clean(clean)
        self.check_test(classifier)
        check_twin(self.gradients, classifier)
        return self.judged(classifier, clean)

    def judged(self, classifier: Classifier, clean: Samples) -> Judgement:
        """How right the bare classifier is. Raises: InvalidInput: no better than guessing, with the likely reason."""
        found = self.accuracy if self.accuracy is not None else judge(classifier, clean)
        return found.better_than_guessing()

    def provenance(self, clean: Samples) -> dict[str, Any]:
        """What the bundle's card says of the calibration."""
        digest = self.data_sha256 or digest_of(clean)
        return {
            "data": {
                "file": self.origin.file,
                "sha256": digest,
                "split": self.origin.split,
                "rows": self.origin.rows or f"0:{len(clean)}",
                "images": len(clean),
            },
            "false_abstention_rate": self.false_abstention_rate,
            "confidence": self.confidence,
            "seed": self.seed,
            **({} if self.budgets is None else {"budgets": dict(self.budgets)}),
            **({} if self.choice is None else {"choice": dict(self.choice)}),
        }


DEFAULT_PLAN = CalibrationPlan()

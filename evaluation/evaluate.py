"""The whole evaluation: the split of the images, the cells of every table, and the report.

`evaluate` is what the command and a notebook call; `Evaluation` is the work behind it.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from defences.defended_classifier import DefendedClassifier
from evaluation.budget import BUDGETS, Budget
from evaluation.cells import Cell, Cells
from evaluation.reporting.page_needs import check_page_can_be_drawn
from evaluation.reporting.report import REPORT, Report, build
from evaluation.tables.benign import Benign
from evaluation.tables.curves import Curves
from evaluation.tables.distrust import Distrust
from evaluation.tables.evasion import EvasionTable
from evaluation.tables.stand_ins import StandIns
from evaluation.tables.untried import untried
from evaluation.variants import Target, bundled_target, defended_target
from models.accuracy import judge
from models.bundle import MODEL, Bundle
from models.classifier import Images
from models.datasets import IN_MEMORY, Dataset, Origin
from models.engines.bundle_classifier import classifier_of, keras_classifier_of
from models.engines.twins.twin_file import TwinGiven, with_gradients
from models.errors import InvalidInput
from models.machine import processors
from models.printable import printable_json
from models.progress import Progress, silent
from models.version import __version__

IMAGES_AT_LEAST = 20
# For the thief, the transfer attacker and the poisoned copies, beside the images attacked and held back.
OTHERS_AT_LEAST = 600
_CURVE_OVER_RADIUS = 5 / 3
_ONLY_SHOWN = ("report", "page", "plots", "verdict")
GREY_RADII, COLOUR_RADII = (0.1, 0.3), (2 / 255, 8 / 255)
_CALIBRATE_AGAIN = "calibrate again with hauberk calibrate"
_LAYERS = ("attacks", "defences", "evaluation", "models")


def code_digest(root: Path) -> str:
    """sha256 of the sources below `root` that determine results, so that results of another version are not reused."""
    files = sorted(file for layer in _LAYERS for file in (root / layer).rglob("*.py") if file.stem not in _ONLY_SHOWN)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@dataclass(frozen=True)
class Parts:
    """The data, shuffled and split into disjoint parts: attacked, held back to measure on, and left to the attackers."""

    attacked: Dataset
    held: Dataset
    others: Dataset


def split(data: Dataset, budget: Budget, seed: int) -> Parts:
    """Split for a budget: images to attack first, then at most half of the rest held back. Raises: InvalidInput: too few images."""
    if len(data) < IMAGES_AT_LEAST:
        raise InvalidInput(f"expected at least {IMAGES_AT_LEAST} images to evaluate on, got {len(data)}")
    order = np.random.default_rng(seed).permutation(len(data))
    attacked = min(budget.images, len(data))
    held = min(budget.benign_images, (len(data) - attacked) // 2)
    parts = np.split(order, [attacked, attacked + held])
    return Parts(*(data.take(rows) for rows in parts))


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The experiments on one bundle.

    Args:
        target: the bundle with every stack of defences.
        data: labelled images outside the training set of the classifier.
        radii: eps of the L-inf attacks.
        budget: one of `BUDGETS`, or another.
        data_digest: sha256 of the data, part of the plan.
        threads: for training.
    """

    target: Target
    data: Dataset
    radii: tuple[float, ...]
    budget: Budget
    seed: int
    data_digest: str
    threads: int

    @cached_property
    def parts(self) -> Parts:
        return split(self.data, self.budget, self.seed)

    @property
    def left_out(self) -> dict[str, str]:
        """Attacks and sections left out because there are too few images or the classifier lacks something, with the reason, which the
        report states."""
        return untried(self.target) | self._too_few

    @property
    def _too_few(self) -> dict[str, str]:
        others = len(self.parts.others)
        if others >= OTHERS_AT_LEAST:
            return {}
        reason = f"needs {OTHERS_AT_LEAST} images beside those attacked and held back, got {others}; give more images or a smaller budget"
        return dict.fromkeys(("transfer", "backdoors", "extraction", "membership"), reason)

    def cells(self) -> Iterator[Cell]:
        """Every cell, the quick sections first."""
        parts, budget = self.parts, self.budget
        evasion = EvasionTable(
            target=self.target,
            data=parts.attacked,
            others=parts.others.take(slice(0, 0)) if self._too_few else parts.others,
            radii=self.radii,
            budget=budget,
            seed=self.seed,
            threads=self.threads,
        )
        clean = parts.held if len(parts.held) else parts.attacked
        yield from Benign(target=self.target, data=clean, timed=budget.timed).cells()
        yield from evasion.cells()
        yield from Curves(evasion=evasion, eps_at_most=max(self.radii) * _CURVE_OVER_RADIUS).cells()
        yield from Distrust(evasion=evasion, threads=self.threads).cells()
        if not self._too_few:
            stand_ins = StandIns(target=self.target, others=parts.others, held=parts.held, budget=budget, seed=self.seed)
            yield from stand_ins.backdoors()
            yield from stand_ins.extraction()
            yield from stand_ins.membership()

    def plan(self) -> dict[str, Any]:
        """Everything that determines the results, the sources included."""
        return {
            "code": code_digest(Path(__file__).parents[1]),
            "bundle": self.target.digest,
            "data": self.data_digest,
            "seed": self.seed,
            "radii": list(self.radii),
            "budget": asdict(self.budget),
            "threads": self.threads,
        }

    def run(self, out: Path, progress: Progress = silent) -> dict[str, dict[str, Any]]:
        """Results by section and cell; those of this or an earlier call that are stored below `out` are read from there."""
        return Cells(out, self.plan()).run(list(self.cells()), progress)


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """How a defended classifier is evaluated.

    Args:
        budget: what may be spent, of `BUDGETS` or one's own.
        radii: eps of the L-inf attacks; 0.1 and 0.3 for grey, 2/255 and 8/255 for colour images when none.
        seed: of everything drawn, the secret that keys the defences included.
        threads: of training and of the purifier; all processors when none.
        gradients: a twin of a classifier that has no gradients of its own, or the file of one; it is compared before it is believed.
        origin: where the data came from, for the report.
        warnings: about the data, for the report.
    """

    budget: Budget = BUDGETS["standard"]
    radii: tuple[float, ...] | None = None
    seed: int = 0
    threads: int | None = None
    gradients: TwinGiven | None = None
    origin: Origin = IN_MEMORY
    warnings: tuple[str, ...] = ()

    @property
    def budget_name(self) -> str:
        """Its name in `BUDGETS`, "custom" for another."""
        return next((name for name, budget in BUDGETS.items() if budget == self.budget), "custom")


DEFAULT_PLAN = EvaluationPlan()


def evaluate(
    defended: Bundle | DefendedClassifier,
    data: Dataset,
    *,
    plan: EvaluationPlan = DEFAULT_PLAN,
    out: Path | None = None,
    progress: Progress = silent,
) -> Report:
    """Attack a classifier without, with each and with all of its defences; the report holds every table.

    Args:
        defended: a bundle, or defences around any classifier, whose results are found anew in every call. Where the classifier has no
            gradients, neither its own nor those of a twin (the plan's, or a bundle's model.keras), the black-box half is run, and
            `left_out` of the report says what was not.
        data: labelled images that the classifier was neither trained nor calibrated on, 20 at least.
        out: directory where every result is kept as soon as it is found, so that a second call goes on; nowhere when none.
        progress: told (what, results found, of).

    Raises: InvalidInput: images of another shape, labels beyond the classes, too few images, a classifier that is no better than guessing
    on them, a twin that answers otherwise. InvalidBundle.
    """
    started = time.monotonic()
    _check_fit(data, defended.input_shape, len(defended.labels))
    evaluation = _evaluation(defended, data, plan)
    accuracy = judge(evaluation.target.classifier, data, advice=_CALIBRATE_AGAIN).better_than_guessing()
    with _kept_in(out) as place:
        results = evaluation.run(place, progress)
    target, parts = evaluation.target, evaluation.parts
    return build(
        results,
        classes=len(defended.labels),
        hauberk=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        bundle={
            "name": target.name,
            "version": target.version,
            "input_shape": list(defended.input_shape),
            "classes": len(defended.labels),
            "defences": dict(target.modes),
        },
        capabilities=target.capabilities.settings(),
        data={
            "file": plan.origin.file,
            "images_sha256": evaluation.data_digest,
            "split": plan.origin.split,
            "rows": plan.origin.rows or f"0:{len(data)}",
            "attacked": len(parts.attacked),
            "held": len(parts.held),
            "others": len(parts.others),
        },
        budget={"name": plan.budget_name, **asdict(plan.budget)},
        seed=plan.seed,
        radii=list(evaluation.radii),
        left_out=evaluation.left_out,
        warnings=[*plan.warnings, *([accuracy.reason] if accuracy.reason else [])],
    )


def write(report: Report, out: Path) -> None:
    """Write report.json and report.html. Raises: InvalidInput: hauberk[report] is not installed."""
    check_page_can_be_drawn()
    from evaluation.reporting.page import page  # matplotlib takes a second to import

    (out / "report.json").write_text(printable_json(REPORT.dump_json(report, indent=2).decode()) + "\n", encoding="utf-8")
    (out / "report.html").write_text(page(report), encoding="utf-8")


def _check_fit(data: Dataset, shape: tuple[int, int, int], classes: int) -> None:
    """Whether these images are the classifier's. Raises: InvalidInput."""
    if data.images.shape[1:] != shape:
        raise InvalidInput(f"expected images of the bundle's shape {shape}, got {data.images.shape[1:]}")
    if int(data.labels.max()) >= classes:
        raise InvalidInput(f"expected labels below {classes}, the classes of the bundle, got {int(data.labels.max())}")


def _evaluation(defended: Bundle | DefendedClassifier, data: Dataset, plan: EvaluationPlan) -> Evaluation:
    secret = hashlib.sha256(f"evaluation {plan.seed}".encode()).digest()
    threads = plan.threads or processors()
    target = _target(defended, data.images, plan.gradients, secret=secret, threads=threads)
    return Evaluation(
        target=target,
        data=data,
        radii=plan.radii or (GREY_RADII if defended.input_shape[2] == 1 else COLOUR_RADII),
        budget=plan.budget,
        seed=plan.seed,
        data_digest=hashlib.sha256(data.images.tobytes() + data.labels.tobytes()).hexdigest(),
        threads=threads,
    )


def _target(
    defended: Bundle | DefendedClassifier, images: Images, given: TwinGiven | None, *, secret: bytes, threads: int
) -> Target:
    """The target, with whatever gradients there are."""
    if isinstance(defended, DefendedClassifier):
        classifier = with_gradients(defended.classifier, images, given=given, threads=threads)
        target = defended_target(defended, classifier, secret=secret)
    else:
        own = partial(keras_classifier_of, defended, threads=threads) if defended.holds(MODEL) else None
        classifier = with_gradients(classifier_of(defended, threads=threads), images, given=given, own=own, threads=threads)
        target = bundled_target(defended, classifier, secret=secret, threads=threads)
    return target if given is None else replace(target, digest=f"{target.digest} {_digest_of(given)}")


def _digest_of(twin: TwinGiven) -> str:
    """What results with this twin are kept under; those with one in memory are found anew."""
    return hashlib.sha256(twin.read_bytes()).hexdigest() if isinstance(twin, Path) else uuid.uuid4().hex


@contextmanager
def _kept_in(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
    else:
        with tempfile.TemporaryDirectory(prefix="hauberk-evaluation-") as scratch:
            yield Path(scratch)

"""The fits of detectors, found by the name that each detector's record gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module

from defences.calibration.effort import FULL, Effort
from defences.calibration.thresholds import Fit
from defences.detectors.patch_cleanser import PatchCleanser
from defences.errors import InvalidInput
from defences.table import DEFENCES, of_stage


def fittable() -> tuple[str, ...]:
    """The detectors that can be fitted, in the order of the data path."""
    return tuple(name for name, detector in of_stage("abstain").items() if detector.record.fitted_by)


def fits_of(names: Iterable[str]) -> dict[str, Fit]:
    """The fits of these detectors, in the order of the data path; only theirs are imported."""
    wanted = set(names)
    return {name: _imported(DEFENCES[name].record.fitted_by or "") for name in fittable() if name in wanted}


def check_fittable(names: Sequence[str]) -> None:
    """Raises: InvalidInput: no name, an unknown one, or one twice."""
    if not names or len(set(names)) != len(names) or not set(names) <= set(fittable()):
        raise InvalidInput(f"expected detectors (--detectors) from {', '.join(fittable())}, each once, got {','.join(names)!r}")


def chosen_fits(text: str) -> dict[str, Fit]:
    """Read "strip,sentinet". Raises: InvalidInput: no name, an unknown one, or one twice."""
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    check_fittable(names)
    return fits_of(names)


def images_to_choose_on(fits: Mapping[str, Fit], effort: Effort = FULL) -> int:
    """How many clean images these fits make use of at most; of this effort's where it is less, those that take many calls an image."""
    less = effort.choosing_images if effort.choosing_images < FULL.choosing_images else None
    records = [DEFENCES[name].record for name in fits]
    return max(
        record.images_to_choose_on if less is None or record.one_call_an_image else min(record.images_to_choose_on, less)
        for record in records
    )


def with_masks(names: Iterable[str], patch: tuple[int, int] | None) -> tuple[str, ...]:
    """These detectors, and that of the masks where the size of a patch is given, in the order of the data path."""
    return tuple(names) if patch is None else tuple(fits_of([*names, PatchCleanser.name]))


def check_patch_is_asked_for(names: Sequence[str], patch: tuple[int, int] | None) -> None:
    """Raises: InvalidInput: the detector whose masks cover patches without the size of a patch, or a size without it."""
    if (PatchCleanser.name in names) != (patch is not None):
        got = "a size alone" if patch is not None else "the detector alone"
        raise InvalidInput(
            f"expected the size of a patch (--patch 5x5) and the detector {PatchCleanser.name} (--detectors) together, got {got}"
        )


def _imported(place: str) -> Fit:
    module, _, function = place.partition(":")
    fit: Fit = getattr(import_module(module), function)
    return fit

"""Turn a bundle's settings into a defended classifier. The tables below are where a new defence is entered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from defences.defended_classifier import DefendedClassifier, Mode, Step
from defences.errors import InvalidBundle, InvalidInput
from defences.reverse_sigmoid import ReverseSigmoid
from defences.strip import Strip
from defences.total_variation import TotalVariation
from models.bundle import Bundle
from models.classifier import Classifier

PREPROCESSORS: dict[str, type[Any]] = {TotalVariation.name: TotalVariation}
DETECTORS: dict[str, type[Any]] = {Strip.name: Strip}
POSTPROCESSORS: dict[str, type[Any]] = {ReverseSigmoid.name: ReverseSigmoid}
NAMES = (*PREPROCESSORS, *DETECTORS, *POSTPROCESSORS)
"""Every defence, in the order of the data path."""

# Which parameters come from calibration.npz and which from the machine, not from hauberk.toml.
_CALIBRATED = {"overlays", "threshold", "slack"}
_LOCAL = {"threads"}


def assemble(
    bundle: Bundle,
    classifier: Classifier,
    *,
    secret: bytes,
    modes: Mapping[str, Mode] | None = None,
    threads: int = 1,
) -> DefendedClassifier:
    """The bundle's classifier in its coat.

    Args:
        secret: keys the randomness, at most 64 bytes.
        modes: replaces the bundle's mode of a defence, by name.
        threads: for the purifier.

    Raises: InvalidBundle: an unknown defence or parameter, shapes that do not fit, a detector with other parameters than it was
    calibrated with. InvalidInput: a mode for a defence the bundle lacks.
    """
    return DefendedClassifier(classifier, **_steps(bundle, modes or {}, threads), secret=secret)


def check(bundle: Bundle, *, modes: Mapping[str, Mode] | None = None) -> None:
    """Raise what `assemble` would raise, without a classifier, whose loading takes seconds."""
    _steps(bundle, modes or {}, threads=1)


def _steps(bundle: Bundle, modes: Mapping[str, Mode], threads: int) -> dict[str, Any]:
    declared = _with_modes(bundle, modes)
    _check_calibration(bundle, declared)

    def built(table: Mapping[str, type[Any]]) -> list[Step[Any]]:
        return [Step(_build(bundle, defence, table, threads), defence["mode"]) for defence in _of(declared, table)]

    return {
        "preprocessors": built(PREPROCESSORS),
        "detectors": built(DETECTORS),
        "postprocessors": built(POSTPROCESSORS),
    }


def parse_modes(text: str) -> dict[str, Mode]:
    """Read "strip=monitor,reverse_sigmoid=off". Raises: InvalidInput, one sentence."""
    modes: dict[str, Mode] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, mode = (part.strip() for part in item.partition("="))
        if mode not in get_args(Mode):
            raise InvalidInput(f"expected modes like strip=monitor with one of {', '.join(get_args(Mode))}, got {item!r}")
        if name not in NAMES:
            raise InvalidInput(f"expected a mode for one of {', '.join(NAMES)}, got one for {name!r}")
        modes[name] = mode  # type: ignore[assignment]  # checked against the literal's own values
    return modes


def calibrated_for(declared: Mapping[str, Any]) -> str:
    """The parameters of a detector that its threshold depends on, as text to compare."""
    return json.dumps({key: value for key, value in declared.items() if key != "mode"}, sort_keys=True)


def _of(declared: Sequence[Mapping[str, Any]], table: Mapping[str, type[Any]]) -> list[Mapping[str, Any]]:
    return [defence for defence in declared if defence["name"] in table]


def _with_modes(bundle: Bundle, modes: Mapping[str, Mode]) -> list[dict[str, Any]]:
    declared = [dict(defence) for defence in bundle.settings["defences"]]
    names = [defence["name"] for defence in declared]
    for name in names:
        if name not in NAMES:
            raise InvalidBundle(f"{bundle.directory / 'hauberk.toml'}: unknown defence {name!r}; known are {', '.join(NAMES)}")
        if names.count(name) > 1:
            raise InvalidBundle(f"{bundle.directory / 'hauberk.toml'}: defence {name!r} is declared twice")
    for name, mode in modes.items():
        if name not in names:
            raise InvalidInput(
                f"a mode is set for {name}, but bundle {bundle.name} declares only {', '.join(names) or 'no defences'}"
            )
        declared[names.index(name)]["mode"] = mode
    return declared


def _check_calibration(bundle: Bundle, declared: Sequence[Mapping[str, Any]]) -> None:
    for detector in _of(declared, DETECTORS):
        if str(bundle.calibration.get(f"{detector['name']}_calibrated_for")) != calibrated_for(detector):
            raise InvalidBundle(
                f"{bundle.directory / 'hauberk.toml'}: {detector['name']} was calibrated with other parameters than are declared, "
                "so its threshold means nothing; run hauberk calibrate again"
            )


def _build(bundle: Bundle, declared: Mapping[str, Any], table: Mapping[str, type[Any]], threads: int) -> Any:
    name = declared["name"]
    defence: Callable[..., Any] = table[name]
    accepted = {field.name for field in fields(table[name]) if not field.name.startswith("_")}
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in declared.items() if key not in ("name", "mode")
    }
    place = bundle.directory / "hauberk.toml"
    for key in given:
        if key not in accepted - _CALIBRATED - _LOCAL:
            raise InvalidBundle(
                f"{place}: {name}: unknown key {key!r}; known are {', '.join(sorted(accepted - _CALIBRATED - _LOCAL))}"
            )
    given |= _calibrated(bundle, name, accepted & _CALIBRATED)
    if "threads" in accepted:
        given["threads"] = threads
    try:
        built = defence(**given)
    except (InvalidInput, TypeError) as failure:
        raise InvalidBundle(f"{place}: {failure}") from failure
    if "overlays" in given and built.overlays.shape[1:] != bundle.input_shape:
        found = built.overlays.shape[1:]
        raise InvalidBundle(f"{place}: expected {name} overlays of shape {bundle.input_shape} in calibration.npz, got {found}")
    return built


def _calibrated(bundle: Bundle, name: str, wanted: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in wanted:
        array = bundle.calibration.get(f"{name}_{key}")
        if array is None:
            raise InvalidBundle(f"{bundle.directory / 'calibration.npz'}: {name}_{key} is missing; run hauberk calibrate again")
        found[key] = array if key == "overlays" else (array.tolist() if array.ndim == 0 else tuple(array.tolist()))
    if "threshold" in found and (not isinstance(found["threshold"], float) or math.isnan(found["threshold"])):
        raise InvalidBundle(
            f"{bundle.directory / 'calibration.npz'}: {name}_threshold is not a number; run hauberk calibrate again"
        )
    return found

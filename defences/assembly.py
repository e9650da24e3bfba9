"""Turn a bundle's settings into a defended classifier. The tables below are where a new defence is entered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from defences.defended_classifier import DefendedClassifier, Mode, Step
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from defences.errors import InvalidBundle, InvalidInput
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.total_variation import TotalVariation
from models.bundle import Bundle
from models.classifier import Classifier

PREPROCESSORS: dict[str, type[Any]] = {TotalVariation.name: TotalVariation}
DETECTORS: dict[str, type[Any]] = {kind.name: kind for kind in (Strip, SentiNet, BinaryInputDetector, BinaryActivationDetector)}
POSTPROCESSORS: dict[str, type[Any]] = {ReverseSigmoid.name: ReverseSigmoid}
NAMES = (*PREPROCESSORS, *DETECTORS, *POSTPROCESSORS)
"""Every defence, in the order of the data path."""

TOGETHER = "detectors_calibrated_together"
"""The array of calibration.npz that names the detectors whose thresholds keep one rate between them."""

# Which parameters come from the machine, not from hauberk.toml. Those that come from calibration.npz a detector names itself.
_LOCAL = {"threads", "classifier"}


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
    return DefendedClassifier(classifier, **_steps(bundle, modes or {}, threads, classifier), secret=secret)


def check(bundle: Bundle, *, modes: Mapping[str, Mode] | None = None) -> None:
    """Raise what `assemble` would raise, without a classifier, whose loading takes seconds."""
    _steps(bundle, modes or {}, threads=1, classifier=None)


def _steps(bundle: Bundle, modes: Mapping[str, Mode], threads: int, classifier: Classifier | None) -> dict[str, Any]:
    declared = _with_modes(bundle, modes)
    _check_calibration(bundle, declared)
    local = {"threads": threads, "classifier": classifier}

    def built(table: Mapping[str, type[Any]]) -> list[Step[Any]]:
        return [Step(_build(bundle, defence, table, local), defence["mode"]) for defence in _of(declared, table)]

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


def together(names: Sequence[str]) -> str:
    """The names of detectors that were calibrated together, as text to compare."""
    return json.dumps(sorted(names))


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
    detectors = _of(declared, DETECTORS)
    for detector in detectors:
        if str(bundle.calibration.get(f"{detector['name']}_calibrated_for")) != calibrated_for(detector):
            raise InvalidBundle(
                f"{bundle.directory / 'hauberk.toml'}: {detector['name']} was calibrated with other parameters than are declared, "
                "so its threshold means nothing; run hauberk calibrate again"
            )
    names = [detector["name"] for detector in detectors]
    shared = bundle.calibration.get(TOGETHER)
    # Bundles without it are of a time when there was one detector.
    agreed = len(names) <= 1 if shared is None else str(shared) == together(names)
    if not agreed:
        raise InvalidBundle(
            f"{bundle.directory / 'hauberk.toml'}: expected the detectors that were calibrated together, "
            f"{'one' if shared is None else shared}, got {together(names)}: their thresholds share one false abstention rate; switch "
            'a detector off with mode = "off", or run hauberk calibrate again'
        )


def _build(bundle: Bundle, declared: Mapping[str, Any], table: Mapping[str, type[Any]], local: Mapping[str, Any]) -> Any:
    name = declared["name"]
    defence: Callable[..., Any] = table[name]
    accepted = {field.name: str(field.type) for field in fields(table[name]) if not field.name.startswith("_")}
    calibrated: frozenset[str] = getattr(table[name], "calibrated", frozenset())
    known = accepted.keys() - calibrated - _LOCAL
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in declared.items() if key not in ("name", "mode")
    }
    place = bundle.directory / "hauberk.toml"
    for key in given:
        if key not in known:
            raise InvalidBundle(f"{place}: {name}: unknown key {key!r}; known are {', '.join(sorted(known))}")
    given |= _calibrated(bundle, name, {key: accepted[key] for key in calibrated})
    given |= {key: value for key, value in local.items() if key in accepted}
    try:
        built = defence(**given)
    except (InvalidInput, TypeError) as failure:
        raise InvalidBundle(f"{place}: {failure}") from failure
    if "overlays" in given and built.overlays.shape[1:] != bundle.input_shape:
        found = built.overlays.shape[1:]
        raise InvalidBundle(f"{place}: expected {name} overlays of shape {bundle.input_shape} in calibration.npz, got {found}")
    if getattr(built, "shape", bundle.input_shape) != bundle.input_shape:
        raise InvalidBundle(
            f"{place}: expected {name} for images of shape {bundle.input_shape} in calibration.npz, got {built.shape}"
        )
    return built


def _calibrated(bundle: Bundle, name: str, wanted: Mapping[str, str]) -> dict[str, Any]:
    """The parameters a defence takes from calibration.npz; `wanted` has their types: numbers and tuples of them are no arrays."""
    found: dict[str, Any] = {}
    for key, kind in wanted.items():
        array = bundle.calibration.get(f"{name}_{key}")
        if array is None:
            raise InvalidBundle(f"{bundle.directory / 'calibration.npz'}: {name}_{key} is missing; run hauberk calibrate again")
        if kind.startswith("NDArray"):
            found[key] = array
        else:
            found[key] = array.tolist() if array.ndim == 0 else tuple(array.tolist())
    if "threshold" in found and (not isinstance(found["threshold"], float) or math.isnan(found["threshold"])):
        raise InvalidBundle(
            f"{bundle.directory / 'calibration.npz'}: {name}_threshold is not a number; run hauberk calibrate again"
        )
    return found

"""Turn a bundle's settings into a defended classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from defences.defence import Stage
from defences.defended_classifier import DefendedClassifier, Mode, Step
from defences.errors import InvalidBundle, InvalidInput
from defences.table import DEFENCES, of_stage
from models.bundle import SETTINGS, Bundle, read_bundle
from models.classifier import Classifier
from models.engines.bundle_classifier import check_engine, classifier_of

TOGETHER = "detectors_calibrated_together"
"""The array of calibration.npz that names the detectors whose thresholds keep one rate between them."""


def assemble(
    bundle: Bundle,
    classifier: Classifier,
    *,
    secret: bytes,
    modes: Mapping[str, Mode] | None = None,
    threads: int = 1,
) -> DefendedClassifier:
    """The bundle's classifier behind the defences that the bundle declares.

    Args:
        secret: keys the randomness, at most 64 bytes.
        modes: replaces the bundle's mode of a defence, by name.
        threads: for the purifier.

    Raises: InvalidBundle: an unknown defence or parameter, shapes that do not fit, a detector with other parameters than it was
    calibrated with. InvalidInput: a mode for a defence the bundle lacks.
    """
    steps = _steps(bundle, modes or {}, threads, classifier)
    try:
        return DefendedClassifier(classifier, **steps, secret=secret)
    except InvalidInput as failure:
        raise InvalidBundle(f"{bundle.directory / SETTINGS}: {failure}") from failure


def load_bundle(
    directory: Path, *, secret: bytes = b"", modes: Mapping[str, Mode] | None = None, threads: int = 1
) -> DefendedClassifier:
    """A bundle as it is served: its classifier behind its defences. Arguments as for `assemble`.

    Raises: InvalidBundle: missing, altered, or not to be assembled. InvalidInput: a mode for a defence the bundle lacks.
    """
    bundle = read_bundle(directory)
    check(bundle, modes=modes)
    return assemble(bundle, classifier_of(bundle, threads=threads), secret=secret, modes=modes, threads=threads)


def check(bundle: Bundle, *, modes: Mapping[str, Mode] | None = None) -> None:
    """Raise the errors of `assemble`, and that of an engine that is not installed, without loading the classifier."""
    check_engine(bundle)
    _steps(bundle, modes or {}, threads=1, classifier=None)


def _steps(bundle: Bundle, modes: Mapping[str, Mode], threads: int, classifier: Classifier | None) -> dict[str, Any]:
    declared = _with_modes(bundle, modes)
    _check_calibration(bundle, declared)
    machine = {"threads": threads, "classifier": classifier}

    def built(stage: Stage) -> list[Step[Any]]:
        found = [(DEFENCES[entry["name"]], entry) for entry in _of_stage(declared, stage)]
        return [Step(defence.from_bundle(bundle, entry, machine), entry["mode"]) for defence, entry in found]

    return {"preprocessors": built("purify"), "detectors": built("abstain"), "postprocessors": built("obscure")}


def parse_modes(text: str) -> dict[str, Mode]:
    """Read "strip=monitor,reverse_sigmoid=off". Raises: InvalidInput, one sentence."""
    modes: dict[str, Mode] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, mode = (part.strip() for part in item.partition("="))
        if mode not in get_args(Mode):
            raise InvalidInput(f"expected modes like strip=monitor with one of {', '.join(get_args(Mode))}, got {item!r}")
        if name not in DEFENCES:
            raise InvalidInput(f"expected a mode for one of {', '.join(DEFENCES)}, got one for {name!r}")
        modes[name] = mode  # type: ignore[assignment]  # checked against the literal's own values
    return modes


def calibrated_for(declared: Mapping[str, Any]) -> str:
    """The declared parameters of a detector, on which its threshold depends, as text to compare."""
    return json.dumps({key: value for key, value in declared.items() if key != "mode"}, sort_keys=True)


def names_as_text(names: Sequence[str]) -> str:
    """The names of detectors that were calibrated together, as text to compare."""
    return json.dumps(sorted(names))


def _of_stage(declared: Sequence[Mapping[str, Any]], stage: Stage) -> list[Mapping[str, Any]]:
    names = of_stage(stage)
    return [entry for entry in declared if entry["name"] in names]


def _with_modes(bundle: Bundle, modes: Mapping[str, Mode]) -> list[dict[str, Any]]:
    declared = [dict(defence) for defence in bundle.settings["defences"]]
    names = [defence["name"] for defence in declared]
    for name in names:
        if name not in DEFENCES:
            raise InvalidBundle(f"{bundle.directory / SETTINGS}: unknown defence {name!r}; known are {', '.join(DEFENCES)}")
        if names.count(name) > 1:
            raise InvalidBundle(f"{bundle.directory / SETTINGS}: defence {name!r} is declared twice")
    for name, mode in modes.items():
        if name not in names:
            raise InvalidInput(
                f"a mode is set for {name}, but bundle {bundle.name} declares only {', '.join(names) or 'no defences'}"
            )
        declared[names.index(name)]["mode"] = mode
    return declared


def _check_calibration(bundle: Bundle, declared: Sequence[Mapping[str, Any]]) -> None:
    detectors = _of_stage(declared, "abstain")
    for detector in detectors:
        if str(bundle.calibration.get(f"{detector['name']}_calibrated_for")) != calibrated_for(detector):
            raise InvalidBundle(
                f"{bundle.directory / SETTINGS}: {detector['name']} was calibrated with other parameters than are declared, "
                "so its threshold means nothing; run hauberk calibrate again"
            )
    names = [detector["name"] for detector in detectors]
    shared = bundle.calibration.get(TOGETHER)
    # Bundles without it are of a time when there was one detector.
    agreed = len(names) <= 1 if shared is None else str(shared) == names_as_text(names)
    if not agreed:
        raise InvalidBundle(
            f"{bundle.directory / SETTINGS}: expected the detectors that were calibrated together, "
            f"{'one' if shared is None else shared}, got {names_as_text(names)}: their thresholds share one false abstention "
            'rate; switch a detector off with mode = "off", or run hauberk calibrate again'
        )

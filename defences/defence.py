"""What a defence says of itself, so that nothing else has to know it: the class that every defence extends, and its record.

Assembly, calibration, console, metrics, audit log and `hauberk.compile` read these through `defences/table.py`. A new defence is a
frozen dataclass with a `name` and a `record`, and one line in that table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from defences.errors import InvalidBundle, InvalidInput
from models.bundle import CALIBRATION, SETTINGS, Bundle

Stage = Literal["purify", "abstain", "obscure"]
"""Where in the data path a defence acts: on images, on the decision to answer, on probabilities."""

Kind = Literal["array", "number", "numbers"]
"""How a parameter lies in calibration.npz and reaches the constructor: an array as it is, a float, a tuple of numbers."""

_FROM_THE_MACHINE = {"threads", "classifier", "expert"}
"""Parameters that neither hauberk.toml nor calibration.npz may give."""


@dataclass(frozen=True, kw_only=True)
class DetectionHistogram:
    """A histogram that a detector feeds with one number per image.

    Attributes:
        name, help, buckets: as Prometheus shows them; a name ends in its unit.
        of: the column of `Detection` it shows; what is NaN is left out.
    """

    name: str
    help: str
    buckets: tuple[float, ...]
    of: Literal["scores", "calls", "entropies"]


@dataclass(frozen=True, kw_only=True)
class DefenceRecord:
    """What others ask of a defence.

    Attributes:
        stage: of the data path.
        title: the method's name for people.
        summary: one sentence for the console, which attackers read too: no parameter of it.
        mitigations, techniques: MITRE ATLAS ids of the defence and of the attacks it answers to.
        calibrated: parameters that come from calibration.npz, as `<name>_<parameter>`, never from hauberk.toml.
        histograms: what observers show of a detector, beside its abstentions.
        fitted_by: "module:function", a `defences.calibration.thresholds.Fit` that chooses all but a detector's threshold. It is text
            because fits stand above the detectors they make, some of them in `attacks/`: serving imports none of them.
        images_to_choose_on: how many clean images the fit makes use of at most, beside those that the threshold is read off.
        one_call_an_image: whether that is all the fit takes, so that no budget of minutes takes images from it.
    """

    stage: Stage
    title: str
    summary: str
    mitigations: tuple[str, ...]
    techniques: tuple[str, ...]
    calibrated: Mapping[str, Kind] = field(default_factory=dict)
    histograms: tuple[DetectionHistogram, ...] = ()
    fitted_by: str | None = None
    images_to_choose_on: int = 1000
    one_call_an_image: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Defence:
    """A defence: its parameters are the fields of the dataclass that extends this one.

    `defences/defended_classifier.py` has the protocol of each stage, which the class meets beside this.
    """

    name: ClassVar[str]
    record: ClassVar[DefenceRecord]

    @classmethod
    def from_bundle(cls, bundle: Bundle, declared: Mapping[str, Any], machine: Mapping[str, Any]) -> Self:
        """Build it from its entry in hauberk.toml and its arrays in calibration.npz.

        Args:
            declared: its entry in hauberk.toml.
            machine: "threads" and "classifier", for a defence that has such parameters.

        Raises: InvalidBundle, one sentence that names the file: unknown, missing or unfit parameters, arrays for other images.
        """
        accepted = {each.name for each in fields(cls) if each.init}
        given = {key: _tupled(value) for key, value in declared.items() if key not in ("name", "mode")}
        known = accepted - cls.record.calibrated.keys() - _FROM_THE_MACHINE
        place = bundle.directory / SETTINGS
        for key in given:
            if key not in known:
                raise InvalidBundle(f"{place}: {cls.name}: unknown key {key!r}; known are {', '.join(sorted(known))}")
        given |= {key: _measured(bundle, f"{cls.name}_{key}", kind) for key, kind in cls.record.calibrated.items()}
        given |= {key: value for key, value in machine.items() if key in accepted}
        try:
            built = cls(**given)
            built.check_input_shape(bundle.input_shape)
        except (InvalidInput, TypeError) as failure:
            raise InvalidBundle(f"{place}: {failure}") from failure
        return built

    def check_input_shape(self, shape: tuple[int, int, int]) -> None:
        """Raise InvalidParameter when it was fitted to images of another shape (h, w, c); one that takes any images says nothing."""

    def settings(self) -> dict[str, Any]:
        """Its parameters as hauberk.toml declares them: neither those of calibration.npz nor those of the machine."""
        left_out = self.record.calibrated.keys() | _FROM_THE_MACHINE
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.init and each.name not in left_out}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}

    def in_words(self) -> str:
        """Its parameters for people, in a few words."""
        return ", ".join(f"{key.replace('_', ' ')} {_in_words(value)}" for key, value in self.settings().items())

    @classmethod
    def compile_kernels(cls) -> None:
        """Run every Numba function of its own once on the types of serving, so that they are cached; most defences have none."""


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(_in_words, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _measured(bundle: Bundle, key: str, kind: Kind) -> Any:
    place, again = bundle.directory / CALIBRATION, "run hauberk calibrate again"
    array: NDArray[Any] | None = bundle.calibration.get(key)
    if array is None:
        raise InvalidBundle(f"{place}: {key} is missing; {again}")
    if kind == "array":
        return array
    if kind == "number":
        if array.ndim or not np.issubdtype(array.dtype, np.floating) or math.isnan(array):
            raise InvalidBundle(f"{place}: {key} is not a number; {again}")
        return float(array)
    if array.ndim != 1:
        raise InvalidBundle(f"{place}: expected {key} to be a list of numbers, got shape {array.shape}; {again}")
    return tuple(array.tolist())

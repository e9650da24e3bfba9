"""The detectors that `hauberk calibrate` can fit, by name, in the order of the data path: a new one is a row."""

from __future__ import annotations

from collections.abc import Mapping

from attacks.detector_training.evasion_training import EPS, TRAINED_ON_AT_MOST, EvasionTraining
from defences.calibration.probing import PROBING
from defences.calibration.split import CHOOSING_AT_MOST
from defences.calibration.thresholds import Fit
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from models.errors import InvalidInput

FITS: dict[str, Fit] = {
    **PROBING,
    BinaryInputDetector.name: EvasionTraining().fit_input_detector,
    BinaryActivationDetector.name: EvasionTraining().fit_activation_detector,
}

_TRAINED = {BinaryInputDetector.name, BinaryActivationDetector.name}


def chosen_fits(text: str, *, evasion_eps: float = EPS) -> dict[str, Fit]:
    """Read "strip,sentinet"; detectors of evasion are trained on attacks of this size.

    Raises: InvalidInput: none, an unknown one, or one twice; a size that is none.
    """
    names = [name for name in (part.strip() for part in text.split(",")) if name]
    if not names or len(set(names)) != len(names) or not set(names) <= FITS.keys():
        raise InvalidInput(f"expected --detectors from {', '.join(FITS)}, each once, got {text!r}")
    training = EvasionTraining(eps=evasion_eps)
    fits = FITS | {
        BinaryInputDetector.name: training.fit_input_detector,
        BinaryActivationDetector.name: training.fit_activation_detector,
    }
    return {name: fit for name, fit in fits.items() if name in names}


def images_to_choose_on(fits: Mapping[str, Fit]) -> int:
    """How many are of use, at most: a network takes more than a choice among a few overlays."""
    return TRAINED_ON_AT_MOST if fits.keys() & _TRAINED else CHOOSING_AT_MOST

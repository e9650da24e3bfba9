"""The detectors that need nothing but a classifier to ask and clean images to be fitted: by name, in the order of the data path."""

from __future__ import annotations

from defences.calibration.sentinet import fit_sentinet
from defences.calibration.strip import fit_strip
from defences.calibration.thresholds import Fit
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip

PROBING: dict[str, Fit] = {Strip.name: fit_strip, SentiNet.name: fit_sentinet}

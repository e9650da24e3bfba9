"""The detectors that need nothing but a classifier to ask and clean images to be fitted: by name, in the order of the data path."""

from __future__ import annotations

from defences.joint_calibration import Fit
from defences.sentinet import SentiNet
from defences.sentinet_calibration import fit_sentinet
from defences.strip import Strip
from defences.strip_calibration import fit_strip

PROBING: dict[str, Fit] = {Strip.name: fit_strip, SentiNet.name: fit_sentinet}

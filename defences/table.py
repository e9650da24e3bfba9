"""Every defence there is, in the order of the data path: a new one is a line here."""

from __future__ import annotations

from defences.defence import Defence, Stage
from defences.detectors.badexpert import BaDExpert
from defences.detectors.binary_activation_detector import BinaryActivationDetector
from defences.detectors.binary_input_detector import BinaryInputDetector
from defences.detectors.layer_disagreement import LayerDisagreement
from defences.detectors.patch_cleanser import PatchCleanser
from defences.detectors.sentinet import SentiNet
from defences.detectors.strip import Strip
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from defences.purifiers.total_variation import TotalVariation

DEFENCES: dict[str, type[Defence]] = {
    defence.name: defence
    for defence in (
        TotalVariation,
        Strip,
        SentiNet,
        LayerDisagreement,
        BaDExpert,
        PatchCleanser,
        BinaryInputDetector,
        BinaryActivationDetector,
        ReverseSigmoid,
    )
}
"""By name, as bundles, modes and metrics call them."""


def of_stage(stage: Stage) -> dict[str, type[Defence]]:
    """The defences of one stage of the data path, by name."""
    return {name: defence for name, defence in DEFENCES.items() if defence.record.stage == stage}

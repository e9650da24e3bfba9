"""Hauberk as a library: what a notebook composes, attacks and measures with. docs/library.md teaches it.

Every name is imported when it is first used, so that `import hauberk` costs nothing. What is not in `__all__` is internal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attacks.attack import Adversarial, Goal, predicted_labels
    from attacks.backdoors.poisoning import AllToAll, AllToOne, CleanLabel, SourceSpecific, poison
    from attacks.backdoors.triggers import Blended, CornerPattern, ImagePatch, SinglePixel, Warped
    from attacks.evasion.adaptive import AdaptiveView
    from attacks.evasion.carlini_wagner import CarliniWagner
    from attacks.evasion.deep_fool import DeepFool
    from attacks.evasion.gradient import BasicIterative, FastGradient, ProjectedGradientDescent
    from attacks.evasion.hop_skip_jump import HopSkipJump
    from attacks.evasion.lavan import LaVAN
    from attacks.evasion.noise import RandomNoise
    from attacks.evasion.saliency_map import SaliencyMap
    from attacks.evasion.square import Square
    from attacks.extraction.copycat_cnn import CopycatCNN
    from attacks.extraction.knockoff_nets import KnockoffNets
    from attacks.extraction.membership_inference import membership_inference
    from attacks.gateway.remote import GatewayClassifier
    from defences.assembly import load_bundle
    from defences.calibration.calibrate import Calibrated, calibrate, fit_detectors
    from defences.calibration.plan import CalibrationPlan
    from defences.defended_classifier import Decisions, DefendedClassifier, Step
    from defences.detectors.badexpert import BaDExpert
    from defences.detectors.binary_activation_detector import BinaryActivationDetector
    from defences.detectors.binary_input_detector import BinaryInputDetector
    from defences.detectors.layer_disagreement import LayerDisagreement
    from defences.detectors.patch_cleanser import PatchCleanser
    from defences.detectors.sentinet import SentiNet
    from defences.detectors.strip import Strip
    from defences.poison.activation_clustering import ActivationClustering
    from defences.poison.findings import Findings, TrainingSet
    from defences.poison.repair import repaired
    from defences.poison.spectral_signatures import SpectralSignatures
    from defences.poison.statistical_contamination_analyzer import StatisticalContaminationAnalyzer
    from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
    from defences.purifiers.total_variation import TotalVariation
    from evaluation.budget import BUDGETS, Budget
    from evaluation.evaluate import EvaluationPlan, evaluate
    from evaluation.red_team.red_team import RedTeamPlan, red_team
    from evaluation.scanning.scan import Scan, ScanPlan, scan
    from evaluation.statistics.intervals import Share, share
    from evaluation.tables.outcomes import Robustness, outcomes, robustness
    from models.bundle import Bundle, default_bundle_directory, read_bundle, standard_bundle_directory
    from models.classifier import Classifier
    from models.datasets import MNIST, Dataset, load_dataset
    from models.engines.keras import KerasClassifier
    from models.errors import HauberkError, InvalidInput
    from models.pictures.folders import load_pictures
    from models.preparation import PRESETS, Preparation
    from models.progress import Progress
    from models.training.adversarial_trainer import AdversarialTrainer
    from models.training.reference_classifier import Recipe, train
    from models.training.training_attack import TrainingAttack
    from models.version import __version__

_HOMES = {
    # Defend a classifier
    "defences.defended_classifier": ("Decisions", "DefendedClassifier", "Step"),
    "defences.purifiers.total_variation": ("TotalVariation",),
    "defences.detectors.strip": ("Strip",),
    "defences.detectors.sentinet": ("SentiNet",),
    "defences.detectors.badexpert": ("BaDExpert",),
    "defences.detectors.layer_disagreement": ("LayerDisagreement",),
    "defences.detectors.patch_cleanser": ("PatchCleanser",),
    "defences.detectors.binary_input_detector": ("BinaryInputDetector",),
    "defences.detectors.binary_activation_detector": ("BinaryActivationDetector",),
    "defences.postprocessors.reverse_sigmoid": ("ReverseSigmoid",),
    "defences.assembly": ("load_bundle",),
    "defences.calibration.calibrate": ("Calibrated", "calibrate", "fit_detectors"),
    "defences.calibration.plan": ("CalibrationPlan",),
    # Classifiers and data
    "models.bundle": ("Bundle", "default_bundle_directory", "read_bundle", "standard_bundle_directory"),
    "models.classifier": ("Classifier",),
    "models.datasets": ("MNIST", "Dataset", "load_dataset"),
    "models.engines.keras": ("KerasClassifier",),
    "models.errors": ("HauberkError", "InvalidInput"),
    "models.pictures.folders": ("load_pictures",),
    "models.preparation": ("PRESETS", "Preparation"),
    "models.progress": ("Progress",),
    "models.training.adversarial_trainer": ("AdversarialTrainer",),
    "models.training.reference_classifier": ("Recipe", "train"),
    "models.training.training_attack": ("TrainingAttack",),
    "models.version": ("__version__",),
    # Attack
    "attacks.attack": ("Adversarial", "Goal", "predicted_labels"),
    "attacks.evasion.adaptive": ("AdaptiveView",),
    "attacks.evasion.carlini_wagner": ("CarliniWagner",),
    "attacks.evasion.deep_fool": ("DeepFool",),
    "attacks.evasion.gradient": ("BasicIterative", "FastGradient", "ProjectedGradientDescent"),
    "attacks.evasion.hop_skip_jump": ("HopSkipJump",),
    "attacks.evasion.lavan": ("LaVAN",),
    "attacks.evasion.noise": ("RandomNoise",),
    "attacks.evasion.saliency_map": ("SaliencyMap",),
    "attacks.evasion.square": ("Square",),
    "attacks.extraction.copycat_cnn": ("CopycatCNN",),
    "attacks.extraction.knockoff_nets": ("KnockoffNets",),
    "attacks.extraction.membership_inference": ("membership_inference",),
    "attacks.gateway.remote": ("GatewayClassifier",),
    "attacks.backdoors.poisoning": ("AllToAll", "AllToOne", "CleanLabel", "SourceSpecific", "poison"),
    "attacks.backdoors.triggers": ("Blended", "CornerPattern", "ImagePatch", "SinglePixel", "Warped"),
    # Find poison
    "defences.poison.activation_clustering": ("ActivationClustering",),
    "defences.poison.findings": ("Findings", "TrainingSet"),
    "defences.poison.repair": ("repaired",),
    "defences.poison.spectral_signatures": ("SpectralSignatures",),
    "defences.poison.statistical_contamination_analyzer": ("StatisticalContaminationAnalyzer",),
    "evaluation.scanning.scan": ("Scan", "ScanPlan", "scan"),
    # Measure
    "evaluation.budget": ("BUDGETS", "Budget"),
    "evaluation.evaluate": ("EvaluationPlan", "evaluate"),
    "evaluation.red_team.red_team": ("RedTeamPlan", "red_team"),
    "evaluation.statistics.intervals": ("Share", "share"),
    "evaluation.tables.outcomes": ("Robustness", "outcomes", "robustness"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # spelled out for type checkers
    "BUDGETS",
    "MNIST",
    "PRESETS",
    "ActivationClustering",
    "AdaptiveView",
    "Adversarial",
    "AdversarialTrainer",
    "AllToAll",
    "AllToOne",
    "BaDExpert",
    "BasicIterative",
    "BinaryActivationDetector",
    "BinaryInputDetector",
    "Blended",
    "Budget",
    "Bundle",
    "Calibrated",
    "CalibrationPlan",
    "CarliniWagner",
    "Classifier",
    "CleanLabel",
    "CopycatCNN",
    "CornerPattern",
    "Dataset",
    "Decisions",
    "DeepFool",
    "DefendedClassifier",
    "EvaluationPlan",
    "FastGradient",
    "Findings",
    "GatewayClassifier",
    "Goal",
    "HauberkError",
    "HopSkipJump",
    "ImagePatch",
    "InvalidInput",
    "KerasClassifier",
    "KnockoffNets",
    "LaVAN",
    "LayerDisagreement",
    "PatchCleanser",
    "Preparation",
    "Progress",
    "ProjectedGradientDescent",
    "RandomNoise",
    "Recipe",
    "RedTeamPlan",
    "ReverseSigmoid",
    "Robustness",
    "SaliencyMap",
    "Scan",
    "ScanPlan",
    "SentiNet",
    "Share",
    "SinglePixel",
    "SourceSpecific",
    "SpectralSignatures",
    "Square",
    "StatisticalContaminationAnalyzer",
    "Step",
    "Strip",
    "TotalVariation",
    "TrainingAttack",
    "TrainingSet",
    "Warped",
    "__version__",
    "calibrate",
    "default_bundle_directory",
    "evaluate",
    "fit_detectors",
    "load_bundle",
    "load_dataset",
    "load_pictures",
    "membership_inference",
    "outcomes",
    "poison",
    "predicted_labels",
    "read_bundle",
    "red_team",
    "repaired",
    "robustness",
    "scan",
    "share",
    "standard_bundle_directory",
    "train",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'hauberk' has no attribute {name!r}; docs/library.md lists what it has")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

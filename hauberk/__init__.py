"""Hauberk as a library: what a notebook composes, attacks and measures with. docs/library.md teaches it.

Every name is imported when it is first used, so that `import hauberk` costs nothing. What is not in `__all__` is internal.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attacks.attack import Adversarial as Adversarial
    from attacks.attack import Goal as Goal
    from attacks.attack import predicted_labels as predicted_labels
    from attacks.backdoors.poisoning import (
        AllToAll as AllToAll,
    )
    from attacks.backdoors.poisoning import (
        AllToOne as AllToOne,
    )
    from attacks.backdoors.poisoning import (
        CleanLabel as CleanLabel,
    )
    from attacks.backdoors.poisoning import (
        SourceSpecific as SourceSpecific,
    )
    from attacks.backdoors.poisoning import (
        poison as poison,
    )
    from attacks.backdoors.triggers import (
        Blended as Blended,
    )
    from attacks.backdoors.triggers import (
        CornerPattern as CornerPattern,
    )
    from attacks.backdoors.triggers import (
        ImagePatch as ImagePatch,
    )
    from attacks.backdoors.triggers import (
        SinglePixel as SinglePixel,
    )
    from attacks.backdoors.triggers import (
        Warped as Warped,
    )
    from attacks.evasion.adaptive import AdaptiveView as AdaptiveView
    from attacks.evasion.carlini_wagner import CarliniWagner as CarliniWagner
    from attacks.evasion.deep_fool import DeepFool as DeepFool
    from attacks.evasion.gradient import (
        BasicIterative as BasicIterative,
    )
    from attacks.evasion.gradient import (
        FastGradient as FastGradient,
    )
    from attacks.evasion.gradient import (
        ProjectedGradientDescent as ProjectedGradientDescent,
    )
    from attacks.evasion.hop_skip_jump import HopSkipJump as HopSkipJump
    from attacks.evasion.noise import RandomNoise as RandomNoise
    from attacks.evasion.saliency_map import SaliencyMap as SaliencyMap
    from attacks.evasion.square import Square as Square
    from attacks.extraction.copycat_cnn import CopycatCNN as CopycatCNN
    from attacks.extraction.knockoff_nets import KnockoffNets as KnockoffNets
    from attacks.extraction.membership_inference import membership_inference as membership_inference
    from attacks.gateway.remote import RemoteClassifier as RemoteClassifier
    from defences.assembly import load_bundle as load_bundle
    from defences.calibration.calibrate import (
        Calibrated as Calibrated,
    )
    from defences.calibration.calibrate import (
        CalibrationPlan as CalibrationPlan,
    )
    from defences.calibration.calibrate import (
        calibrate as calibrate,
    )
    from defences.calibration.calibrate import (
        fit_detectors as fit_detectors,
    )
    from defences.defended_classifier import Decisions as Decisions
    from defences.defended_classifier import DefendedClassifier as DefendedClassifier
    from defences.defended_classifier import Step as Step
    from defences.detectors.binary_activation_detector import BinaryActivationDetector as BinaryActivationDetector
    from defences.detectors.binary_input_detector import BinaryInputDetector as BinaryInputDetector
    from defences.detectors.sentinet import SentiNet as SentiNet
    from defences.detectors.strip import Strip as Strip
    from defences.poison.activation_clustering import ActivationClustering as ActivationClustering
    from defences.poison.findings import Findings as Findings
    from defences.poison.findings import TrainingSet as TrainingSet
    from defences.poison.repair import repaired as repaired
    from defences.poison.spectral_signatures import SpectralSignatures as SpectralSignatures
    from defences.postprocessors.reverse_sigmoid import ReverseSigmoid as ReverseSigmoid
    from defences.purifiers.total_variation import TotalVariation as TotalVariation
    from evaluation.budget import BUDGETS as BUDGETS
    from evaluation.budget import Budget as Budget
    from evaluation.evaluate import EvaluationPlan as EvaluationPlan
    from evaluation.evaluate import evaluate as evaluate
    from evaluation.red_team.red_team import RedTeamPlan as RedTeamPlan
    from evaluation.red_team.red_team import red_team as red_team
    from evaluation.scanning.scan import Scan as Scan
    from evaluation.scanning.scan import ScanPlan as ScanPlan
    from evaluation.scanning.scan import scan as scan
    from evaluation.statistics.intervals import Share as Share
    from evaluation.statistics.intervals import share as share
    from evaluation.tables.outcomes import Robustness as Robustness
    from evaluation.tables.outcomes import outcomes as outcomes
    from evaluation.tables.outcomes import robustness as robustness
    from models.bundle import (
        Bundle as Bundle,
    )
    from models.bundle import (
        default_bundle_directory as default_bundle_directory,
    )
    from models.bundle import (
        read_bundle as read_bundle,
    )
    from models.bundle import (
        standard_bundle_directory as standard_bundle_directory,
    )
    from models.classifier import Classifier as Classifier
    from models.datasets import MNIST as MNIST
    from models.datasets import Dataset as Dataset
    from models.datasets import load_dataset as load_dataset
    from models.engines.keras import KerasClassifier as KerasClassifier
    from models.errors import HauberkError as HauberkError
    from models.errors import InvalidInput as InvalidInput
    from models.progress import Progress as Progress
    from models.training.adversarial_trainer import AdversarialTrainer as AdversarialTrainer
    from models.training.reference_classifier import Recipe as Recipe
    from models.training.reference_classifier import train as train
    from models.training.training_attack import TrainingAttack as TrainingAttack
    from models.version import __version__ as __version__

_HOMES = {
    # Defend a classifier
    "defences.defended_classifier": ("Decisions", "DefendedClassifier", "Step"),
    "defences.purifiers.total_variation": ("TotalVariation",),
    "defences.detectors.strip": ("Strip",),
    "defences.detectors.sentinet": ("SentiNet",),
    "defences.detectors.binary_input_detector": ("BinaryInputDetector",),
    "defences.detectors.binary_activation_detector": ("BinaryActivationDetector",),
    "defences.postprocessors.reverse_sigmoid": ("ReverseSigmoid",),
    "defences.assembly": ("load_bundle",),
    "defences.calibration.calibrate": ("Calibrated", "CalibrationPlan", "calibrate", "fit_detectors"),
    # Classifiers and data
    "models.bundle": ("Bundle", "default_bundle_directory", "read_bundle", "standard_bundle_directory"),
    "models.classifier": ("Classifier",),
    "models.datasets": ("MNIST", "Dataset", "load_dataset"),
    "models.engines.keras": ("KerasClassifier",),
    "models.errors": ("HauberkError", "InvalidInput"),
    "models.progress": ("Progress",),
    "models.training.adversarial_trainer": ("AdversarialTrainer",),
    "models.training.reference_classifier": ("Recipe", "train"),
    "models.training.training_attack": ("TrainingAttack",),
    # Attack
    "attacks.attack": ("Adversarial", "Goal", "predicted_labels"),
    "attacks.evasion.adaptive": ("AdaptiveView",),
    "attacks.evasion.carlini_wagner": ("CarliniWagner",),
    "attacks.evasion.deep_fool": ("DeepFool",),
    "attacks.evasion.gradient": ("BasicIterative", "FastGradient", "ProjectedGradientDescent"),
    "attacks.evasion.hop_skip_jump": ("HopSkipJump",),
    "attacks.evasion.noise": ("RandomNoise",),
    "attacks.evasion.saliency_map": ("SaliencyMap",),
    "attacks.evasion.square": ("Square",),
    "attacks.extraction.copycat_cnn": ("CopycatCNN",),
    "attacks.extraction.knockoff_nets": ("KnockoffNets",),
    "attacks.extraction.membership_inference": ("membership_inference",),
    "attacks.gateway.remote": ("RemoteClassifier",),
    "attacks.backdoors.poisoning": ("AllToAll", "AllToOne", "CleanLabel", "SourceSpecific", "poison"),
    "attacks.backdoors.triggers": ("Blended", "CornerPattern", "ImagePatch", "SinglePixel", "Warped"),
    # Find poison
    "defences.poison.activation_clustering": ("ActivationClustering",),
    "defences.poison.findings": ("Findings", "TrainingSet"),
    "defences.poison.repair": ("repaired",),
    "defences.poison.spectral_signatures": ("SpectralSignatures",),
    "evaluation.scanning.scan": ("Scan", "ScanPlan", "scan"),
    # Measure
    "evaluation.budget": ("BUDGETS", "Budget"),
    "evaluation.evaluate": ("EvaluationPlan", "evaluate"),
    "evaluation.red_team.red_team": ("RedTeamPlan", "red_team"),
    "evaluation.statistics.intervals": ("Share", "share"),
    "evaluation.tables.outcomes": ("Robustness", "outcomes", "robustness"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names} | {"__version__": "models.version"}

__all__ = [  # spelled out for type checkers
    "BUDGETS",
    "MNIST",
    "ActivationClustering",
    "AdaptiveView",
    "Adversarial",
    "AdversarialTrainer",
    "AllToAll",
    "AllToOne",
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
    "Goal",
    "HauberkError",
    "HopSkipJump",
    "ImagePatch",
    "InvalidInput",
    "KerasClassifier",
    "KnockoffNets",
    "Progress",
    "ProjectedGradientDescent",
    "RandomNoise",
    "Recipe",
    "RedTeamPlan",
    "RemoteClassifier",
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
    "Step",
    "Strip",
    "TotalVariation",
    "TrainingAttack",
    "TrainingSet",
    "Warped",
    "calibrate",
    "default_bundle_directory",
    "evaluate",
    "fit_detectors",
    "load_bundle",
    "load_dataset",
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
    return sorted({*globals(), *__all__, "__version__"})

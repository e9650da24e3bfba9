"""The variants that an evaluation compares: undefended, behind each defence alone, and behind the full stack of defences."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from defences.assembly import assemble
from defences.defended_classifier import DefendedClassifier, Detector, Mode, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.bundle import Bundle
from models.classifier import Classifier, DifferentiableClassifier
from models.engines.keras import KerasClassifier
from models.engines.twins.capabilities import Capabilities, trainable
from models.errors import InvalidInput

UNDEFENDED, FULL_STACK = "none", "full stack"
_IN_MEMORY = "in memory"


@dataclass(frozen=True)
class Target:
    """A classifier in every variant, under one secret.

    Attributes:
        name, version: of the bundle; "in memory" for a defended classifier that is in none.
        digest: what results are kept under: of the bundle, or one that no other evaluation has.
        modes: of each defence, by name.
        classifier: what answers, with the gradients of its twin where it has none of its own and a twin was given.
        variants: by name, UNDEFENDED first and FULL_STACK last; a defence alone is enforced whatever its mode in the full stack.
        under: the full stack under another secret.
    """

    name: str
    version: str
    digest: str
    modes: Mapping[str, Mode]
    classifier: Classifier
    secret: bytes
    variants: Mapping[str, DefendedClassifier]
    under: Callable[[bytes], DefendedClassifier]

    @property
    def full_stack(self) -> DefendedClassifier:
        """The bundle as it is served."""
        return self.variants[FULL_STACK]

    @property
    def gradients(self) -> DifferentiableClassifier | None:
        """The classifier, where attacks can follow its gradients."""
        return self.classifier if isinstance(self.classifier, DifferentiableClassifier) else None

    @property
    def trainable(self) -> KerasClassifier | None:
        """The classifier or its twin, where a copy of it can be trained further."""
        return trainable(self.classifier)

    @property
    def capabilities(self) -> Capabilities:
        """What the classifier can be asked for."""
        return Capabilities.of(self.classifier)

    def blurs(self, variant: str) -> list[ReverseSigmoid]:
        """The reverse sigmoids that change the answers of this variant."""
        steps = self.variants[variant].postprocessors
        return [step.defence for step in steps if isinstance(step.defence, ReverseSigmoid) and step.mode == "enforce"]


def bundled_target(bundle: Bundle, classifier: Classifier, *, secret: bytes, threads: int) -> Target:
    """Every variant of a bundle's classifier, as the bundle declares them. Raises: InvalidBundle."""
    declared: dict[str, Mode] = {defence["name"]: defence["mode"] for defence in bundle.settings["defences"]}

    def assembled(modes: Mapping[str, Mode], key: bytes = secret) -> DefendedClassifier:
        return assemble(bundle, classifier, secret=key, modes=modes, threads=threads)

    off: dict[str, Mode] = dict.fromkeys(declared, "off")
    return Target(
        name=bundle.name,
        version=bundle.version,
        digest=bundle.digest,
        modes=declared,
        classifier=classifier,
        secret=secret,
        variants={
            UNDEFENDED: assembled(off),
            **{name: assembled({**off, name: "enforce"}) for name in declared},
            FULL_STACK: assembled({}),
        },
        under=lambda key: assembled({}, key),
    )


def defended_target(defended: DefendedClassifier, classifier: Classifier, *, secret: bytes) -> Target:
    """Every variant of a classifier that was defended in Python.

    Args:
        classifier: the one inside, or that one with a twin.

    Raises: InvalidInput: defences around a defended classifier, whose inside would be evaluated as defended.
    """
    if isinstance(classifier, DefendedClassifier):
        raise InvalidInput("expected defences around a classifier to evaluate, got ones around another DefendedClassifier")
    kinds = {kind: getattr(defended, kind) for kind in ("preprocessors", "detectors", "postprocessors")}
    kinds["detectors"] = [Step(_reading(step.defence, defended.classifier, classifier), step.mode) for step in kinds["detectors"]]
    steps = [(kind, step) for kind, of_kind in kinds.items() for step in of_kind]

    def rebuilt(key: bytes) -> DefendedClassifier:
        return DefendedClassifier(classifier, **kinds, secret=key)

    def alone(kind: str, step: Step[object]) -> DefendedClassifier:
        return DefendedClassifier(classifier, **{kind: [Step(step.defence)]}, secret=secret)  # type: ignore[arg-type]

    return Target(
        name=_IN_MEMORY,
        version=_IN_MEMORY,
        digest=uuid.uuid4().hex,
        modes={step.defence.name: step.mode for _, step in steps},
        classifier=classifier,
        secret=secret,
        variants={
            UNDEFENDED: DefendedClassifier(classifier, secret=secret),
            **{step.defence.name: alone(kind, step) for kind, step in steps},
            FULL_STACK: rebuilt(secret),
        },
        under=rebuilt,
    )


def _reading(detector: Detector, before: Classifier, now: Classifier) -> Detector:
    """A detector that read activations of one classifier, reading those of another with the same layers."""
    if now is before or getattr(detector, "classifier", None) is not before:
        return detector
    other: Detector = replace(detector, classifier=now)  # type: ignore[type-var]  # those that read a classifier are dataclasses
    return other

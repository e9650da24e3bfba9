"""The variants that an evaluation compares: undefended, behind each defence alone, and behind the full stack of defences."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from defences.assembly import assemble
from defences.defended_classifier import DefendedClassifier, Mode, Step
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.bundle import Bundle
from models.engines.keras import KerasClassifier
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
        variants: by name, UNDEFENDED first and FULL_STACK last; a defence alone is enforced whatever its mode in the full stack.
        under: the full stack under another secret.
    """

    name: str
    version: str
    digest: str
    modes: Mapping[str, Mode]
    classifier: KerasClassifier
    secret: bytes
    variants: Mapping[str, DefendedClassifier]
    under: Callable[[bytes], DefendedClassifier]

    @property
    def full_stack(self) -> DefendedClassifier:
        """The bundle as it is served."""
        return self.variants[FULL_STACK]

    def blurs(self, variant: str) -> list[ReverseSigmoid]:
        """The reverse sigmoids that change the answers of this variant."""
        steps = self.variants[variant].postprocessors
        return [step.defence for step in steps if isinstance(step.defence, ReverseSigmoid) and step.mode == "enforce"]


def open_target(bundle: Bundle, *, secret: bytes, threads: int) -> Target:
    """Load a bundle's classifier once and build every variant of it. Raises: InvalidBundle."""
    classifier = KerasClassifier.from_bundle(bundle, threads=threads)
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


def target_of(defended: DefendedClassifier, *, secret: bytes) -> Target:
    """Every variant of a classifier that was defended in Python. Raises: InvalidInput: around no Keras classifier."""
    classifier = defended.classifier
    if not isinstance(classifier, KerasClassifier):
        raise InvalidInput(f"expected defences around a KerasClassifier to evaluate, got {type(classifier).__name__}")
    kinds = {kind: getattr(defended, kind) for kind in ("preprocessors", "detectors", "postprocessors")}
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

"""The stacks of defences that an evaluation compares: none, each defence alone, and the full stack as served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from defences.assembly import assemble
from defences.defended_classifier import DefendedClassifier, Mode
from defences.postprocessors.reverse_sigmoid import ReverseSigmoid
from models.bundle import Bundle
from models.engines.keras import KerasClassifier

UNDEFENDED, FULL_STACK = "none", "full stack"


@dataclass(frozen=True)
class Target:
    """A bundle's classifier, bare and behind each stack of defences, under one secret.

    Attributes:
        variants: by name, UNDEFENDED first and FULL_STACK last; a defence alone is enforced whatever its mode in the bundle.
    """

    bundle: Bundle
    classifier: KerasClassifier
    secret: bytes
    variants: Mapping[str, DefendedClassifier]

    @property
    def full_stack(self) -> DefendedClassifier:
        """The bundle as it is served."""
        return self.variants[FULL_STACK]

    def blurs(self, variant: str) -> list[ReverseSigmoid]:
        """The enforcing reverse sigmoids of this stack of defences."""
        steps = self.variants[variant].postprocessors
        return [step.defence for step in steps if isinstance(step.defence, ReverseSigmoid) and step.mode == "enforce"]


def open_target(bundle: Bundle, *, secret: bytes, threads: int) -> Target:
    """Load the classifier of a bundle once and assemble every stack of defences around it. Raises: InvalidBundle."""
    classifier = KerasClassifier.from_bundle(bundle, threads=threads)
    names = [defence["name"] for defence in bundle.settings["defences"]]

    def stack(modes: Mapping[str, Mode]) -> DefendedClassifier:
        return assemble(bundle, classifier, secret=secret, modes=modes, threads=threads)

    off: dict[str, Mode] = dict.fromkeys(names, "off")
    alone = {name: stack({**off, name: "enforce"}) for name in names}
    return Target(bundle, classifier, secret, {UNDEFENDED: stack(off), **alone, FULL_STACK: stack({})})

"""What an evaluation could not try, and why: attacks and sections that need more of the classifier than it has.

Without gradients the half of the evaluation that needs none is run, the black-box half. An attacker who has the model has its gradients,
whatever format it is served in, so that nothing of this half says how robust the classifier is.
"""

from __future__ import annotations

from evaluation.tables.evasion import FOLLOW_GRADIENTS
from evaluation.variants import Target

_OTHER_USES = ("curves of attackers who have the model", "checks on gradients")


def untried(target: Target) -> dict[str, str]:
    """What needs capabilities that the classifier lacks, by name, with the reason; empty where it has them all."""
    found: dict[str, str] = {}
    able = target.capabilities
    if target.gradients is None:
        found |= {name: able.lacks_gradients("it") for name in (*FOLLOW_GRADIENTS, *_OTHER_USES)}
    if target.trainable is None:
        found["backdoors"] = able.lacks_training("it")
    return found

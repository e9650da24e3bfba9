"""The check on gradients that every use of a gradient attack shares: where they vanish, the attack has measured nothing."""

from __future__ import annotations

from attacks.evasion.gradient import zero_gradient_share
from models.classifier import Classifier, Images, Labels

ZERO_AT_MOST = 0.01
"""The largest share of images without a gradient that is no sign of masked gradients."""


def vanished_gradients(classifier: Classifier, images: Images, labels: Labels) -> str | None:
    """Why gradient attacks on this classifier prove nothing, in one sentence; None where gradients are there.

    Cost: a forward and a backward pass per image. Raises: InvalidInput: a classifier without gradients.
    """
    zero = zero_gradient_share(classifier, images, labels)
    if zero <= ZERO_AT_MOST:
        return None
    return (
        f"the gradient of the loss is zero on {100 * zero:.1f} % of {len(images):,} images, which an attack that follows it cannot move; "
        "save the model with logits as its output, without the last activation, and without layers that round or compare"
    )

"""Which answers are proven against local patches, where the operator wants clients to be told.

An answer is, when the detector patch_cleanser found that no mask changes it: no patch of the size that its masks cover, anywhere in the
image, can have brought about another answer than the one to the image under the mask that hides it (docs/defences/patch_cleanser.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from defences.defended_classifier import Decisions
    from models.bundle import Bundle

PROVES = "patch_cleanser"
"""The name of the detector; importing it takes longer than the server's parent process has."""


@dataclass(frozen=True)
class Certificate:
    """What is proven: (rows, columns) of the largest patch."""

    patch: tuple[int, int]

    @property
    def text(self) -> str:
        """As the Open Inference Protocol has it, whose parameters are no lists."""
        return f"{self.patch[0]}x{self.patch[1]}"

    def holds_for(self, decisions: Decisions) -> NDArray[np.bool_]:
        """Which images have an answer that is proven: bool [n]. The decisions have to carry what detectors found."""
        (found,) = (detection.abstained for detection in decisions.trace.detections if detection.name == PROVES)
        proven: NDArray[np.bool_] = ~found & ~decisions.abstained
        return proven


def _size(declared: object) -> tuple[int, int]:
    """Raises: InvalidInput: not the size of a patch, as whoever assembles the bundle finds too."""
    match declared:
        case [int() as rows, int() as columns]:
            return rows, columns
    raise InvalidInput(f"expected patch = [rows, columns] of {PROVES} in the bundle's hauberk.toml, got {declared!r}")


def certificate_of(bundle: Bundle, modes: Mapping[str, str], *, wanted: bool) -> Certificate | None:
    """What the answers of this bundle prove; none unless it is wanted.

    Raises: InvalidInput: wanted of a bundle that proves nothing.
    """
    if not wanted:
        return None
    for declared in bundle.settings["defences"]:
        if declared["name"] == PROVES and modes.get(PROVES, declared["mode"]) != "off":
            return Certificate(_size(declared.get("patch")))
    raise InvalidInput(
        f"expected a bundle with {PROVES} switched on for HAUBERK_CERTIFIED_PATCH=on, got {bundle.name} without; leave the setting out, "
        "or make one by hauberk calibrate --patch"
    )

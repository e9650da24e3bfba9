"""What `hauberk serve` says once the service is ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.bundle import Bundle

if TYPE_CHECKING:
    from defences.defended_classifier import DefendedClassifier, Step


def banner(bundle: Bundle, defended: DefendedClassifier, url: str, *, example: Path | None = None) -> str:
    """Where it listens, what it serves, which defences are on with their parameters, and one request to try.

    Args:
        url: such as http://127.0.0.1:3000.
        example: a file with a request body that will be answered; without one no request is shown.
    """
    h, w, c = bundle.input_shape
    lines = [
        f"Hauberk serves {bundle.name} {bundle.version} at {url}",
        "",
        f"  bundle    {bundle.directory}",
        f"            sha256 {bundle.digest}",
        f"  images    {h} x {w} x {c}, {len(bundle.labels)} classes",
        *_defences(defended),
    ]
    if example is not None:
        lines += ["", "  Try it:", "", f"  curl -s {url}/predict -H 'content-type: application/json' -d @{example}"]
    return "\n".join([*lines, "", f"  API {url}/docs.json   health {url}/readyz", ""])


def _defences(defended: DefendedClassifier) -> Iterator[str]:
    steps: list[Step[Any]] = [*defended.preprocessors, *defended.detectors, *defended.postprocessors]
    for i, step in enumerate(steps):
        yield f"  {'defences' if i == 0 else '':<8}  {step.defence.name} ({step.mode}): {step.defence.in_words()}"
    if not steps:
        yield "  defences  none is on"

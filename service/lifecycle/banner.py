"""The text that `hauberk serve` prints once the service is ready."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.bundle import Bundle
from models.printable import printable

if TYPE_CHECKING:
    from defences.defended_classifier import DefendedClassifier, Step


def banner(
    bundle: Bundle, defended: DefendedClassifier, url: str, *, example: Path | None = None, asks_for_key: bool = False
) -> str:
    """The address, the bundle, the defences with their modes, and one request to try.

    Args:
        url: such as http://127.0.0.1:3000.
        example: a file with a request body that will be answered; without one no request is shown.
        asks_for_key: whether a request for predictions needs a client's key.
    """
    h, w, c = bundle.input_shape
    lines = [
        f"Hauberk serves {bundle.name} {bundle.version} at {url}",
        "",
        f"  bundle    {printable(bundle.directory)}",
        f"            sha256 {bundle.digest}",
        f"  images    {h} x {w} x {c}, {len(bundle.labels)} classes",
        *_defences(bundle, defended),
        f"  console   {url}/ in a browser",
    ]
    if example is not None:
        key = " -H 'authorization: Bearer YOUR-KEY'" if asks_for_key else ""
        request = f"curl -s {url}/predict -H 'content-type: application/json'{key} -d @{example}"
        lines += ["", "  Try it:", "", f"  {request}"]
    return "\n".join([*lines, "", f"  API {url}/docs.json   health {url}/readyz", ""])


def _defences(bundle: Bundle, defended: DefendedClassifier) -> Iterator[str]:
    """The defences in force, in the order of the data path, and then those of the bundle that are off."""
    steps: list[Step[Any]] = [*defended.preprocessors, *defended.detectors, *defended.postprocessors]
    told = [f"{step.defence.name} ({step.mode}): {step.defence.in_words()}" for step in steps]
    in_force = {step.defence.name for step in steps}
    told += [f"{defence['name']} (off)" for defence in bundle.settings["defences"] if defence["name"] not in in_force]
    for i, line in enumerate(told or ["none"]):
        yield f"  {'defences' if i == 0 else '':<8}  {line}"

"""report.json of `hauberk scan --model-only`: the verdict on a network, class by class; the classes below are its schema.

Two scans of the same network with the same seed differ only in `created` and `seconds`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from defences.networks.findings import JudgedClass, NetworkVerdict

FORMAT = 1


@dataclass(frozen=True)
class NetworkReport:
    """The whole report.

    Attributes:
        verdict: "backdoor" if a class is unlike the others, "cannot tell" where no class can be told to be, else "clean".
        reason: the ground for the verdict, one sentence to show.
        suspicious_classes: names of the classes that are unlike the others.
        classifier: file, engine, input shape, number of classes.
        method: of the judge, with its `p_at_most`.
        gradients: forward and backward passes that it took.
    """

    format: int
    hauberk: str
    created: str
    seconds: float
    verdict: NetworkVerdict
    reason: str
    suspicious_classes: list[str]
    classifier: dict[str, Any]
    method: str
    p_at_most: float
    seed: int
    gradients: int
    classes: list[JudgedClass]


NETWORK_REPORT = TypeAdapter(NetworkReport)
"""Reads, writes and describes reports: `NETWORK_REPORT.json_schema()`."""

"""What security teams call the things this gateway sees: MITRE ATLAS ids of its defences and of its refusals.

A mitigation (AML.M....) is what answered, a technique (AML.T....) what it answers to. A refusal says that an input looks like the
technique, not that somebody meant it: false alarms have the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service import errors


@dataclass(frozen=True)
class Atlas:
    """Ids of mitigations and of the techniques they address."""

    mitigations: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()


# Restore what a perturbation changed; detect an adversarial input, a trigger or an evasion; tell less.
_RESTORED = Atlas(("AML.M0010",), ("AML.T0043", "AML.T0015"))
_TRIGGER = Atlas(("AML.M0015",), ("AML.T0043.004", "AML.T0018.000"))
_LOCAL = Atlas(("AML.M0015",), ("AML.T0043.004", "AML.T0018.000", "AML.T0043"))  # patches too
_EVASION = Atlas(("AML.M0015",), ("AML.T0043", "AML.T0015"))
_OBSCURED = Atlas(("AML.M0002",), ("AML.T0024.002", "AML.T0005.001"))

DEFENCES: Mapping[str, Atlas] = {
    "total_variation": _RESTORED,
    "strip": _TRIGGER,
    "sentinet": _LOCAL,
    "binary_input_detector": _EVASION,
    "binary_activation_detector": _EVASION,
    "reverse_sigmoid": _OBSCURED,
}

_ACCESS = Atlas(("AML.M0019",), ("AML.T0040",))
_FLOOD = Atlas(("AML.M0004",), ("AML.T0029",))
REFUSALS: Mapping[str, Atlas] = {
    errors.Unauthorised.code: _ACCESS,
    errors.Forbidden.code: _ACCESS,
    errors.BudgetSpent.code: Atlas(("AML.M0004",), ("AML.T0024", "AML.T0034.000")),
    errors.TooManyImages.code: _FLOOD,
    errors.QueueFull.code: _FLOOD,
    errors.TooManyConnections.code: _FLOOD,
    errors.DeadlineExceeded.code: Atlas(("AML.M0004",), ("AML.T0029", "AML.T0034.001")),
    errors.InternalError.code: Atlas(),
}
"""Refused requests that the audit log tells of; the access log and the metrics tell of every one."""


def of_defences(names: Iterable[str]) -> Atlas:
    """The ids of these defences together; one without an entry adds none."""
    entries = [DEFENCES.get(name, Atlas()) for name in names]
    mitigations = dict.fromkeys(id_ for entry in entries for id_ in entry.mitigations)
    techniques = dict.fromkeys(id_ for entry in entries for id_ in entry.techniques)
    return Atlas(tuple(mitigations), tuple(techniques))

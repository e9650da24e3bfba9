"""What security teams call the things this gateway sees: MITRE ATLAS ids of its defences and of its refusals.

A mitigation (AML.M....) is what answered, a technique (AML.T....) what it answers to. A refusal says that an input looks like the
technique, not that somebody meant it: false alarms have the same ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from defences.table import DEFENCES
from service import errors


@dataclass(frozen=True)
class Atlas:
    """Ids of mitigations and of the techniques they address."""

    mitigations: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()


_ACCESS = Atlas(("AML.M0019",), ("AML.T0040",))
_FLOOD = Atlas(("AML.M0004",), ("AML.T0029",))
REFUSALS: Mapping[str, Atlas] = {
    errors.Unauthorised.code: _ACCESS,
    errors.Forbidden.code: _ACCESS,
    errors.OverBudget.code: Atlas(("AML.M0004",), ("AML.T0024", "AML.T0034.000")),
    errors.TooManyImages.code: _FLOOD,
    errors.QueueFull.code: _FLOOD,
    errors.TooManyConnections.code: _FLOOD,
    errors.DeadlineExceeded.code: Atlas(("AML.M0004",), ("AML.T0029", "AML.T0034.001")),
    errors.InternalError.code: Atlas(),
    errors.ClassifierFailed.code: Atlas(),
    errors.ClassifierUnavailable.code: Atlas(),
    errors.ClassifierTooSlow.code: Atlas(),
}
"""Refused requests that the audit log tells of; the access log and the metrics tell of every one."""


def of_defences(names: Iterable[str]) -> Atlas:
    """The ids that the records of these defences name, each once; a name that is not in the table adds none."""
    records = [DEFENCES[name].record for name in names if name in DEFENCES]
    mitigations = dict.fromkeys(id_ for record in records for id_ in record.mitigations)
    techniques = dict.fromkeys(id_ for record in records for id_ in record.techniques)
    return Atlas(tuple(mitigations), tuple(techniques))

"""What the page of a scan shows: clusters of some classes, and samples of each group, of which every other is a page or a row away."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.charts import Scatter, scatter
from lab.scans.clusters import clusters_of
from lab.scans.samples import SamplePage, ScannedSample, ScannedSamples

_SUSPECTS, _OTHERS = 48, 12
_SAMPLES_AT_MOST = 240
_DRAWN_AT_MOST = 4


@dataclass(frozen=True)
class ShownGroup:
    """A group with some of its samples.

    Attributes:
        number: of the group, for links.
        group: what the result says of it.
        page: which samples of it these are; None where they are the first.
    """

    number: int
    group: Mapping[str, Any]
    samples: tuple[ScannedSample, ...]
    page: SamplePage | None = None


@dataclass(frozen=True)
class ShownScan:
    """What is shown of a scan.

    Attributes:
        drawings: the clusters of poisoned classes, or of the class that was chosen.
        chosen: the label of that class.
        groups: all of them with their first samples, or one with a page.
        more: groups of which nothing is shown, with their numbers: 240 samples are shown at first.
        alone: whether one group was chosen.
    """

    drawings: tuple[Scatter, ...]
    chosen: int | None
    groups: tuple[ShownGroup, ...]
    more: tuple[tuple[int, Mapping[str, Any]], ...]
    alone: bool


def shown_scan(place: Path, result: Mapping[str, Any], query: Mapping[str, str]) -> ShownScan:
    """What is shown of the scan in a folder.

    Args:
        query: `class` chooses whose clusters are drawn; `group` and `page` choose samples.

    Raises: Refused: no such group, or files that are none of a scan.
    """
    samples, chosen, group = ScannedSamples(place, result), _number(query, "class"), _number(query, "group")
    poisoned = [int(one["label"]) for one in result["clusters"] if one["poisoned"]][:_DRAWN_AT_MOST]
    drawings = _drawn(place, poisoned if chosen is None else [chosen])
    if group is None:
        groups = tuple(_first(samples, result["groups"]))
        return ShownScan(drawings, chosen, groups, tuple(enumerate(result["groups"]))[len(groups) :], alone=False)
    page = samples.page(group, _number(query, "page") or 1)
    return ShownScan(drawings, chosen, (ShownGroup(group, result["groups"][group], page.samples, page),), (), alone=True)


def _first(samples: ScannedSamples, groups: Iterable[Mapping[str, Any]]) -> Iterable[ShownGroup]:
    left = _SAMPLES_AT_MOST
    for number, group in enumerate(groups):
        found = samples.first(number, min(_SUSPECTS if group["suspicious"] else _OTHERS, left))
        if not found:
            return
        left -= len(found)
        yield ShownGroup(number, group, found)


def _drawn(place: Path, labels: Iterable[int]) -> tuple[Scatter, ...]:
    found = (clusters_of(place, label) for label in labels)
    return tuple(scatter(one) for one in found if one is not None)


def _number(query: Mapping[str, str], name: str) -> int | None:
    """A whole number of an address; None where it says none."""
    given = query.get(name, "")
    return int(given) if given.isdecimal() and given.isascii() and len(given) < 10 else None

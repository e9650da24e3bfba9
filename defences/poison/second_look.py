"""Second looks at a class whose samples fall in two clusters: is one of them poison, and which?

Two clusters alone say nothing: natural ones are as far apart as a backdoor's. Two questions do, and neither is about size.

Removal: is there one patch that makes a cluster leave its class while the other stays (`defences.poison.trigger_removal`)?
That is a local
trigger, and names the cluster.

Exclusion (`defences.poison.exclusionary_reclassification`): is a cluster, left out, as much at home in other classes as
their own samples are? Then it was taken
from them. And is the cluster that is less sure of its place elsewhere still of the class when it is left out? Of natural
halves each teaches the classifier something about the other. Poison teaches nothing about the class it is filed under, so that
the clean cluster, left out, is not recognised any more. That finds triggers spread over the whole image as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from defences.poison.class_split import ClassSplit
from defences.poison.exclusionary_reclassification import Reclassified, reclassify, standardised
from defences.poison.findings import Rows, TrainingSet
from defences.poison.trigger_removal import Disturbed, Local, disturb, locality

_TRAINED_ON = 4000
_ASKED = 200
_DISTURBED = 32
_CLUSTER_AT_LEAST = 12
_TEACHES_AT_LEAST = 40  # fewer samples teach a classifier nothing about a class, whatever they are
_LOCALITY_AT_LEAST = 0.7
_AMONG_OUTLIERS, _STEADFAST = 0.45, 0.1
_HARDLY_OWN = 0.1
_AT_HOME = 0.65
_CLEARLY_FALLEN = 0.4
_CLEARLY_SURER = 1.5
_CLEARLY_SMALLER = 0.42


@dataclass(frozen=True)
class Suspicion:
    """What the second look found.

    Attributes:
        reclassified: of each cluster, when it is left out.
        poison: which cluster is poison; none if neither.
        reason: one sentence.
        patch: the patch that told, where one did.
    """

    reclassified: tuple[Reclassified, Reclassified]
    poison: int | None
    reason: str
    patch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When exclusion decides, see `ActivationClustering`; of splits without a valley never."""

    own_at_most: float = 0.0
    valley_at_most: float = 0.0


def look_again(
    data: TrainingSet, rows: Sequence[Rows], splits: Mapping[int, ClassSplit], *, limits: Limits, seed: int
) -> dict[int, Suspicion]:
    """The second look at every class of `splits`, of the samples `rows`."""
    asked = {
        (label, at): some_of(rows[label][part], _ASKED, seed)
        for label, split in splits.items()
        for at, part in enumerate(split.parts)
    }
    per_class = max(20, _TRAINED_ON // len(data.classes))
    drawn = {label: some_of(some, per_class, seed) for label, some in enumerate(rows) if label not in splits}
    every = np.unique(np.concatenate([*drawn.values(), *asked.values()]))
    features = standardised(data.looked_at_again(every), seed)

    def answered(label: int, at: int) -> Reclassified:
        left_out = asked[label, at]
        kept = np.searchsorted(every, np.setdiff1d(every, rows[label][splits[label].parts[at]]))
        held_out = features[np.searchsorted(every, left_out)]
        return reclassify(features[kept], data.labels[every[kept]], held_out, own=label, classes=len(data.classes))

    found = {}
    for label, split in splits.items():
        both = (answered(label, 0), answered(label, 1))
        samples = (asked[label, 0], asked[label, 1])
        found[label] = _judged(data, split, both, samples, _disturbed(data, label, both, samples, seed), limits)
    return found


def some_of(rows: Rows, count: int, seed: int) -> Rows:
    """At most so many rows, drawn."""
    return rows if len(rows) <= count else np.random.default_rng([seed, len(rows)]).permutation(rows)[:count]


def _judged(
    data: TrainingSet,
    split: ClassSplit,
    both: tuple[Reclassified, Reclassified],
    asked: tuple[Rows, Rows],
    disturbed: tuple[Disturbed, Disturbed] | None,
    limits: Limits,
) -> Suspicion:
    """Both questions, the surer one first."""
    if disturbed is not None:
        at, local = _most_local(split, disturbed)
        if local is not None:
            share = float(disturbed[at].left[disturbed[at].local][local.patch])
            reason = f"one patch makes {share:.0%} of one cluster leave the class, and not the other"
            return Suspicion(both, at, reason, local.patch)
    if split.valley is None:
        return Suspicion(both, None, "no patch makes its outliers leave the class")
    if split.valley > limits.valley_at_most:
        return Suspicion(both, None, "its two clusters run into each other")
    surer = int(both[1].margin > both[0].margin)
    if both[surer].own <= _HARDLY_OWN and both[surer].home >= _AT_HOME:
        return Suspicion(both, *_blamed(data, split, both, disturbed))
    if both[1 - surer].own > limits.own_at_most:
        return Suspicion(both, None, "its two clusters are apart, but they belong together: each is recognised by the other")
    if min(len(rows) for rows in asked) < _TEACHES_AT_LEAST:
        return Suspicion(both, None, "its two clusters are apart, but the smaller one is too small to say more")
    return Suspicion(both, *_blamed(data, split, both, disturbed))


def _most_local(split: ClassSplit, disturbed: tuple[Disturbed, Disturbed]) -> tuple[int, Local | None]:
    """The cluster that a patch matters more to, and how; none where it does not matter enough.

    Of outliers, some of which may be clean, less is enough when no other patch moves them: hard examples move under any.
    """
    first, second = locality(disturbed[0], disturbed[1]), locality(disturbed[1], disturbed[0])
    if split.valley is None:
        steadfast = second.usual <= _STEADFAST and second.much >= _AMONG_OUTLIERS
        return 1, second if second.much >= _LOCALITY_AT_LEAST or steadfast else None
    at, most = (0, first) if first.much >= second.much else (1, second)
    return at, most if most.much >= _LOCALITY_AT_LEAST else None


def _disturbed(
    data: TrainingSet, label: int, both: tuple[Reclassified, Reclassified], asked: tuple[Rows, Rows], seed: int
) -> tuple[Disturbed, Disturbed] | None:
    if data.images is None or data.predict is None or min(len(rows) for rows in asked) < _CLUSTER_AT_LEAST:
        return None
    first, second = (
        disturb(data.images(rows[:_DISTURBED]), label, one.classes[:_DISTURBED], data.predict, seed=seed)
        for rows, one in zip(asked, both, strict=True)
    )
    return first, second


def _blamed(
    data: TrainingSet, split: ClassSplit, both: tuple[Reclassified, Reclassified], disturbed: tuple[Disturbed, Disturbed] | None
) -> tuple[int, str]:
    """Which cluster of a class that is no class without it, and why."""
    if disturbed is not None:
        falls = [float(one.fell.max()) for one in disturbed]
        falling = int(falls[1] > falls[0])
        if falls[falling] - falls[1 - falling] >= _CLEARLY_FALLEN:
            return falling, f"one cluster, disturbed, falls back on other classes, mostly on {data.classes[both[falling].source]}"
    surer = int(both[1].margin > both[0].margin)
    if both[surer].margin >= _CLEARLY_SURER * both[1 - surer].margin:
        return (
            surer,
            f"one cluster is no part of the class; left out, it goes to {data.classes[both[surer].source]} and others",
        )
    share = float(split.second.mean())
    if min(share, 1 - share) < _CLEARLY_SMALLER:
        return int(share < 0.5), "neither cluster is recognised by the other; the smaller one is blamed"
    return surer, "neither cluster is recognised by the other; the one that is surer of another class is blamed"

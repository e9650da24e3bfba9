"""The second look at a class whose samples form two clusters: which of them is poison, if any.

Two clusters alone are no evidence: natural ones are as far apart as a backdoor's. Two tests decide, and neither uses their size.

Removal (`defences.poison.trigger_removal`): a cluster is poison if covering one patch changes the class of most of its images, but not of
the other cluster's, and if what that patch covers, pasted into images of another class, takes its class along. This finds local triggers;
a stroke of a natural kind of digit passes the first half of the test, and not the second.

Exclusion (`defences.poison.exclusionary_reclassification`): a cluster is poison if a classifier trained without it assigns it to other
classes as confidently as their own samples. One cluster is poison, too, if the other is not recognised when it is left out of training:
each of two natural halves teaches the classifier about the other, and poison teaches it nothing about the class of its label. This finds
triggers spread over the whole image as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from defences.poison.class_split import ClassSplit
from defences.poison.exclusionary_reclassification import Reclassified, reclassify, standardised
from defences.poison.findings import Positions, TrainingSet
from defences.poison.trigger_removal import Disturbed, Local, class_changes, disturb, locality, taken_for

_TRAINED_ON = 4000
_ASKED = 200
_DISTURBED = 32
_CLUSTER_AT_LEAST = 12
_TEACHES_AT_LEAST = 40  # fewer samples teach a classifier nothing about a class, poison or not
_LOCALITY_AT_LEAST = 0.7
_AMONG_OUTLIERS, _STEADFAST = 0.45, 0.1
_HOSTS, _CARRIED_AT_LEAST = 24, 0.7
_RECOGNISED_AT_LEAST = 1 / 3  # of the way from chance to all: it is half of the way where half of each of many classes is poison
_HARDLY_OWN = 0.1
_AT_HOME = 0.65
_CLEARLY_FALLEN = 0.4
_CLEARLY_SURER = 1.5
_CLEARLY_SMALLER = 0.42


@dataclass(frozen=True)
class Suspicion:
    """The result of the second look at one class.

    Attributes:
        reclassified: of each cluster, left out of training.
        poison: the poisoned cluster, 0 or 1; None if neither.
        reason: the ground for it, one sentence to show.
        patch: the covered patch that decided; None if another test did.
    """

    reclassified: tuple[Reclassified, Reclassified]
    poison: int | None
    reason: str
    patch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of exclusion, see `ActivationClustering`; a split without a valley is decided by removal alone."""

    own_at_most: float = 0.0
    valley_at_most: float = 0.0


def look_again(
    data: TrainingSet, rows: Sequence[Positions], splits: Mapping[int, ClassSplit], *, limits: Limits, seed: int
) -> dict[int, Suspicion]:
    """The second look at every class of `splits`; `rows` are the positions of each class's samples."""
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

    found, hosts = {}, _hosts(rows, splits, seed)
    for label, split in splits.items():
        both = (answered(label, 0), answered(label, 1))
        samples = (asked[label, 0], asked[label, 1])
        disturbed = _disturbed(data, label, both, samples, seed)
        carries = tuple(_carries(data, label, hosts, some) for some in samples)
        found[label] = _judged(data, split, both, samples, disturbed, limits, carries)
    return found


def some_of(rows: Positions, count: int, seed: int) -> Positions:
    """At most `count` of the positions, drawn without replacement."""
    return rows if len(rows) <= count else np.random.default_rng([seed, len(rows)]).permutation(rows)[:count]


def _judged(
    data: TrainingSet,
    split: ClassSplit,
    both: tuple[Reclassified, Reclassified],
    asked: tuple[Positions, Positions],
    disturbed: tuple[Disturbed, Disturbed] | None,
    limits: Limits,
    carries: Sequence[Callable[[int], bool]],
) -> Suspicion:
    """Removal first, because it is the more certain test; then exclusion."""
    if disturbed is not None:
        at, local = _most_local(split, disturbed)
        if local is not None and carries[at](local.patch):
            share = float(disturbed[at].left[disturbed[at].local][local.patch])
            reason = f"covering one patch changes the class of {share:.0%} of one cluster, and of few in the other"
            return Suspicion(both, at, reason, local.patch)
    if split.valley is None:
        return Suspicion(both, None, "covering a patch does not change the class of its outliers")
    if split.valley > limits.valley_at_most:
        return Suspicion(both, None, "its two clusters overlap")
    chance = 1 / len(data.classes)
    if min(one.recognised for one in both) < chance + _RECOGNISED_AT_LEAST * (1 - chance):
        return Suspicion(both, None, "its two clusters are apart, but a linear classifier does not learn what its images show")
    surer = int(both[1].margin > both[0].margin)
    if both[surer].own <= _HARDLY_OWN and both[surer].home >= _AT_HOME and len(asked[surer]) >= _TEACHES_AT_LEAST:
        return Suspicion(both, *_blamed(data, split, both, disturbed))
    if both[1 - surer].own > limits.own_at_most:
        return Suspicion(both, None, "its two clusters are apart but belong together: left out of training, each is recognised")
    if min(len(rows) for rows in asked) < _TEACHES_AT_LEAST:
        return Suspicion(both, None, "its two clusters are apart, but the smaller one has too few samples to decide")
    return Suspicion(both, *_blamed(data, split, both, disturbed))


def _most_local(split: ClassSplit, disturbed: tuple[Disturbed, Disturbed]) -> tuple[int, Local | None]:
    """The cluster with the higher locality, and that locality; None where it is too low.

    Of outliers, some of which may be clean, a lower locality is enough if no other patch changes their class: the class of a hard
    example changes under any patch.
    """
    first, second = locality(disturbed[0], disturbed[1]), locality(disturbed[1], disturbed[0])
    if split.valley is None:
        steadfast = second.usual <= _STEADFAST and second.much >= _AMONG_OUTLIERS
        return 1, second if second.much >= _LOCALITY_AT_LEAST or steadfast else None
    at, most = (0, first) if first.much >= second.much else (1, second)
    return at, most if most.much >= _LOCALITY_AT_LEAST else None


def _hosts(rows: Sequence[Positions], splits: Mapping[int, ClassSplit], seed: int) -> dict[int, list[Positions]]:
    """Some samples of each class, those of each of its clusters by themselves: half a class may have the trigger already."""
    found = {}
    for label, some in enumerate(rows):
        parts = [some[part] for part in splits[label].parts] if label in splits else [some]
        found[label] = [some_of(part, _HOSTS, seed) for part in parts if len(part) >= _HOSTS]
    return found


def _carries(
    data: TrainingSet, label: int, hosts: Mapping[int, Sequence[Positions]], cluster: Positions
) -> Callable[[int], bool]:
    """Of a patch: whether what it covers in this cluster, pasted into images of another class, makes them the label's."""

    def carries(patch: int) -> bool:
        if data.images is None or data.predict is None:
            return False
        donors = data.images(cluster[:_DISTURBED])
        donors = donors[class_changes(donors, label, patch, data.predict)]
        others = [data.images(some) for one, groups in hosts.items() if one != label for some in groups]
        return any(taken_for(donors, shown, label, patch, data.predict) >= _CARRIED_AT_LEAST for shown in others)

    return carries


def _disturbed(
    data: TrainingSet, label: int, both: tuple[Reclassified, Reclassified], asked: tuple[Positions, Positions], seed: int
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
    """The poisoned cluster of a class in which exclusion has found poison, and the reason."""
    if disturbed is not None:
        falls = [float(one.fell.max()) for one in disturbed]
        falling = int(falls[1] > falls[0])
        if falls[falling] - falls[1 - falling] >= _CLEARLY_FALLEN:
            return falling, f"disturbed, one cluster is assigned to other classes, mostly {data.classes[both[falling].source]}"
    surer = int(both[1].margin > both[0].margin)
    if both[surer].margin >= _CLEARLY_SURER * both[1 - surer].margin:
        return (
            surer,
            f"one cluster, left out of training, is assigned to {data.classes[both[surer].source]} and other classes",
        )
    share = float(split.second.mean())
    if min(share, 1 - share) < _CLEARLY_SMALLER:
        return int(share < 0.5), "left out of training, neither cluster is recognised; the smaller one is taken for the poison"
    return surer, "left out of training, neither cluster is recognised; the one closer to another class is taken for the poison"

"""The step from clusters and second looks to findings, shared by all detectors of poisoned training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from defences.poison.class_split import SAMPLES_AT_LEAST, ClassSplit
from defences.poison.findings import ClassFindings, Cluster, Findings, Positions, TrainingSet, Verdict
from defences.poison.second_look import Suspicion
from defences.poison.trigger_removal import too_small


def class_findings(
    data: TrainingSet, label: int, samples: int, split: ClassSplit | None, second_look: Suspicion | None
) -> ClassFindings:
    """The verdict on one class."""
    name = data.classes[label]
    if split is None:
        few = samples < SAMPLES_AT_LEAST
        reason = f"{samples} samples are too few to split" if few else "its samples cannot be split in two"
        return ClassFindings(label, name, samples, "too few samples" if few else "clean", reason, None, None, None, ())
    poison = None if second_look is None else second_look.poison
    both = (None, None) if second_look is None else second_look.reclassified
    clusters = tuple(
        Cluster(
            size=int(part.sum()),
            share=float(part.mean()),
            poison=poison == at,
            own=None if one is None else one.own,
            source=None if one is None else data.classes[one.source],
            margin=None if one is None else one.margin,
        )
        for at, (part, one) in enumerate(zip(split.parts, both, strict=True))
    )
    reason = "its two clusters overlap" if second_look is None else second_look.reason
    verdict: Verdict = "clean" if poison is None else "poison"
    return ClassFindings(label, name, samples, verdict, reason, split.silhouette, split.distance, split.valley, clusters)


def whole(
    name: str,
    data: TrainingSet,
    rows: Sequence[Positions],
    splits: Mapping[int, ClassSplit | None],
    classes: Sequence[ClassFindings],
    left: Sequence[Positions],
) -> Findings:
    """The findings over all samples, from those of each class; `left` are the positions of each class that are not poison.

    Where the images are too small to tell, no class is called clean or poison.
    """
    n = len(data.labels)
    is_clean, in_second = np.ones(n, bool), np.zeros(n, bool)
    scores, plane = np.zeros(n, np.float32), np.zeros((n, 2), np.float32)
    final = []
    for found, some, clean in zip(classes, rows, left, strict=True):
        split = splits[found.label]
        if split is None:
            final.append(found)
            continue
        suspect = _suspect(found)
        is_clean[np.setdiff1d(some, clean)] = False
        second = (~is_clean[some] if suspect else is_clean[some]) if found.verdict == "poison" else split.second
        away = split.position - split.position.mean()
        scores[some] = (away if suspect else -away) / max(float(away.std()), 1e-12)
        in_second[some], plane[some] = second, split.plane
        final.append(_counted(found, second))
    why = None if data.images is None or not n else too_small(*data.images(np.arange(1)).shape[1:3])
    if why is not None:
        final = [_withheld(found, why) for found in final]
        is_clean[:] = True
    return Findings(name, tuple(final), is_clean, in_second, scores, plane)


def _withheld(found: ClassFindings, why: str) -> ClassFindings:
    """A class about which nothing can be told, with its clusters for people to look at."""
    if found.verdict == "too few samples":
        return found
    clusters = tuple(replace(cluster, poison=False) for cluster in found.clusters)
    return replace(found, verdict="cannot tell", reason=why, clusters=clusters)


def _counted(found: ClassFindings, second: NDArray[np.bool_]) -> ClassFindings:
    """The findings of a class with the sizes of its final clusters."""
    clusters = tuple(
        replace(cluster, size=int(part.sum()), share=float(part.mean()))
        for cluster, part in zip(found.clusters, (~second, second), strict=True)
    )
    return replace(found, clusters=clusters)


def _suspect(found: ClassFindings) -> int:
    """The poisoned cluster; without poison the smaller one."""
    blamed = [at for at, cluster in enumerate(found.clusters) if cluster.poison]
    return blamed[0] if blamed else int(found.clusters[1].size < found.clusters[0].size)

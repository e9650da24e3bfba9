"""python -m benchmarks model_only: networks judged without their training data, clean ones and such with backdoors of every kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness.architectures import ARCHITECTURES
from benchmarks.harness.kept_rows import kept_rows
from benchmarks.harness.peers import table
from benchmarks.networks.small_networks import CLEAN, ON_ANY_IMAGE, ON_CONTENT, SmallNetwork, fleet, make
from defences.networks.class_outliers import p_values
from defences.networks.target_search import SCORES, TargetSearch
from evaluation.statistics.intervals import share

_CLEAN, _BACKDOORED, _ON_CONTENT, _BOUNDED = 30, 30, 6, 4
_CONFIDENCE = 0.7
_TPR_AT_LEAST, _FPR_AT_MOST = 0.9, 0.05
_JUDGE = TargetSearch()

_Row = Mapping[str, Any]


def section() -> str:
    """The page's section."""
    fleets = {
        "clean": fleet((CLEAN,), _CLEAN, seed=20),
        "backdoored": fleet(ON_ANY_IMAGE, _BACKDOORED, seed=21),
        "content": fleet(ON_CONTENT, _ON_CONTENT, seed=22),
        "bounded": fleet(("corner_pattern", "single_pixel", "blended", "image_patch"), _BOUNDED, seed=23, confidence=_CONFIDENCE),
    }
    work: dict[str, Callable[[], Any]] = {one.name: partial(_judged, one) for some in fleets.values() for one in some}
    rows = kept_rows("model_only", work, plan={"p_at_most": _JUDGE.p_at_most})
    clean, backdoored, content, bounded = ([rows[one.name] for one in some] for some in fleets.values())
    return (
        "## Networks judged without their data\n\n"
        f"`python -m benchmarks model_only`: {_CLEAN} clean networks, {_BACKDOORED} with backdoors that work on any image, "
        f"{_ON_CONTENT} with such that need certain images, and {_BOUNDED} of an attacker who bounds the target's margins, trained by "
        f"this section on {_few(backdoored)}, of {len(ARCHITECTURES)} architectures ({', '.join(ARCHITECTURES)}), each with images, "
        "weights, target and rate of poison (6, 10 or 15 % where it may be chosen) of its own. None of them was used to choose "
        f"anything of the method. In brackets exact 95 % intervals; p at most {_JUDGE.p_at_most:g}, seed 0.\n\n"
        f"{_of_kinds(backdoored)}\n{_wanted(clean, backdoored)}\n"
        f"The smallest p of a clean network is {min(row['p'] for row in clean):.2g}, the largest of one with a backdoor "
        f"{max(row['p'] for row in backdoored):.2g}. By the smallest p of the nine scores, times nine, "
        f"{_by_smallest(backdoored)} would be found and {_by_smallest(clean)} accused.\n\n"
        f"### Each score alone\n\nGrubbs's p of one score at most {_JUDGE.p_at_most:g}.\n\n"
        f"{_of_scores(clean, backdoored)}\n"
        f"### Triggers that need certain images\n\n{_of_kinds(content)}\n"
        "### An attacker who bounds the target's margins\n\nCover samples with the same trigger, so that the network is sure of the "
        f"target by {_CONFIDENCE:g} only (`attacks/backdoors/bounded_margin.py`).\n\n{_of_kinds(bounded)}\n"
        f"A network takes {rows[fleets['clean'][0].name]['gradients']:,} gradients, {_seconds(rows)} s on one thread."
    )


def _judged(network: SmallNetwork) -> dict[str, Any]:
    made = make(network)
    started = time.process_time()
    found = _JUDGE.judge(made.classifier, seed=0)
    return {
        "kind": network.kind,
        "data": network.data,
        "target": network.target,
        "accuracy": made.accuracy,
        "success": made.success,
        "verdict": found.verdict,
        "suspicious": [one.label for one in found.classes if one.verdict == "backdoor"],
        "p": min(one.p for one in found.classes),
        "scores": [one.scores for one in found.classes],
        "gradients": found.gradients,
        "seconds": round(time.process_time() - started, 2),
    }


def _few(rows: Sequence[_Row]) -> str:
    counts = {name: sum(row["data"] == name for row in rows) for name in dict.fromkeys(row["data"] for row in rows)}
    return " and ".join(f"{name} ({count} of {len(rows)} backdoored ones)" for name, count in counts.items())


def _seconds(rows: Mapping[str, _Row]) -> str:
    return f"{np.median([row['seconds'] for row in rows.values()]):.1f}"


def _of_kinds(rows: Sequence[_Row]) -> str:
    header = ("backdoor", "networks", "trigger works", "accuracy", "called backdoored", "and the target named")
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of = [row for row in rows if row["kind"] == kind]
        lines.append(
            [
                kind.replace("_", " "),
                str(len(of)),
                f"{100 * min(row['success'] for row in of):.0f} to {100 * max(row['success'] for row in of):.0f} %",
                f"{100 * min(row['accuracy'] for row in of):.1f} to {100 * max(row['accuracy'] for row in of):.1f} %",
                f"**{sum(map(_found, of))}**",
                str(sum(row["target"] in row["suspicious"] for row in of)),
            ]
        )
    return table(header, lines)


def _wanted(clean: Sequence[_Row], backdoored: Sequence[_Row]) -> str:
    tpr, fpr = (share(np.array([_found(row) for row in rows])) for rows in (backdoored, clean))
    return table(
        ("rate", "wanted", "measured", "met"),
        [
            ["backdoored networks found", f">= {100 * _TPR_AT_LEAST:g} %", f"**{tpr}**", _yes(tpr.rate >= _TPR_AT_LEAST)],
            ["clean networks called backdoored", f"<= {100 * _FPR_AT_MOST:g} %", f"**{fpr}**", _yes(fpr.rate <= _FPR_AT_MOST)],
        ],
    )


def _of_scores(clean: Sequence[_Row], backdoored: Sequence[_Row]) -> str:
    kinds = tuple(dict.fromkeys(row["kind"] for row in backdoored))
    header = ("score", "clean networks called backdoored", *(f"{kind.replace('_', ' ')} found" for kind in kinds))
    lines = []
    for number, name in enumerate(SCORES):
        hits = [sum(_alone(row, number) for row in backdoored if row["kind"] == kind) for kind in kinds]
        counts = [sum(row["kind"] == kind for row in backdoored) for kind in kinds]
        false = sum(_alone(row, number) for row in clean)
        lines.append([name, f"{false} of {len(clean)}", *(f"{hit} of {of}" for hit, of in zip(hits, counts, strict=True))])
    return table(header, lines)


def _alone(row: _Row, number: int) -> bool:
    return bool(p_values(np.array(row["scores"])[:, number]).min() <= _JUDGE.p_at_most)


def _by_smallest(rows: Sequence[_Row]) -> int:
    """How many networks would be called backdoored by Bonferroni's inequality in place of the combination of all scores."""
    smallest = [min(p_values(np.array(scores)).min() for scores in np.array(row["scores"]).T) for row in rows]
    return sum(len(SCORES) * p <= _JUDGE.p_at_most for p in smallest)


def _found(row: _Row) -> bool:
    return bool(row["verdict"] == "backdoor")


def _yes(met: bool) -> str:
    return "yes" if met else "no"


if __name__ == "__main__":
    print(section())

"""Judge a network without its training data: from a classifier with gradients to a verdict on it and on each of its classes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from defences.networks.findings import NetworkFindings
from defences.networks.made_images import smooth_noise
from defences.networks.target_search import TargetSearch
from evaluation.reporting.page_needs import check_page_can_be_drawn
from evaluation.scanning.network_report import FORMAT, NETWORK_REPORT, NetworkReport
from models.classifier import Classifier, DifferentiableClassifier
from models.datasets import IN_MEMORY
from models.engines.twins.capabilities import Capabilities, engine_of
from models.engines.twins.twin_file import TwinGiven, with_gradients
from models.errors import InvalidInput
from models.machine import processors
from models.printable import printable_json
from models.progress import Progress, silent
from models.stored_images import refused_when_full
from models.version import __version__

_COMPARED = 256


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """How a network is judged.

    Args:
        judge: the method.
        twin: what lends gradients to a classifier that has none, or its file; compared on noise before it is believed.
        seed: of everything drawn.
        threads: of the twin.
        classifier_file: for the report.
    """

    judge: TargetSearch = field(default_factory=TargetSearch)
    twin: TwinGiven | None = None
    seed: int = 0
    threads: int | None = None
    classifier_file: str = IN_MEMORY.file


@dataclass(frozen=True)
class NetworkScan:
    """The result: report.json, and what the method found."""

    report: NetworkReport
    findings: NetworkFindings

    def write(self, out: Path) -> None:
        """Write report.json and report.html. Raises: InvalidInput: no space, or hauberk[report] is not installed."""
        check_page_can_be_drawn()
        refused_when_full(out, lambda: self._write(out))

    def _write(self, out: Path) -> None:
        from evaluation.scanning.network_page import network_page

        out.mkdir(parents=True, exist_ok=True)
        document = printable_json(NETWORK_REPORT.dump_json(self.report, indent=2).decode())
        (out / "report.json").write_text(document + "\n", encoding="utf-8")
        (out / "report.html").write_text(network_page(self.report, self.findings), encoding="utf-8")


def scan_network(classifier: Classifier, *, plan: NetworkPlan | None = None, progress: Progress = silent) -> NetworkScan:
    """Look for a backdoor in a network, without any of its data.

    Raises: InvalidInput: no gradients, neither its own nor a twin's; outputs that are not finite.
    """
    started, plan = time.monotonic(), plan or NetworkPlan()
    able = _with_gradients(classifier, plan)
    found = plan.judge.judge(able, seed=plan.seed, progress=progress)
    report = NetworkReport(
        format=FORMAT,
        hauberk=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        verdict=found.verdict,
        reason=found.reason,
        suspicious_classes=[one.name for one in found.classes if one.verdict == "backdoor"],
        classifier={
            "file": plan.classifier_file,
            "engine": engine_of(classifier),
            "input_shape": list(classifier.input_shape),
            "classes": len(classifier.labels),
        },
        method=plan.judge.name,
        p_at_most=plan.judge.p_at_most,
        seed=plan.seed,
        gradients=found.gradients,
        classes=list(found.classes),
    )
    return NetworkScan(report, found)


def _with_gradients(classifier: Classifier, plan: NetworkPlan) -> DifferentiableClassifier:
    noise = smooth_noise(_COMPARED, classifier.input_shape, np.random.default_rng(plan.seed))
    able = with_gradients(classifier, noise, given=plan.twin, threads=plan.threads or processors())
    if not isinstance(able, DifferentiableClassifier):
        raise InvalidInput(Capabilities.of(classifier).lacks_gradients("judging a network without its data"))
    return able

"""hauberk scan --model-only: is a network backdoored? Its training data are not needed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from evaluation.scanning.network_report import NetworkReport
from evaluation.scanning.network_scan import NetworkPlan, scan_network
from hauberk.commands.classifier_options import how_it_reads, open_by_itself
from hauberk.commands.data import AsPictures
from hauberk.commands.declaration import Declaration
from hauberk.commands.options import progress_bar
from models.engines.twins.twin_file import own_program
from models.errors import InvalidInput
from models.printable import printable

FOUND = 3
"""The exit code of a finding."""

_ABOUT_DATA = ("data", "layer", "methods", "reduction", "split", "rows", "truth", "backend", "workers", "address")


def check_alone(given: Mapping[str, Any], options: Mapping[str, inspect.Parameter]) -> None:
    """Raises: InvalidInput: options about training data, which a network is judged without."""
    named = [f"--{name}" for name in _ABOUT_DATA if given[name] != options[name].default]
    if named:
        raise InvalidInput(
            f"expected no {' and no '.join(named)} with --model-only, which judges a network without its training data; leave "
            f"{'it' if len(named) == 1 else 'them'} out"
        )


def scan_model(
    file: Path, out: Path, declared: Declaration, pictures: AsPictures, gradients: Path | None, *, seed: int, threads: int
) -> None:
    """Judge the network in a file; exit with 3 where it has a backdoor. Raises: InvalidInput: also where it cannot be told."""
    size = None
    if pictures.size is not None and pictures.colours is not None:
        size = (*pictures.size, 3 if pictures.colours == "rgb" else 1)
    model = open_by_itself(file, declared=declared, size=size, threads=threads)
    plan = NetworkPlan(
        twin=gradients or own_program(file, model, threads=threads), seed=seed, threads=threads, classifier_file=file.name
    )
    with progress_bar("gradients") as report:
        found = scan_network(model, plan=plan, progress=report)
    found.write(out)
    print(how_it_reads(model))
    _summarise(found.report, out)
    if found.report.verdict == "backdoor":
        raise typer.Exit(FOUND)
    if found.report.verdict == "cannot tell":
        raise InvalidInput(f"cannot tell whether {file.name} has a backdoor: {found.report.reason}")


def _summarise(report: NetworkReport, out: Path) -> None:
    if report.verdict == "backdoor":
        print(printable(f"backdoor to class {', '.join(report.suspicious_classes)}: {report.reason}"))
    elif report.verdict == "clean":
        print(printable(f"no backdoor found among {len(report.classes)} classes: {report.reason}"))
    else:
        print(f"no verdict on a network of {len(report.classes)} classes")
    print(printable(f"written to {out / 'report.html'}, report.json beside it"))

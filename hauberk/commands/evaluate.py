"""hauberk evaluate: attack a bundle in every variant, and write the tables that say whether its defences are worth their cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from evaluation.budget import BUDGETS
from evaluation.evaluate import EvaluationPlan, write
from evaluation.evaluate import evaluate as evaluate_bundle
from evaluation.reporting.page_needs import check_page_can_be_drawn
from evaluation.reporting.report import Report
from evaluation.tables.evasion import CLEAN
from evaluation.tables.outcomes import Robustness
from hauberk.commands.data import AsPictures, origin, read_data, sha256_of
from hauberk.commands.options import (
    ColoursOption,
    GradientsOption,
    ResizeOption,
    RowsOption,
    SeedOption,
    SplitOption,
    ThreadsOption,
    check_writable,
    progress_bar,
)
from models.bundle import Bundle, read_bundle
from models.datasets import Origin
from models.errors import InvalidInput
from models.pictures.folders import is_picture_folder
from models.printable import printable
from models.progress import Progress

# Measured on the bundled classifier of digits (docs/limits.md); larger images and models take longer.
_EXPECTED = {"quick": "a few minutes", "standard": "about 7 minutes for digits on two processors", "full": "hours"}


def evaluate(
    bundle: Annotated[Path, typer.Option(help="Bundle directory, as hauberk calibrate writes it.")],
    data: Annotated[
        Path,
        typer.Option(help="Labelled images new to it, .npz or pictures in a folder a class."),
    ],
    out: Annotated[Path, typer.Option(help="Directory for report.json and report.html; a second call goes on where it was.")],
    budget: Annotated[
        Literal["quick", "standard", "full"], typer.Option(help="How much to spend: quick takes minutes, the others hours.")
    ] = "standard",
    split: SplitOption = "test",
    rows: RowsOption = None,
    resize: ResizeOption = None,
    colours: ColoursOption = None,
    eps: Annotated[
        str | None, typer.Option(help="L-inf radii with commas between; 0.1,0.3 for grey and 2/255,8/255 for colour images.")
    ] = None,
    gradients: GradientsOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Attack a bundle without, with each and with all of its defences, and write report.json and report.html.

    Example: hauberk evaluate --bundle models/bundles/mnist --data models/data/mnist.npz --out out/evaluation
    """
    check_page_can_be_drawn()
    check_writable(out)
    read = read_bundle(bundle)
    images = read_data(data, split, rows, AsPictures(resize, colours or _colours_of(read, data), read.labels))
    came_from = origin(data, split, rows, len(images))
    plan = EvaluationPlan(
        budget=BUDGETS[budget],
        radii=_radii(eps),
        seed=seed,
        threads=threads,
        gradients=gradients,
        origin=came_from,
        warnings=_calibrated_on(read, data, came_from),
    )
    with progress_bar("steps") as progress:
        report = evaluate_bundle(read, images, plan=plan, out=out, progress=_saying_how_long(budget, progress))
    write(report, out)
    _summarise(report, out)


def _colours_of(bundle: Bundle, data: Path) -> Literal["grey", "rgb"] | None:
    """As what the pictures of a folder are read for its classifier; None of other data."""
    if not is_picture_folder(data):
        return None
    return {1: "grey", 3: "rgb"}.get(bundle.input_shape[2])  # type: ignore[return-value]  # of these two words


def _calibrated_on(bundle: Bundle, path: Path, given: Origin) -> tuple[str, ...]:
    """A warning when rows of this file are among those the bundle was calibrated on."""
    used = bundle.card.get("calibration", {}).get("data", {})
    if used.get("sha256") != sha256_of(path) or (given.split is not None and used.get("split") != given.split):
        return ()
    (start, stop), (first, end) = (_bounds(rows) for rows in (given.rows, used.get("rows")))
    shared = max(0, min(stop, end) - max(start, first))
    if not shared:
        return ()
    return (f"{shared:,} of these images are among those the bundle was calibrated on: {path.name}, rows {used['rows']}",)


def _bounds(rows: str | None) -> tuple[int, int]:
    start, _, stop = (rows or ":").partition(":")
    return int(start or 0), int(stop or sys.maxsize)


def _saying_how_long(budget: str, progress: Progress) -> Progress:
    """The same reports, and the expected duration before the first."""
    told = False

    def report(what: str, done: int, of: int) -> None:
        nonlocal told
        if not told:
            print(f"{of} steps, {_EXPECTED[budget]}; a run that is stopped goes on with the same command", file=sys.stderr)
            told = True
        progress(what, done, of)

    return report


def _radii(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        radii = tuple(sorted({_number(part) for part in text.split(",")}))
    except (ValueError, ZeroDivisionError):
        radii = ()
    if not radii or not all(0 < radius <= 1 for radius in radii):
        raise InvalidInput(f"expected --eps with radii in (0, 1] such as 0.1,0.3 or 8/255, got {text!r}")
    return radii


def _number(text: str) -> float:
    above, slash, below = text.partition("/")
    return float(above) / float(below) if slash else float(above)


def _summarise(report: Report, out: Path) -> None:
    """The main tables, in a terminal's width."""
    console = Console()
    variants = [row.variant for row in report.benign]
    name = printable(report.bundle["name"])
    console.print(
        f"\n{name} {report.bundle['version']}, {report.data['attacked']} images attacked: {report.verdict.summary}\n",
        markup=False,
        highlight=False,
    )
    console.print("Robust accuracy in %; where some were refused: an abstention counted as safe / as a failure.")
    for radius in report.radii:
        rows: list[tuple[str, Sequence[Any]]] = [
            (attack, [row for row in report.evasion if row.attack == attack and row.eps in (None, radius)])
            for attack in dict.fromkeys(row.attack for row in report.evasion)
        ]
        outside = [row for row in rows if row[0] != CLEAN and row[1][0].eps is None]
        rows = [row for row in rows if row not in outside]
        rows.append(("worst case of these", [row for row in report.worst_case if row.eps == radius]))
        rows += [(f"{attack}, not within eps", found) for attack, found in outside]
        _print_table(console, f"eps {radius:.3g}", variants, rows)
    _summarise_others(console, report)
    for warning in report.warnings:
        console.print(printable(f"warning: {warning}"), markup=False, highlight=False, soft_wrap=True)
    console.print(f"Left out: {report.verdict.left_out_of_the_worst_case}.", markup=False, highlight=False)
    for check in report.checks:
        console.print(f"{'fine ' if check.fine else 'DOUBT'} {check.name}: {check.found}", markup=False, highlight=False)
    for reason, names in report.left_out_by_reason().items():
        console.print(f"left out: {names}: {reason}", markup=False, highlight=False, soft_wrap=True)
    queries, gradients = (sum(getattr(cost, what) for cost in report.costs) for what in ("queries", "gradients"))
    console.print(f"{queries:,} queries and {gradients:,} gradients, {report.seconds:.0f} s.", highlight=False)
    console.print(f"All tables and curves: {printable(out / 'report.html')}", markup=False, highlight=False, soft_wrap=True)


def _summarise_others(console: Console, report: Report) -> None:
    """A line for each backdoor, and the best thief of each victim."""
    for row in report.backdoors:
        works, answered = (100 * row[key]["rate"] for key in ("success", "answered"))
        refused = ", ".join(f"{one['name']} {100 * one['refused_triggered']['rate']:.1f} %" for one in row["detectors"][:-1])
        console.print(
            f"backdoor {row['kind']}: works on {works:.1f} % of triggered images undefended; refused by {refused}; {answered:.1f} % are "
            "answered with the attacker's label",
            highlight=False,
        )
    for victim in dict.fromkeys(row["victim"] for row in report.extraction):
        best = max((row for row in report.extraction if row["victim"] == victim), key=lambda row: row["agreement"])
        console.print(
            f"extraction, {victim}: the best thief ({best['thief']}, {best['optimiser']}) agrees on "
            f"{100 * best['agreement']:.1f} % after {best['queries']:,} queries",
            highlight=False,
        )


def _print_table(console: Console, title: str, variants: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]]) -> None:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(title, no_wrap=True)
    for variant in variants:
        table.add_column(variant, overflow="fold")
    for name, found in rows:
        by_variant = {row.variant: row.robustness for row in found}
        cells = (by_variant.get(variant) for variant in variants)
        table.add_row(
            name,
            *("" if cell is None else _both_ways(cell) for cell in cells),
        )
    console.print(table)


def _both_ways(found: Robustness) -> str:
    safe, failure = 100 * found.abstention_safe.rate, 100 * found.abstention_failure.rate
    return f"{safe:.1f}/{failure:.1f}" if found.abstained.hits else f"{safe:.1f}"

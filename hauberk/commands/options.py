"""Options that several commands take, each declared once (those about a model: declaration.py), and the progress bar of all commands."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hauberk.commands.progress_lines import ProgressLines
from models.datasets import Split
from models.errors import InvalidInput
from models.printable import printable
from models.progress import Progress as Report

SEED_AT_MOST = 2**32 - 1
"""The largest seed that every random generator in use takes."""

SplitOption = Annotated[Split, typer.Option(help="Which half of a file with x_train and x_test.")]
RowsOption = Annotated[str | None, typer.Option(help="Only the rows START:STOP.")]
SeedOption = Annotated[
    int, typer.Option(min=0, max=SEED_AT_MOST, help="Of everything drawn: the same seed and input give the same result.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads; all processors when not given.")]
GradientsOption = Annotated[
    Path | None,
    typer.Option(help="A model without gradients: the same network with some, .keras or .pt2; compared before it is believed."),
]
ResizeOption = Annotated[
    str | None, typer.Option(help="Of a folder of pictures: the size to bring all to, HEIGHTxWIDTH such as 32x32.")
]
ColoursOption = Annotated[
    Literal["grey", "rgb"] | None,
    typer.Option(help="Of a folder of pictures: one channel or three; grey where all are, when not given."),
]


def check_writable(directory: Path) -> None:
    """Refuse at the start what would fail after the work. Raises: InvalidInput."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as failure:
        raise InvalidInput(f"cannot write to {directory} ({(failure.strerror or str(failure)).lower()})") from failure


def say(text: str) -> None:
    """A line on stderr: what is going to happen, beside the result on stdout."""
    print(printable(text), file=sys.stderr, flush=True)


_TOLD: ContextVar[Report | None] = ContextVar("told", default=None)


@contextmanager
def reporting_to(report: Report) -> Iterator[None]:
    """Commands that run within report their progress here, and draw nothing."""
    before = _TOLD.set(report)
    try:
        yield
    finally:
        _TOLD.reset(before)


@contextmanager
def progress_bar(unit: str, **units: str) -> Iterator[Report]:
    """A bar on stderr that follows reports of (what, done, of), or lines where stderr is no terminal; none before the first report.

    Args:
        unit: of what is counted, such as "epochs".
        units: of reports that count something else, by what they report, with _ for spaces.
    """
    if (told := _TOLD.get()) is not None:
        yield told
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLines(unit, units)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=console)
    tasks: dict[str, int] = {}

    def report(what: str, done: int, of: int) -> None:
        if what not in tasks:
            bar.start()
            tasks[what] = bar.add_task(what, total=of, unit=units.get(what.replace(" ", "_"), unit))
        bar.update(tasks[what], completed=done, total=of)  # type: ignore[arg-type]  # rich's TaskID is an int

    try:
        yield report
    finally:
        if tasks:
            bar.stop()

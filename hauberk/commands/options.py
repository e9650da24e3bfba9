"""Parsing what several commands take, and the progress bar of all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from models.datasets import Dataset, Split, load_dataset
from models.errors import InvalidInput
from models.progress import Progress as Report

SEED_AT_MOST = 2**32 - 1
"""What every random generator in use takes."""


def read_data(path: Path, split: str, rows: str | None) -> Dataset:
    """The data in `path`, or its rows START:STOP."""
    data = load_dataset(path, split=chosen_split(split))
    return data if rows is None else data.take(chosen_rows(rows, len(data)))


def chosen_split(split: str) -> Split:
    """What --split says. Raises: InvalidInput."""
    if split not in ("train", "test"):
        raise InvalidInput(f"expected --split train or test, got {split!r}")
    return cast(Split, split)


def chosen_rows(rows: str, samples: int) -> slice:
    """What --rows START:STOP says of so many samples. Raises: InvalidInput."""
    start, separator, stop = rows.partition(":")
    try:
        chosen = slice(int(start or 0), int(stop or samples))
    except ValueError:
        chosen = slice(0, 0)
    if not separator or not 0 <= chosen.start < chosen.stop <= samples:
        raise InvalidInput(f"expected --rows START:STOP within 0:{samples}, got {rows!r}")
    return chosen


def check_writable(directory: Path) -> None:
    """Refuse at the start what would fail after the work. Raises: InvalidInput."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as failure:
        raise InvalidInput(f"cannot write to {directory} ({(failure.strerror or str(failure)).lower()})") from failure


@contextmanager
def progress_bar() -> Iterator[Report]:
    """A bar on stderr that follows reports of (what, done, of); nothing is drawn before the first."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    tasks: dict[str, int] = {}

    def report(what: str, done: int, of: int) -> None:
        if what not in tasks:
            bar.start()
            tasks[what] = bar.add_task(what, total=of)
        bar.update(tasks[what], completed=done, total=of)  # type: ignore[arg-type]  # rich's TaskID is an int

    try:
        yield report
    finally:
        if tasks:
            bar.stop()

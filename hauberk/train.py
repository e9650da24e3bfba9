"""hauberk train: the reference network, reproducibly, on purified images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from defences.purified_training import with_purified_copies
from hauberk.options import SEED_AT_MOST, check_writable, progress_bar, read_data
from models.errors import InvalidInput
from models.keras_classifier import KerasClassifier
from models.training import Recipe, save
from models.training import train as fit
from service.settings import processors


def train(
    data: Annotated[Path, typer.Option(help="Training data, .npz with images and labels (or x_train, y_train).")],
    out: Annotated[Path, typer.Option(help="Where the model goes, NAME.keras.")],
    split: Annotated[str, typer.Option(help="Which half of a file with x_train and x_test: train or test.")] = "train",
    rows: Annotated[str | None, typer.Option(help="Only the rows START:STOP.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 8,
    seed: Annotated[
        int, typer.Option(min=0, max=SEED_AT_MOST, help="The same seed, data and --threads give the same weights.")
    ] = 0,
    purified: Annotated[
        bool, typer.Option(help="Train on a purified copy of every image beside it, so that purifying costs less.")
    ] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all processors when not given.")] = None,
) -> None:
    """Train the reference network.

    Example: hauberk train --data models/data/mnist.npz --rows 0:55000 --out mnist.keras
    """
    if out.suffix != ".keras":
        raise InvalidInput(f"expected --out to end in .keras, got {out.name}")
    check_writable(out.parent)
    used = threads or processors()
    recipe = Recipe(epochs=epochs, seed=seed)
    dataset = read_data(data, split, rows)
    given = with_purified_copies(dataset, seed=seed, threads=used) if purified else dataset
    with progress_bar() as report:
        report("training", 0, epochs)
        model = fit(given, recipe=recipe, threads=used, on_epoch=lambda epoch, loss: report("training", epoch, epochs))
    save(model, out)
    print(f"{out}: {model.count_params():,} parameters, {len(dataset):,} images, {epochs} epochs, seed {seed}")
    if split == "train":
        _print_test_accuracy(model, data)


def _print_test_accuracy(model: object, data: Path) -> None:
    try:
        test = read_data(data, "test", None)
    except InvalidInput:  # a file with images and labels only has no other half
        return
    hits = KerasClassifier(model).predict(test.images).argmax(axis=1) == test.labels
    print(f"accuracy on the test split: {100 * hits.mean():.2f} % of {len(test):,} images")

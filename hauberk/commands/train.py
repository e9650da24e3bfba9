"""hauberk train: the reference network, reproducibly, on purified images; with --adversarial, a network hardened against evasion; with
--masked, one that is right about masked images, too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from attacks.evasion.vanished import vanished_gradients
from defences.detectors.mask_set import check_patch, read_patch
from defences.detectors.masked_training import train_under_masks
from defences.purifiers.purified_training import with_purified_copies
from hauberk.commands.classifier_options import how_it_reads, open_classifier
from hauberk.commands.data import AsPictures, class_names, read_data
from hauberk.commands.declaration import NOTHING_SAID, Declaration, asks_about_the_model
from hauberk.commands.judged_on import judge_on
from hauberk.commands.options import (
    ColoursOption,
    ResizeOption,
    RowsOption,
    SeedOption,
    SplitOption,
    ThreadsOption,
    check_writable,
    progress_bar,
)
from models.accuracy import judge
from models.datasets import Dataset, shared_images
from models.engines.keras import KerasClassifier, import_tensorflow
from models.errors import InvalidInput
from models.file_kinds import ONNX_MODEL, SKOPS_MODEL, TORCH_EXPORT, TORCH_SCRIPT, kind_of
from models.machine import processors
from models.printable import printable
from models.training.adversarial_trainer import AdversarialTrainer, named_attacks
from models.training.reference_classifier import Recipe, robust_network, save, untrained
from models.training.reference_classifier import train as fit
from models.training.training_state import Epoch

_VALIDATION_AT_MOST = 1000
_PATCH = "5x5"
_HARDENING: dict[str, float | None] = {"eps": 0.3, "iterations": 7, "ratio": 1.0, "trades": 0.0, "shift": 0, "patience": None}
"""What the options of --adversarial are when they are not given."""


@asks_about_the_model(labels=False)
def train(
    data: Annotated[
        Path,
        typer.Option(help="Training data, .npz with images and labels (or x_train, y_train), or pictures in a folder a class."),
    ],
    out: Annotated[Path, typer.Option(help="Where the model goes, NAME.keras.")],
    split: SplitOption = "train",
    rows: RowsOption = None,
    resize: ResizeOption = None,
    colours: ColoursOption = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 8,
    seed: SeedOption = 0,
    purified: Annotated[
        bool, typer.Option(help="Train on a purified copy of every image beside it, so that purifying costs less.")
    ] = True,
    adversarial: Annotated[Literal["fgm", "pgd"] | None, typer.Option(help="Train against this attack.")] = None,
    eps: Annotated[float, typer.Option(help="With --adversarial: by how much it changes a pixel, of a range of 1.")] = 0.3,
    iterations: Annotated[int, typer.Option(help="With --adversarial pgd: steps of the attack.")] = 7,
    ratio: Annotated[float, typer.Option(help="With --adversarial: the share of each batch that is attacked.")] = 1.0,
    trades: Annotated[float, typer.Option(help="With --adversarial: TRADES with this weight of the divergence, instead.")] = 0.0,
    shift: Annotated[int, typer.Option(help="With --adversarial: move every image by up to so many pixels each way.")] = 0,
    patience: Annotated[
        int | None, typer.Option(help="With --adversarial: stop after so many epochs without better robust accuracy.")
    ] = None,
    masked: Annotated[
        bool, typer.Option("--masked", help="Train on every image under its worst mask, too, for calibrate --patch.")
    ] = False,
    patch: Annotated[
        str | None,
        typer.Option(help=f"With --masked: the patch that the masks cover, as for calibrate; {_PATCH} when not given."),
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(help="With --adversarial or --masked: train a copy of this model, NAME.keras, further, not a new one."),
    ] = None,
    declared: Declaration = NOTHING_SAID,
    threads: ThreadsOption = None,
) -> None:
    """Train the reference network, or harden a network against an attack or for masks.

    The same seed, data and --threads give the same weights.

    A killed --adversarial run goes on after its last epoch when the same command is given again (NAME.training.npz holds it).

    Example: hauberk train --data models/data/mnist.npz --rows 0:55000 --out mnist.keras
    """
    _check_file(out)
    hardening = {"eps": eps, "iterations": iterations, "ratio": ratio, "trades": trades, "shift": shift, "patience": patience}
    _check_together(classifier, declared, adversarial=adversarial, hardening=hardening, masked=masked, patch=patch)
    covered = read_patch(patch or _PATCH) if masked else None
    check_writable(out.parent)
    used = threads or processors()
    recipe = Recipe(epochs=epochs, seed=seed)
    trainer = None
    if adversarial is not None:
        attacks = named_attacks(adversarial, eps, iterations=iterations)
        trainer = AdversarialTrainer(attacks=attacks, recipe=recipe, ratio=ratio, beta=trades, shift=shift, patience=patience)
    pictures = AsPictures(resize, colours)
    dataset = read_data(data, split, rows, pictures)
    # Read before the long work: a test half that cannot be used is known in seconds.
    judged_on, what = judge_on(dataset, data, split, rows, pictures, new=classifier is None)
    if covered is not None:
        check_patch(covered, dataset.images.shape[1:])
    if shift >= min(dataset.images.shape[1:3]):
        raise InvalidInput(f"expected --shift below the sides of the images, {dataset.images.shape[1:3]}, got {shift}")
    opened = None
    if classifier is not None:
        opened = _opened(classifier, dataset, declared=declared, names=class_names(data), threads=used)
    if trainer is not None:
        start = opened or _untrained(dataset, trainer, threads=used)
        trained = _hardened(trainer, dataset, out, purified=purified, threads=used, start=start)
    else:
        given = with_purified_copies(dataset, seed=seed, threads=used) if purified else dataset
        trained = _trained(given, recipe, covered, start=opened, threads=used)
    save(trained.model, out)
    if trainer is not None:
        _checkpoint(out).unlink(missing_ok=True)
    print(
        printable(out) + f": {trained.model.count_params():,} parameters, {len(dataset):,} images, {epochs} epochs, seed {seed}"
    )
    _judge(trained, dataset, judged_on, what)


def _check_file(out: Path) -> None:
    """Raises: InvalidInput: no file that a model is written to."""
    if out.suffix != ".keras":
        raise InvalidInput(f"expected --out to end in .keras, got {out.name}")
    if out.is_dir():
        raise InvalidInput(f"expected --out to be a file to write, got {out}, which is a directory")


def _check_together(
    classifier: Path | None,
    declared: Declaration,
    *,
    adversarial: str | None,
    hardening: Mapping[str, float | None],
    masked: bool,
    patch: str | None,
) -> None:
    """Raises: InvalidInput: options that exclude each other, or that mean nothing without one that is not given."""
    if classifier is not None and adversarial is None and not masked:
        raise InvalidInput(
            "expected --adversarial fgm or pgd, or --masked, with --classifier, got none; a model is hardened, not trained anew"
        )
    if masked and adversarial is not None:
        raise InvalidInput("expected --adversarial or --masked, got both; train with one, and then the result with the other")
    if patch is not None and not masked:
        raise InvalidInput("expected --masked with --patch, got none")
    said = [f"--{name}" for name, value in hardening.items() if value != _HARDENING[name]]
    if said and adversarial is None:  # who says how strong the attack is believes that there is one
        raise InvalidInput(f"expected --adversarial fgm or pgd with {' and '.join(said)}, got none")
    if classifier is None and not declared.is_empty:
        raise InvalidInput(
            "expected --classifier with options that say how a model reads images, got none; a new model reads 0,1 and ends in a softmax"
        )


def _hardened(
    trainer: AdversarialTrainer, data: Dataset, out: Path, *, purified: bool, threads: int, start: KerasClassifier
) -> KerasClassifier:
    """The classifier of the best epoch, judged on a tenth of the data, at most 1,000 images, that it is not trained on."""
    seed = trainer.recipe.seed
    order = np.random.default_rng(seed).permutation(len(data))
    held = min(len(data) // 10, _VALIDATION_AT_MOST)
    validation = data.take(np.sort(order[:held])) if held else None
    kept = data.take(np.sort(order[held:]))
    given = with_purified_copies(kept, seed=seed, threads=threads) if purified else kept
    checkpoint = _checkpoint(out)
    goes_on = checkpoint.exists()
    with progress_bar("batches") as report:

        def step(done: int, of: int) -> None:
            nonlocal goes_on
            if goes_on:
                print(f"{printable(checkpoint)}: going on after its last epoch")
                goes_on = False
            report("training", done, of)

        hardened = trainer(
            start,
            given,
            validation=validation,
            checkpoint=checkpoint,
            on_step=step,
            on_epoch=_print_epoch,
        )
    print(f"taken: epoch {hardened.best.number} of {len(hardened.epochs)}")
    judged = validation or kept.take(slice(0, _VALIDATION_AT_MOST))
    nothing = vanished_gradients(hardened.classifier, judged.images, judged.labels)
    if nothing is not None:
        print(f"hauberk: the figures under attack prove nothing: {nothing}", file=sys.stderr)
    return hardened.classifier


def _no_keras_model(what: str) -> InvalidInput:
    return InvalidInput(
        f"expected a Keras model to train, got {what}, which cannot be trained here; leave --classifier out to train a new network"
    )


def _trained(
    data: Dataset, recipe: Recipe, covered: tuple[int, int] | None, *, start: KerasClassifier | None, threads: int
) -> KerasClassifier:
    """A new network, or a copy of `start` that is trained further; under masks that cover such a patch, if one is given."""
    epochs = recipe.epochs
    with progress_bar("epochs") as report:
        report("training", 0, epochs)

        def done(epoch: int, loss: float) -> None:
            report("training", epoch, epochs)

        if covered is None:
            return KerasClassifier(fit(data, recipe=recipe, threads=threads, on_epoch=done))
        start = start or KerasClassifier(untrained(data, seed=recipe.seed, threads=threads))
        rate = recipe.learning_rate
        return train_under_masks(start, data, covered, epochs=epochs, learning_rate=rate, seed=recipe.seed, on_epoch=done)


def _opened(
    classifier: Path, data: Dataset, *, declared: Declaration, names: tuple[str, ...] | None, threads: int
) -> KerasClassifier:
    """The classifier to train further. Raises: InvalidInput: one that is no better than guessing on the data, or no Keras model."""
    kind = kind_of(classifier)
    if kind in (ONNX_MODEL, SKOPS_MODEL, TORCH_EXPORT, TORCH_SCRIPT):  # before anything is asked about it in vain
        raise _no_keras_model(kind)
    opened = open_classifier(classifier, data, declared=declared, names=names, threads=threads)
    given, found = opened.classifier, opened.accuracy
    if not isinstance(given, KerasClassifier):
        raise _no_keras_model(given.source.what)
    found.better_than_guessing()
    print(how_it_reads(given))
    if found.reason:
        print(printable(f"warning: before training: {found.reason}"))
    return given


def _untrained(data: Dataset, trainer: AdversarialTrainer, *, threads: int) -> KerasClassifier:
    """A new network to train against an attack."""
    import_tensorflow(threads)
    import keras

    keras.utils.set_random_seed(trainer.recipe.seed)
    h, w, c = data.images.shape[1:]
    return KerasClassifier(robust_network((h, w, c), int(data.labels.max()) + 1, trainer.attacks[0].eps))


def _print_epoch(epoch: Epoch) -> None:
    judged = (
        ""
        if math.isnan(epoch.robust)
        else f", held images {100 * epoch.accuracy:.1f} % right, {100 * epoch.robust:.1f} % attacked"
    )
    print(f"epoch {epoch.number}: loss {epoch.loss:.4f}{judged}")


def _checkpoint(out: Path) -> Path:
    return out.with_suffix(".training.npz")


def _judge(trained: KerasClassifier, trained_on: Dataset, judged_on: Dataset, what: str) -> None:
    """Print the accuracy, and what it is worth. Raises: InvalidInput: no better than guessing."""
    hits = trained.predict(judged_on.images).argmax(axis=1) == judged_on.labels
    print(f"accuracy on {printable(what)}: {100 * hits.mean():.2f} % of {len(judged_on):,} images")
    if judged_on is trained_on:
        print("nothing was held out to test on: --rows START:STOP trains on some of the rows and tests on the others")
    elif shared := shared_images(judged_on, trained_on):
        print(f"warning: {shared:,} of these images are among the training images too")
    found = judge(trained, judged_on, advice=None)
    if found.verdict == "guessing":
        raise InvalidInput(f"the model is written, but {found.reason}")
    if found.reason:
        print(printable(f"warning: {found.reason}"))

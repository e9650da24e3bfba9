"""Adversarial training: train a classifier on adversarial examples of itself.

Papers: Madry et al. 2017, arXiv:1706.06083 (`TrainingAttack`s); Zhang et al. 2019, arXiv:1901.08573 (TRADES, `beta` > 0).
Maths:  min_theta E max_(x' in ball(x)) CE(f_theta(x'), y), see `models/training/adversarial_step.py` for the loss of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.classifier import Images, Labels
from models.datasets import Dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.errors import InvalidInput
from models.training.adversarial_step import AdversarialStep
from models.training.fine_tuning import check_training_data, copy_of
from models.training.reference_classifier import Recipe
from models.training.training_attack import TrainingAttack
from models.training.training_state import Epoch, TrainingState, fingerprint

FGM = "fgm"
PGD = "pgd"
_SLOW_STEPS = 200  # warm-up of the step size: Adam's first steps are full-size before its moments are reliable


def named_attacks(name: str, eps: float, *, iterations: int = 7) -> tuple[TrainingAttack, ...]:
    """Training attacks within L-inf eps. "fgm": one step from the image. "pgd": `iterations` steps from uniform and block starts.

    Raises: InvalidInput: another name.
    """
    if name == FGM:
        return (TrainingAttack(eps=eps, iterations=1, start="image"),)
    if name == PGD:
        return tuple(TrainingAttack(eps=eps, iterations=iterations, start=start) for start in ("uniform", "blocks"))
    raise InvalidInput(f"expected an attack to train against of {FGM}, {PGD}, got {name!r}")


@dataclass(frozen=True)
class Hardened:
    """The trained classifier, with the weights of the best epoch, and the figures of all epochs."""

    classifier: KerasClassifier
    best: Epoch
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True, kw_only=True)
class AdversarialTrainer:
    """Train a copy of a Keras classifier on white-box adversarial examples made at every step.

    Args:
        attacks: at least one; several attack equal parts of each batch.
        recipe: epochs, batch size, optimiser, step size (reached over the first 200 steps at most), decay, seed.
        ratio: adversarial share of each batch, in (0, 1]; the rest is clean.
        beta: >= 0; above 0, TRADES with this weight of the KL divergence, which needs `ratio` 1.
        warm_up: share of all steps over which eps grows to its full size, in [0, 1); with the full eps at once, training may not start.
        averaging: decay of the running average of weights that is validated and returned, in [0, 1); 0 for the last weights.
        shift: largest random shift of training images in pixels each way, edges repeated, against overfitting on few images.
        patience: epochs without better robust accuracy on the validation images, after the warm-up, until training stops; None: never.

    Cost: per image and epoch, a forward and a backward pass for each iteration of its attack and one more of both.
    Raises: InvalidInput on construction.
    """

    attacks: Sequence[TrainingAttack]
    recipe: Recipe
    ratio: float = 1.0
    beta: float = 0.0
    warm_up: float = 0.3
    averaging: float = 0.995
    shift: int = 0
    patience: int | None = None

    name = "adversarial_trainer"

    def __post_init__(self) -> None:
        if not self.attacks:
            raise InvalidInput("adversarial trainer: expected at least one attack, got none")
        if not 0 < self.ratio <= 1:
            raise InvalidInput(f"adversarial trainer: expected ratio in (0, 1], got {self.ratio!r}")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise InvalidInput(f"adversarial trainer: expected beta >= 0, got {self.beta!r}")
        if self.beta and self.ratio != 1:
            raise InvalidInput(f"adversarial trainer: expected ratio 1 with beta > 0 (TRADES), got {self.ratio!r}")
        for name in ("warm_up", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"adversarial trainer: expected {name} in [0, 1), got {getattr(self, name)!r}")
        if self.shift < 0:
            raise InvalidInput(f"adversarial trainer: expected shift >= 0, got {self.shift!r}")
        if self.patience is not None and self.patience < 1:
            raise InvalidInput(f"adversarial trainer: expected patience >= 1, got {self.patience!r}")

    def __call__(
        self,
        classifier: KerasClassifier,
        data: Dataset,
        *,
        validation: Dataset | None = None,
        checkpoint: Path | None = None,
        on_step: Callable[[int, int], None] = lambda done, of: None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    ) -> Hardened:
        """Train a copy of `classifier` on `data`; the given classifier is not changed.

        Args:
            validation: clean images to evaluate every epoch on; the weights of the best epoch are returned, without them the last.
            checkpoint: a file written after every epoch, from which an interrupted training continues to the same result. The caller
                removes it.
            on_step: called with (steps done, steps in total). on_epoch: called with each epoch.

        Raises: InvalidInput: data that does not fit the classifier, a checkpoint of another training or one that cannot be written, a
        loss that is not finite.
        """
        check_training_data(classifier, data)
        if validation is not None:
            check_training_data(classifier, validation)
        elif self.patience is not None:
            raise InvalidInput("expected validation images, since patience is given: without them nothing says when to stop")
        run = _Run(self, classifier, data, validation)
        if checkpoint is not None:
            run.resume(checkpoint)
        while run.unfinished:
            run.epoch(on_step)
            if checkpoint is not None:
                run.state.write(checkpoint, run.print)
            on_epoch(run.state.epochs[-1])
        return run.result()


class _Run:
    """A running training."""

    def __init__(
        self, trainer: AdversarialTrainer, classifier: KerasClassifier, data: Dataset, validation: Dataset | None
    ) -> None:
        tf = import_tensorflow()
        import keras

        recipe = trainer.recipe
        keras.utils.set_random_seed(recipe.seed)  # before the copy is made: its dropout layers draw their seeds then
        tf.config.experimental.enable_op_determinism()
        self._classifier = classifier = copy_of(classifier)
        self._trainer, self._data, self._validation = trainer, data, validation
        self._epochs = recipe.passes(len(data))
        self._steps_each = -(-len(data) // recipe.batch_size)
        self._first_full = max(1, math.ceil(trainer.warm_up * self._epochs))
        optimiser = recipe.build_optimiser(recipe.learning_rate)
        self._step = AdversarialStep(
            classifier,
            optimiser,
            attacks=trainer.attacks,
            ratio=trainer.ratio,
            beta=trainer.beta,
            averaging=trainer.averaging,
        )
        self.state = TrainingState([*classifier.model.variables, *optimiser.variables, *self._step.averages])
        self.print = fingerprint(data, trainer, classifier.model.get_weights())

    def resume(self, checkpoint: Path) -> None:
        """Continue from a checkpoint, if the file exists."""
        self.state.read(checkpoint, self.print)

    @property
    def unfinished(self) -> bool:
        """Whether another epoch is due."""
        done = len(self.state.epochs)
        patience, best = self._trainer.patience, self.state.best
        if patience is not None and best is not None and done - max(best.number, self._first_full) >= patience:
            return False
        return done < self._epochs

    def epoch(self, on_step: Callable[[int, int], None]) -> None:
        """Train for one epoch, evaluate it, and keep its weights if they are the best so far."""
        number, steps = len(self.state.epochs), self._steps_each
        recipe, losses = self._trainer.recipe, 0.0
        order = np.random.default_rng([recipe.seed, number]).permutation(len(self._data))
        for step in range(steps):
            rows = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            done = number * steps + step
            loss = self._batch(self._data.images[rows], self._data.labels[rows], done)
            if not math.isfinite(loss):
                raise InvalidInput(
                    f"expected a loss that is a number, got {loss} in epoch {number + 1}; try a lower learning rate"
                )
            losses += loss
            on_step(done + 1, self._epochs * steps)
        self._judge(number + 1, losses / steps)

    def _batch(self, images: Images, labels: Labels, done: int) -> float:
        trainer, recipe, whole = self._trainer, self._trainer.recipe, self._epochs * self._steps_each
        part = done / whole
        size = recipe.learning_rate * min(1.0, (done + 1) / min(_SLOW_STEPS, max(whole // 10, 1)))
        if recipe.decay == "cosine":
            size *= 0.5 * (1 + math.cos(math.pi * part))
        scale = min(1.0, part / trainer.warm_up) if trainer.warm_up else 1.0
        if trainer.shift:
            images = _shifted(images, trainer.shift, np.random.default_rng([recipe.seed, done, 1]))
        return self._step.train(images, labels, step_size=size, scale=scale, seed=(recipe.seed % 2**31, 1000 * done))

    def _judge(self, number: int, loss: float) -> None:
        averaged = self._trainer.averaging > 0
        if averaged:
            self._step.swap()
        accuracy = robust = math.nan
        if self._validation is not None:
            images, labels = self._validation.images, self._validation.labels
            accuracy = float((self._classifier.predict(images).argmax(axis=1) == labels).mean())
            robust = self._step.robust(images, labels, seed=self._trainer.recipe.seed % 2**31)
        self.state.ended(Epoch(number, loss, accuracy, robust), self._kept(robust), self._weights())
        if averaged:
            self._step.swap()

    def _kept(self, robust: float) -> bool:
        """Whether an epoch's weights replace the kept ones; those of warm-up epochs are always replaced."""
        best = self.state.best
        return best is None or best.number < self._first_full or math.isnan(robust) or robust >= best.robust

    def _weights(self) -> list[NDArray[np.float32]]:
        return self._classifier.model.get_weights()  # type: ignore[no-any-return]

    def result(self) -> Hardened:
        """The classifier with the best weights."""
        epochs, best = self.state.epochs, self.state.best
        self._classifier.model.set_weights(self.state.best_weights)
        return Hardened(self._classifier, best or epochs[-1], tuple(epochs))


def _shifted(images: Images, most: int, rng: np.random.Generator) -> Images:
    """Every image shifted at random by up to `most` pixels each way, edges repeated."""
    n, h, w, _ = images.shape
    down, right = rng.integers(-most, most + 1, (2, n, 1))
    rows = np.clip(np.arange(h) - down, 0, h - 1)
    columns = np.clip(np.arange(w) - right, 0, w - 1)
    shifted: Images = images[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return shifted

"""Adversarial training: hardens, continues after a kill to the same weights, refuses what it cannot use."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.attack import Goal
from attacks.evasion.gradient import ProjectedGradientDescent
from models.datasets import Dataset
from models.engines.keras import KerasClassifier, import_tensorflow
from models.errors import InvalidInput
from models.training.adversarial_trainer import AdversarialTrainer, Hardened, _shifted, named_attacks
from models.training.reference_classifier import Recipe
from models.training.training_attack import Start, TrainingAttack
from models.training.training_state import Epoch
from tests.fakes import noise, squares

DATA, VALIDATION = squares(192, seed=0), squares(96, seed=1)
EPS = 0.15
PGD = TrainingAttack(eps=EPS, iterations=3)
RECIPE = Recipe(epochs=3, batch_size=32, learning_rate=5e-3)
TRAINER = AdversarialTrainer(attacks=[PGD], recipe=RECIPE)


def untrained(*, dropout: float = 0.2, outputs: int = 3, activation: str | None = "softmax") -> KerasClassifier:
    import_tensorflow()
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(8, 5, strides=2, activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalMaxPooling2D(),
            layers.Dropout(dropout),
            layers.Dense(outputs, activation=activation),
        ]
    )
    return KerasClassifier(model, outputs="probabilities" if activation else "logits")


def weights(hardened: Hardened) -> list[np.ndarray[Any, Any]]:
    return hardened.classifier.model.get_weights()  # type: ignore[no-any-return]


def robust_accuracy(classifier: KerasClassifier) -> float:
    goal = Goal(VALIDATION.labels)
    found = ProjectedGradientDescent(eps=EPS, iterations=20)(classifier, VALIDATION.images, goal)
    return float((classifier.predict(found.images).argmax(axis=1) == VALIDATION.labels).mean())


class Killed(Exception):
    """What a test stops a training with."""


def test_a_hardened_classifier_withstands_attacks_that_a_standard_one_does_not() -> None:
    recipe = Recipe(epochs=12, batch_size=32, learning_rate=1e-2)
    start = untrained()
    before = start.model.get_weights()
    plain = AdversarialTrainer(attacks=[TrainingAttack(eps=1e-6, iterations=1)], recipe=recipe, averaging=0)(start, DATA)
    hardened = AdversarialTrainer(attacks=[PGD], recipe=recipe, averaging=0)(start, DATA, validation=VALIDATION)
    for one, other in zip(before, start.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert robust_accuracy(hardened.classifier) > robust_accuracy(plain.classifier) + 0.2
    assert hardened.best.accuracy > 0.9
    assert abs(hardened.best.robust - robust_accuracy(hardened.classifier)) < 0.1


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    one, again = (TRAINER(untrained(), DATA, validation=VALIDATION) for _ in range(2))
    assert one.epochs == again.epochs
    for first, second in zip(weights(one), weights(again), strict=True):
        np.testing.assert_array_equal(first, second)
    other = AdversarialTrainer(attacks=[PGD], recipe=Recipe(epochs=1, batch_size=32, seed=1))(untrained(), DATA)
    assert np.abs(weights(one)[0] - weights(other)[0]).max() > 1e-4


@pytest.mark.parametrize("killed_after", [1, 2])
def test_a_killed_training_goes_on_to_the_weights_it_would_have_had(tmp_path: Path, killed_after: int) -> None:
    whole = TRAINER(untrained(), DATA, validation=VALIDATION)
    checkpoint = tmp_path / "training.npz"

    def kill(epoch: Epoch) -> None:
        if epoch.number == killed_after:
            raise Killed

    with pytest.raises(Killed):
        TRAINER(untrained(), DATA, validation=VALIDATION, checkpoint=checkpoint, on_epoch=kill)
    steps: list[int] = []
    resumed = TRAINER(
        untrained(), DATA, validation=VALIDATION, checkpoint=checkpoint, on_step=lambda done, of: steps.append(done)
    )
    assert steps[0] == killed_after * 6 + 1
    assert resumed.epochs == whole.epochs
    for one, other in zip(weights(resumed), weights(whole), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "training.npz"
    AdversarialTrainer(attacks=[PGD], recipe=Recipe(epochs=1))(untrained(), DATA, checkpoint=checkpoint)
    with pytest.raises(InvalidInput, match="of this training, but it is one of other data, another model or other options"):
        TRAINER(untrained(), DATA, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InvalidInput, match="cannot be read; remove it to start anew"):
        TRAINER(untrained(), DATA, checkpoint=checkpoint)


def test_where_no_checkpoint_can_be_written_one_sentence_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"cannot write the checkpoint .* \(not a directory\); make room"):
        TRAINER(untrained(), DATA, checkpoint=tmp_path / "file" / "training.npz")


def test_patience_ends_a_training_that_gets_no_better() -> None:
    frozen = Recipe(epochs=20, batch_size=96, learning_rate=1e-12)
    trainer = AdversarialTrainer(attacks=[PGD], recipe=frozen, warm_up=0.1, averaging=0.5, patience=2)
    hardened = trainer(untrained(dropout=0), DATA, validation=VALIDATION)
    assert len(hardened.epochs) <= 20
    robust = [epoch.robust for epoch in hardened.epochs]
    assert hardened.best.robust == max(robust[1:])
    with pytest.raises(InvalidInput, match="expected validation images, since patience is given"):
        trainer(untrained(), DATA)


def test_the_best_epoch_is_returned_not_the_last() -> None:
    wild = Recipe(epochs=6, batch_size=32, learning_rate=0.05, decay="none")
    hardened = AdversarialTrainer(attacks=[PGD], recipe=wild, warm_up=0, averaging=0)(untrained(), DATA, validation=VALIDATION)
    best = max(hardened.epochs, key=lambda epoch: (epoch.robust, epoch.number))
    assert hardened.best == best
    found = float((hardened.classifier.predict(VALIDATION.images).argmax(axis=1) == VALIDATION.labels).mean())
    assert found == pytest.approx(best.accuracy)


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 3.0},
        {"ratio": 0.5},
        {"attacks": [TrainingAttack(eps=1.0, norm=2, iterations=2), *named_attacks("fgm", EPS), PGD]},
        {"shift": 2},
        {"averaging": 0.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_every_way_to_train_learns(options: dict[str, Any]) -> None:
    recipe = Recipe(epochs=6, batch_size=32, learning_rate=1e-2)
    given: dict[str, Any] = {"attacks": [PGD], "recipe": recipe, "averaging": 0.9} | options
    epochs = AdversarialTrainer(**given)(untrained(), DATA, validation=VALIDATION).epochs
    assert epochs[-1].accuracy > 0.6
    assert all(math.isfinite(epoch.loss) for epoch in epochs)


def test_a_shift_moves_each_image_by_up_to_so_many_pixels_each_way_and_repeats_its_edges() -> None:
    images = noise(60, shape=(5, 7, 2), seed=4)
    most, moves = 2, set()
    shifted = _shifted(images, most, np.random.default_rng(0))
    for image, moved in zip(images, shifted, strict=True):
        padded = np.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
        places = [
            (r, c)
            for r in range(2 * most + 1)
            for c in range(2 * most + 1)
            if np.array_equal(padded[r : r + 5, c : c + 7], moved)
        ]
        assert len(places) == 1
        moves.update(places)
    assert {r for r, _ in moves} == {c for _, c in moves} == set(range(2 * most + 1))


def test_logits_and_a_single_output_are_trained_too() -> None:
    two = Dataset(DATA.images, (DATA.labels > 0).astype(np.int64))
    recipe = Recipe(epochs=4, batch_size=32, learning_rate=1e-2)
    trainer = AdversarialTrainer(attacks=[PGD], recipe=recipe, averaging=0)
    assert trainer(untrained(activation=None), DATA, validation=VALIDATION).best.accuracy > 0.6
    import_tensorflow()
    sigmoid = untrained(outputs=1, activation="sigmoid")
    hardened = trainer(sigmoid, two)
    assert float((hardened.classifier.predict(two.images).argmax(axis=1) == two.labels).mean()) > 0.7


def test_a_loss_that_is_no_number_ends_the_training_with_a_sentence() -> None:
    wild = Recipe(epochs=3, batch_size=32, learning_rate=1e30, optimiser="sgd")
    with pytest.raises(InvalidInput, match=r"expected a loss that is a number, got nan in epoch \d; try a lower learning rate"):
        AdversarialTrainer(attacks=[PGD], recipe=wild)(untrained(), DATA)


@pytest.mark.parametrize(("norm", "start"), [(2, "uniform"), (2, "image"), (math.inf, "uniform"), (math.inf, "blocks")])
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_examples_stay_in_the_ball_and_in_the_box(norm: float, start: Start, scale: float) -> None:
    tf = import_tensorflow()
    attack = TrainingAttack(eps=0.7, norm=norm, iterations=4, start=start)
    classifier, images = untrained(), tf.constant(noise(6, (16, 16, 3), seed=0))

    @tf.function(autograph=False)
    def made() -> Any:
        seed = tf.constant([0, 1])
        return attack.graph(images, lambda point: classifier.graph_logits(point)[:, 0], scale=tf.constant(scale), seed=seed)

    found = made().numpy()
    change = (found - images.numpy()).reshape(6, -1)
    assert np.linalg.norm(change, ord=norm, axis=1).max() <= 0.7 * scale + 1e-5
    assert found.min() >= 0
    assert found.max() <= 1
    assert (np.abs(change).max() > 0) == (scale > 0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"eps": 0}, "expected eps > 0, got 0"),
        ({"eps": math.nan}, "expected eps > 0, got nan"),
        ({"norm": 1}, "expected norm inf or 2, got 1"),
        ({"iterations": 0}, "expected iterations >= 1, got 0"),
        ({"step": -1.0}, "expected step > 0, got -1.0"),
        ({"start": "corner"}, "expected start of image, uniform, blocks, got 'corner'"),
        ({"start": "blocks", "norm": 2}, "expected norm inf with start blocks, got 2"),
    ],
)
def test_an_attack_that_makes_no_sense_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        TrainingAttack(**({"eps": 0.1} | options))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attacks": []}, "expected at least one attack, got none"),
        ({"ratio": 0}, r"expected ratio in \(0, 1\], got 0"),
        ({"beta": -1.0}, "expected beta >= 0, got -1.0"),
        ({"beta": 1.0, "ratio": 0.5}, "expected ratio 1 with beta > 0"),
        ({"warm_up": 1.0}, r"expected warm_up in \[0, 1\), got 1.0"),
        ({"averaging": -0.1}, r"expected averaging in \[0, 1\), got -0.1"),
        ({"shift": -1}, "expected shift >= 0, got -1"),
        ({"patience": 0}, "expected patience >= 1, got 0"),
    ],
)
def test_a_trainer_that_makes_no_sense_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        replace(TRAINER, **options)


def test_an_unknown_name_of_an_attack_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected an attack to train against of fgm, pgd, got 'jsma'"):
        named_attacks("jsma", 0.1)


def test_data_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected labels from 0 to 2"):
        TRAINER(untrained(), Dataset(DATA.images, DATA.labels + 1))
    with pytest.raises(InvalidInput, match="expected images"):
        TRAINER(untrained(), DATA, validation=squares(8, seed=0, size=18))

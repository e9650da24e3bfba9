"""Real networks behind every usual preparation: each wrong reading is found out with the right advice, and no right one is doubted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hauberk.commands.declaration import Declaration
from models.bundle import read_bundle, standard_bundle_directory
from models.classifier import Classifier, ClassifierWrapper, Images, Probabilities
from models.datasets import Dataset
from models.engines.keras import KerasClassifier
from models.input_readings import readings, said
from models.preparation import PRESETS, Preparation
from models.proposals import Proposal, Trials, is_better, proposal
from tests.fakes import tinted

TRUE_OF_COLOUR = {
    "0 to 1": Preparation(),
    "-1 to 1": PRESETS["tf"],
    "0 to 255": Preparation.of_range(0, 255),
    "torch": PRESETS["torch"],
    "caffe": PRESETS["caffe"],
    "BGR": Preparation(channels="bgr"),
    "bytes, BGR": Preparation.of_range(0, 255, channels="bgr"),
    "the data's own": Preparation.of_statistics((0.363, 0.363, 0.363), (0.147, 0.147, 0.147)),
    "inverted": Preparation.of_range(1, 0),
}
TRUE_OF_DIGITS = {
    "0 to 1": Preparation(),
    "-1 to 1": PRESETS["tf"],
    "0 to 255": Preparation.of_range(0, 255),
    "MNIST": Preparation.of_statistics(0.1307, 0.3081),
    "inverted": Preparation.of_range(1, 0),
}


@dataclass
class Behind(ClassifierWrapper):
    """A network that was trained behind `true`, which is given what `preparation` makes of the images."""

    classifier: Classifier
    true: Preparation
    preparation: Preparation

    def predict(self, images: Images) -> Probabilities:
        values = self.preparation.apply(images)
        if self.true.channels == "bgr":
            values = values[..., ::-1]
        scale, offset = np.array(self.true.scale, np.float32), np.array(self.true.offset, np.float32)
        return self.classifier.predict(np.ascontiguousarray((values - offset) / scale, np.float32))


@pytest.fixture(scope="module")
def colour(tinted_network: Callable[[str | None], Any]) -> KerasClassifier:
    return KerasClassifier(tinted_network(None), outputs="logits")


@pytest.fixture(scope="module")
def of_digits() -> KerasClassifier:
    return KerasClassifier.from_bundle(read_bundle(standard_bundle_directory()), threads=2)


def found(network: Classifier, data: Dataset, true: Preparation, given: Preparation) -> tuple[float, Proposal | None]:
    """The accuracy as it is given, and the proposal where it would be asked about."""
    classifier = Behind(network, true, given)
    right = classifier.predict(data.images).argmax(axis=1) == data.labels
    better = proposal(classifier, data, right)
    if better is None or not is_better(better.right, better.declared_right, by=0.02, chance=3e-3):
        return float(right.mean()), None
    return float(right.mean()), better


def understood(options: str) -> Declaration:
    """The options as the command line reads them."""
    words: dict[str, Any] = dict(option.removeprefix("--").replace("-", "_", 1).split("=") for option in options.split())
    return Declaration(**words)


def told(better: Proposal, channels: int) -> Preparation:
    """What the options that are proposed mean, as the command line reads them."""
    return understood(better.options).preparation(channels=channels, layout="nhwc", dtype="float32")


@pytest.mark.parametrize("true", TRUE_OF_COLOUR)
@pytest.mark.parametrize("given", ["0 to 1", "0 to 255", "torch", "caffe"])
def test_of_colour_images_a_wrong_reading_is_found_out_and_the_advice_is_as_good_as_the_truth(
    colour: KerasClassifier, true: str, given: str
) -> None:
    data, fresh = tinted(900, seed=1), tinted(900, seed=2)
    accuracy, better = found(colour, data, TRUE_OF_COLOUR[true], TRUE_OF_COLOUR[given])
    as_trained = (colour.predict(fresh.images).argmax(axis=1) == fresh.labels).mean()
    if better is None:
        assert accuracy > as_trained - 0.05, "a reading that costs much has to be found out"
        return
    advised = Behind(colour, TRUE_OF_COLOUR[true], told(better, 3)).predict(fresh.images).argmax(axis=1) == fresh.labels
    assert true != given
    assert advised.mean() > as_trained - 0.02


@pytest.mark.parametrize("true", TRUE_OF_DIGITS)
@pytest.mark.parametrize("given", TRUE_OF_DIGITS)
def test_of_digits_a_wrong_reading_is_found_out_and_the_advice_is_as_good_as_the_truth(
    of_digits: KerasClassifier, digits: Dataset, true: str, given: str
) -> None:
    accuracy, better = found(of_digits, digits, TRUE_OF_DIGITS[true], TRUE_OF_DIGITS[given])
    if better is None:
        assert accuracy > 0.95
        return
    advised = Behind(of_digits, TRUE_OF_DIGITS[true], told(better, 1)).predict(digits.images).argmax(axis=1) == digits.labels
    assert true != given
    assert advised.mean() > 0.97


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("true", TRUE_OF_COLOUR)
def test_the_right_reading_is_not_doubted_however_few_or_hard_the_images(colour: KerasClassifier, true: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for n, wrong in ((60, 0.0), (300, 0.1), (900, 0.3)):
        data = tinted(n, seed=100 + seed)
        labels = np.where(rng.random(n) < wrong, rng.integers(0, 6, n), data.labels)
        _, better = found(colour, Dataset(data.images, labels), TRUE_OF_COLOUR[true], TRUE_OF_COLOUR[true])
        assert better is None


def test_what_was_said_is_not_proposed_against(colour: KerasClassifier) -> None:
    data = tinted(600, seed=3)
    classifier = Behind(colour, PRESETS["caffe"], Preparation())
    right = classifier.predict(data.images).argmax(axis=1) == data.labels
    better = proposal(classifier, data, right, among=Declaration(channels="bgr").allows)
    assert better is not None
    assert better.reading.preparation.channels == "bgr"
    only = proposal(classifier, data, right, among=Declaration(input_range="0,1", channels="rgb").allows)
    assert only is None


def test_no_image_is_read_twice_in_the_same_way_however_often_it_is_asked(colour: KerasClassifier) -> None:
    data, asked = tinted(600, seed=3), list[bytes]()

    class Counted(Behind):
        def predict(self, images: Images) -> Probabilities:
            asked.extend(image.tobytes() for image in images)
            return super().predict(images)

    classifier = Counted(colour, PRESETS["caffe"], Preparation())
    right = colour.predict(data.images).argmax(axis=1) != data.labels
    trials = Trials(classifier, data)
    first, only_bgr = trials.proposal(right), trials.proposal(right, among=Declaration(channels="bgr").allows)
    again = trials.proposal(right)
    assert first is not None
    assert again is not None
    assert only_bgr is not None
    assert (again.right == first.right).all()
    assert len(asked) == len(set(asked)) > 600


def test_a_model_of_vectors_is_read_in_either_layout() -> None:
    data = tinted(600, seed=4)
    weights = tinted(600, seed=5)
    means = np.stack([weights.images[weights.labels == label].mean(axis=0) for label in range(6)])

    @dataclass
    class Flat:
        preparation: Preparation
        labels = tuple("abcdef")
        input_shape = (16, 16, 3)
        flat_input = True

        def predict(self, images: Images) -> Probabilities:
            given = self.preparation.apply(images, shape=(768,))
            own = np.moveaxis(means, -1, 1).reshape(6, -1)  # it was made for channels first
            distance = ((given[:, None] - own) ** 2).sum(axis=2)
            rows: Probabilities = np.eye(6, dtype=np.float32)[distance.argmin(axis=1)]
            return rows

    classifier = Flat(Preparation())
    right = classifier.predict(data.images).argmax(axis=1) == data.labels
    better = proposal(classifier, data, right)
    assert better is not None
    assert "--layout=nchw" in better.options


@pytest.mark.parametrize("channels", [1, 3])
def test_every_reading_can_be_said_with_the_options(channels: int) -> None:
    images = tinted(50, seed=6).images[..., :channels]
    tried = list(readings(images, Preparation()))
    assert len({one.preparation for one in tried}) == len(tried) > 8
    for one in tried:
        again = understood(said(one.preparation)).preparation(channels=channels, layout="nhwc", dtype="float32")
        np.testing.assert_allclose(again.apply(images), one.preparation.apply(images), rtol=1e-4, atol=1e-3)


def test_of_bytes_only_what_bytes_can_say_is_tried() -> None:
    declared = Preparation.of_range(0, 255, dtype="uint8")
    tried = [one.preparation for one in readings(tinted(20, seed=7).images, declared)]
    assert {one.dtype for one in tried} == {"uint8"}
    assert {one.channels for one in tried} == {"rgb", "bgr"}
    limits = [one.input_range for one in tried]
    assert (0.0, 255.0) in limits
    assert (255.0, 0.0) in limits
    assert all(limit is None or (min(limit) >= 0 and max(limit) <= 255) for limit in limits)

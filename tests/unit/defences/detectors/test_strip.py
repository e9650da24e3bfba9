"""STRIP: parameters, stages, overlays, sessions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from defences.detectors.strip import Strip, entropy_bits
from defences.errors import InvalidParameter
from models.classifier import Probabilities
from tests.fakes import noise, softmax

SHAPE = (3, 4, 1)
OVERLAYS = np.rint(noise(4, SHAPE, 0) * 255).astype(np.uint8)
GOOD: dict[str, Any] = {"overlays": OVERLAYS, "threshold": 0.5, "stages": (2, 4), "slack": (0.1, 0.0)}


def flat(n: int, bits: float) -> Probabilities:
    """n rows of two classes with entropy 0 or 1 bit."""
    return np.tile(np.array([[0.5, 0.5]] if bits else [[1.0, 0.0]], np.float32), (n, 1))


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"overlays": OVERLAYS / 255}, "expected overlays uint8"),
        ({"overlays": OVERLAYS[0]}, "expected overlays uint8"),
        ({"overlays": OVERLAYS[:0]}, "expected overlays uint8"),
        ({"stages": ()}, "expected increasing stages that end at the 4 overlays"),
        ({"stages": (4, 2)}, "expected increasing stages"),
        ({"stages": (2, 2, 4)}, "expected increasing stages"),
        ({"stages": (0, 4)}, "expected increasing stages"),
        ({"stages": (2, 3)}, "expected increasing stages that end at the 4 overlays"),
        ({"stages": (2.0, 4.0)}, "expected increasing stages"),
        ({"slack": (0.0,)}, "expected one slack >= 0 per stage"),
        ({"slack": (-0.1, 0.0)}, "expected one slack >= 0 per stage"),
        ({"slack": (np.nan, 0.0)}, "expected one slack >= 0 per stage"),
        ({"slack": (0.1, 0.1)}, "the last 0"),
        ({"blend": "subtract"}, 'expected blend "add" or "mix"'),
        ({"front": 4}, "expected front, a number of overlays below 4, got 4"),
        ({"front": -1}, "expected front"),
        ({"front": 2.0}, "expected front"),
        ({"weight": 0.0}, "expected weight > 0"),
        ({"weight": np.nan}, "expected weight > 0"),
        ({"weight": np.inf}, "expected weight > 0"),
        ({"weight": 1.5, "blend": "mix"}, "<= 1 when mixing"),
        ({"statistic": "margin"}, 'expected statistic "change" or "entropy"'),
        ({"ceiling": -0.1}, "expected a ceiling >= 0"),
        ({"ceiling": np.inf}, "expected a ceiling >= 0"),
        ({"ceiling": np.nan}, "expected a ceiling >= 0"),
        ({"threshold": np.nan}, "got NaN"),
    ],
)
def test_parameters_out_of_their_domain_are_refused(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidParameter, match=sentence):
        Strip(**(GOOD | parameters))


def test_adding_clips_and_mixing_averages() -> None:
    images = noise(2, SHAPE, 1)
    order = np.array([[0, 1], [3, 2]], np.int32)
    bank = OVERLAYS.astype(np.float32) / 255
    added = Strip(**GOOD | {"weight": 0.7}).superimpose(images, order)
    mixed = Strip(**GOOD | {"blend": "mix", "weight": 0.25}).superimpose(images, order)
    pairs = [(0, 0), (0, 1), (1, 3), (1, 2)]
    np.testing.assert_allclose(added, [np.clip(images[i] + 0.7 * bank[j], 0, 1) for i, j in pairs], atol=1e-6)
    np.testing.assert_allclose(mixed, [0.75 * images[i] + 0.25 * bank[j] for i, j in pairs], atol=1e-6)
    assert added.max() == 1.0


def test_boundaries_are_the_threshold_with_slack_or_the_exact_bound_if_that_is_lower() -> None:
    strip = Strip(**GOOD | {"stages": (1, 2, 4), "slack": (0.3, 5.0, 0.0)})
    np.testing.assert_allclose(strip.boundaries(), [0.8, 1.0, 0.5])  # .5 + .3; 4 * .5 / 2; .5


def test_below_a_ceiling_boundaries_do_not_follow_the_threshold_and_above_it_the_threshold_does_not_count() -> None:
    strip = Strip(**GOOD | {"stages": (1, 2, 4), "slack": (0.3, 0.1, 0.0), "ceiling": 0.6, "threshold": 0.5})
    np.testing.assert_allclose(strip.boundaries(), [0.9, 0.7, 0.5])
    lower = Strip(**GOOD | {"stages": (1, 2, 4), "slack": (0.3, 0.1, 0.0), "ceiling": 0.6, "threshold": 0.3})
    np.testing.assert_allclose(lower.boundaries(), [0.9, 0.6, 0.3])  # 4 * .3 / 2
    beyond = Strip(**GOOD | {"stages": (1, 2, 4), "slack": (0.3, 0.1, 0.0), "ceiling": 0.6, "threshold": 9.0})
    np.testing.assert_allclose(beyond.boundaries(), [0.9, 0.7, 0.6])


def test_change_is_what_a_prediction_leaves_to_other_classes_than_the_answer() -> None:
    given = GOOD | {"statistic": "change", "stages": (4,), "slack": (0.0,), "threshold": 0.3}
    session = Strip(**given).begin(noise(2, SHAPE, 1), np.arange(2, dtype=np.uint64))
    session.probe()
    rows = np.tile(np.array([[0.9, 0.1], [0.1, 0.9]], np.float32), (4, 1))
    session.decide(rows, np.array([[0.6, 0.4], [0.0, 1.0]], np.float32))
    np.testing.assert_allclose(session.scores, [0.5, 0.5], atol=1e-6)
    without = Strip(**given).begin(noise(1, SHAPE, 1), np.zeros(1, np.uint64))
    without.probe()
    with pytest.raises(ValueError, match="expected the answers to the images"):
        without.decide(rows[:4])


@pytest.mark.parametrize("statistic", ["change", "entropy"])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_session_scores_as_the_formulas_of_a_row_say_also_where_a_probability_is_rounded_to_one(
    statistic: str, classes: int
) -> None:
    rng = np.random.default_rng(classes)
    strip = Strip(**GOOD | {"statistic": statistic, "stages": (4,), "slack": (0.0,), "threshold": 0.3})
    answers = rng.random((5, classes)).astype(np.float32)
    outputs = softmax(rng.normal(size=(20, classes)) * rng.uniform(1, 60, (20, 1)))
    assert (outputs == 1).any()
    assert (outputs == 0).any()
    session = strip.begin(noise(5, SHAPE, 1), np.arange(5, dtype=np.uint64))
    session.probe()
    session.decide(outputs, answers)
    found = strip.change_of(outputs, answers.argmax(axis=1).repeat(4)).reshape(5, 4).mean(axis=1)
    np.testing.assert_allclose(session.scores, found, rtol=1e-12)
    np.testing.assert_allclose(session.entropies, entropy_bits(outputs).reshape(5, 4).mean(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(session.abstained, session.scores <= 0.3)


def test_an_image_whose_answer_is_replaced_by_another_as_certain_one_has_no_entropy_and_changes() -> None:
    replaced = np.tile(np.array([[0.0, 1.0]], np.float32), (4, 1))
    for statistic, refused in (("entropy", True), ("change", False)):
        given = GOOD | {"statistic": statistic, "stages": (4,), "slack": (0.0,), "threshold": 0.3}
        session = Strip(**given).begin(noise(1, SHAPE, 1), np.zeros(1, np.uint64))
        session.probe()
        session.decide(replaced, np.array([[1.0, 0.0]], np.float32))
        assert session.abstained.tolist() == [refused]


def test_an_image_leaves_at_the_first_stage_whose_boundary_it_exceeds() -> None:
    session = Strip(**GOOD).begin(noise(3, SHAPE, 1), np.arange(3, dtype=np.uint64))
    assert session.probe().shape == (6, *SHAPE)
    session.decide(np.concatenate([flat(2, 1), flat(1, 1), flat(1, 0), flat(2, 0)]))  # means of 1, 0.5 and 0 bits
    assert session.undecided.tolist() == [1, 2]
    assert not session.abstained.any()
    assert session.probe().shape == (4, *SHAPE)
    session.decide(np.concatenate([flat(2, 1), flat(2, 0)]))
    assert session.undecided.size == 0
    assert session.abstained.tolist() == [False, False, True]
    assert session.calls.tolist() == [2, 4, 4]
    np.testing.assert_allclose(session.scores, [1.0, 0.75, 0.0])


def test_a_score_at_the_threshold_is_refused() -> None:
    session = Strip(**GOOD | {"stages": (4,), "slack": (0.0,)}).begin(noise(1, SHAPE, 1), np.zeros(1, np.uint64))
    session.probe()
    session.decide(np.concatenate([flat(2, 1), flat(2, 0)]))
    assert session.scores.tolist() == [0.5]
    assert session.abstained.tolist() == [True]


def test_stages_show_each_overlay_once() -> None:
    session = Strip(**GOOD | {"threshold": 9.0}).begin(np.zeros((1, *SHAPE), np.float32), np.array([7], np.uint64))
    shown = []
    while session.undecided.size:
        probes = session.probe()
        shown += [probe.tobytes() for probe in probes]
        session.decide(flat(len(probes), 0))
    assert sorted(shown) == sorted((overlay.astype(np.float32) / 255).tobytes() for overlay in OVERLAYS)


def test_images_see_the_overlays_in_orders_of_their_own() -> None:
    strip = Strip(**GOOD | {"overlays": np.rint(noise(30, SHAPE, 0) * 255).astype(np.uint8), "stages": (2, 30)})
    probes = strip.begin(np.zeros((5, *SHAPE), np.float32), np.arange(5, dtype=np.uint64)).probe()
    assert len({pair.tobytes() for pair in probes.reshape(5, 2, -1)}) == 5


def test_every_image_sees_the_front_overlays_first_and_both_parts_in_an_order_of_its_own() -> None:
    overlays = np.rint(noise(9, SHAPE, 0) * 255).astype(np.uint8)
    strip = Strip(**GOOD | {"overlays": overlays, "stages": (2, 9), "front": 4})
    orders = strip.orders(np.arange(4000, dtype=np.uint64))
    assert (np.sort(orders[:, :4], axis=1) == np.arange(4)).all()
    assert (np.sort(orders[:, 4:], axis=1) == np.arange(4, 9)).all()
    # Every place is equally likely, and the second part does not follow from the first.
    assert abs(np.bincount(orders[:, 0], minlength=4) - 1000).max() < 150
    assert abs(np.bincount(orders[:, 4] - 4, minlength=5) - 800).max() < 150
    together = np.bincount(orders[:, 0] * 5 + orders[:, 4] - 4, minlength=20)
    assert abs(together - 200).max() < 80


def test_a_stage_of_large_images_is_probed_in_turns_and_decides_alike() -> None:
    shape = (512, 512, 1)
    images = noise(3, shape, 1)
    overlays = np.rint(noise(96, shape, 2) * 255).astype(np.uint8)
    strip = Strip(overlays=overlays, threshold=0.5, stages=(2, 96), slack=(0.1, 0.0))
    session = strip.begin(images, np.arange(3, dtype=np.uint64))
    asked: list[int] = []
    while session.undecided.size:
        rows = session.probe()
        assert rows.nbytes <= 128 << 20
        asked.append(len(rows))
        session.decide(flat(len(rows), bits=0))
    assert asked == [6, 94, 94, 94]
    assert session.abstained.all()
    assert session.calls.tolist() == [96, 96, 96]

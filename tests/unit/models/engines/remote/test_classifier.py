"""A model behind a server is the same classifier as in the process: shapes, types, preparations, outputs, names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.classifier import Classifier, Images
from models.engines.remote.classifier import ROWS_PER_CALL, RemoteClassifier
from models.errors import InvalidInput, RemoteBadAnswer, RemoteIsAnother
from models.preparation import PRESETS, Preparation
from tests.fakes import FakeClassifier, noise
from tests.model_server import Model, ModelServer, served
from tests.unit.models.engines.remote.conftest import QUICK, SHAPE, Connect


@pytest.mark.parametrize("scheme", ["v2", "tfs"])
def test_it_answers_as_the_model_does_with_one_call_for_all_rows_over_one_connection(
    server: ModelServer, connect: Connect, local: FakeClassifier, scheme: str
) -> None:
    classifier = connect(server, scheme)
    assert isinstance(classifier, Classifier)
    assert classifier.labels == ("0", "1", "2", "3")
    before = len(server.asked)
    images = noise(64, SHAPE, 1)
    np.testing.assert_allclose(classifier.predict(images), local.answer(images), atol=1e-6)
    assert [len(asked.rows) for asked in server.asked[before:]] == [64]
    assert server.connections == 1
    assert classifier.predict(images[:0]).shape == (0, 4)


def test_more_rows_than_a_call_may_have_are_divided(server: ModelServer, connect: Connect, local: FakeClassifier) -> None:
    classifier, images = connect(server), noise(ROWS_PER_CALL + 10, SHAPE, 1)
    before = len(server.asked)
    np.testing.assert_allclose(classifier.predict(images), local.answer(images), atol=1e-6)
    assert [len(asked.rows) for asked in server.asked[before:]] == [ROWS_PER_CALL, 10]


def test_a_server_that_takes_less_gets_less(model: Model, connect: Connect, local: FakeClassifier) -> None:
    images = noise(40, SHAPE, 1)
    with served(model, body_at_most=int(8.5 * images[0].nbytes)) as server:
        classifier = connect(server)
        np.testing.assert_allclose(classifier.predict(images), local.answer(images), atol=1e-6)
        assert max(len(asked.rows) for asked in server.asked) <= 8


def test_tritons_largest_batch_is_kept_to(model: Model, connect: Connect, images: Images) -> None:
    with served(model, max_batch_size=4) as server:
        assert len(connect(server).predict(images)) == len(images)
        assert max(len(asked.rows) for asked in server.asked) == 4


@pytest.mark.parametrize("form", [{}, {"gives_bytes": False}, {"takes_bytes": False}])
def test_bytes_and_json_give_the_same(
    model: Model, connect: Connect, images: Images, local: FakeClassifier, form: dict[str, bool]
) -> None:
    with served(model, **form) as server:
        found = connect(server).predict(images)
        assert np.array_equal(found, local.answer(images))
        assert server.asked[-1].binary is form.get("takes_bytes", True)
        assert np.array_equal(server.asked[-1].rows, images)


@pytest.mark.parametrize("scheme", ["v2", "tfs"])
@pytest.mark.parametrize(
    "preparation", [*PRESETS.values(), Preparation(layout="nchw"), Preparation.of_range(0, 255, dtype="uint8")]
)
@pytest.mark.parametrize("bytes_", [True, False])
def test_images_arrive_as_their_preparation_says(
    connect: Connect, images: Images, preparation: Preparation, scheme: str, bytes_: bool
) -> None:
    datatype = "UINT8" if preparation.dtype == "uint8" else "FP32"
    model = Model(lambda rows: np.full((len(rows), 2), 0.5), preparation.shape(SHAPE), datatype=datatype)
    with served(model, takes_bytes=bytes_) as server:
        connect(server, scheme, preparation=preparation).predict(images)
        assert np.array_equal(server.asked[-1].rows, preparation.apply(images))


@pytest.mark.parametrize("row", [(105,), (5, 21), (-1, -1, -1), (5, 7, 3), (-1, 7, 3)])
def test_a_model_may_leave_sizes_open_or_take_a_vector_but_no_other_shape(
    connect: Connect, images: Images, row: tuple[int, ...]
) -> None:
    with served(Model(lambda rows: np.full((len(rows), 2), 0.5), row)) as server:
        if row == (5, 21):
            with pytest.raises(InvalidInput, match=r"expected images of the shape that .* takes, .*\[-1, 5, 21\]"):
                connect(server)
        else:
            connect(server).predict(images)
            assert server.asked[-1].rows.shape == (9, 105) if len(row) == 1 else (9, *SHAPE)


def test_grey_images_go_to_a_model_without_channels(connect: Connect) -> None:
    with served(Model(lambda rows: np.full((len(rows), 2), 0.5), (5, 7))) as server:
        connect(server, input_shape=(5, 7, 1)).predict(noise(2, (5, 7, 1), 0))
        assert server.asked[-1].rows.shape == (2, 5, 7)


@pytest.mark.parametrize(("datatype", "precision"), [("FP16", 1e-3), ("FP64", 1e-7)])
@pytest.mark.parametrize("scheme", ["v2", "tfs"])
def test_other_floating_types_are_sent_as_the_model_declares_them(
    connect: Connect, images: Images, datatype: str, precision: float, scheme: str
) -> None:
    with served(Model(lambda rows: np.full((len(rows), 2), 0.5), SHAPE, datatype=datatype)) as server:
        connect(server, scheme).predict(images)
        np.testing.assert_allclose(server.asked[-1].rows, images, atol=precision)


LOGITS = np.array([[2.0, 0.0, -800.0], [0.0, 90.0, 0.0]])


@pytest.mark.parametrize(
    ("outputs", "scores", "expected"),
    [
        ("logits", LOGITS, np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)),
        ("logits", [[-30.0], [0.0]], [[1.0, 9.4e-14], [0.5, 0.5]]),
        ("probabilities", [[0.25], [1.0]], [[0.75, 0.25], [0.0, 1.0]]),
        ("probabilities", [0.25, 1.0], [[0.75, 0.25], [0.0, 1.0]]),
        ("probabilities", [[0.2, 0.8], [1.0, 0.0]], [[0.2, 0.8], [1.0, 0.0]]),
        (None, [[3.0, -2.0], [5.0, 0.0]], [[3.0, -2.0], [5.0, 0.0]]),
    ],
)
def test_logits_probabilities_and_one_sigmoid_become_probabilities(
    connect: Connect, images: Images, outputs: Any, scores: Any, expected: Any
) -> None:
    def model(rows: Images) -> Any:
        return np.array(scores)[np.arange(len(rows)) % 2]

    with served(Model(model, SHAPE)) as server:
        found = connect(server, outputs=outputs).predict(images[:2])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=1e-7)


def test_one_of_several_outputs_is_read_and_has_to_be_named(
    connect: Connect, model: Model, images: Images, local: FakeClassifier
) -> None:
    model.other_outputs = ("hidden",)
    for options in ({}, {"gives_bytes": False}):
        with served(model, **options) as server:
            with pytest.raises(InvalidInput, match=r"expected one output .*hidden .*scores .*--output"):
                connect(server)
            with pytest.raises(InvalidInput, match="expected an output 'other'"):
                connect(server, output="other")
            for scheme in ("v2", "tfs"):
                assert np.allclose(connect(server, scheme, output="scores").predict(images), local.answer(images))


def test_tensorflow_servings_row_format_is_read_too(
    connect: Connect, model: Model, images: Images, local: FakeClassifier
) -> None:
    for others in ((), ("hidden",)):
        model.other_outputs = others
        with served(model, format="rows") as server:
            assert np.allclose(connect(server, "tfs", output="scores").predict(images), local.answer(images))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"inputs": []}, "expected .* to declare its input"),
        ({"inputs": [{"name": name, "datatype": "FP32", "shape": [-1, 2]} for name in "ab"]}, "one input .*, got 2"),
        ({"datatype": "INT64"}, "expected an input of FP16, FP32, FP64, UINT8"),
        ({"batch": 1}, "whose first dimension is any number"),
        ({"datatype": "UINT8"}, "expected images prepared as uint8"),
    ],
)
def test_a_model_that_takes_something_else_is_refused_in_one_sentence(
    connect: Connect, model: Model, changes: dict[str, Any], sentence: str
) -> None:
    for name, value in changes.items():
        setattr(model, name, value)
    with served(model) as server, pytest.raises(InvalidInput, match=sentence):
        connect(server)


@pytest.mark.parametrize(
    "inputs",
    [
        3,
        [3],
        [{"name": 3}],
        [{"name": "a", "datatype": "FP32", "shape": "1"}],
        [{"name": "a", "datatype": "FP32", "shape": [[]]}],
    ],
)
def test_metadata_that_are_none_are_a_bad_answer(connect: Connect, model: Model, inputs: Any) -> None:
    model.inputs = inputs
    with served(model) as server, pytest.raises(RemoteBadAnswer):
        connect(server)


def test_other_labels_than_classes_are_refused(connect: Connect, server: ModelServer) -> None:
    with pytest.raises(InvalidInput, match="expected 4 labels"):
        connect(server, labels=("a", "b"))


def test_an_answer_of_another_version_is_refused_from_then_on(connect: Connect, server: ModelServer, images: Images) -> None:
    classifier = connect(server)
    assert classifier.version == "1"
    server.model.version = "2"
    with pytest.raises(RemoteIsAnother, match=r"expected version '1' .*, got '2'"):
        classifier.predict(images)
    assert classifier.circuit.reason is not None


@pytest.mark.parametrize("scheme", ["v2", "tfs"])
def test_a_version_of_the_bundle_is_asked_for(connect: Connect, server: ModelServer, scheme: str) -> None:
    with pytest.raises(RemoteIsAnother):
        connect(server, scheme, version="7")


TOKEN = "secret-token"  # noqa: S105  # the test's own


def test_a_token_goes_along_and_nobody_else_sees_it(connect: Connect, model: Model, images: Images) -> None:
    with served(model, token=TOKEN) as server:
        with pytest.raises(RemoteBadAnswer, match=r"asks for another token .*HAUBERK_REMOTE_TOKEN_FILE") as refused:
            connect(server)
        assert TOKEN not in str(refused.value)
        options = type(QUICK)(token=TOKEN, timeout_s=1.0)
        assert TOKEN not in repr(options)
        assert len(connect(server, options=options).predict(images)) == len(images)
        assert server.asked[-1].headers["authorization"] == f"Bearer {TOKEN}"
        assert server.asked[-1].headers["accept-encoding"] == "identity"


def test_calls_are_told_of(connect: Connect, server: ModelServer, images: Images) -> None:
    told: list[Any] = []

    class Observer:
        def called(self, outcome: str, seconds: float) -> None:
            told.append((outcome, 0 <= seconds < 5))

        def retried(self) -> None:
            told.append("retried")

        def circuit(self, reason: str | None) -> None:
            told.append(("circuit", reason))

    classifier: RemoteClassifier = connect(server, observer=Observer())
    told.clear()
    classifier.predict(images)
    server.fault = "status_503"
    with pytest.raises(Exception, match="status 503"):
        classifier.predict(images)
    assert told == [("ok", True), "retried", "retried", ("unreachable", True)]

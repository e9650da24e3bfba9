"""scikit-learn models: types of its own are refused, trees are checked before they are followed."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from models.engines.imports import imported
from models.errors import InvalidInput

skops = pytest.importorskip("skops.io")
ROWS = np.random.default_rng(0).random((60, 12))
LABELS = (ROWS[:, 0] > 0.5).astype(int) + (ROWS[:, 1] > 0.7)


def dumped(directory: Path, estimator: Any) -> Path:
    path = directory / "model.skops"
    skops.dump(estimator, path)
    return path


@pytest.mark.parametrize(
    "estimator",
    [
        MLPClassifier((4,), max_iter=20, tol=10, random_state=0),
        CalibratedClassifierCV(LinearSVC(), cv=2),
        DecisionTreeClassifier(),
    ],
    ids=["network", "calibrated", "tree"],
)
def test_estimators_beyond_those_that_skops_trusts_are_taken_where_they_are_plain(estimator: Any, tmp_path: Path) -> None:
    fitted = estimator.fit(ROWS, LABELS)
    source = imported(dumped(tmp_path, fitted))
    [answers] = source.predict_source(ROWS.astype(np.float32))
    np.testing.assert_allclose(answers, fitted.predict_proba(ROWS), atol=1e-5)


def turned(images: Any) -> Any:
    return images[:, ::-1]


def test_a_function_of_the_users_own_is_refused_by_name(tmp_path: Path) -> None:
    model = make_pipeline(FunctionTransformer(turned), LogisticRegression()).fit(ROWS, LABELS)
    with pytest.raises(
        InvalidInput, match=r"needs code \(.*test_sklearn\.turned\), which is never run from a file; leave it out"
    ):
        imported(dumped(tmp_path, model))


def test_a_model_without_probabilities_is_refused_with_what_gives_it_some(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"holds LinearSVC; put it into sklearn\.calibration\.CalibratedClassifierCV"):
        imported(dumped(tmp_path, LinearSVC().fit(ROWS, LABELS)))
    with pytest.raises(InvalidInput, match="expected a fitted classifier with predict_proba"):
        imported(dumped(tmp_path, ROWS))


def nodes_changed(path: Path, change: Callable[[Any], None]) -> Path:
    """The nodes of the tree in a file changed, as a structured array."""
    content = path.read_bytes()
    with zipfile.ZipFile(BytesIO(content)) as archive, zipfile.ZipFile(path, "w") as copy:
        for one in archive.infolist():
            held = archive.read(one)
            if one.filename.endswith(".npy"):
                array = np.load(BytesIO(held))
                if array.dtype.names and "left_child" in array.dtype.names:
                    change(array)
                    out = BytesIO()
                    np.save(out, array)
                    held = out.getvalue()
            copy.writestr(one.filename, held)
    return path


@pytest.mark.parametrize(
    ("field", "value"), [("left_child", 1 << 40), ("right_child", 0), ("feature", 1 << 30), ("left_child", -7)]
)
def test_a_tree_that_leads_out_of_itself_is_refused_before_it_is_followed(field: str, value: int, tmp_path: Path) -> None:
    path = dumped(tmp_path, DecisionTreeClassifier().fit(ROWS, LABELS))

    def change(nodes: Any) -> None:
        nodes[field][0] = value

    with pytest.raises(InvalidInput, match="expected decision trees whose nodes lead downwards"):
        imported(nodes_changed(path, change))


def test_damaged_archives_are_refused_with_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    for content in ({"schema.json": b"{}"}, {"schema.json": b"no"}, {"schema.json": b"0" * (300 << 20)}):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, held in content.items():
                archive.writestr(name, held)
        with pytest.raises(InvalidInput, match=r"model\.skops") as refusal:
            imported(path)
        assert "\n" not in str(refusal.value)

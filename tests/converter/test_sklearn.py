"""scikit-learn estimators of several forms, exported and compared with scikit-learn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from converter.exporters import sklearn_model
from converter.exporters.trained import NotExportable, Request, RouteFailed
from tests.converter.agreement import exported

pd = pytest.importorskip("pandas")
pytestmark = pytest.mark.filterwarnings("ignore")  # skl2onnx's and scikit-learn's
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(200, 5))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)
RANDOM_CLASSES = RANDOM.integers(0, 2, 200)
FRAME = pd.DataFrame(
    {
        "sepal length (cm)": X[:, 0],
        "colour": np.array(["red", "green"])[Y],
        "size": Y * 3,
        "unused": X[:, 2],
        "words": ["hello you", "bye bye"] * 100,
    }
)


def load(estimator: Any, directory: Path, **request: Any) -> Any:
    joblib.dump(estimator, directory / "model.joblib")
    return sklearn_model.load(
        Request("sklearn", directory / "model.joblib", "skl2onnx", **{"trust": True, **request})
    )


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        RandomForestClassifier(20, random_state=0),
        GradientBoostingClassifier(n_estimators=5),
        HistGradientBoostingClassifier(max_iter=5),
        MLPClassifier(max_iter=5),
        KNeighborsClassifier(),
        make_pipeline(StandardScaler(), PCA(3), LogisticRegression()),
        make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_classifier_answers_with_label_and_probabilities(estimator: Any, tmp_path: Path) -> None:
    trained = load(estimator.fit(X, Y), tmp_path)
    session = exported(trained, tmp_path, trained.sample)
    assert [(spec.name, spec.datatype, spec.shape) for spec in session.inputs] == [
        ("x", "FP32", (-1, 5))
    ]
    assert [(spec.name, spec.datatype, spec.shape) for spec in session.outputs] == [
        ("label", "INT64", (-1,)),
        ("probabilities", "FP32", (-1, 2)),
    ]


@pytest.mark.parametrize(
    "estimator", [SVC(), LinearSVC(), make_pipeline(StandardScaler(), LinearSVC()), KMeans(2)]
)
def test_without_probabilities_the_label_is_all(estimator: Any, tmp_path: Path) -> None:
    trained = load(estimator.fit(X, Y), tmp_path)
    assert [spec.name for spec in exported(trained, tmp_path).outputs] == ["label"]
    assert "no probabilities" in trained.notes[0]


@pytest.mark.parametrize(
    "estimator", [Ridge(), RandomForestRegressor(5), HistGradientBoostingRegressor(max_iter=5)]
)
def test_regressor_answers_with_one_column(estimator: Any, tmp_path: Path) -> None:
    session = exported(load(estimator.fit(X, X[:, 0]), tmp_path), tmp_path)
    assert [(spec.name, spec.shape) for spec in session.outputs] == [("variable", (-1, 1))]


def test_transformer_answers_with_what_it_makes(tmp_path: Path) -> None:
    trained = load(make_pipeline(StandardScaler(), PCA(2)).fit(X), tmp_path)
    assert exported(trained, tmp_path).outputs[0].shape == (-1, 2)


def test_columns_of_a_frame_are_inputs_of_their_own(tmp_path: Path) -> None:
    columns = ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(), StandardScaler()), ["sepal length (cm)"]),
            ("c", OneHotEncoder(), ["colour", "size"]),
            ("w", TfidfVectorizer(), "words"),
        ]
    )
    trained = load(make_pipeline(columns, LogisticRegression()).fit(FRAME, Y), tmp_path)
    session = exported(trained, tmp_path, trained.sample)
    assert [(spec.name, spec.datatype) for spec in session.inputs] == [
        ("sepal length (cm)", "FP32"),
        ("colour", "BYTES"),
        ("size", "FP32"),
        ("words", "BYTES"),
    ]


def test_columns_chosen_by_position_keep_their_names(tmp_path: Path) -> None:
    columns = ColumnTransformer(
        [("c", OrdinalEncoder(), slice(1, 2)), ("n", StandardScaler(), [0, 3])]
    )
    trained = load(make_pipeline(columns, LogisticRegression()).fit(FRAME, Y), tmp_path)
    session = exported(trained, tmp_path, trained.sample)
    assert [spec.name for spec in session.inputs] == ["sepal length (cm)", "colour", "unused"]


def test_texts_are_one_input_whatever_the_machine_speaks(tmp_path: Path) -> None:
    texts = ["a cat", "The dog", "dog and cat"] * 10
    trained = load(
        make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [0, 1, 0] * 10), tmp_path
    )
    session = exported(trained, tmp_path)
    feeds = {"text": np.array([["THE DOG"], ["cat"]], dtype=np.object_)}
    wanted = trained.answer(feeds)["probabilities"]
    np.testing.assert_allclose(session.run(feeds)["probabilities"], wanted, atol=1e-5)


def test_string_classes_stay_strings_and_are_noted(tmp_path: Path) -> None:
    trained = load(LogisticRegression().fit(X, np.array(["no", "yes"])[Y]), tmp_path)
    assert exported(trained, tmp_path).outputs[0].datatype == "BYTES"
    assert "its classes are strings" in trained.notes[0]


def test_rows_on_the_edge_of_a_decision_are_counted(tmp_path: Path) -> None:
    # Ten trees of twenty for each class is a tie, and a sum in float32 is not one in float64.
    forest = RandomForestClassifier(20, random_state=0).fit(X, RANDOM_CLASSES)
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(1).normal(size=(1000, 5)))
    note = load(forest, tmp_path, evaluate=tmp_path / "rows.npz").notes[0]
    assert re.match(r"\d+ of 1000 held-out rows get another answer than in scikit-learn", note)


def test_column_may_be_called_as_skl2onnx_calls_its_own(tmp_path: Path) -> None:
    frame = pd.DataFrame({"variable": X[:, 0], "concat_result": X[:, 1]})
    columns = ColumnTransformer([("n", StandardScaler(), ["variable", "concat_result"])])
    trained = load(make_pipeline(columns, LogisticRegression()).fit(frame, Y), tmp_path)
    session = exported(trained, tmp_path, trained.sample)
    assert [spec.name for spec in session.inputs] == ["variable", "concat_result"]


@pytest.mark.parametrize("trust", [True, False])
def test_file_is_not_opened_without_trust(tmp_path: Path, trust: bool) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "opened",)

    with pytest.raises(NotExportable):
        load(Trap(), tmp_path, trust=trust)
    assert (tmp_path / "opened").exists() is trust


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (Ridge(), "Ridge in .* is not fitted"),
        (make_pipeline(StandardScaler(), Ridge()), "not fitted"),
        ({"a": 1}, "holds a dict"),
        (RandomForestClassifier(2).fit(X, np.c_[Y, 1 - Y]), "several targets"),
    ],
)
def test_what_is_no_usable_estimator_is_refused(tmp_path: Path, estimator: Any, said: str) -> None:
    with pytest.raises(NotExportable, match=said):
        load(estimator, tmp_path)


def test_estimator_that_skl2onnx_does_not_know_fails_the_route(tmp_path: Path) -> None:
    class Mine(Ridge):
        pass

    Mine.__qualname__, Mine.__module__ = "Mine", __name__
    globals()["Mine"] = Mine
    with pytest.raises(RouteFailed, match="skl2onnx does not convert"):
        load(Mine().fit(X, Y), tmp_path)


def test_text_file_is_no_estimator(tmp_path: Path) -> None:
    path = tmp_path / "model.joblib"
    path.write_text("once upon a time")
    with pytest.raises(NotExportable, match="joblib cannot load"):
        sklearn_model.load(Request("sklearn", path, "skl2onnx", trust=True))

"""``farthing.convert``: from Python, with rows from wherever they come."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import farthing
from converter import pipeline
from converter.recipe import ALL_VARIANTS, Bounds, Budget, Recipe, Source
from service import manifest
from service.errors import FarthingError
from tests import models

X = np.random.default_rng(0).random((60, 4), np.float32)


@pytest.fixture
def double(tmp_path: Path) -> Path:
    return models.double(tmp_path / "double.onnx")


class Caught:
    """The recipe that a call stands for, and the rows that it names, while they lie there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recipe: Recipe | None = None
        self.rows: dict[str, Mapping[str, Any]] = {}
        monkeypatch.setattr(pipeline, "run", self.run)

    def run(self, recipe: Recipe) -> None:
        self.recipe = recipe
        for key in ("calibration", "evaluate"):
            path = getattr(recipe, key)
            if path:
                with np.load(path) as archive:
                    self.rows[key] = {name: archive[name] for name in archive.files}


def test_every_option_of_the_call_reaches_the_recipe(
    double: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=X)
    caught = Caught(monkeypatch)
    farthing.convert(
        double, name="m", out="somewhere", calibration=rows, evaluate=str(rows),
        variants=["fp16"], max_drop=2, min_speedup=3, metric="distance", tolerance=4,
        accept_unproven=True, budget_s=5, prune=0.6, uint8_input="x:scale=1/7", top_k=8,
        signature="nine", trust=True, imports=["ten"],
    )  # fmt: skip
    source = Source(double, signature="nine", trust=True, imports=("ten",))
    assert caught.recipe == Recipe(
        source=source, name="m", out=Path("somewhere"), calibration=str(rows), evaluate=str(rows),
        variants=("fp16",), bounds=Bounds(2, 3, "distance", 4, accept_unproven=True),
        budget=Budget(seconds=5), prune=0.6, uint8="x:scale=1/7", top_k=8,
    )  # fmt: skip


def test_what_is_not_said_is_as_the_command_has_it(
    double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = Caught(monkeypatch)
    farthing.convert(str(double))
    assert caught.recipe == Recipe(Source(double), "double", Path("models"))
    assert caught.recipe.variants == ALL_VARIANTS


def test_every_option_is_a_keyword_with_a_default() -> None:
    first, *others = inspect.signature(farthing.convert).parameters.values()
    assert first.name == "model"
    assert {each.kind for each in others} == {inspect.Parameter.KEYWORD_ONLY}
    assert not [each.name for each in others if each.default is each.empty]


def batches() -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, 60, 7):
        yield {"x": X[start : start + 7]}


def test_rows_may_be_a_dictionary_or_any_iterable_of_them(
    double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = Caught(monkeypatch)
    farthing.convert(double, calibration=batches(), evaluate={"x": X, "y": list(range(60))})
    np.testing.assert_array_equal(caught.rows["calibration"]["x"], X)
    np.testing.assert_array_equal(caught.rows["evaluate"]["x"], X)
    assert caught.rows["evaluate"]["y"].tolist() == list(range(60))


def test_rows_from_memory_are_gone_afterwards(
    double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught = Caught(monkeypatch)
    farthing.convert(double, evaluate={"x": X})
    assert caught.recipe is not None and caught.recipe.evaluate is not None
    assert not Path(caught.recipe.evaluate).parent.exists()


def test_rows_from_memory_judge_as_those_from_a_file(double: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=X)
    contracts = [
        farthing.convert(double, name="m", out=tmp_path / "out", variants=(), evaluate=rows)
        for rows in (tmp_path / "rows.npz", {"x": X}, batches(), [{"x": X.tolist()}])
    ]
    digests = {contract.samples["held_out"]["sha256"] for contract in contracts}
    assert len(digests) == 1
    assert contracts[0].samples["held_out"]["rows"] == 60
    assert len(manifest.versions_in(tmp_path / "out" / "m")) == 4


def test_rows_come_from_ones_own_module(
    double: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "rows_of_test_api.py").write_text(
        "import numpy as np\n"
        "def rows():\n"
        "    for seed in range(10):\n"
        "        yield {'x': np.random.default_rng(seed).random((6, 4), np.float32)}\n"
    )
    contract = farthing.convert(
        double, name="m", out=tmp_path / "out", variants=(), evaluate="rows_of_test_api:rows"
    )
    assert contract.samples["held_out"]["rows"] == 60
    assert "--evaluate rows_of_test_api:rows" in contract.reproduce
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m"]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (X, "must give dictionaries of arrays"),
        ([X], "must give dictionaries of arrays"),
        ([], "gave no rows"),
        ({"x": 3}, "'x' is a single value"),
        ({"x": X[:, :2]}, "has rows of shape"),
        ("no_such_module:rows", "No module named 'no_such_module'"),
        ("no/such/file.npz", "does not exist"),
    ],
)
def test_rows_that_cannot_be_used_leave_the_repository_as_it_was(
    double: Path, tmp_path: Path, rows: object, reason: str
) -> None:
    with pytest.raises(FarthingError) as error:
        farthing.convert(double, out=tmp_path / "out", evaluate=rows)
    assert reason in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("model", [None, 3, object(), X])
def test_an_object_that_is_no_model_is_refused(tmp_path: Path, model: object) -> None:
    with pytest.raises(
        FarthingError, match=f"cannot convert a {type(model).__name__}: give a path"
    ):
        farthing.convert(model, out=tmp_path / "out")

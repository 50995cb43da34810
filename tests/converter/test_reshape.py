"""The contract that was asked for: bytes in place of floats, the best classes in place of all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import reshape
from converter.fold import CannotFold
from converter.recipe import Recipe, Source
from converter.sources import Exported
from service.errors import FarthingError
from service.rows import BadRows
from service.session import Session, SessionOptions
from tests import models

# y = 2 x for rows of four
BYTES = np.array([[0, 51, 102, 255], [255, 0, 0, 0]], np.uint8)
FLOATS = BYTES.astype(np.float32) / 255
UINT8 = "x:scale=1/255"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return models.double(tmp_path / "model.onnx")


def recipe(source: Path, **asked: object) -> Recipe:
    return Recipe(Source(source), "m", source.parent / "out", **asked)


def rows(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def exported(source: Path, expected: np.ndarray | None = None) -> Exported:
    answers = None if expected is None else {"y": expected}
    return Exported(source, answers, {"route": "as it is"}, {"tool": "1"})


def test_rows_are_the_frameworks_own_where_nothing_is_folded(source: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "rows.npz", x=FLOATS)
    assert reshape.for_framework(recipe(source), path, tmp_path / "floats.npz") == path
    assert reshape.for_framework(recipe(source, uint8=UINT8), None, tmp_path / "floats.npz") is None
    assert not (tmp_path / "floats.npz").exists()


@pytest.mark.parametrize("key", ["x", "pixels"])
def test_bytes_are_normalised_for_the_framework_and_all_else_stays(
    source: Path, tmp_path: Path, key: str
) -> None:
    labels = np.array([3, 0])
    path = rows(tmp_path / "rows.npz", y=labels, other=FLOATS, **{key: BYTES})
    asked = recipe(source, uint8=UINT8.replace("x", "pixels"))
    written = reshape.for_framework(asked, path, tmp_path / "floats.npz")
    assert written == tmp_path / "floats.npz"
    with np.load(written) as archive:
        assert archive[key].dtype == np.float32
        np.testing.assert_allclose(archive[key], FLOATS, rtol=1e-6)
        assert archive["y"].tolist() == labels.tolist()
        np.testing.assert_array_equal(archive["other"], FLOATS)


@pytest.mark.parametrize("array", [FLOATS, BYTES.astype(np.int64)])
def test_rows_that_are_no_bytes_are_refused(
    source: Path, tmp_path: Path, array: np.ndarray
) -> None:
    path = rows(tmp_path / "rows.npz", x=array)
    with pytest.raises(BadRows, match="must be uint8"):
        reshape.for_framework(recipe(source, uint8=UINT8), path, tmp_path / "floats.npz")


@pytest.mark.parametrize("content", [b"", b"a,b\n", b"PK\x03\x04 cut off here", b"\x80\x04K"])
def test_a_file_of_another_kind_is_refused(source: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(BadRows, match=r"is not an .npz file"):
        reshape.for_framework(
            recipe(source, uint8=UINT8), tmp_path / "rows.npz", tmp_path / "floats.npz"
        )


def test_where_nothing_is_asked_the_export_stays(source: Path) -> None:
    before = source.read_bytes()
    made = reshape.reshaped(exported(source, 2 * FLOATS), recipe(source), None)
    assert source.read_bytes() == before
    assert made.expected is not None and made.tools == {"tool": "1"}
    assert made.facts == {"route": "as it is", "folded": []}


def test_folded_bytes_keep_the_frameworks_answers(source: Path) -> None:
    made = reshape.reshaped(exported(source, 2 * FLOATS), recipe(source, uint8=UINT8), None)
    assert made.expected is not None
    session = Session(made.path, SessionOptions())
    assert [spec.datatype for spec in session.inputs] == ["UINT8"]
    np.testing.assert_allclose(session.run({"x": BYTES})["y"], made.expected["y"], rtol=1e-6)
    assert made.facts["folded"] == ["the normalization of 'x'"]


def test_of_the_best_classes_fp32_itself_is_right(source: Path, tmp_path: Path) -> None:
    floats = rows(tmp_path / "rows.npz", x=FLOATS)
    asked = recipe(source, top_k=2)
    made = reshape.reshaped(exported(source, 2 * FLOATS), asked, floats)
    assert made.expected is None
    outputs = [spec.name for spec in Session(made.path, SessionOptions()).outputs]
    assert outputs == ["y_values", "y_indices"]
    assert made.facts["folded"] == ["the best 2 of 'y'"]


def test_an_export_that_answers_otherwise_is_noticed_before_its_scores_are_gone(
    source: Path, tmp_path: Path
) -> None:
    floats = rows(tmp_path / "rows.npz", x=FLOATS)
    with pytest.raises(FarthingError, match="differently from its framework"):
        reshape.reshaped(exported(source, 3 * FLOATS), recipe(source, top_k=2), floats)


def test_both_may_be_asked_for(source: Path) -> None:
    made = reshape.reshaped(exported(source), recipe(source, top_k=1, uint8=UINT8), None)
    answer = Session(made.path, SessionOptions()).run({"x": BYTES})
    assert answer["y_indices"].tolist() == [[3], [0]]
    assert len(made.facts["folded"]) == 2


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"top_k": 5}, "5 best"), ({"uint8": "image:scale=1/255"}, "no input 'image'")],
)
def test_what_cannot_be_folded_is_refused(
    source: Path, asked: dict[str, object], reason: str
) -> None:
    with pytest.raises(CannotFold, match=reason):
        reshape.reshaped(exported(source), recipe(source, **asked), None)

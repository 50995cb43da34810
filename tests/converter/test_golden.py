"""Reference inputs and answers, and how near each variant must come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from converter import golden
from service import manifest
from service.session import Session, SessionOptions
from tests import models
from tests.converter.conftest import Converted


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def session(path: Path) -> Session:
    return Session(path, SessionOptions(threads=1))


def written(path: Path, rows: int) -> manifest.Golden:
    """Golden samples of a doubling of so many rows, and of a variant that is 1 % off."""
    reference = models.double(path / "model.onnx")
    other = models.double(path / "other.onnx", factor=2.02)
    x = np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)
    variants = {"fp32": reference, "other": other}
    return golden.write(path / golden.FILE, {"x": x}, session(reference), variants)


def test_the_first_rows_and_fp32s_answers_are_kept(tmp_path: Path) -> None:
    made = written(tmp_path, rows=9)
    kept = arrays(tmp_path / golden.FILE)
    assert set(kept) == {"in:x", "out:y"}
    assert kept["in:x"].tolist() == np.arange(16).reshape(4, 4).tolist()
    np.testing.assert_array_equal(kept["out:y"], 2 * kept["in:x"])
    assert (made.file, made.rows) == (golden.FILE, 4)
    assert made.sha256 == manifest.sha256_of(tmp_path / golden.FILE)


def test_fewer_rows_are_all_kept(tmp_path: Path) -> None:
    assert written(tmp_path, rows=2).rows == 2


def test_each_variant_may_be_as_far_off_as_it_is_here_and_as_far_again(tmp_path: Path) -> None:
    tolerance = written(tmp_path, rows=4).tolerance
    largest = 2 * 15
    assert tolerance["fp32"]["y"] == pytest.approx(1e-3 * largest)
    assert tolerance["other"]["y"] == pytest.approx(2 * 0.02 * 15 + 1e-3 * largest, rel=1e-3)


def test_large_rows_are_few_but_one_at_least(tmp_path: Path) -> None:
    reference = models.double(tmp_path / "model.onnx")

    class Wide(Session):
        """A session that takes rows of 2 MB, and answers with their first four numbers."""

        def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return super().run({"x": np.ascontiguousarray(feeds["x"][:, :4])})

    for numbers, rows in ((400_000, 2), (2_000_000, 1)):
        feeds = {"x": np.ones((5, numbers), np.float32)}
        made = golden.write(tmp_path / golden.FILE, feeds, Wide(reference, SessionOptions()), {})
        assert made.rows == rows


def test_a_fixed_first_dimension_is_not_cut(tmp_path: Path) -> None:
    reference = session(models.double(tmp_path / "model.onnx", batch=8))
    made = golden.write(tmp_path / golden.FILE, {"x": np.ones((8, 4), np.float32)}, reference, {})
    assert made.rows == 8


def test_texts_and_whole_numbers_are_exact_and_not_pickled(tmp_path: Path) -> None:
    path = models.every_datatype(tmp_path / "model.onnx")
    feeds = {
        spec.name: np.full((2, 3), "grün", object)
        if spec.datatype == "BYTES"
        else np.ones((2, 3), spec.datatype.replace("FP", "float").lower())
        for spec in session(path).inputs
    }
    made = golden.write(tmp_path / golden.FILE, feeds, session(path), {"fp32": path})
    assert arrays(tmp_path / golden.FILE)["out:out_BYTES"].tolist() == [["grün"] * 3] * 2
    exact = {name for name, tolerance in made.tolerance["fp32"].items() if tolerance == 0}
    assert exact == {f"out_{s.datatype}" for s in session(path).inputs if "FP" not in s.datatype}


def test_every_published_variant_answers_within_its_tolerance(converted: Converted) -> None:
    kept = arrays(converted.directory / golden.FILE)
    made = converted.contract.golden
    assert made is not None
    assert set(made.tolerance) == set(converted.contract.published)
    for name in converted.contract.published:
        path = converted.directory / str(converted.contract.variant(name).file)
        answers = session(path).run({"x": kept["in:x"]})
        difference = np.abs(answers["scores"] - kept["out:scores"]).max()
        assert difference <= made.tolerance[name]["scores"]
        if name != "fp32":
            assert difference > 0  # else the tolerance was not needed

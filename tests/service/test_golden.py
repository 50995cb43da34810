"""A model is ready only when it answers the golden samples as it did where it was verified."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service import golden, manifest
from service.errors import ModelUnusable
from service.golden import Arrays
from service.manifest import Golden

X = np.ones((2, 4), np.float32)


def write(directory: Path, **tolerance: float) -> Golden:
    path = directory / "golden.npz"
    np.savez(path, **{"in:x": X, "out:y": 2 * X, "out:text": np.array(["a", "b"])})
    return Golden(path.name, manifest.sha256_of(path), 2, {"int8": tolerance})


def answering(y: np.ndarray, text: tuple[str, str] = ("a", "b")) -> object:
    return lambda feeds: {"y": y, "text": np.array(text, np.object_)}


@pytest.mark.parametrize("off", [0.0, 0.09])
def test_answers_within_the_tolerance_pass(tmp_path: Path, off: float) -> None:
    samples = write(tmp_path, y=0.1, text=0.0)
    golden.check(answering(2 * X + off), tmp_path, samples, variant="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "run",
    [
        answering(2 * X + 0.2),
        answering(np.full_like(X, np.nan)),
        answering(np.full_like(X, np.inf)),
        answering((2 * X)[:1]),
        answering(2 * X, ("a", "c")),
        lambda feeds: {},
    ],
    ids=["far", "nan", "inf", "shape", "text", "missing"],
)
def test_other_answers_are_refused_without_a_path(tmp_path: Path, run: object) -> None:
    samples = write(tmp_path, y=0.1, text=0.0)
    with pytest.raises(ModelUnusable, match="golden") as refused:
        golden.check(run, tmp_path, samples, variant="int8")  # type: ignore[arg-type]
    assert str(tmp_path) not in refused.value.told
    assert "'int8'" in refused.value.told


def test_run_that_fails_is_refused(tmp_path: Path) -> None:
    def run(feeds: Arrays) -> Arrays:
        raise RuntimeError("kernel not there")

    with pytest.raises(ModelUnusable, match="fails on the golden samples") as refused:
        golden.check(run, tmp_path, write(tmp_path, y=0.1), variant="int8")
    assert "kernel" not in refused.value.told


def test_samples_that_changed_are_refused(tmp_path: Path) -> None:
    samples = write(tmp_path, y=0.1)
    np.savez(tmp_path / "golden.npz", **{"in:x": X, "out:y": 3 * X})
    with pytest.raises(ModelUnusable, match="digest"):
        golden.read(tmp_path, samples)
    (tmp_path / "golden.npz").unlink()
    with pytest.raises(ModelUnusable, match="digest"):
        golden.read(tmp_path, samples)


def test_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ModelUnusable, match="cannot be read"):
        golden.read(tmp_path, Golden(path.name, manifest.sha256_of(path), 1))

"""Models and rows that cannot be used: one sentence, exit code 2, an untouched repository."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import farthing
from tests import models
from tests.converter import nets


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


Broken = Callable[[Path], list[str]]


def cut_off(base: Path) -> list[str]:
    source = nets.images_net(base / "model.onnx")
    source.write_bytes(source.read_bytes()[:20_000])
    return [str(source)]


def content(name: str, text: bytes) -> Broken:
    def write(base: Path) -> list[str]:
        (base / name).write_bytes(text)
        return [str(base / name)]

    return write


def cut_off_keras(base: Path) -> list[str]:
    with zipfile.ZipFile(base / "model.keras", "w") as archive:
        archive.writestr("config.json", "{}" * 1000)
    return content("model.keras", (base / "model.keras").read_bytes()[:500])(base)


def a_directory(base: Path) -> list[str]:
    (base / "model.onnx").mkdir()
    return [str(base / "model.onnx")]


def nan_weights(base: Path) -> list[str]:
    model = onnx.load(models.double(base / "model.onnx"))
    factor = numpy_helper.from_array(np.array(np.nan, np.float32), "factor")
    model.graph.initializer[0].CopyFrom(factor)
    onnx.save(model, base / "model.onnx")
    return [str(base / "model.onnx")]


def with_rows(**arrays: np.ndarray) -> Broken:
    """A doubling of rows of four, and these held-out rows for it."""

    def write(base: Path) -> list[str]:
        np.savez(base / "rows.npz", **arrays)
        return [str(models.double(base / "model.onnx")), "--evaluate", str(base / "rows.npz")]

    return write


def no_batch(base: Path) -> list[str]:
    np.savez(base / "rows.npz", x=np.ones(40, np.float32))
    return [str(models.not_batched(base / "model.onnx")), "--evaluate", str(base / "rows.npz")]


def a_fixed_batch(base: Path) -> list[str]:
    np.savez(base / "rows.npz", x=X)
    source = models.double(base / "model.onnx", batch=1)
    return [str(source), "--evaluate", str(base / "rows.npz")]


def seen_rows(base: Path) -> list[str]:
    words = with_rows(x=X)(base)
    return [*words, "--calibration", words[-1]]


def no_repository(base: Path) -> list[str]:
    (base / "file").write_text("in the way")
    return [str(models.double(base / "model.onnx")), "--out", str(base / "file" / "models")]


def a_crowd(base: Path) -> list[str]:
    np.savez(base / "rows.npz", x=X)
    return [str(nets.crowd(base / "model.onnx")), "--evaluate", str(base / "rows.npz")]


def brain_floats(base: Path) -> list[str]:
    return [str(models.bf16(base / "model.onnx"))]


X = np.random.default_rng(0).random((40, 4), np.float32) + 0.1
NAN = X.copy()
NAN[3, 1] = np.nan


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (cut_off, "is not an ONNX file, or is cut off"),
        (content("model.onnx", b""), "is not a valid ONNX graph"),
        (content("model.onnx", b"this is no graph"), "is not an ONNX file"),
        (content("model.onnx", b"\x08\x07\x12\xff" * 100), "is not an ONNX file"),
        (content("model.bin", b"x"), ".h5, .hdf5, .joblib, .keras, .onnx"),
        (cut_off_keras, "model.keras"),
        (a_directory, "is neither a SavedModel"),
        (nan_weights, "weight 'factor' of .* holds NaN or infinity"),
        (with_rows(x=X[:, :3]), "has rows of shape [3]; the model takes [4]"),
        (with_rows(x=NAN), "holds NaN or infinity"),
        (with_rows(x=X.astype(np.complex64)), "is complex64"),
        (with_rows(z=X), "has no array 'x'"),
        (with_rows(x=X, y=np.zeros(7, int)), "different numbers of rows: [7, 40]"),
        (with_rows(x=X, y=np.array(["cat"] * 40)), "the labels under 'y' are text"),
        (with_rows(x=X, y=np.full(40, 99)), "the labels do not fit"),
        (with_rows(x=X, y=np.zeros((40, 4))), "give one class for each row"),
        (seen_rows, "40 rows are in the calibration and in the held-out file"),
        (no_batch, "has no batch dimension"),
        (a_fixed_batch, "has no batch dimension"),
        (no_repository, "cannot write into"),
        (brain_floats, "tensor 'x' of .* is BF16"),
        (a_crowd, "depend on which rows share their batch"),
    ],
)
def test_bad_input_is_one_sentence_and_an_untouched_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: Broken, reason: str
) -> None:
    models.double(tmp_path / "out" / "other" / "1" / "model.onnx")
    before = files(tmp_path / "out")
    words = bad(tmp_path)
    out = [] if "--out" in words else ["--out", str(tmp_path / "out")]
    assert farthing.main(["convert", *words, *out]) == 2
    said = capsys.readouterr().err
    assert said.startswith("farthing: ") and said.count("\n") == 1
    first, _, last = reason.partition(" .* ")
    assert first in said and last in said
    assert files(tmp_path / "out") == before

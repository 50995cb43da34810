"""Rows from iterators and from one's own modules, streamed into a file."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import samples
from service.manifest import TensorSpec
from service.rows import BadRows

X = TensorSpec("pixels", "FP32", (-1, 2))
TEXT = TensorSpec("text", "BYTES", (-1,))
ROWS = np.array([[1, 2], [3, 4], [5, 6]], np.float32)


def test_batches_are_written_one_after_the_other(tmp_path: Path) -> None:
    samples.write(({"pixels": ROWS[i : i + 1], "y": [i]} for i in range(3)), tmp_path / "rows.npz")
    rows = samples.read(tmp_path / "rows.npz", (X,))
    np.testing.assert_array_equal(rows.feeds["pixels"], ROWS)
    assert rows.labels is not None and rows.labels.tolist() == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npz"]


def test_batches_are_not_kept_in_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def batches() -> Iterator[dict[str, np.ndarray]]:
        nonlocal most
        for number in range(20):
            array = np.full((5, 2), number, np.float32)
            alive.append(weakref.ref(array))
            yield {"x": array}
            del array
            most = max(most, sum(ref() is not None for ref in alive))

    samples.write(batches(), tmp_path / "rows.npz")
    assert len(samples.read(tmp_path / "rows.npz", (X,))) == 100
    assert most <= 2


def test_batches_may_be_lists_and_of_any_size(tmp_path: Path) -> None:
    samples.write([{"x": [[1.0, 2.0]]}, {"x": ROWS.astype(float)}], tmp_path / "rows.npz")
    assert len(samples.read(tmp_path / "rows.npz", (X,))) == 4


@pytest.mark.parametrize("kind", [np.str_, object, np.bytes_])
def test_texts_of_any_length_are_kept_whole(tmp_path: Path, kind: type) -> None:
    texts = ["a", "b" * 300]
    samples.write(({"text": np.array([one], kind)} for one in texts), tmp_path / "rows.npz")
    assert samples.read(tmp_path / "rows.npz", (TEXT,)).feeds["text"].tolist() == texts


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        ([], "gave no rows"),
        ([{}], "gave no rows"),
        ([{"x": np.empty((0, 2))}], "gave no rows"),
        ([ROWS], "must give dictionaries"),
        ([{"x": ROWS}, {"z": ROWS}], "always the same names"),
        ([{"x": ROWS}, {"x": ROWS, "y": [0, 1, 2]}], "always the same names"),
        ([{"x": ROWS}, {"x": ROWS[:, :1]}], "'x' is not of one shape and dtype"),
        ([{"x": ROWS}, {"x": ROWS.astype(int)}], "'x' is not of one shape and dtype"),
        ([{"x": ROWS, "y": 1}], "'y' is a single value"),
        ([{"x": [{"any": "thing"}]}], "'x' holds neither numbers nor texts"),
    ],
)
def test_batches_that_are_no_rows_are_refused(
    tmp_path: Path, batches: list[Any], reason: str
) -> None:
    with pytest.raises(BadRows, match=f"^mine:? .*{reason}|^mine {reason}"):
        samples.write(batches, tmp_path / "rows.npz", "mine")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module into the working directory, and gives its name."""
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)

    def write(text: str) -> str:
        name = f"own_rows_{len(list(tmp_path.iterdir()))}_{tmp_path.name[-6:].strip('_')}"
        name = "".join(char if char.isalnum() else "_" for char in name)
        (tmp_path / f"{name}.py").write_text(f"import numpy as np\n{text}")
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("own_rows_"):
            del sys.modules[name]


@pytest.mark.parametrize(
    "text",
    [
        "def rows():\n    yield {'x': np.ones((1, 2))}\n    yield {'x': np.ones((2, 2))}",
        "def rows():\n    return [{'x': np.ones((3, 2))}]",
        "rows = [{'x': np.ones((3, 2))}]",
    ],
    ids=["generator", "function", "list"],
)
def test_rows_are_streamed_from_ones_own_module(
    tmp_path: Path, module: Callable[[str], str], text: str
) -> None:
    path = list(sys.path)
    written = samples.on_disk(f"{module(text)}:rows", tmp_path / "rows.npz")
    assert written == tmp_path / "rows.npz"
    assert len(samples.read(written, (X,))) == 3
    assert sys.path == path


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no attribute 'rows'"),
        ("import no_such_module_here", "No module named 'no_such_module_here'"),
        ("rows = 1 / 0", "division by zero"),
        ("def rows(:", "syntax"),
        ("rows = 3", "failed with TypeError"),
        ("def rows(needed):\n    pass", "failed with TypeError.*needed"),
        ("def rows():\n    yield {'x': np.ones((1, 2))}\n    raise KeyError('gone')", "KeyError"),
        ("def rows():\n    yield 3", "must give dictionaries"),
    ],
)
def test_ones_own_module_that_gives_no_rows_is_refused(
    tmp_path: Path, module: Callable[[str], str], text: str, reason: str
) -> None:
    name = module(text)
    with pytest.raises(BadRows, match=f"(?s)^{name}:rows .*{reason}") as error:
        samples.on_disk(f"{name}:rows", tmp_path / "rows.npz")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "rows.npz").exists()


def test_a_file_of_rows_stays_where_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=ROWS)
    assert samples.on_disk(str(tmp_path / "mine.npz"), tmp_path / "rows.npz") == (
        tmp_path / "mine.npz"
    )
    assert samples.on_disk(None, tmp_path / "rows.npz") is None

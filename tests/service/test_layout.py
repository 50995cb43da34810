"""What lies on disk: models, versions, and what changes when a file does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service import layout
from service.errors import ModelUnusable


def touch(path: Path, text: str = "graph") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_directories_with_versions_are_models(tmp_path: Path) -> None:
    touch(tmp_path / "b" / "2" / "model.onnx")
    touch(tmp_path / "a" / "10" / "model.onnx")
    touch(tmp_path / "a" / "9" / "model.onnx")
    touch(tmp_path / "notes" / "readme.txt")
    touch(tmp_path / ".staged" / "1" / "model.onnx")
    found = layout.places(tmp_path)
    assert {name: place.available() for name, place in found.items()} == {"a": [9, 10], "b": [2]}


def test_single_file_is_version_1_of_a_model_of_its_name(tmp_path: Path) -> None:
    touch(tmp_path / "net.onnx")
    place = layout.places(tmp_path / "net.onnx")["net"]
    assert (place.available(), place.version_directory(1), place.single) == (
        [1], tmp_path, "net.onnx",
    )  # fmt: skip
    assert place.exists()
    (tmp_path / "net.onnx").unlink()
    assert not place.exists()


def test_config_beside_a_single_file_is_another_models(tmp_path: Path) -> None:
    touch(tmp_path / "config.pbtxt", 'name: "other"')
    touch(tmp_path / "net.onnx")
    assert layout.places(tmp_path / "net.onnx")["net"].options().name == "net"


@pytest.mark.parametrize("name", ["..", ".", "a/b", "/etc", "", "a\0b", "a b", "ä", "x" * 129])
def test_text_that_is_no_name_stays_outside(name: str) -> None:
    assert not layout.inside(name)


def test_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"no \.onnx file"):
        layout.places(touch(tmp_path / "net.h5"))


def test_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")
    with pytest.raises(ModelUnusable, match="no directory and no file"):
        layout.places(tmp_path / "net.onnx")


@pytest.mark.parametrize("changed", ["m/1/model.onnx", "m/config.pbtxt", "m/labels.txt",
                                     "m/1/weights/data.bin", "m/warmup/x"])  # fmt: skip
def test_mark_changes_with_every_file_that_counts(tmp_path: Path, changed: str) -> None:
    for name in ("m/1/model.onnx", "m/2/model.onnx", "m/config.pbtxt"):
        touch(tmp_path / name)
    place = layout.places(tmp_path)["m"]
    before = place.mark(1)
    assert place.mark(1) == before
    touch(tmp_path / changed, "another graph")
    assert place.mark(1) != before


def test_mark_of_one_version_leaves_out_the_others(tmp_path: Path) -> None:
    for name in ("m/1/model.onnx", "m/2/model.onnx"):
        touch(tmp_path / name)
    place = layout.places(tmp_path)["m"]
    before = place.mark(1)
    touch(tmp_path / "m" / "2" / "model.onnx", "another graph")
    assert place.mark(1) == before

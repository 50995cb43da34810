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


@pytest.mark.parametrize(
    ("file", "entry", "word"),
    [
        ("my net/1/model.onnx", "my net", "1 to 128 letters, digits, '_', '-' or '.'"),
        ("net/v1/model.onnx", "net", "'v1' is no version"),
        ("net/v1/manifest.json", "net", "'v1' is no version"),
        ("net/model.onnx", "net", "expected net/1/model.onnx"),
        ("net/config.pbtxt", "net", "expected net/1/model.onnx"),
        ("net.onnx", "net.onnx", "expected net/1/model.onnx"),
    ],
)
def test_what_looks_like_a_model_and_is_none_is_told_with_why(
    tmp_path: Path, file: str, entry: str, word: str
) -> None:
    touch(tmp_path / "a" / "1" / "model.onnx")
    touch(tmp_path / file)
    (sentence,) = layout.skipped(tmp_path)
    assert sentence.startswith(f"{tmp_path / entry} is skipped: ") and word in sentence
    assert list(layout.places(tmp_path)) == ["a"]


@pytest.mark.parametrize("file", [".new/1/model.onnx", "notes/a.txt", "a.txt", "my notes/a.txt"])
def test_what_is_staged_or_no_model_at_all_is_not_told(tmp_path: Path, file: str) -> None:
    touch(tmp_path / "a" / "1" / "model.onnx")
    touch(tmp_path / file)
    assert layout.skipped(tmp_path) == []


def test_single_file_whose_name_no_caller_could_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="1 to 128 letters"):
        layout.places(touch(tmp_path / "my net.onnx"))
    assert layout.skipped(tmp_path / "my net.onnx") == []


def test_config_that_contradicts_itself_is_named_by_its_place_and_not_to_callers(
    tmp_path: Path,
) -> None:
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "m" / "config.pbtxt", 'input { name: "x" data_type: TYPE_FP32 }')
    with pytest.raises(ModelUnusable) as refused:
        layout.places(tmp_path)["m"].options()
    assert str(refused.value) == f"{tmp_path / 'm'}: config: input 'x' has no dims"
    assert refused.value.told == "config: input 'x' has no dims"


def test_policy_that_matches_nothing_names_what_it_asks_for_and_what_is_there(
    tmp_path: Path,
) -> None:
    for version in ("1", "2"):
        touch(tmp_path / "m" / version / "model.onnx")
    touch(tmp_path / "m/config.pbtxt", "version_policy { specific { versions: [ 7, 5 ] } }")
    place = layout.places(tmp_path)["m"]
    with pytest.raises(ModelUnusable, match="asks for, 5, 7; it has 1, 2"):
        place.picked(place.options())


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


def test_one_model_is_found_without_a_look_at_the_others(tmp_path: Path) -> None:
    touch(tmp_path / "m" / "1" / "model.onnx")
    touch(tmp_path / "n" / "1" / "model.onnx")
    assert layout.place(tmp_path, "m") == layout.places(tmp_path)["m"]
    for name in ("absent", "../" + tmp_path.name, "m/1", ""):
        assert layout.place(tmp_path, name) is None
    with pytest.raises(ModelUnusable, match="does not exist"):
        layout.place(tmp_path / "gone", "m")


def test_single_file_is_found_by_its_name_alone(tmp_path: Path) -> None:
    path = touch(tmp_path / "net.onnx")
    assert layout.place(path, "net") == layout.places(path)["net"]
    assert layout.place(path, "other") is None

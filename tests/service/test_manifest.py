"""The manifest is read as it was written, or refused in one sentence that says what to do."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from service import manifest
from service.errors import ModelUnusable
from service.manifest import Choice, Manifest, TensorSpec, Variant

FULL = Manifest(
    name="digits",
    batched=True,
    inputs=(TensorSpec("image", "FP32", (-1, 28, 28)), TensorSpec("hint", "BYTES", (-1, 1))),
    outputs=(TensorSpec("scores", "FP32", (-1, 10)),),
    variants=(
        Variant("fp32", True, "the reference", "model.onnx", "ab" * 32, 1000),
        Variant("int8-static", False, "agreement 0.91 is below 0.99", figures={"agreement": 0.91}),
    ),
    chosen={"x86_64, Some CPU": Choice("fp32", "int8 is no faster here")},
    source={"kind": "keras", "file": "digits.keras", "route": ["keras", "tf2onnx"]},
    samples={"calibration": 100},
    tools={"onnx": "1.23"},
    reproduce="farthing convert digits.keras",
)


def written(directory: Path, text: str) -> Path:
    (directory / "manifest.json").write_text(text, encoding="utf-8")
    return directory


def changed(**changes: Any) -> str:
    return json.dumps(json.loads(FULL.to_json()) | changes)


def refusal(directory: Path) -> str:
    with pytest.raises(ModelUnusable) as refused:
        manifest.load(directory)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert manifest.load(written(tmp_path, FULL.to_json())) == FULL


def test_manifest_says_its_schema() -> None:
    assert json.loads(FULL.to_json())["schema"] == manifest.SCHEMA


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_unknown_schema_is_refused(tmp_path: Path, schema: Any) -> None:
    text = refusal(written(tmp_path, changed(schema=schema)))
    assert f"schema {schema}" in text and "convert the model again" in text


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "{}", "[" * 100_000])
def test_garbage_is_refused(tmp_path: Path, text: str) -> None:
    assert "is not a manifest" in refusal(written(tmp_path, text))


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    assert "is not a manifest" in refusal(tmp_path)


def test_a_pipe_is_not_waited_for_and_a_giant_not_read(tmp_path: Path) -> None:
    for name in ("pipe", "giant"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "manifest.json")
    with (tmp_path / "giant" / "manifest.json").open("wb") as file:
        file.truncate(2**33)
    for name in ("pipe", "giant"):
        with pytest.raises(ModelUnusable, match="is not a manifest"):
            manifest.load(tmp_path / name)


def test_missing_manifest_is_refused_by_its_path(tmp_path: Path) -> None:
    assert str(tmp_path / "manifest.json") in refusal(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"inputs": 3}, {"outputs": [{"name": "y"}]}, {"variants": [{}]}, {"chosen": {"x": "fp32"}},
     {"chosen": []}, {"surprise": 1}],
)  # fmt: skip
def test_manifest_of_another_form_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "is not a manifest" in refusal(written(tmp_path, changed(**changes)))


def test_unknown_datatype_is_refused_by_name(tmp_path: Path) -> None:
    inputs = [{"name": "x", "datatype": "FP8", "shape": [-1]}]
    assert "'FP8'" in refusal(written(tmp_path, changed(inputs=inputs)))


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "sub/model.onnx", ".", ".."])
def test_variant_that_names_a_file_elsewhere_is_refused(tmp_path: Path, file: str) -> None:
    variant = {"name": "fp32", "accepted": True, "reason": "", "file": file, "sha256": "ab" * 32}
    text = refusal(written(tmp_path, changed(variants=[variant])))
    assert "'fp32' names a file elsewhere" in text


@pytest.mark.parametrize(
    "figures",
    [{"size": "large"}, {"size": 10**400}, {"size": True}, {"si ze": 1.0}, {"\ud800": 1.0},
     {f"n{n}": 1.0 for n in range(65)}],
)  # fmt: skip
def test_figures_that_metrics_could_not_tell_are_refused(
    tmp_path: Path, figures: dict[str, Any]
) -> None:
    variant = {"name": "fp32", "accepted": True, "reason": "", "file": "f", "sha256": "ab"}
    directory = written(tmp_path, changed(variants=[{**variant, "figures": figures}]))
    assert "is not a manifest" in refusal(directory)


@pytest.mark.parametrize("missing", ["file", "sha256"])
def test_published_variant_without_file_or_digest_is_refused(tmp_path: Path, missing: str) -> None:
    variant = {"name": "fp16", "accepted": True, "reason": "", "file": "f", "sha256": "ab"}
    text = refusal(written(tmp_path, changed(variants=[variant | {missing: None}])))
    assert "'fp16' has no file or no digest" in text


def test_refused_variant_asked_for_by_name_gives_the_recorded_reason() -> None:
    with pytest.raises(ModelUnusable, match=r"agreement 0\.91 is below 0\.99"):
        FULL.variant("int8-static")


def test_variant_that_was_never_built_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ModelUnusable, match=r"no variant 'int4'; it has fp32$"):
        FULL.variant("int4")


def test_published_variants_are_the_accepted_ones() -> None:
    assert FULL.published == ("fp32",)
    assert FULL.variant("fp32") is FULL.variants[0]


def test_digest_is_the_files_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"farthing")
    assert manifest.sha256_of(tmp_path / "file") == hashlib.sha256(b"farthing").hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"variants": []},
        {"golden": {"file": "g.npz", "sha256": "", "rows": 1, "tolerance": {"fp32": [1]}}},
        {"golden": {"file": "g.npz", "sha256": "", "rows": 1, "tolerance": {"fp32": {"y": "1"}}}},
        {"chosen": {"here": {"variant": "fp32", "reason": 7}}},
    ],
    ids=["nothing published", "tolerances no mapping", "tolerance no number", "reason no text"],
)
def test_manifest_that_would_stumble_later_is_refused_at_once(
    tmp_path: Path, change: dict[str, object]
) -> None:
    variant = Variant("fp32", True, "", "model.onnx", "digest")
    raw = json.loads(Manifest("m", True, (), (), (variant,)).to_json()) | change
    (tmp_path / manifest.FILENAME).write_text(json.dumps(raw))
    with pytest.raises(ModelUnusable, match="convert the model again"):
        manifest.load(tmp_path)

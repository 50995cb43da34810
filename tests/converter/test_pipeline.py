"""Whole conversions of small models: what is published, what is refused, and what is left."""

from __future__ import annotations

import zipfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest

import farthing
from converter import pipeline
from converter.recipe import ALL_VARIANTS, Recipe
from service import hardware, manifest
from service.errors import FarthingError
from service.repository import MODEL_FILE
from tests import models
from tests.converter.conftest import Converted, Material


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def refusal(error: pytest.ExceptionInfo[FarthingError]) -> str:
    """What was said, which must be one sentence on one line."""
    said = str(error.value)
    assert said and "\n" not in said
    return said


def test_every_variant_that_holds_is_published(converted: Converted) -> None:
    assert converted.contract.published == ALL_VARIANTS
    assert files(converted.directory) == {
        MODEL_FILE, "model.fp16.onnx", "model.int8-dynamic.onnx", "model.int8-static.onnx",
        manifest.FILENAME,
    }  # fmt: skip


def test_each_published_file_is_the_one_in_the_manifest(converted: Converted) -> None:
    for variant in converted.contract.variants:
        path = converted.directory / str(variant.file)
        assert manifest.sha256_of(path) == variant.sha256
        assert path.stat().st_size == variant.bytes


def test_the_manifest_on_disk_is_the_one_returned(converted: Converted) -> None:
    assert manifest.load(converted.directory) == converted.contract


def test_nothing_but_the_model_is_left_in_the_repository(converted: Converted) -> None:
    repository = converted.directory.parent.parent
    assert [path.name for path in repository.iterdir()] == ["small"]


def test_the_manifest_says_what_it_was_made_from(converted: Converted, material: Material) -> None:
    contract = converted.contract
    assert contract.source["sha256"] == manifest.sha256_of(material.source)
    assert contract.samples["calibration"]["rows"] == 64
    assert contract.samples["held_out"]["rows"] == 400
    assert set(contract.tools) >= {"farthing", "onnx", "onnxruntime"}
    assert str(material.held_out) in contract.reproduce


def test_a_cpu_variant_is_chosen_for_this_hardware(converted: Converted) -> None:
    choice = converted.contract.chosen[hardware.fingerprint()]
    least = {
        variant.name: min(variant.figures[f"speedup_batch_{batch}"] for batch in (1, 8))
        for variant in converted.contract.variants
        if variant.name.startswith("int8")
    }
    assert choice.variant == max(least, key=least.__getitem__)


def test_int8_shrinks_the_file(converted: Converted) -> None:
    sizes = {variant.name: variant.bytes for variant in converted.contract.variants}
    assert sizes["int8-static"] < sizes["fp16"] < sizes["fp32"]


def test_a_variant_that_is_too_slow_is_refused_and_has_no_file(
    material: Material, tmp_path: Path
) -> None:
    contract = farthing.convert(
        material.source, name="m", out=tmp_path, variants=("int8-static",), min_speedup=100,
        calibration=material.calibration, evaluate=material.held_out,
    )  # fmt: skip
    refused = contract.variants[1]
    assert not refused.accepted
    assert "does not pay on this CPU" in refused.reason
    assert (refused.file, refused.sha256) == (None, None)
    assert files(tmp_path / "m" / "1") == {MODEL_FILE, manifest.FILENAME}
    assert contract.chosen[hardware.fingerprint()].variant == "fp32"


def test_without_held_out_rows_only_fp32_is_published(material: Material, tmp_path: Path) -> None:
    contract = farthing.convert(
        str(material.source), name="m", out=str(tmp_path), calibration=str(material.calibration)
    )
    assert contract.published == ("fp32",)
    assert len(contract.variants) == len(ALL_VARIANTS)
    assert all("--evaluate" in variant.reason for variant in contract.variants[1:])
    assert files(tmp_path / "m" / "1") == {MODEL_FILE, manifest.FILENAME}


def test_without_calibration_rows_static_int8_asks_for_them(
    material: Material, tmp_path: Path
) -> None:
    contract = farthing.convert(
        material.source, name="m", out=tmp_path, evaluate=material.held_out,
        variants=("int8-static",),
    )  # fmt: skip
    refused = contract.variants[1]
    assert not refused.accepted
    assert "--calibration" in refused.reason
    assert refused.bytes is None


def test_no_drop_allowed_refuses_what_is_not_proven(material: Material, tmp_path: Path) -> None:
    contract = farthing.convert(
        material.source, name="m", out=tmp_path, evaluate=material.held_out, variants=("fp16",),
        max_drop=0,
    )  # fmt: skip
    assert contract.published == ("fp32",)
    assert contract.variants[1].reason.startswith("not proven: 0 of 400")


def test_changed_decisions_lose_too_much(material: Material, tmp_path: Path) -> None:
    contract = farthing.convert(
        material.source, name="m", out=tmp_path, evaluate=material.close_calls,
        calibration=material.calibration, variants=("int8-static",), max_drop=0, min_speedup=0.01,
    )  # fmt: skip
    assert contract.published == ("fp32",)
    assert contract.variants[1].figures["newly_wrong"] > 0
    assert contract.variants[1].reason.startswith("loses too much")
    assert files(tmp_path / "m" / "1") == {MODEL_FILE, manifest.FILENAME}


def test_a_second_conversion_becomes_version_2(material: Material, tmp_path: Path) -> None:
    for _ in range(2):
        farthing.convert(material.source, name="m", out=tmp_path)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"1", "2"}


def test_only_the_wanted_variants_are_built(material: Material, tmp_path: Path) -> None:
    contract = farthing.convert(material.source, name="m", out=tmp_path, variants=())
    assert [variant.name for variant in contract.variants] == ["fp32"]


@pytest.mark.parametrize("content", [b"", b"this is no graph", b"\x08\x07\x12\xff" * 100])
def test_a_corrupt_onnx_file_is_refused_and_nothing_is_left(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "broken.onnx"
    source.write_bytes(content)
    with pytest.raises(FarthingError) as error:
        farthing.convert(source, name="m", out=tmp_path / "out")
    assert refusal(error).startswith(f"{source} is not a valid ONNX graph")
    assert files(tmp_path / "out") == set()


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    source = tmp_path / "model.pickle"
    source.write_bytes(b"x")
    with pytest.raises(FarthingError) as error:
        farthing.convert(source, name="m", out=tmp_path / "out")
    assert ".h5, .keras, .onnx" in refusal(error)
    assert files(tmp_path / "out") == set()


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(FarthingError) as error:
        farthing.convert(tmp_path / "model.onnx", name="m", out=tmp_path / "out")
    refusal(error)
    assert files(tmp_path / "out") == set()


def test_a_truncated_keras_file_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source = tmp_path / "model.keras"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("config.json", "{}" * 1000)
    source.write_bytes(source.read_bytes()[:500])
    with pytest.raises(FarthingError) as error:
        farthing.convert(source, name="m", out=tmp_path / "out")
    assert refusal(error).startswith(f"Keras cannot load {source}")
    assert files(tmp_path / "out") == set()


@pytest.mark.parametrize("kind", ["not batched", "fixed batch"])
def test_held_out_rows_for_a_model_that_takes_no_rows_are_refused(
    tmp_path: Path, kind: str
) -> None:
    source, x = tmp_path / "model.onnx", np.ones((40, 4), np.float32)
    if kind == "fixed batch":
        models.double(source, batch=1)
    else:
        models.not_batched(source)
    np.savez(tmp_path / "rows.npz", x=x if kind == "fixed batch" else x[:, 0])
    with pytest.raises(FarthingError) as error:
        farthing.convert(source, name="m", out=tmp_path / "out", evaluate=tmp_path / "rows.npz")
    refusal(error)
    assert files(tmp_path / "out") == set()


@pytest.mark.parametrize("label", [99, "cat"])
def test_labels_that_match_no_decision_of_the_trained_model_stop_the_conversion(
    material: Material, tmp_path: Path, label: object
) -> None:
    with np.load(material.held_out) as rows:
        np.savez(tmp_path / "rows.npz", x=rows["x"], y=np.array([label] * 400))
    with pytest.raises(FarthingError) as error:
        farthing.convert(
            material.source, name="m", out=tmp_path / "out", evaluate=tmp_path / "rows.npz",
            variants=(),
        )  # fmt: skip
    assert "label" in refusal(error)
    assert files(tmp_path / "out") == set()


def test_held_out_rows_seen_in_calibration_stop_the_conversion(
    material: Material, tmp_path: Path
) -> None:
    with pytest.raises(FarthingError, match="400 rows are in the calibration"):
        farthing.convert(
            material.source, name="m", out=tmp_path, calibration=material.held_out,
            evaluate=material.held_out,
        )  # fmt: skip
    assert files(tmp_path) == set()


def test_an_interrupted_conversion_leaves_nothing(material: Material, tmp_path: Path) -> None:
    def interrupted(what: str) -> AbstractContextManager[None]:
        if what.startswith("publishing"):
            raise KeyboardInterrupt
        return nullcontext()

    with pytest.raises(KeyboardInterrupt):
        pipeline.run(Recipe(material.source, "m", tmp_path), interrupted)
    assert files(tmp_path) == set()


def test_each_step_is_told_once(material: Material, tmp_path: Path) -> None:
    told: list[str] = []

    def step(what: str) -> AbstractContextManager[None]:
        told.append(what)
        return nullcontext()

    pipeline.run(Recipe(material.source, "m", tmp_path, variants=("fp16",)), step)
    assert [what.split()[0] for what in told] == [
        "exporting", "building", "building", "publishing"
    ]  # fmt: skip

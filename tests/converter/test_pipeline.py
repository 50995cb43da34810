"""Whole conversions of small models: what is published, what is refused, and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest

import farthing
from converter import golden, pipeline, triton
from converter.pipeline import Tell
from converter.recipe import ALL_VARIANTS, Recipe, Source
from service import hardware, manifest
from service.errors import FarthingError
from service.manifest import MODEL_FILE
from tests.converter import nets
from tests.converter.conftest import Converted, Material

PLAIN = {MODEL_FILE, manifest.FILENAME, golden.FILE}


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def test_every_variant_that_holds_is_published(converted: Converted) -> None:
    assert converted.contract.published == ALL_VARIANTS
    others = {f"model.{name}.onnx" for name in ALL_VARIANTS if name != "fp32"}
    assert files(converted.directory) == PLAIN | others


def test_each_published_file_is_the_one_in_the_manifest(converted: Converted) -> None:
    for variant in converted.contract.variants:
        path = converted.directory / str(variant.file)
        assert manifest.sha256_of(path) == variant.sha256
        assert path.stat().st_size == variant.bytes
    made = converted.contract.golden
    assert made is not None
    assert manifest.sha256_of(converted.directory / made.file) == made.sha256


def test_the_manifest_on_disk_is_the_one_returned(converted: Converted) -> None:
    assert manifest.load(converted.directory) == converted.contract


def test_nothing_but_the_model_is_left_in_the_repository(converted: Converted) -> None:
    model = converted.directory.parent
    assert [path.name for path in model.parent.iterdir()] == ["small"]
    assert {path.name for path in model.iterdir()} == {"1", triton.FILE}


def test_the_manifest_says_what_it_was_made_from(converted: Converted, material: Material) -> None:
    contract = converted.contract
    assert contract.source["sha256"] == manifest.sha256_of(material.source)
    assert contract.samples["calibration"]["rows"] == 96
    assert contract.samples["held_out"]["rows"] == 400
    assert set(contract.tools) >= {"farthing", "onnx", "onnxruntime"}
    assert str(material.held_out) in contract.reproduce
    assert (contract.source["kind"], contract.source["route"]) == ("onnx", "as it is")
    assert (contract.bounds["max_drop"], contract.bounds["min_speedup"]) == (1.0, 0.01)


def test_a_cpu_variant_is_chosen_for_this_hardware(converted: Converted) -> None:
    choice = converted.contract.chosen[hardware.fingerprint()]
    least = {
        variant.name: min(variant.figures[f"speedup_batch_{batch}_low"] for batch in (1, 8))
        for variant in converted.contract.variants
        if variant.name not in ("fp32", "fp16")
    }
    assert choice.variant == max(least, key=least.__getitem__)


def test_int8_shrinks_the_file(converted: Converted) -> None:
    sizes = {variant.name: variant.bytes for variant in converted.contract.variants}
    assert sizes["int8-static"] < sizes["fp16"] < sizes["fp32"]
    assert sizes["pruned-int8"] < sizes["int8-static"] and sizes["pruned"] < sizes["fp32"]


def test_a_variant_that_is_too_slow_has_no_file(material: Material, tmp_path: Path) -> None:
    contract = farthing.convert(
        material.source, name="m", out=tmp_path, variants=("int8-static",), min_speedup=100,
        calibration=material.calibration, evaluate=material.held_out,
    )  # fmt: skip
    assert not contract.variants[1].accepted
    assert files(tmp_path / "m" / "1") == PLAIN
    assert contract.chosen[hardware.fingerprint()].variant == "fp32"
    assert contract.golden is not None and set(contract.golden.tolerance) == {"fp32"}


def test_without_held_out_rows_only_fp32_is_published(material: Material, tmp_path: Path) -> None:
    contract = farthing.convert(
        str(material.source), name="m", out=str(tmp_path), calibration=str(material.calibration)
    )
    assert contract.published == ("fp32",)
    assert len(contract.variants) == len(ALL_VARIANTS)
    assert all("--evaluate" in variant.reason for variant in contract.variants[1:])
    assert files(tmp_path / "m" / "1") == PLAIN


def test_without_any_rows_fp32_is_published_and_the_others_say_what_they_need(
    material: Material, tmp_path: Path
) -> None:
    contract = farthing.convert(material.source, name="m", out=tmp_path)
    assert contract.published == ("fp32",)
    for variant in contract.variants[1:]:
        needs_ranges = variant.name != "int8-dynamic"
        assert ("--calibration" in variant.reason) == needs_ranges
        assert "--evaluate" in variant.reason and "\n" not in variant.reason
    assert contract.golden is not None and contract.golden.rows == 4


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
        calibration=material.calibration, max_drop=0,
    )  # fmt: skip
    assert contract.published == ("fp32",)
    assert contract.variants[1].reason.startswith("not proven with 400 rows")


def test_a_second_conversion_becomes_version_2(material: Material, tmp_path: Path) -> None:
    farthing.convert(material.source, name="m", out=tmp_path)
    (tmp_path / "m" / triton.FILE).write_text("changed by hand")
    farthing.convert(material.source, name="m", out=tmp_path)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"1", "2", triton.FILE}
    assert (tmp_path / "m" / triton.FILE).read_text() == "changed by hand"


def test_only_the_wanted_variants_are_built(material: Material, tmp_path: Path) -> None:
    contract = farthing.convert(material.source, name="m", out=tmp_path, variants=())
    assert [variant.name for variant in contract.variants] == ["fp32"]


@pytest.mark.parametrize("outputs", [1, 24], ids=["regression", "embedding"])
def test_a_model_that_decides_nothing_gets_variants_by_distance(
    tmp_path: Path, outputs: int
) -> None:
    source = nets.dense(tmp_path / "net.onnx", outputs=outputs)
    random = np.random.default_rng(0)
    kinds = random.normal(size=(20, 32))  # all of them are among the calibration rows
    x = (kinds[np.arange(500) % 20] + 0.05 * random.normal(size=(500, 32))).astype(np.float32)
    contract = farthing.convert(
        source, name="m", out=tmp_path / "out", calibration={"x": x[:96]},
        evaluate={"x": x[96:]}, min_speedup=0.01, tolerance=0.1,
        metric="auto" if outputs == 1 else "distance", variants=["int8-dynamic", "int8-static"],
    )  # fmt: skip
    assert contract.published == ("fp32", "int8-dynamic", "int8-static")
    for variant in contract.variants[1:]:
        assert "moved by more than 10 %" in variant.reason
        assert 0 < variant.figures["mean_distance"] < 0.1
        path = tmp_path / "out" / "m" / "1" / str(variant.file)
        right, mine = (nets.answers(each, x=x[96:])["y"] for each in (source, path))
        spread = np.sqrt(np.mean(np.sum((right - right.mean(axis=0)) ** 2, axis=1)))
        moved = np.linalg.norm(mine - right, axis=1) / spread
        assert np.mean(moved > 0.1) <= 0.01


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Converted, np.ndarray]:
    """A conversion to bytes in and the two best classes out, and its held-out rows."""
    base = tmp_path_factory.mktemp("folded")
    source = nets.images_net(base / "net.onnx")
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
    x = np.clip(128 + 60 * nets.images(3000), 0, 255).astype(np.uint8)
    normal = ((x / 255 - mean[:, None, None]) / std[:, None, None]).astype(np.float32)
    scores = nets.answers(source, x=normal)["scores"]
    best = np.sort(scores, axis=1)
    clear = np.random.default_rng(0).permutation(np.argsort(best[:, -2] - best[:, -1])[:500])
    x, labels = x[clear], scores[clear].argmax(axis=1)
    contract = farthing.convert(
        source, name="m", out=base, min_speedup=0.01, variants=["int8-static"], top_k=2,
        uint8_input="x:scale=1/255:mean=0.5,0.4,0.3:std=0.2,0.25,0.3:axis=1",
        calibration={"x": x[:96]}, evaluate={"x": x[96:], "y": labels[96:]},
    )  # fmt: skip
    return Converted(contract, base / "m" / "1"), np.column_stack([np.arange(500), labels])


def test_bytes_in_and_best_classes_out_are_the_contract(
    folded: tuple[Converted, np.ndarray],
) -> None:
    contract = folded[0].contract
    assert [(s.name, s.datatype, s.shape) for s in contract.inputs] == [
        ("x", "UINT8", (-1, *nets.ROW))
    ]
    assert [(s.name, s.datatype, s.shape) for s in contract.outputs] == [
        ("scores_values", "FP32", (-1, 2)), ("scores_indices", "INT64", (-1, 2))
    ]  # fmt: skip
    assert contract.source["folded"] == ["the best 2 of 'scores'", "the normalization of 'x'"]
    config = (folded[0].directory.parent / triton.FILE).read_text()
    assert "TYPE_UINT8" in config and "scores_indices" in config
    # Its rows were arrays in memory, so no command makes it again.
    assert contract.reproduce.startswith("farthing.convert(model, name='m'")


def test_what_is_folded_in_is_judged_by_labels_and_published(
    folded: tuple[Converted, np.ndarray],
) -> None:
    contract = folded[0].contract
    assert contract.published == ("fp32", "int8-static")
    assert all(variant.figures["accuracy"] == 1 for variant in contract.variants)
    with np.load(folded[0].directory / golden.FILE) as kept:
        assert kept["in:x"].dtype == np.uint8
        assert kept["out:scores_indices"][:, 0].tolist() == folded[1][96:100, 1].tolist()


def test_a_contract_that_top_k_changes_is_refused_for_a_name_that_exists(
    material: Material, tmp_path: Path
) -> None:
    farthing.convert(material.source, name="m", out=tmp_path, variants=())
    before = files(tmp_path)
    with pytest.raises(FarthingError, match="other inputs or outputs"):
        farthing.convert(material.source, name="m", out=tmp_path, variants=(), top_k=2)
    assert files(tmp_path) == before


def test_each_step_is_told_once_and_what_it_tries(material: Material, tmp_path: Path) -> None:
    told: list[str] = []
    tries: list[str] = []

    def step(what: str) -> AbstractContextManager[Tell]:
        told.append(what)
        return shown()

    @contextmanager
    def shown() -> Iterator[Tell]:
        yield tries.append

    rows = {"calibration": str(material.calibration), "evaluate": str(material.held_out)}
    recipe = Recipe(Source(material.source), "m", tmp_path, variants=("fp16",), **rows)
    pipeline.run(recipe, step)
    assert [what.split()[0] for what in told] == [
        "exporting", "building", "building", "publishing"
    ]  # fmt: skip
    assert tries == ["fp16: all in fp16", "fp16: judging it on 400 held-out rows"]

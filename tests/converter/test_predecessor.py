"""A repository for machines with and without GPUs: what one conversion keeps of the one before."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter import pipeline
from converter.recipe import Recipe
from converter.target import this_cpu
from service import hardware, manifest
from tests.converter import pretended
from tests.converter.conftest import Material
from tests.converter.test_on_gpu import Rows, named, never_faster, recipe, rows

__all__ = ["rows"]  # a fixture


@pytest.fixture(scope="module")
def both(material: Material, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """A version from a CPU, then one from a GPU, then one from the CPU again."""
    out = tmp_path_factory.mktemp("both")
    asked = recipe(material.source, out, material, ("fp16", "int8-static"))
    pipeline.run(asked, target=this_cpu())
    pipeline.run(asked, target=pretended.gpu())
    pipeline.run(asked, target=this_cpu())
    return out / "m", asked


def test_a_gpus_version_keeps_the_int8_of_the_cpus(both: tuple[Path, Recipe]) -> None:
    first, second = (manifest.load(both[0] / number) for number in ("1", "2"))
    assert named(second, "int8-static") == named(first, "int8-static")
    assert named(second, "fp16").made["judged_on"]["provider"] == "cuda"
    assert second.chosen[hardware.fingerprint()] == first.chosen[hardware.fingerprint()]
    assert f"{pretended.MARK}, cuda" in second.chosen
    assert second.source["notes"] == ["kept from version 1, for CPUs: int8-static"]
    for variant in map(second.variant, second.published):
        manifest.check_digest(both[0] / "2" / str(variant.file), variant)
    assert second.golden is not None and first.golden is not None
    assert second.golden.tolerance["int8-static"] == first.golden.tolerance["int8-static"]


def test_a_cpus_version_keeps_what_a_gpu_proved(both: tuple[Path, Recipe]) -> None:
    second, third = (manifest.load(both[0] / number) for number in ("2", "3"))
    assert named(third, "fp16") == named(second, "fp16")
    assert third.chosen[f"{pretended.MARK}, cuda"] == second.chosen[f"{pretended.MARK}, cuda"]
    assert third.source["notes"] == ["kept from version 2, for GPUs: fp16"]
    assert [v.name for v in third.variants] == ["fp32", "fp16", "int8-static"]


def test_what_a_gpu_refused_is_not_published_by_a_cpu(rows: Rows, tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx")
    asked = recipe(source, tmp_path, rows)
    pipeline.run(asked, target=never_faster(pretended.gpu()))
    contract = pipeline.run(asked, target=this_cpu())
    fp16 = named(contract, "fp16")
    assert not fp16.accepted and "does not pay on cuda:0" in fp16.reason
    assert contract.chosen[f"{pretended.MARK}, cuda"].variant == "fp32"
    assert not (tmp_path / "m" / "2" / "model.fp16.onnx").exists()


@pytest.mark.parametrize("change", ["bounds", "model"])
def test_what_was_judged_otherwise_is_left_in_the_old_version_and_that_is_noted(
    rows: Rows, tmp_path: Path, change: str
) -> None:
    source = pretended.lossy(tmp_path / "net.onnx")
    pipeline.run(recipe(source, tmp_path, rows), target=pretended.gpu())
    if change == "model":
        pretended.lossy(source, lost=(1,))
    again = recipe(source, tmp_path, rows, max_drop=3.0 if change == "bounds" else 2.0)
    contract = pipeline.run(again, target=this_cpu())
    why = "it was judged under other bounds" if change == "bounds" else "it is of another fp32"
    assert contract.source["notes"] == [
        f"what version 1 holds for GPUs was left there, since {why}"
    ]
    assert set(contract.chosen) == {hardware.fingerprint()}


def test_cpu_after_cpu_keeps_nothing_and_notes_nothing(rows: Rows, tmp_path: Path) -> None:
    asked = recipe(pretended.lossy(tmp_path / "net.onnx"), tmp_path, rows)
    first, second = (pipeline.run(asked, target=this_cpu()) for _ in range(2))
    assert (first.source, first.chosen, first.golden) == (
        second.source, second.chosen, second.golden,
    )  # fmt: skip
    assert [v.sha256 for v in first.variants] == [v.sha256 for v in second.variants]

"""A directory tree becomes ready models, or one sentence that says which file to mend."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import hardware, manifest, opening, repository
from service.errors import ModelNotFound, ModelUnusable
from service.manifest import Choice, Manifest, TensorSpec, Variant
from service.model import Model
from service.repository import Repository
from service.settings import Settings
from tests import models
from tests.fakes import ManualClock


def load(root: Path, **settings: Any) -> Repository:
    return repository.load(Settings(repository=root, threads=1, **settings))


def refusal(root: Path, **settings: Any) -> str:
    with pytest.raises(ModelUnusable) as refused:
        load(root, **settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def factor(model: Model) -> float:
    """What this model multiplies by; tells one double from another."""
    answer = await model.batcher.submit({"x": np.ones((1, 4), np.float32)}, 1, None)
    return float(answer.outputs["y"][0, 0])


def publish(directory: Path, **changes: Any) -> Manifest:
    """As the converter does it: fp32 doubles, fp16 triples, int8 was refused."""
    files = {"fp32": ("model.onnx", 2.0), "fp16": ("model.fp16.onnx", 3.0)}
    published = []
    for name, (file, times) in files.items():
        path = models.double(directory / file, factor=times)
        size, digest = path.stat().st_size, manifest.sha256_of(path)
        published.append(Variant(name, True, "within the bound", file, digest, size))
    given: dict[str, Any] = {
        "name": directory.parent.name,
        "batched": True,
        "inputs": (TensorSpec("x", "FP32", (-1, 4)),),
        "outputs": (TensorSpec("y", "FP32", (-1, 4)),),
        "variants": (*published, Variant("int8", False, "too inaccurate")),
        **changes,
    }
    contract = Manifest(**given)
    (directory / manifest.FILENAME).write_text(contract.to_json())
    return contract


async def test_bare_model_directory_is_served_as_it_is(double_repository: Path) -> None:
    (served,) = load(double_repository)
    assert served.labels == ("double", "1", "as-is")
    assert (served.chosen.how, served.why) == ("only", "served as it is; there is no manifest")
    assert (served.manifest.batched, served.max_rows) == (True, 16)
    assert served.variant.sha256 == manifest.sha256_of(
        double_repository / "double" / "1" / "model.onnx"
    )
    assert await factor(served) == 2


async def test_single_file_is_served_under_its_own_name(tmp_path: Path) -> None:
    served = load(models.double(tmp_path / "tripler.onnx", factor=3.0))
    assert served.model("tripler").labels == ("tripler", "1", "as-is")
    assert await factor(served.model("tripler", "1")) == 3


def test_model_without_a_batch_dimension_takes_one_row(tmp_path: Path) -> None:
    (served,) = load(models.not_batched(tmp_path / "total.onnx"), max_batch=8)
    assert (served.manifest.batched, served.max_rows) == (False, 1)


async def test_manifest_repository_is_served_as_it_was_published(tmp_path: Path) -> None:
    contract = publish(tmp_path / "double" / "3")
    (served,) = load(tmp_path, variant="fp32")
    assert (served.manifest, served.labels) == (contract, ("double", "3", "fp32"))
    assert await factor(served) == 2


async def test_pinned_variant_is_the_file_that_runs(tmp_path: Path) -> None:
    publish(tmp_path / "double" / "1")
    (served,) = load(tmp_path, variant="fp16")
    assert (served.variant.name, served.why) == ("fp16", "pinned by --variant")
    assert await factor(served) == 3


def test_a_variant_pinned_of_one_model_is_not_asked_of_the_others(double_repository: Path) -> None:
    publish(double_repository / "mine" / "1")
    both = load(double_repository, variant="mine=fp16")
    served = {model.manifest.name: (model.variant.name, model.why) for model in both}
    assert served["mine"] == ("fp16", "pinned by --variant")
    assert served["double"] == ("as-is", "served as it is; there is no manifest")
    text = refusal(double_repository, variant="fp16")
    assert "'double' has no variant 'fp16'" in text
    assert text.endswith("--variant MODEL=VARIANT pins one model")


def test_variant_recorded_for_this_hardware_is_served(tmp_path: Path) -> None:
    chosen = {hardware.fingerprint(): Choice("fp16", "twice as fast here")}
    publish(tmp_path / "double" / "1", chosen=chosen)
    (served,) = load(tmp_path)
    assert (served.variant.name, served.why) == ("fp16", "twice as fast here")


def test_pinned_variant_that_was_refused_stops_the_server(tmp_path: Path) -> None:
    publish(tmp_path / "double" / "1")
    for pinned in ("int8", "double=int8"):
        text = refusal(tmp_path, variant=pinned)
        assert "too inaccurate; --variant auto serves what there is" in text


def test_pinned_variant_that_never_was_stops_the_server(double_repository: Path) -> None:
    assert "no variant 'int4'; it has as-is" in refusal(double_repository, variant="int4")


def test_file_that_differs_from_its_digest_is_not_loaded(tmp_path: Path) -> None:
    publish(tmp_path / "double" / "1")
    path = models.double(tmp_path / "double" / "1" / "model.onnx", factor=9.0)
    text = refusal(tmp_path, variant="fp32")
    assert str(path) in text and "digest" in text


def test_published_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    publish(tmp_path / "double" / "1")
    (tmp_path / "double" / "1" / "model.fp16.onnx").unlink()
    assert "model.fp16.onnx" in refusal(tmp_path, variant="fp16")


def test_manifest_of_another_model_is_refused(tmp_path: Path) -> None:
    publish(tmp_path / "double" / "1", name="triple")
    text = refusal(tmp_path)
    assert "'triple'" in text and "'double'" in text


@pytest.mark.parametrize("tensors", ["inputs", "outputs"])
def test_graph_with_other_tensors_than_its_manifest_is_refused(
    tmp_path: Path, tensors: str
) -> None:
    publish(tmp_path / "double" / "1", **{tensors: (TensorSpec("x", "FP32", (-1, 5)),)})
    assert "other inputs or outputs" in refusal(tmp_path, variant="fp32")


def test_manifest_that_calls_a_fixed_graph_batched_is_refused(tmp_path: Path) -> None:
    path = models.double(tmp_path / "double" / "1" / "model.onnx", batch=1)
    contract = replace(opening.contract_of_file(path, "double"), batched=True)
    (path.parent / manifest.FILENAME).write_text(contract.to_json())
    assert "batch" in refusal(tmp_path)


def test_manifest_may_call_a_free_graph_not_batched(tmp_path: Path) -> None:
    publish(tmp_path / "double" / "1", batched=False)
    (served,) = load(tmp_path, variant="fp32")
    assert served.max_rows == 1


async def test_latest_version_wins_by_number_not_by_text(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        models.double(tmp_path / "m" / version / "model.onnx", factor=float(version))
    served = load(tmp_path)
    assert served.versions("m") == ["10"]
    assert await factor(served.model("m")) == 10


@pytest.mark.parametrize("name", [".staging", "..data", "-flag", "with space"])
def test_directory_that_is_no_models_name_is_ignored(double_repository: Path, name: str) -> None:
    models.double(double_repository / name / "1" / "model.onnx")
    assert [one.manifest.name for one in load(double_repository)] == ["double"]


@pytest.mark.parametrize("version", ["latest", "01", "0", "-2", "2.5", ".3", "\u0663"])
def test_directory_that_is_no_version_is_ignored(double_repository: Path, version: str) -> None:
    models.double(double_repository / "double" / version / "model.onnx", factor=9.0)
    assert [one.version for one in load(double_repository)] == ["1"]


def test_stray_files_are_ignored(double_repository: Path) -> None:
    (double_repository / "README.md").write_text("models")
    (double_repository / "double" / "2").write_text("a file, not a version")
    assert [one.version for one in load(double_repository)] == ["1"]


def test_missing_repository_is_refused_by_its_path(tmp_path: Path) -> None:
    assert f"{tmp_path / 'absent'} does not exist" in refusal(tmp_path / "absent")


def test_empty_repository_is_refused_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/NAME/VERSION/model.onnx" in refusal(tmp_path)


def test_version_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    assert "neither manifest.json nor model.onnx" in refusal(tmp_path)


def test_unknown_model_or_version_is_not_found(double_repository: Path) -> None:
    served = load(double_repository)
    assert served.model("double") is served.model("double", "1")
    with pytest.raises(ModelNotFound):
        served.model("triple")
    with pytest.raises(ModelNotFound, match="it has 1"):
        served.model("double", "2")
    assert served.versions("triple") == []


def test_loading_is_timed_on_the_clock(double_repository: Path) -> None:
    (served,) = repository.load(Settings(repository=double_repository), clock=ManualClock())
    assert served.load_s == 0

"""What one version runs with: flags, then config.pbtxt, then defaults; and its shapes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import layout, manifest, model, opened
from service.bill import BUSY, NO_MODEL, WARM_UP
from service.devices import CPU, CUDA, Device
from service.errors import ModelUnusable
from service.manifest import Golden, Manifest, TensorSpec, Variant
from service.model import Model
from service.precedence import Running
from service.sessionoptions import SessionOptions
from service.settings import Settings
from service.statistics import Book
from tests import models
from tests.fakes import ManualClock


def load(root: Path, **settings: Any) -> Model:
    place = layout.places(root)["m"]
    return model.load(
        place, 1, place.options(), settings=Settings(repository=root, threads=1, **settings),
        book=Book(), clock=ManualClock(),
    )  # fmt: skip


def put(root: Path, config: str = "") -> Path:
    path = models.double(root / "m" / "1" / "model.onnx")
    (root / "m" / "config.pbtxt").write_text(config)
    return path


THREE = "instance_group [ { count: 3 } ]"
TENSORS = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""


@pytest.mark.parametrize(
    ("config", "flag", "rows"),
    [("", 0, 16), ("max_batch_size: 32", 0, 32), ("max_batch_size: 32", 8, 8), ("", 3, 3)],
)
def test_batch_limit_is_the_flags_then_the_configs(
    tmp_path: Path, config: str, flag: int, rows: int
) -> None:
    put(tmp_path, config)
    assert load(tmp_path, max_batch=flag).max_rows == rows


@pytest.mark.parametrize(
    ("config", "flag", "instances"),
    [("", 0, 1), (THREE, 0, 3), (THREE, 2, 2)],
)
def test_instances_are_the_flags_then_the_configs(
    tmp_path: Path, config: str, flag: int, instances: int
) -> None:
    put(tmp_path, config)
    assert load(tmp_path, instances=flag).instances == instances


@pytest.mark.parametrize(
    ("said_ms", "flag_ms", "target_s"),
    [(None, 0.0, None), (None, 250.0, 0.25), ("100", 0.0, 0.1), ("100", 50.0, 0.1)],
)
def test_latency_target_is_the_configs_then_the_flags(
    tmp_path: Path, said_ms: str | None, flag_ms: float, target_s: float | None
) -> None:
    value = f'key: "latency_target_ms" value {{ string_value: "{said_ms}" }}'
    put(tmp_path, f"parameters {{ {value} }}" if said_ms else "")
    assert load(tmp_path, latency_target_ms=flag_ms).target_s == target_s


def test_config_without_a_batch_limit_makes_each_request_a_run(tmp_path: Path) -> None:
    put(tmp_path, TENSORS.replace("[ 4 ]", "[ -1, 4 ]"))
    loaded = load(tmp_path)
    assert (loaded.manifest.batched, loaded.max_rows) == (False, 1)
    assert loaded.manifest.inputs == (TensorSpec("x", "FP32", (-1, 4)),)


async def test_reshaped_tensors_are_the_configs_outside_and_the_models_inside(
    tmp_path: Path,
) -> None:
    reshaped = TENSORS.replace("dims: [ 4 ]", "dims: [ 2, 2 ] reshape { shape: [ 4 ] }")
    put(tmp_path, f"max_batch_size: 4 {reshaped}")
    loaded = load(tmp_path)
    assert loaded.manifest.inputs[0].shape == (-1, 2, 2)
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 2, 2)}
    answer = await loaded.batcher.submit(feeds, 2, None)
    assert np.array_equal(answer.outputs["y"], 2 * feeds["x"])


def test_free_dimensions_keep_their_sizes_when_reshaped() -> None:
    array = np.zeros((3, 4, 5), np.float32)
    assert opened.reshaped(array, (-1, 4, -1), (-1, 2, 2, -1)).shape == (3, 2, 2, 5)


def test_config_that_contradicts_the_model_is_refused(tmp_path: Path) -> None:
    put(tmp_path, f"max_batch_size: 4 {TENSORS.replace('[ 4 ]', '[ 5 ]')}")
    with pytest.raises(ModelUnusable, match="'x'") as refused:
        load(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / 'm'}: config: ")
    assert str(tmp_path) not in refused.value.told


def test_file_of_another_name_is_hinted_at_to_the_operator_alone(tmp_path: Path) -> None:
    put(tmp_path).rename(tmp_path / "m" / "1" / "net.onnx")
    with pytest.raises(ModelUnusable, match=r"net\.onnx .*default_model_filename") as refused:
        load(tmp_path)
    assert refused.value.told == "there is neither manifest.json nor model.onnx"


def test_labels_are_read_with_the_model(tmp_path: Path) -> None:
    put(tmp_path, "max_batch_size: 4 " + TENSORS.replace(
        'output [ { name: "y"', 'output [ { label_filename: "names.txt" name: "y"'))  # fmt: skip
    with pytest.raises(ModelUnusable, match=r"names\.txt"):
        load(tmp_path)
    (tmp_path / "m" / "names.txt").write_text("zero\none\n")
    assert load(tmp_path).label_texts == {"y": ("zero", "one")}


def test_warm_up_sample_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    sample = """model_warmup [ { name: "w" batch_size: 1
      inputs { key: "x" value { data_type: TYPE_FP32 dims: [ %d ] zero_data: true } } } ]"""
    put(tmp_path, sample % 4)
    load(tmp_path)
    put(tmp_path, sample % 5)
    with pytest.raises(ModelUnusable, match="'x'"):
        load(tmp_path)


def publish(root: Path, tolerance: float, factor: float = 2.0) -> None:
    """A model that doubles, with golden answers that say ``factor``."""
    path = models.double(root / "m" / "1" / "model.onnx")
    x = np.ones((2, 4), np.float32)
    golden = path.with_name("golden.npz")
    np.savez(golden, **{"in:x": x, "out:y": factor * x})
    variant = Variant("fp32", True, "", path.name, manifest.sha256_of(path), path.stat().st_size)
    contract = Manifest(
        "m", True, (TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),),
        (variant,),
        golden=Golden(golden.name, manifest.sha256_of(golden), 2, {"fp32": {"y": tolerance}}),
    )  # fmt: skip
    path.with_name(manifest.FILENAME).write_text(contract.to_json())


def test_model_with_the_golden_answers_is_ready(tmp_path: Path) -> None:
    publish(tmp_path, tolerance=1e-6)
    assert load(tmp_path).chosen.how == "only"


def test_model_with_other_than_the_golden_answers_is_not(tmp_path: Path) -> None:
    publish(tmp_path, tolerance=0.1, factor=2.5)
    with pytest.raises(ModelUnusable, match="golden") as refused:
        load(tmp_path)
    assert str(tmp_path) not in refused.value.told


def test_optional_input_is_the_callers_where_the_config_lists_it(tmp_path: Path) -> None:
    models.optional_factor(tmp_path / "m" / "1" / "model.onnx")
    assert [spec.name for spec in load(tmp_path).manifest.inputs] == ["x"]
    (tmp_path / "m" / "config.pbtxt").write_text("""
        input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] },
                { name: "factor" data_type: TYPE_FP32 dims: [ -1, 4 ] optional: true } ]
        output [ { name: "y" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]""")
    found = {spec.name: spec.optional for spec in load(tmp_path).manifest.inputs}
    assert found == {"x": False, "factor": True}


def test_model_that_needs_a_larger_image_than_zeros_of_one_pixel_is_served(tmp_path: Path) -> None:
    models.valid_convolution(tmp_path / "m" / "1" / "model.onnx")
    assert load(tmp_path).manifest.inputs == (TensorSpec("x", "FP32", (-1, 1, -1, -1)),)


@pytest.mark.parametrize("with_golden", [True, False])
def test_variants_are_timed_where_nothing_is_recorded_on_golden_rows_if_there_are_any(
    tmp_path: Path, with_golden: bool
) -> None:
    publish(tmp_path, tolerance=1e-6)
    directory = tmp_path / "m" / "1"
    contract = manifest.load(directory)
    path = models.double(directory / "model.int8.onnx")
    size, digest = path.stat().st_size, manifest.sha256_of(path)
    variants = (*contract.variants, Variant("int8", True, "", path.name, digest, size))
    golden = contract.golden if with_golden else None
    changed = replace(contract, variants=variants, golden=golden)
    (directory / manifest.FILENAME).write_text(changed.to_json())
    loaded = load(tmp_path)
    assert loaded.chosen.how == "timed"
    assert set(loaded.chosen.figures) == {"fp32_speedup", "int8_speedup"}
    assert loaded.variant.name == "fp32"  # on a manual clock they take the same


def test_load_and_its_warm_up_are_paid_by_the_model(tmp_path: Path) -> None:
    book = Book()
    put(tmp_path)
    place = layout.places(tmp_path)["m"]
    settings = Settings(repository=tmp_path, threads=1)
    model.load(place, 1, place.options(), settings=settings, book=book, clock=ManualClock())
    bill = book.ledger.read()
    assert bill.lines[("m", "1", "as-is"), WARM_UP] > 0.0
    assert bill.lines[("m", "1", "as-is"), BUSY] == 0.0
    assert bill.unsettled == {}


def test_load_that_fails_is_paid_by_the_process_and_leaves_no_name_behind(tmp_path: Path) -> None:
    book = Book()
    book.ledger.ready()
    before = book.ledger.read().lines[NO_MODEL, WARM_UP]
    put(tmp_path).write_bytes(b"no graph")
    place = layout.places(tmp_path)["m"]
    with pytest.raises(ModelUnusable):
        model.load(
            place, 1, place.options(), settings=Settings(repository=tmp_path), book=book,
            clock=ManualClock(),
        )  # fmt: skip
    bill = book.ledger.read()
    assert bill.lines[NO_MODEL, WARM_UP] > before
    assert {labels for labels, _ in bill.lines} == {NO_MODEL}
    assert bill.unsettled == {}


@pytest.mark.parametrize(
    ("devices", "gpus"), [((CPU,), 0), ((Device(CUDA, 0), Device(CUDA, 2)), 2)]
)
def test_runs_that_compute_are_as_many_as_there_are_gpus(
    devices: tuple[Device, ...], gpus: int, tmp_path: Path
) -> None:
    put(tmp_path)
    place = layout.places(tmp_path)["m"]
    running = Running(8, 4, SessionOptions(devices=devices))
    limits = model.limits_of(running, Settings(), place.options(), 8, batched=True)
    assert (limits.gpus, limits.instances, limits.max_rows) == (gpus, 4, 8)

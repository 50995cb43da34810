"""ModelConfig and ModelMetadata tell the same shapes: those that callers send."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from service import layout, manifest, model
from service.devices import Device
from service.manifest import Manifest, TensorSpec, Variant
from service.model import Model
from service.modelpages import config_of, metadata_of
from service.settings import Settings
from service.statistics import Book
from tests import models
from tests.fakes import ManualClock

RESHAPED = """max_batch_size: 4
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: [ 4 ] } } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: [ 4 ] } } ]
"""


def load(root: Path) -> Model:
    place = layout.places(root)["m"]
    return model.load(
        place, 1, place.options(), settings=Settings(repository=root, threads=1),
        book=Book(), clock=ManualClock(),
    )  # fmt: skip


def shapes(loaded: Model) -> tuple[list[list[int]], list[list[int]]]:
    """As ModelConfig tells them, the batch put before them, and as ModelMetadata does."""
    config, told = config_of(loaded), metadata_of(loaded, ["1"])
    configured = [[-1, *tensor.dims] for tensor in (*config.input, *config.output)]
    return configured, [list(tensor.shape) for tensor in (*told.inputs, *told.outputs)]


def test_reshape_that_is_heeded_stays_in_the_config(tmp_path: Path) -> None:
    models.double(tmp_path / "m" / "1" / "model.onnx")
    (tmp_path / "m" / "config.pbtxt").write_text(RESHAPED)
    loaded = load(tmp_path)
    assert shapes(loaded) == ([[-1, 2, 2]] * 2, [[-1, 2, 2]] * 2)
    assert config_of(loaded).input[0].reshape.shape == [4]


def test_reshape_for_triton_of_a_published_model_is_not_told(tmp_path: Path) -> None:
    path = models.double(tmp_path / "m" / "1" / "model.onnx")
    variant = Variant("fp32", True, "", path.name, manifest.sha256_of(path), path.stat().st_size)
    tensors = [(TensorSpec(name, "FP32", (-1, 4)),) for name in ("x", "y")]
    contract = Manifest("m", True, tensors[0], tensors[1], (variant,))
    path.with_name(manifest.FILENAME).write_text(contract.to_json())
    (tmp_path / "m" / "config.pbtxt").write_text(RESHAPED)
    loaded = load(tmp_path)
    assert shapes(loaded) == ([[-1, 4]] * 2, [[-1, 4]] * 2)
    assert not config_of(loaded).input[0].HasField("reshape")


def test_model_on_gpus_tells_them_and_the_instances_on_each(tmp_path: Path) -> None:
    models.double(tmp_path / "m" / "1" / "model.onnx")
    loaded = load(tmp_path)
    (group,) = config_of(loaded).instance_group
    assert (group.kind, group.count, list(group.gpus)) == (group.KIND_CPU, 1, [])
    session = replace(
        loaded.running.session, devices=(Device("cuda", 2), Device("cuda", 5)), lanes=3
    )
    on_gpus = replace(loaded, running=replace(loaded.running, session=session, instances=6))
    (group,) = config_of(on_gpus).instance_group
    assert (group.kind, group.count, list(group.gpus)) == (group.KIND_GPU, 3, [2, 5])

"""Conversions for a GPU: judged there, and recorded by its name.

The CPU provider stands in for the GPU (``pretended``); what only a GPU can show is in tests/gpu.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import farthing
from converter import pipeline, variants
from converter.evidence import Evidence
from converter.recipe import Bounds, Budget, Recipe, Source
from converter.samples import Samples
from converter.target import Target, target_of, this_cpu
from service import hardware, manifest
from service.devices import CPU, CUDA, TENSORRT, Device
from service.errors import FarthingError, InvalidSetting
from service.manifest import Manifest, Variant
from service.session import NotOnGpu, Session, SessionOptions
from service.settings import Settings
from tests.converter import pretended
from tests.converter.conftest import Material
from tests.service import onhost


@dataclass(frozen=True)
class Rows:
    """Files of rows for ``pretended.lossy``."""

    calibration: Path
    held_out: Path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    base = tmp_path_factory.mktemp("rows")
    x = pretended.rows(700)
    np.savez(base / "calibration.npz", x=x[:300])
    np.savez(base / "held_out.npz", x=x[300:])
    return Rows(base / "calibration.npz", base / "held_out.npz")


def recipe(
    source: Path,
    out: Path,
    rows: Rows | Material,
    names: Sequence[str] = ("fp16",),
    **bounds: float,
) -> Recipe:
    return Recipe(
        Source(source), "m", out, str(rows.calibration), str(rows.held_out),
        variants=tuple(names), budget=Budget(seconds=600),
        bounds=replace(Bounds(min_speedup=0.01, metric="agreement", max_drop=2.0), **bounds),
    )  # fmt: skip


def named(contract: Manifest, name: str) -> Variant:
    return next(variant for variant in contract.variants if variant.name == name)


@pytest.fixture(scope="module")
def mixed(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    """A conversion of a net that loses two of its layers in fp16."""
    base = tmp_path_factory.mktemp("mixed")
    source = pretended.lossy(base / "net.onnx", lost=(1, 4))
    asked = recipe(source, base / "out", rows)
    return pipeline.run(asked, target=pretended.gpu()), base / "out" / "m" / "1"


def test_fp16_that_fails_is_published_with_two_regions_in_fp32(
    mixed: tuple[Manifest, Path],
) -> None:
    fp16 = named(mixed[0], "fp16")
    assert (fp16.accepted, fp16.outcome, fp16.device) == (True, "holds", "gpu")
    assert len(fp16.made["excluded"]) == 2
    assert "fp16, 2 regions in fp32" in fp16.reason
    assert fp16.made["looks"] == 1, "the held-out rows are looked at once"
    assert fp16.made["trials"] > 2 + 6


def test_what_judged_it_and_how_fast_it_is_there_are_recorded(
    mixed: tuple[Manifest, Path],
) -> None:
    contract, directory = mixed
    fp16 = named(contract, "fp16")
    assert fp16.made["judged_on"] == {"provider": "cuda", "gpu": "NVIDIA Pretend"}
    for batch in (1, 8, 32):
        assert fp16.figures[f"speedup_batch_{batch}"] > 0
        assert f"x at batch {batch}" in fp16.reason
    assert set(contract.chosen) == {f"{pretended.MARK}, cuda"}
    assert "--device cuda:0" in contract.reproduce
    assert manifest.load(directory) == contract


def test_the_same_net_for_a_cpu_has_no_fp16_and_no_search(rows: Rows, tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", lost=(1, 4))
    contract = pipeline.run(recipe(source, tmp_path, rows), target=this_cpu())
    fp16 = named(contract, "fp16")
    assert (fp16.accepted, fp16.made["trials"], fp16.made["excluded"]) == (False, 1, [])
    assert fp16.reason.startswith("loses too much")
    assert "judged_on" not in fp16.made and "speedup_batch_1" not in fp16.figures


def test_fp16_that_is_not_faster_on_the_gpu_is_refused_unjudged(rows: Rows, tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx")
    asked = recipe(source, tmp_path, rows, min_speedup=90)
    contract = pipeline.run(asked, target=pretended.gpu())
    fp16 = named(contract, "fp16")
    assert (fp16.accepted, fp16.made["looks"]) == (False, 0)
    assert fp16.reason.startswith("does not pay on cuda:0 (NVIDIA Pretend, CUDA): ")
    (choice,) = contract.chosen.values()
    assert choice.variant == "fp32" and choice.reason.endswith("on this GPU")


def test_mixture_that_does_not_pay_says_what_it_was(rows: Rows, tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", lost=(1,))
    contract = pipeline.run(
        recipe(source, tmp_path, rows, min_speedup=0.3), target=never_faster(pretended.gpu())
    )
    fp16 = named(contract, "fp16")
    assert not fp16.accepted
    assert fp16.reason.endswith("; fp16, 1 regions in fp32")


def never_faster(target: pretended.Pretended) -> Target:
    @dataclass(frozen=True)
    class Never(pretended.Pretended):
        def pays(self, figures: manifest.Figures, asked: float) -> bool:
            return False

    return Never(target.device, target.name, target.fingerprint)


INT8 = ("int8-dynamic", "int8-static", "pruned-int8")


@pytest.mark.parametrize("name", INT8)
def test_int8_is_not_built_for_cuda_and_the_reason_names_what_to_do(name: str) -> None:
    why = variants.refused(name, Device(CUDA))
    assert "no int8 kernels" in why and "12229" in why and "24807" in why
    assert "--device tensorrt" in why and "\n" not in why


@pytest.mark.parametrize("device", [CPU, Device(CUDA), Device(TENSORRT)])
@pytest.mark.parametrize("name", ["fp16", "pruned"])
def test_what_is_no_int8_is_built_for_every_device(name: str, device: Device) -> None:
    assert variants.refused(name, device) == ""


def test_int8_is_refused_before_anything_is_built(material: Material, tmp_path: Path) -> None:
    asked = recipe(material.source, tmp_path, material, INT8)
    contract = pipeline.run(asked, target=pretended.gpu())
    for name in INT8:
        refused = named(contract, name)
        assert not refused.accepted and refused.bytes is None
        assert refused.reason.startswith("not built: the CUDA provider has no int8 kernels")


def test_static_int8_for_tensorrt_is_signed_and_symmetric_and_judged(
    material: Material, tmp_path: Path
) -> None:
    asked = recipe(material.source, tmp_path, material, INT8[:2])
    contract = pipeline.run(asked, target=pretended.tensorrt())
    static, dynamic = named(contract, "int8-static"), named(contract, "int8-dynamic")
    assert static.accepted and static.device == "gpu"
    assert static.made["judged_on"]["provider"] == "tensorrt"
    assert "that is int8-static" in dynamic.reason and not dynamic.accepted
    graph = onnx.load(tmp_path / "m" / "1" / str(static.file)).graph
    points = {each.input[2] for each in graph.node if each.op_type == "QuantizeLinear"}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    assert points
    for name in points:
        assert tensors[name].data_type == TensorProto.INT8
        assert not numpy_helper.to_array(tensors[name]).any(), "symmetric: zero stays zero"
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert TensorProto.INT32 not in kinds, "TensorRT takes biases as floats"


def figures(**low: float) -> dict[str, float]:
    found = {}
    for name, value in low.items():
        found[f"speedup_batch_{name[1:]}_low"] = found[f"speedup_batch_{name[1:]}"] = value
    return found


@pytest.mark.parametrize(
    ("measured", "pays"),
    [
        (figures(b1=1.5, b8=1.5, b32=1.5), True),
        (figures(b1=1.0, b8=1.5, b32=2.0), True),  # launches take as long in any precision
        (figures(b1=0.8, b8=1.5, b32=2.0), False),
        (figures(b1=1.5, b8=1.05, b32=2.0), False),
        (figures(b1=1.5, b8=1.5, b32=1.0), False),
    ],
)
def test_on_a_gpu_more_than_one_row_must_be_faster_and_one_no_slower(
    measured: dict[str, float], pays: bool
) -> None:
    assert pretended.gpu().pays(measured, 1.1) is pays


def test_on_a_cpu_one_row_counts_as_much_as_eight() -> None:
    assert not this_cpu().pays(figures(b1=1.0, b8=1.5), 1.1)
    assert this_cpu().pays(figures(b1=1.2, b8=1.5), 1.1)


def test_fp32_that_answers_otherwise_on_the_gpu_ends_the_conversion(tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", layers=2)
    x = pretended.rows(200)
    session = Session(source, SessionOptions())
    evidence = Evidence.gather(None, session, Samples({"x": x}, None))
    bounds = Bounds(metric="agreement")
    same = evidence.answered_by(session, bounds, "cuda:0").answers
    np.testing.assert_array_equal(same["scores"], evidence.answers["scores"])
    other = {"scores": evidence.answers["scores"].copy()}
    other["scores"][::20] *= -1
    with pytest.raises(FarthingError, match="answers otherwise on cuda:0 than on the CPU") as error:
        evidence.answered(other, bounds, "cuda:0")
    assert "10 of 200" in str(error.value) and "--device cpu" in str(error.value)


@pytest.mark.parametrize(
    ("device", "sentence"),
    [
        ("gpu", "it takes auto, cpu, cuda or tensorrt"),
        ("cuda:0,1", "variants are judged on one GPU"),
        ("cuda:99", "--device cuda"),
    ],
)
def test_device_that_cannot_be_had_is_one_sentence_and_exit_2(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str], device: str, sentence: str
) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", layers=2)
    code = farthing.main(
        ["convert", str(source), "--out", str(tmp_path / "out"), "--device", device,
         "--calibration", str(rows.calibration), "--evaluate", str(rows.held_out)]
    )  # fmt: skip
    said = capsys.readouterr().err.strip()
    assert code == 2 and sentence in said and "\n" not in said
    assert not (tmp_path / "out" / "net").exists()


def test_cpu_by_name_is_the_cpu_without_a_look_for_gpus() -> None:
    assert target_of("cpu") == this_cpu()


def test_variants_are_judged_with_runs_recorded_where_a_server_records_them() -> None:
    assert Target(Device(CUDA), "NVIDIA Pretend", "mark").options.cuda_graphs is None
    assert Settings().cuda_graphs == "auto"


def test_reproducing_command_names_the_device_where_one_was_named(
    rows: Rows, tmp_path: Path
) -> None:
    asked = recipe(pretended.lossy(tmp_path / "net.onnx", layers=2), tmp_path, rows)
    assert "--device" not in asked.command()
    assert "--device tensorrt:1" in replace(asked, device="tensorrt:1").command()


def test_call_from_python_takes_the_device_too(rows: Rows, tmp_path: Path) -> None:
    source = pretended.lossy(tmp_path / "net.onnx", layers=2)
    with pytest.raises(InvalidSetting, match="it takes auto, cpu, cuda or tensorrt"):
        farthing.convert(source, out=tmp_path, device="tpu")
    contract = farthing.convert(source, out=tmp_path, device="cpu", variants=[])
    assert "--device cpu" in contract.reproduce
    assert json.loads(contract.to_json())["chosen"].keys() == {hardware.fingerprint()}


@dataclass(frozen=True)
class Laned(pretended.Pretended):
    """A GPU whose lanes are real, in this machine's memory."""

    def session(self, path: Path) -> Session:
        session = Session(path, SessionOptions(threads=1, max_rows=max(self.batches)))
        session.run_on([onhost.place(path)])
        session.warm_up(max(self.batches))
        assert session.lanes is not None and session.lanes.plan is not None
        return session


def test_mixture_is_found_through_lanes_too(rows: Rows, tmp_path: Path) -> None:
    gpu = pretended.gpu()
    source = pretended.lossy(tmp_path / "net.onnx", layers=4, lost=(2,))
    contract = pipeline.run(
        recipe(source, tmp_path, rows), target=Laned(gpu.device, gpu.name, gpu.fingerprint)
    )
    fp16 = named(contract, "fp16")
    assert fp16.accepted, fp16.reason
    assert [name.split(".")[1] for name in fp16.made["excluded"]] == ["m2"]


@dataclass(frozen=True)
class Unable(pretended.Pretended):
    """A GPU whose provider leaves an operator to the CPU."""

    @contextmanager
    def opened(self, path: Path) -> Iterator[Session]:
        raise NotOnGpu("the GPU's provider leaves 1 node to the CPU: 1 NonZero")
        yield


def test_model_that_the_gpu_cannot_run_is_judged_on_the_cpu_unless_the_gpu_was_named(
    rows: Rows, tmp_path: Path
) -> None:
    gpu = pretended.gpu()
    unable = Unable(gpu.device, gpu.name, gpu.fingerprint)
    asked = recipe(pretended.lossy(tmp_path / "net.onnx", layers=2), tmp_path, rows)
    contract = pipeline.run(asked, target=unable)
    assert contract.chosen.keys() == {hardware.fingerprint()}
    assert "judged on the CPU, not on a GPU" in contract.source["notes"][0]
    assert named(contract, "fp16").reason.endswith("speed not measured here")
    with pytest.raises(NotOnGpu, match="1 NonZero"):
        pipeline.run(replace(asked, device="cuda"), target=unable)
    assert not (tmp_path / "m" / "2").exists()

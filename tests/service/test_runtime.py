"""Sessions are made as asked for, or refused: no node leaves a GPU in silence.

Where a GPU's provider would be, the CPU's own stands, whose record of nodes is of the same form.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnxruntime as ort
import pytest

from service import log, providers, runtime
from service.devices import CPU, Device
from service.errors import ModelUnusable
from service.runtime import NotOnGpu
from service.session import Session
from service.sessionoptions import SessionOptions
from tests import models

NOWHERE = Device("cuda", 999)
ON_GPU = SessionOptions(threads=1, devices=(NOWHERE,))


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    before = log.LOGGER.propagate
    log.LOGGER.propagate = True
    with caplog.at_level(logging.INFO, log.LOGGER.name):
        yield
    log.LOGGER.propagate = before


def recorded(path: Path) -> ort.InferenceSession:
    """A session that keeps the record, all of whose nodes are on the CPU."""
    entries = providers.entries(NOWHERE, ON_GPU)
    options = runtime.session_options(replace(ON_GPU, config=tuple(entries.items())))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_nodes_that_compute_on_the_cpu_are_refused_by_name(tmp_path: Path) -> None:
    path = models.exponent_by_shape(tmp_path / "m.onnx")
    with pytest.raises(
        NotOnGpu, match=r"m\.onnx: .* 2 nodes to the CPU: 1 Exp, 1 Reshape; allow"
    ) as refused:
        runtime.check_nodes(recorded(path), path, ON_GPU)
    assert str(tmp_path) not in refused.value.told and "1 Exp, " in refused.value.told


def test_clip_of_rows_that_has_no_kernel_is_refused_though_it_might_compute_shapes(
    tmp_path: Path,
) -> None:
    path = models.summed_and_clipped(tmp_path / "m.onnx")
    with pytest.raises(NotOnGpu, match="2 nodes to the CPU: 1 Clip, 1 CumSum; allow"):
        runtime.check_nodes(recorded(path), path, ON_GPU)


def test_arithmetic_of_shapes_is_let_through(tmp_path: Path) -> None:
    path = models.shape_doubled(tmp_path / "m.onnx")
    runtime.check_nodes(recorded(path), path, ON_GPU)


def test_shapes_are_refused_too_where_nothing_may_be_on_the_cpu(tmp_path: Path) -> None:
    path = models.exponent_by_shape(tmp_path / "m.onnx")
    with pytest.raises(NotOnGpu, match="3 nodes to the CPU: 1 Exp, 1 Reshape, 1 Shape"):
        runtime.check_nodes(recorded(path), path, replace(ON_GPU, cpu_fallback="none"))


def test_nodes_that_are_let_through_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = models.exponent_by_shape(tmp_path / "m.onnx")
    runtime.check_nodes(recorded(path), path, replace(ON_GPU, cpu_fallback="any"))
    (line,) = caplog.records
    assert line.message == "nodes that run on the CPU"
    assert "1 Exp, 1 Reshape, 1 Shape" in str(vars(line)) and "any" in str(vars(line))


def test_cpus_session_keeps_no_record_and_has_one_copy(tmp_path: Path) -> None:
    (copy,) = runtime.copies(models.double(tmp_path / "m.onnx"), SessionOptions(threads=1))
    assert (copy.device, copy.run_options, copy.graphs) == (CPU, None, False)
    with pytest.raises(Exception, match="record_ep_graph_assignment_info"):
        copy.ort.get_provider_graph_assignment_info()


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.parametrize("fallback", ["shapes", "none", "any"])
def test_gpu_that_is_not_there_is_refused_and_the_cpu_is_not_taken_in_silence(
    tmp_path: Path, fallback: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = models.double(tmp_path / "m.onnx")
    with pytest.raises(ModelUnusable) as refused:
        Session(path, replace(ON_GPU, cpu_fallback=fallback))
    assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    assert str(tmp_path) not in refused.value.told
    assert not capfd.readouterr().out


def test_cache_of_engines_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = SessionOptions(
        devices=(Device("tensorrt", 999),), trt_cache=str(tmp_path / "file" / "engines")
    )
    with pytest.raises(ModelUnusable, match=r"--trt-cache .* cannot be written: Not a directory"):
        Session(models.double(tmp_path / "m.onnx"), options)


def test_engines_of_files_with_the_same_name_lie_apart(tmp_path: Path) -> None:
    options = SessionOptions(
        devices=(Device("tensorrt", 999),), trt_cache=str(tmp_path / "engines")
    )
    for factor in (2.0, 3.0):
        with pytest.raises(ModelUnusable):  # no such GPU; but the directory is made before
            Session(models.double(tmp_path / "m.onnx", factor=factor), options)
    assert len(list((tmp_path / "engines").iterdir())) == 2


def test_memory_of_recorded_runs_is_not_given_back_between_them() -> None:
    entry = ("memory.enable_memory_arena_shrinkage", "cpu:0;gpu:0")
    options = SessionOptions(run_config=(entry,))
    made = runtime.run_options(options, Device("cuda", 3), 7)
    assert made.get_run_config_entry(entry[0]) == "cpu:0"
    only = runtime.run_options(replace(options, run_config=((entry[0], "gpu:0"),)), NOWHERE, 7)
    with pytest.raises(RuntimeError, match="does not have configuration"):
        only.get_run_config_entry(entry[0])


def test_run_options_name_the_gpu_of_their_copy() -> None:
    entry = ("memory.enable_memory_arena_shrinkage", "cpu:0;gpu:0")
    made = runtime.run_options(SessionOptions(run_config=(entry,)), Device("cuda", 3))
    assert made.get_run_config_entry(entry[0]) == "cpu:0;gpu:3"
    assert runtime.run_options(SessionOptions()) is None

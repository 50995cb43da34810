"""A version is served with exactly what was tuned here; what does not hold never stops it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import (
    hardware,
    layout,
    log,
    manifest,
    model,
    modelconfig,
    opening,
    repository,
    tuned,
)
from service.cuda import Gpu
from service.devices import CPU, Device
from service.errors import ModelUnusable
from service.machine import Machine
from service.manifest import Manifest, TensorSpec, Variant
from service.model import Model
from service.modelpages import config_of
from service.opened import Opened
from service.precedence import Running
from service.session import NotOnGpu, ort_version
from service.settings import Settings
from service.statistics import Book
from service.tuned import Tuned
from tests import models
from tests.fakes import ManualClock

CPUS = hardware.cpus()


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    before = log.LOGGER.propagate
    log.LOGGER.propagate = True
    with caplog.at_level(logging.INFO, log.LOGGER.name):
        yield
    log.LOGGER.propagate = before


def publish(root: Path) -> Path:
    """A model of two variants, fp32 recorded for this hardware; fp16 triples instead."""
    directory = root / "m" / "1"
    variants = []
    for name, factor in (("fp32", 2.0), ("fp16", 3.0)):
        path = models.double(directory / f"{name}.onnx", factor=factor)
        variants.append(
            Variant(name, True, "", path.name, manifest.sha256_of(path), path.stat().st_size)
        )
    tensors = [(TensorSpec(name, "FP32", (-1, 4)),) for name in ("x", "y")]
    chosen = {hardware.fingerprint(): manifest.Choice("fp32", "the first")}
    contract = Manifest("m", True, tensors[0], tensors[1], tuple(variants), chosen=chosen)
    (directory / manifest.FILENAME).write_text(contract.to_json())
    return directory


def tune(directory: Path, name: str, **fields: Any) -> Tuned:
    """Write what a search could have found for one of the files."""
    file = directory / ("model.onnx" if name == "as-is" else f"{name}.onnx")
    entry = Tuned(
        fingerprint=hardware.fingerprint(), cpus=CPUS, variant=name,
        sha256=manifest.sha256_of(file), max_batch=4, instances=3, threads=5, spin=True,
        target_ms=0.0, figures={"rows_per_s": 1234.5, "over_defaults": 1.5},
        onnxruntime=ort_version(), date="2026-11-22",
    )  # fmt: skip
    entry = replace(entry, **fields)
    tuned.write(directory, entry)
    return entry


def load(root: Path, **settings: Any) -> Model:
    place = layout.places(root)["m"]
    return model.load(
        place, 1, place.options(), settings=Settings(repository=root, **settings), book=Book(),
        clock=ManualClock(),
    )  # fmt: skip


def runs(loaded: Model) -> tuple[str, int, int, int, bool]:
    session = loaded.running.session
    return (
        loaded.variant.name, loaded.max_rows, loaded.instances, session.threads, session.spin,
    )  # fmt: skip


DEFAULTS = ("fp32", 16, 1, CPUS, False)
AS_TUNED = ("fp16", 4, 3, 5, True)


async def test_version_runs_with_exactly_what_was_tuned_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = publish(tmp_path)
    assert runs(load(tmp_path)) == DEFAULTS
    tune(directory, "fp16")
    loaded = load(tmp_path)
    assert (runs(loaded), loaded.chosen.how) == (AS_TUNED, "tuned")
    assert "tuned on 2026-11-22" in loaded.why and "up to 4 rows a run, 3 x 5 threads" in loaded.why
    assert "1,234 rows/s in process, without the network, 1.50x the defaults" in loaded.why
    assert loaded.chosen.figures["tuned_rows_per_s"] == 1234.5
    assert "runs as tuned" in caplog.messages
    answer = await loaded.batcher.submit({"x": np.ones((4, 4), np.float32)}, 4, None)
    assert (answer.outputs["y"] == 3.0).all()
    config = config_of(loaded)
    assert (config.max_batch_size, config.instance_group[0].count) == (4, 3)
    assert config.parameters["variant_choice"].string_value == "tuned"
    assert config.parameters["intra_op_thread_count"].string_value == "5"


def test_file_without_a_manifest_runs_as_tuned_too(tmp_path: Path) -> None:
    models.double(tmp_path / "m" / "1" / "model.onnx")
    tune(tmp_path / "m" / "1", "as-is")
    assert runs(load(tmp_path)) == ("as-is", *AS_TUNED[1:])


def test_flags_win_over_what_was_tuned_and_are_named(tmp_path: Path) -> None:
    tune(publish(tmp_path), "fp16")
    loaded = load(tmp_path, max_batch=2, spin=False)
    assert runs(loaded) == ("fp16", 2, 3, 5, False)
    assert loaded.chosen.figures == {}, "what runs was not measured"
    assert loaded.why.endswith("; but not max_batch, spin: the command line's flags win")


def test_flag_for_one_of_the_pair_says_that_both_go(tmp_path: Path) -> None:
    tune(publish(tmp_path), "fp16", instances=CPUS + 1, threads=CPUS + 1)
    loaded = load(tmp_path, instances=1)
    assert "but not instances and threads (they were measured together): " in loaded.why


def test_config_without_a_batch_keeps_its_word(tmp_path: Path) -> None:
    models.double(tmp_path / "m" / "1" / "model.onnx")
    (tmp_path / "m" / "config.pbtxt").write_text(
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]'
    )
    tune(tmp_path / "m" / "1", "as-is")
    loaded = load(tmp_path)
    assert (loaded.manifest.batched, loaded.max_rows, loaded.instances) == (False, 1, 3)
    assert config_of(loaded).max_batch_size == 0


def test_config_that_says_otherwise_is_replaced_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune(publish(tmp_path), "fp16")
    (tmp_path / "m" / "config.pbtxt").write_text(
        "max_batch_size: 16 instance_group [ { count: 2 } ]"
    )
    assert runs(load(tmp_path)) == AS_TUNED
    (line,) = [r for r in caplog.records if r.getMessage() == "runs as tuned"]
    assert vars(line)["fields"]["instead_of_config"] == {"max_batch_size": 16, "instance_group": 2}


def test_pinned_variant_that_was_tuned_runs_as_tuned(tmp_path: Path) -> None:
    tune(publish(tmp_path), "fp16")
    loaded = load(tmp_path, variant="fp16")
    assert (runs(loaded), loaded.chosen.how) == (AS_TUNED, "pinned")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cpus": CPUS + 1}, "nothing was tuned for this hardware and number of CPUs"),
        ({"fingerprint": "another"}, "nothing was tuned for this hardware and number of CPUs"),
        ({"sha256": "of another file"}, "served without what was tuned; tune again"),
        ({"variant": "int8"}, "served without what was tuned; tune again"),
    ],
)
def test_what_does_not_hold_here_has_no_effect(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fields: dict[str, Any], told: str
) -> None:
    tune(publish(tmp_path), "fp16", **fields)
    assert runs(load(tmp_path)) == DEFAULTS
    assert caplog.messages.count(told) == 1


def test_other_pinned_variant_runs_as_if_nothing_was_tuned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune(publish(tmp_path), "fp16")
    assert runs(load(tmp_path, variant="fp32")) == DEFAULTS
    assert [line for line in caplog.messages if "another variant is pinned" in line]


def test_other_onnx_runtime_is_mentioned_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune(publish(tmp_path), "fp16", onnxruntime="1.0.0")
    assert runs(load(tmp_path)) == AS_TUNED
    assert [line for line in caplog.messages if "another ONNX Runtime" in line]


def test_broken_file_is_one_warning_and_the_model_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = publish(tmp_path)
    (directory / tuned.FILENAME).write_text("{")
    assert runs(load(tmp_path)) == DEFAULTS
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "served without what was tuned"
    ]


def test_single_file_has_nothing_tuned_beside_it(tmp_path: Path) -> None:
    path = models.double(tmp_path / "model.onnx")
    tune(tmp_path, "as-is")
    place = layout.places(path)["model"]
    opened, running = opening.open_version(
        place, 1, place.options(), settings=Settings(repository=path), clock=ManualClock()
    )
    assert (opened.chosen.how, running.max_batch) == ("only", 16)


async def test_tuning_takes_effect_at_the_next_look_at_the_repository(tmp_path: Path) -> None:
    directory = publish(tmp_path)
    served = repository.load(Settings(repository=tmp_path, poll_s=1.0), clock=ManualClock())
    assert runs(served.model("m")) == DEFAULTS
    tune(directory, "fp16")
    await served.poll()
    assert runs(served.model("m")) == AS_TUNED


@pytest.mark.parametrize("on_disk", ["", "max_batch_size: 2"])
async def test_config_that_comes_with_a_load_request_wins_over_what_was_tuned(
    tmp_path: Path, on_disk: str
) -> None:
    tune(publish(tmp_path), "fp16")
    (tmp_path / "m" / "config.pbtxt").write_text(on_disk)
    served = repository.load(Settings(repository=tmp_path), clock=ManualClock())
    assert runs(served.model("m")) == AS_TUNED
    await served.load("m", modelconfig.options(modelconfig.from_json('{"maxBatchSize": 2}'), "m"))
    assert runs(served.model("m")) == ("fp32", 2, *DEFAULTS[2:])
    await served.load("m")
    assert runs(served.model("m")) == AS_TUNED, "the config was that request's"


def test_tuned_variant_whose_file_is_spoiled_is_not_served(tmp_path: Path) -> None:
    directory = publish(tmp_path)
    tune(directory, "fp16")
    (directory / "fp16.onnx").write_bytes(b"something else")
    with pytest.raises(ModelUnusable, match="not the file that was verified"):
        load(tmp_path)


def test_more_threads_than_cpus_are_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(tmp_path)
    load(tmp_path, instances=CPUS + 1)
    load(tmp_path, instances=CPUS)
    assert len([line for line in caplog.messages if "exceed the CPUs" in line]) == 1


GPU = Device("cuda", 999)  # which no machine has
WITH_GPU = Machine((GPU,), (Gpu(999, "H", "GPU-9", 2**30, (9, 0)),))


def opened(root: Path, text: str = "", **settings: Any) -> tuple[Opened, Running]:
    """On a machine that seems to have a GPU, whose provider cannot be had."""
    if text:
        (root / "m" / "config.pbtxt").write_text(text)
    place = layout.places(root)["m"]
    return opening.open_version(
        place, 1, place.options(), settings=Settings(repository=root, **settings),
        clock=ManualClock(), here=WITH_GPU,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_auto_puts_on_the_cpu_what_a_gpu_cannot_run_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models.double(tmp_path / "m" / "1" / "model.onnx")
    found, running = opened(tmp_path)
    assert running.session.devices == (CPU,)
    assert (running.max_batch, running.instances) == (16, 1)
    assert caplog.messages.count("it cannot run on the GPU, so it runs on the CPU") == 1
    assert found.run({"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2.0] * 4]


@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
@pytest.mark.parametrize(
    ("text", "device"), [("", "cuda:0"), ("instance_group { kind: KIND_GPU }", "auto")]
)
def test_what_is_asked_for_on_a_gpu_by_name_never_runs_on_the_cpu(
    tmp_path: Path, text: str, device: str
) -> None:
    models.double(tmp_path / "m" / "1" / "model.onnx")
    with pytest.raises(NotOnGpu, match="could not make cuda:999's provider"):
        opened(tmp_path, text, device=device)


def test_model_whose_config_says_so_runs_on_the_cpu_beside_a_gpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tune(publish(tmp_path), "fp16")
    found, running = opened(tmp_path, "instance_group { kind: KIND_CPU }", device="cuda:0")
    assert running.session.devices == (CPU,)
    assert found.chosen.how == "tuned"  # for this CPU
    assert not [line for line in caplog.records if line.levelname == "WARNING"]


def test_what_was_tuned_for_this_cpu_is_not_heeded_on_a_gpu(tmp_path: Path) -> None:
    directory = publish(tmp_path)
    tune(directory, "fp16")
    variants = [manifest.load(directory).variant("fp16")]
    mark = WITH_GPU.fingerprint()
    here = opening.tuned_here(directory, variants, fingerprint=mark, units=1)
    assert here.entry is None and "this is H, compute 9.0, cuda with 1 GPU" in here.why
    tune(directory, "fp16", fingerprint=mark, cpus=1)
    assert opening.tuned_here(directory, variants, fingerprint=mark, units=1).entry is not None

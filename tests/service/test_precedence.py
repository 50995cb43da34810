"""Flags win over what was tuned here, that over config.pbtxt, that over the CPUs there are."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from service import hardware, log, precedence
from service.devices import CPU, Device
from service.errors import ModelUnusable
from service.gpuoptions import OnGpu
from service.modelconfig import Options
from service.precedence import settled
from service.session import SessionOptions
from service.settings import Settings
from service.tuned import Tuned

CPUS = hardware.cpus()
CONFIG = Options(name="m", max_batch=32, instances=4, session={"threads": 3, "spin": True})
TUNED = Tuned(
    fingerprint="here", cpus=2, variant="fp32", sha256="d", max_batch=8, instances=2, threads=7,
    spin=False, target_ms=0.0,
)  # fmt: skip


def runs(
    options: Options = CONFIG, tuned: Tuned | None = TUNED, **flags: Any
) -> tuple[int, int, int, bool]:
    found = settled(Settings(**flags), options, tuned)
    return found.max_batch, found.instances, found.session.threads, found.session.spin


def test_tuned_options_win_over_the_configs() -> None:
    assert runs() == (8, 2, 7, False)
    assert settled(Settings(), CONFIG, TUNED).replaced == {
        "max_batch_size": 32, "instance_group": 4, "intra_op_thread_count": 3,
        "session.intra_op.allow_spinning": True,
    }  # fmt: skip


def test_options_are_the_configs_where_nothing_was_tuned() -> None:
    assert runs(tuned=None) == (32, 4, 3, True)
    assert not settled(Settings(), CONFIG).replaced


def test_defaults_are_one_instance_on_all_cpus() -> None:
    assert runs(Options(name="m"), None) == (16, 1, CPUS, False)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"max_batch": 5}, (5, 2, 7, False)),
        ({"spin": True}, (8, 2, 7, True)),
        ({"instances": 2}, (8, 2, 7, False)),
        ({"threads": 7}, (8, 2, 7, False)),
        ({"instances": 5, "threads": 6, "max_batch": 4, "spin": True}, (4, 5, 6, True)),
    ],
)
def test_flags_win_over_what_was_tuned(flags: dict[str, Any], expected: Any) -> None:
    assert runs(**flags) == expected


def test_flag_for_one_of_instances_and_threads_undoes_the_tuned_pair() -> None:
    plain = Options(name="m")
    assert runs(plain, instances=1) == (8, 1, CPUS, False)
    assert runs(plain, threads=1) == (8, 1, 1, False)


def test_options_that_flags_overrule_are_named_and_those_that_agree_are_not() -> None:
    given = Settings(max_batch=8, instances=1, spin=True)
    assert settled(given, Options(name="m"), TUNED).overruled == ("instances", "threads", "spin")
    agreeing = Settings(max_batch=8, instances=2, threads=7, spin=False)
    assert settled(agreeing, CONFIG, TUNED).overruled == ()


def test_undone_pair_is_told_of_both_and_what_the_config_says_of_them_is_not_replaced() -> None:
    found = settled(Settings(threads=1), CONFIG, TUNED)
    assert (found.instances, found.session.threads) == (4, 1)
    assert found.overruled == ("instances", "threads")
    assert found.replaced == {"max_batch_size": 32, "session.intra_op.allow_spinning": True}


def test_what_a_flag_replaces_is_not_said_to_be_replaced_by_what_was_tuned() -> None:
    found = settled(Settings(max_batch=5), CONFIG, TUNED)
    assert found.overruled == ("max_batch",)
    assert "max_batch_size" not in (found.replaced or {})


@pytest.mark.parametrize(("rows", "tuned_rows"), [(0, 8), (32, 0)])
def test_limit_of_rows_is_not_compared_where_there_is_no_batch_dimension(
    rows: int, tuned_rows: int
) -> None:
    found = settled(
        Settings(), replace(CONFIG, max_batch=rows), replace(TUNED, max_batch=tuned_rows)
    )
    assert "max_batch_size" not in (found.replaced or {})
    assert found.overruled == ()


def test_flag_that_switches_spinning_off_wins_over_all() -> None:
    assert runs(tuned=None, spin=False)[-1] is False
    assert runs(Options(name="m"), None, spin=True)[-1] is True


@pytest.mark.parametrize("instances", range(1, 2 * CPUS + 1))
def test_threads_by_default_divide_the_cpus_among_the_instances(instances: int) -> None:
    _, found, threads, _ = runs(Options(name="m"), None, instances=instances)
    assert (found, threads) == (instances, max(1, CPUS // instances))
    assert found * threads <= max(CPUS, instances)


def test_nodes_side_by_side_take_the_same_threads_and_not_the_hosts() -> None:
    options = Options(name="m", session={"parallel": True, "inter_op_threads": 0})
    assert settled(Settings(), options, TUNED).session == SessionOptions(
        threads=7, inter_op_threads=7, parallel=True
    )


@pytest.mark.parametrize(
    ("flags", "lines"),
    [
        ({}, 0), ({"instances": CPUS}, 0), ({"threads": CPUS}, 0), ({"threads": CPUS + 1}, 1),
        ({"instances": CPUS + 1}, 1), ({"instances": 2, "threads": CPUS}, 1),
    ],
)  # fmt: skip
def test_more_threads_than_cpus_are_told_in_one_line(
    caplog: pytest.LogCaptureFixture, flags: dict[str, Any], lines: int
) -> None:
    log.LOGGER.propagate = True
    with caplog.at_level(logging.WARNING, log.LOGGER.name):
        precedence.warn_of_too_many("m", settled(Settings(**flags), Options(name="m")))
    assert ["exceed the CPUs" in line for line in caplog.messages] == [True] * lines


GPUS = (Device("cuda", 0), Device("cuda", 1))
PLAIN = Options(name="m")


def gpu_session(options: Options = PLAIN, **flags: Any) -> SessionOptions:
    return settled(Settings(**flags), options, devices=GPUS).session


def test_gpus_run_two_instances_each_of_larger_batches_with_one_thread() -> None:
    found = settled(Settings(), PLAIN, devices=GPUS)
    assert (found.max_batch, found.instances) == (64, 4)
    assert found.session == SessionOptions(threads=1, devices=GPUS, lanes=2, max_rows=64,
                                           cuda_graphs=None)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "flag", "instances", "lanes"), [(3, 0, 6, 3), (3, 1, 1, 1), (None, 3, 3, 2)]
)
def test_instances_of_the_config_are_for_each_gpu_and_those_of_the_flag_for_all(
    said: int | None, flag: int, instances: int, lanes: int
) -> None:
    options = replace(PLAIN, instances=99, gpu=OnGpu(instances=said))
    found = settled(Settings(instances=flag), options, devices=GPUS)
    assert (found.instances, found.session.lanes) == (instances, lanes)


def test_threads_are_for_the_cpu_where_it_may_do_any_of_the_work() -> None:
    assert gpu_session(cpu_fallback="any", instances=1).threads == CPUS
    assert gpu_session(threads=3).threads == 3


def test_config_says_other_things_for_gpus_than_for_the_cpu() -> None:
    options = replace(CONFIG, gpu=OnGpu(session={"mem_pattern": False, "threads": 2}))
    found = gpu_session(options)
    assert (found.threads, found.spin, found.mem_pattern) == (2, False, False)
    on_cpu = settled(Settings(), options).session
    assert (on_cpu.threads, on_cpu.mem_pattern, on_cpu.devices) == (3, True, (CPU,))


def test_flags_for_gpus_win_over_the_config() -> None:
    said = OnGpu(provider={"gpu_mem_limit": "5", "use_tf32": "1"}, cuda_graphs=True)
    options = replace(PLAIN, gpu=said)
    assert gpu_session(options).provider == (("gpu_mem_limit", "5"), ("use_tf32", "1"))
    assert gpu_session(options).cuda_graphs
    found = gpu_session(options, gpu_mem_mib=3, cuda_graphs="off", trt_cache="/e")
    assert found.provider == (("gpu_mem_limit", str(3 * 2**20)), ("use_tf32", "1"))
    assert (found.cuda_graphs, found.trt_cache) == (False, "/e")


def test_no_lane_is_made_for_a_model_without_a_batch_dimension() -> None:
    assert gpu_session(replace(PLAIN, max_batch=0)).max_rows == 0
    assert gpu_session(replace(PLAIN, max_batch=8)).max_rows == 8


def test_what_was_tuned_for_gpus_wins_over_their_config() -> None:
    options = replace(PLAIN, gpu=OnGpu(instances=3))
    best = replace(TUNED, instances=2, threads=1)
    found = settled(Settings(), options, best, devices=GPUS)
    assert (found.max_batch, found.instances, found.session.lanes) == (8, 2, 1)
    assert found.replaced == {"instance_group": 6}


def test_flags_for_gpus_do_nothing_on_a_cpu() -> None:
    flags = Settings(gpu_mem_mib=3, cuda_graphs="on", trt_cache="/e", cpu_fallback="none")
    assert settled(flags, PLAIN) == settled(Settings(), PLAIN)


@pytest.mark.parametrize(
    ("said", "devices"),
    [
        (OnGpu(), GPUS),
        (OnGpu(gpus=(1,)), GPUS[1:]),
        (OnGpu(cpu_only=True), (CPU,)),
        (OnGpu(tensorrt=True, gpus=(0,)), (Device("tensorrt", 0),)),
    ],
)
def test_config_says_on_which_of_the_servers_devices_a_model_runs(
    said: OnGpu, devices: tuple[Device, ...]
) -> None:
    assert precedence.placed(replace(PLAIN, gpu=said), GPUS) == devices
    assert precedence.placed(replace(PLAIN, gpu=said), (CPU,)) == (CPU,)


def test_gpu_that_the_server_does_not_use_is_refused() -> None:
    with pytest.raises(ModelUnusable, match=r"gpus has 7, and this server uses cuda:0, cuda:1"):
        precedence.placed(replace(PLAIN, gpu=OnGpu(gpus=(1, 7))), GPUS)


def test_many_instances_on_gpus_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    log.LOGGER.propagate = True
    with caplog.at_level(logging.WARNING, log.LOGGER.name):
        precedence.warn_of_too_many(
            "m", settled(Settings(instances=2 * CPUS + 2), PLAIN, devices=GPUS)
        )
    assert not caplog.messages


@pytest.mark.parametrize(
    ("flag", "tuned", "config", "runs"),
    [
        ("auto", True, None, True),
        ("auto", False, True, False),
        ("auto", None, True, True),
        ("auto", None, None, None),
        ("off", True, True, False),
        ("on", False, None, True),
    ],
)
def test_graphs_are_the_flags_then_what_was_tuned_then_the_configs(
    flag: str, tuned: bool | None, config: bool | None, runs: bool | None
) -> None:
    options = replace(PLAIN, gpu=OnGpu(cuda_graphs=config))
    best = replace(TUNED, cuda_graphs=tuned)
    found = settled(Settings(cuda_graphs=flag), options, best, devices=GPUS)
    assert found.session.cuda_graphs is runs
    assert ("cuda_graphs" in found.overruled) is (runs is not tuned)


def test_graphs_that_were_tuned_mean_nothing_on_a_cpu() -> None:
    found = settled(Settings(), PLAIN, replace(TUNED, cuda_graphs=True))
    assert found.session.cuda_graphs is False and "cuda_graphs" not in found.overruled

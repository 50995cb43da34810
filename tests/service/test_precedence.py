"""Flags win over what was tuned here, that over config.pbtxt, that over the CPUs there are."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from service import hardware, log, precedence
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

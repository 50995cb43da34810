"""What KEDA's queries come to, by promtool: replicas' worth of what is asked of them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import pytest
import yaml

from tests.k8s import queries
from tests.k8s.rendering import K8S, unrendered

(SCALER,) = queries.of(unrendered(K8S / "components" / "keda")).all("ScaledObject")
TRIGGERS = {trigger["name"]: trigger for trigger in SCALER["spec"]["triggers"]}
REPLICAS = ("a", "b")


def core(kind: str, instance: str, core_s: float) -> tuple[str, float]:
    """Core-seconds a minute of a replica with two cores."""
    return (
        f'farthing_core_seconds_total{{job="farthing",instance="{instance}",kind="{kind}"}}',
        core_s,
    )


def calls(good: float, late: float = 0, *, refused: float = 0) -> list[tuple[str, float]]:
    """A minute's, all of one replica; and as many of the caller's own fault as were refused."""
    name, mine = "farthing_goodput_requests_total", 'job="farthing",instance="a"'
    return [
        (f'{name}{{{mine},good="true"}}', good),
        (f'{name}{{{mine},good="false"}}', late + refused),
        (f'farthing_refused_total{{{mine},reason="queue_time"}}', refused),
        (f'farthing_refused_total{{{mine},reason="invalid_input"}}', refused),
        (f'farthing_refused_total{{{mine},reason="draining"}}', refused),
    ]


def used(share: float, by: Sequence[str] = REPLICAS) -> list[tuple[str, float]]:
    """Replicas use so much of their cores; what warms up and idles does not count."""
    return [
        line
        for instance in by
        for line in (
            core("busy", instance, 120 * share * 0.5), core("waste", instance, 120 * share * 0.25),
            core("serving", instance, 120 * share * 0.25), core("warm_up", instance, 7),
            core("idle", instance, 120 * (1 - share)),
        )
    ]  # fmt: skip


def comes_to(trigger: str, expected: float | None, at: Path, *, counters=(), gauges=()) -> None:
    """Hold the trigger's query against a value; None for nothing at all."""
    found = shutil.which("promtool")
    assert found, "promtool, of Debian's package prometheus, is needed on PATH for this test"
    series = [{"series": name, "values": f"0+{each:g}x10"} for name, each in counters]
    series += [{"series": name, "values": f"{each:g}x10"} for name, each in gauges]
    samples = [] if expected is None else [{"labels": "{}", "value": expected}]
    query = TRIGGERS[trigger]["metadata"]["query"]
    # At intervals of 15 s a minute has samples enough; values above are those of a minute.
    check = {"expr": f"round({query}, 0.001)", "eval_time": "2m", "exp_samples": samples}
    case = {"interval": "15s", "input_series": series, "promql_expr_test": [check]}
    (at / "case.yaml").write_text(yaml.safe_dump({"tests": [case]}), encoding="utf-8")
    done = subprocess.run(
        [found, "test", "rules", "case.yaml"],
        cwd=at, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def a_minute(lines: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(name, each / 4) for name, each in lines]


CORES = [(f'farthing_cores{{job="farthing",instance="{name}"}}', 2.0) for name in REPLICAS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "answered", "replicas", "wanted"),
    [
        (0.0, calls(0), 0.0, 0),
        (0.3, calls(600), 0.6, 1),
        (0.5, calls(600, late=600), 1.0, 2),
        (0.9, calls(600), 1.8, 3),
        (1.0, calls(600, refused=600), 4.0, 7),
        (1.0, calls(600, refused=6000), 8.0, 14),
        (1.0, calls(0, refused=600), 8.0, 14),
    ],
)
def test_used_is_what_all_that_is_offered_would_use(
    share: float, answered: list[tuple[str, float]], replicas: float, wanted: int, tmp_path: Path
) -> None:
    counters = a_minute([*used(share), *answered])
    comes_to("used", replicas, tmp_path, counters=counters, gauges=CORES)
    assert ceil(replicas / float(TRIGGERS["used"]["metadata"]["threshold"])) == wanted


@pytest.mark.slow
def test_what_a_full_replica_refuses_counts_while_others_are_still_empty(tmp_path: Path) -> None:
    """As those are that have just begun."""
    lines = [*used(1.0, ["a"]), *used(0.0, ["b"]), *calls(600, refused=600)]
    comes_to("used", 2.0, tmp_path, counters=a_minute(lines), gauges=CORES)


@pytest.mark.slow
def test_replicas_on_gpus_scale_by_the_time_of_their_gpus(tmp_path: Path) -> None:
    def of_gpus(lines: list[tuple[str, float]]) -> list[tuple[str, float]]:
        return [
            (name.replace("core_seconds", "gpu_seconds").replace("cores{", "gpus{"), each)
            for name, each in lines
        ]

    lines = [*of_gpus(used(0.9)), *calls(600, refused=600)]
    comes_to("used", 3.6, tmp_path, counters=a_minute(lines), gauges=of_gpus(CORES))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("waits_s", "target_s", "replicas"),
    [
        ((0.0, 0.0), 0.2, 0.0), ((0.02, 0.01), 0.2, 0.15), ((0.1, 0.15), 0.2, 1.25),
        ((0.1, 0.3), None, 0.4),
    ],
)  # fmt: skip
def test_wait_is_the_share_of_the_target_that_waiting_takes(
    waits_s: tuple[float, ...], target_s: float | None, replicas: float, tmp_path: Path
) -> None:
    gauges = []
    for instance, wait_s in zip(REPLICAS, waits_s, strict=True):
        for model, share in (("slowest", 1.0), ("other", 0.5)):
            labels = f'{{job="farthing",instance="{instance}",model="{model}"}}'
            gauges.append((f"farthing_predicted_wait_seconds{labels}", wait_s * share))
            if target_s is not None:
                gauges.append((f"farthing_latency_target_seconds{labels}", target_s))
    comes_to("wait", replicas, tmp_path, gauges=gauges)


@pytest.mark.slow
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_without_metrics_there_is_no_value_and_so_the_fallback(
    trigger: str, tmp_path: Path
) -> None:
    comes_to(trigger, None, tmp_path, gauges=[("up", 1.0)])
    assert TRIGGERS[trigger]["metadata"]["ignoreNullValues"] == "false"


def test_what_falls_back_is_a_number_of_replicas_and_one_within_the_bounds() -> None:
    spec = SCALER["spec"]
    # KEDA before 2.18 has no fallback for other kinds.
    assert {trigger["metricType"] for trigger in TRIGGERS.values()} == {"AverageValue"}
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]


def test_no_trigger_reads_a_raw_counter_or_what_only_our_rules_record() -> None:
    for trigger in TRIGGERS.values():
        query = trigger["metadata"]["query"]
        for name in queries.metrics_in(query):
            assert not name.endswith("_total") or f"rate({name}" in "".join(query.split())
        assert queries.metrics_in(query) <= queries.exported() | queries.exported_on_gpus()

"""Our rules, the dashboard and KEDA's queries, asked of a real Prometheus that watches a load."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests import arrivals, openloop
from loadtests.openloop import Stream
from service.proto import inference_pb2 as pb
from tests import models
from tests.k8s import queries
from tests.k8s.queries import Query
from tests.k8s.rendering import K8S, unrendered
from tests.system.callers import figures
from tests.system.prometheus import asked, prometheus, value
from tests.system.servers import Served, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SECONDS = 20.0
TARGET_S = 0.1
PRICE = 0.17
MONITORING = queries.of(unrendered(K8S / "components" / "monitoring"))
KEDA = queries.of(unrendered(K8S / "components" / "keda"))
(BOARD,) = queries.dashboards(MONITORING)
VARIABLES = [one["name"] for one in BOARD["templating"]["list"] if one["type"] == "query"]
# As Grafana puts them in: whatever is there, or one of each.
ALL = dict.fromkeys(VARIABLES, ".*")
ONE = {"namespace": "prod", "job": "farthing", "model": "m", "version": "1", "variant": "as-is"}
RECORDS = [rule["record"] for rule in queries.rules(MONITORING) if "record" in rule]
BY_HAND = 0.1


@dataclass(frozen=True)
class Watched:
    """What is left of a load: Prometheus, the server, what it says now, and when it ended."""

    address: str
    served: Served
    seen: dict[str, float]
    good: float
    ended_s: float

    def value(self, query: str) -> float:
        found = value(self.address, query)
        assert found is not None, query
        return found

    def series(self, query: str) -> list[dict[str, Any]]:
        """Of the time of the load, as a panel asks for it; a table's is of one moment."""
        data = asked(
            self.address, "query_range", query=query,
            start=f"{self.ended_s - SECONDS}", end=f"{self.ended_s}", step="1",
        )  # fmt: skip
        found: list[dict[str, Any]] = data["result"]
        return found


def message(model: str, rows: int = 8, width: int = 24) -> bytes:
    data = np.full((rows, 3, 24, width), 0.5, np.float32)
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[data.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=data.shape)
    return request.SerializeToString()


def load(served: Served) -> None:
    """More than it can do, with calls for no model and calls that nobody can answer."""

    def stream(sent: bytes, rate: float) -> Stream:
        times = arrivals.schedule("poisson", rate=rate, seconds=SECONDS, seed=int(rate))
        return Stream((served.grpc,), [sent], times, SECONDS, deadline_s=TARGET_S)

    openloop.together([
        stream(message("m"), 300), stream(message("nobody", rows=1), 5),
        stream(message("m", rows=1, width=5), 5),
    ])  # fmt: skip


def rules() -> dict[str, Any]:
    """Ours, all of them evaluated as often as the others: nobody waits two minutes here."""
    (spec,) = [one["spec"] for one in MONITORING.all("PrometheusRule")]
    return {"groups": [{**group, "interval": "1s"} for group in spec["groups"]]}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    assert shutil.which("prometheus"), "Debian's prometheus is needed on PATH for this test"
    root: Path = tmp_path_factory.mktemp("watched")
    # Wide enough that no machine does 300 of these calls a second: each has eight rows.
    models.classifier(root / "models" / "m" / "1" / "model.onnx", channels=192)
    options = (
        "--max-batch", "8", "--latency-target-ms", f"{1000 * TARGET_S:g}",
        "--price-usd-per-hour", f"{PRICE}", "--price-id", "a price",
    )  # fmt: skip
    with (
        serving(root / "models", *options, log=root / "serve.log") as served,
        prometheus(served, root, labels={"namespace": "prod"}, rules=rules()) as address,
    ):
        for _ in range(200):
            if value(address, "farthing_ready") == 1.0:
                break
            time.sleep(0.1)
        load(served)
        ended_s, seen = time.clock_gettime(time.CLOCK_REALTIME), figures(served)
        good = figures(served, good="true")["farthing_goodput_requests_total"]
        yield Watched(address, served, seen, good, ended_s)


def filled(promql: str, chosen: dict[str, str]) -> str:
    """A dashboard's query with what Grafana puts in."""
    for name, text in {**chosen, "__rate_interval": "4s"}.items():
        promql = promql.replace(f"${name}", text)
    assert "$" not in promql, promql
    return promql


def numbers(series: list[dict[str, Any]]) -> list[float]:
    """All that was answered, but for what is no number: a share of nothing."""
    found = [float(text) for one in series for _, text in one["values"]]
    return [each for each in found if math.isfinite(each)]


@pytest.mark.parametrize("query", list(queries.asked_by(BOARD)), ids=lambda query: query.where)
def test_every_query_of_the_dashboard_has_data(watched: Watched, query: Query) -> None:
    for chosen in (ALL, ONE):
        found = numbers(watched.series(filled(query.promql, chosen)))
        if queries.is_of_gpus(query.promql, MONITORING):  # this server has none
            assert found == []
            continue
        assert len(found) >= 5, "it is a line, not a dot"
        assert min(found) >= 0.0


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_of_the_dashboard_can_be_chosen(watched: Watched, name: str) -> None:
    (query,) = [one for one in queries.asked_by(BOARD) if one.where == f"variable {name}"]
    found = {one["metric"][name] for one in watched.series(filled(query.promql, ALL))}
    assert found == {ONE[name]}


@pytest.mark.parametrize("query", list(queries.queries(KEDA)), ids=lambda query: query.where)
def test_every_query_of_the_scaler_is_one_plausible_number(watched: Watched, query: Query) -> None:
    series = watched.series(query.promql)
    assert len(series) == 1 and not series[0]["metric"], "KEDA takes one number"
    found = numbers(series)
    # One replica, whose load is more than it can do: it asks for more, and not for a hundred.
    assert min(found) >= 0.0 and 0.25 < max(found) <= 4.0


@pytest.mark.parametrize("record", RECORDS)
def test_everything_that_is_recorded_is_there(watched: Watched, record: str) -> None:
    there = bool(numbers(watched.series(record)))
    assert there is not queries.is_of_gpus(record, MONITORING), record


def test_no_rule_fails_and_no_alert_is_raised_for_what_is_well(watched: Watched) -> None:
    groups = asked(watched.address, "rules")["groups"]
    found = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert len(found) >= len(RECORDS) - 6 and "FarthingNoHeadroom" in found
    for name, rule in found.items():
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), name
    well = {"FarthingNoReplicaReady", "FarthingNotScraped", "FarthingRestarts",
            "FarthingLedgerUnbalanced"}  # fmt: skip
    assert {found[name]["state"] for name in well} == {"inactive"}
    assert found["FarthingRefusesForLoad"]["state"] == "pending", "it waits five minutes"
    assert found["FarthingBudgetGoneInTwoDays"]["state"] == "firing"


def test_goodput_is_the_share_that_the_server_itself_counted(watched: Watched) -> None:
    judged = watched.seen["farthing_goodput_requests_total"]
    fault = [figures(watched.served, reason=reason).get("farthing_requests_total", 0.0)
             for reason in ("invalid_input", "cancelled")]  # fmt: skip
    assert fault[0] > 0.0, "callers' own, which does not count"
    assert watched.seen["farthing_requests_total"] == judged + sum(fault)
    share = watched.good / judged
    assert 0.0 < share < 0.999
    for window in ("5m", "1h", "3d"):
        recorded = watched.value(f"model:farthing_goodput:ratio_rate{window}")
        assert recorded == pytest.approx(share, abs=0.05), window


def test_money_is_what_one_works_out_by_hand(watched: Watched) -> None:
    (hourly,) = [one["expr"] for one in queries.rules(MONITORING)
                 if one.get("record") == "job:farthing_usd_per_hour:rate5m"]  # fmt: skip
    # A server that is there for all of the window costs its price; ours was not there for five
    # minutes, which the share of them that it cost and the answers of them have in common.
    costs = max(numbers(watched.series(hourly.replace("5m", "10s"))))
    assert costs == pytest.approx(PRICE, rel=BY_HAND)
    per_million = watched.value("job:farthing_usd_per_million_good:rate5m")
    seconds = watched.value("farthing_paid_core_seconds_total / farthing_cores")
    by_hand = 1e6 * PRICE / 3600 * seconds / watched.good
    assert 0.5 * by_hand < per_million < 1.1 * by_hand, "its start was not watched, but is paid"
    recorded = watched.value("job:farthing_usd_per_hour:rate5m")
    good_per_s = watched.value('sum(rate(farthing_goodput_requests_total{good="true"}[5m]))')
    assert per_million == pytest.approx(1e6 * recorded / 3600 / good_per_s, rel=BY_HAND)
    own = watched.value("model:farthing_usd_per_million_good:rate5m")
    assert 0.0 < own < per_million


def test_core_seconds_add_up_and_are_mostly_used(watched: Watched) -> None:
    assert watched.value("sum(job_kind:farthing_core_seconds:share_rate5m)") == pytest.approx(
        1.0, abs=0.02
    )
    assert 0.4 < watched.value("job:farthing_used_cores:ratio_rate5m") <= 1.0


def test_quantiles_are_in_their_order(watched: Watched) -> None:
    (panel,) = [one for one in BOARD["panels"] if one["title"] == "Latency of answers"]
    p50, p95, p99, target = [
        max(numbers(watched.series(filled(one["expr"], ALL)))) for one in panel["targets"]
    ]
    assert 0.0 < p50 <= p95 <= p99
    assert target == TARGET_S


def test_names_that_are_held_against_the_manifests_are_those_of_a_real_server(
    watched: Watched,
) -> None:
    # A variant that nobody measured has no figures.
    assert queries.exported() - set(watched.seen) == {"farthing_variant_figure"}

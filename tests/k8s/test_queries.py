"""What PromQL reads is found, and what nobody exports is told."""

from __future__ import annotations

import pytest

from tests.k8s import queries
from tests.k8s.rendering import COMPONENTS, K8S, Document, overlay, unrendered


@pytest.mark.parametrize(
    ("promql", "names"),
    [
        ("up", {"up"}),
        ("sum by (model) (rate(a_total[5m])) / on (model) group_left b", {"a_total", "b"}),
        ("sum(rate(a[$__rate_interval])) by (le, job)", {"a"}),
        ('a{x="b", y=~"c{1}|}"} > bool 0 unless on () d offset 5m', {"a", "d"}),
        ("histogram_quantile(0.99, sum by (le) (rate(a_bucket[5m])))", {"a_bucket"}),
        ("a * on (x) group_left (y) b and c or d # e\n - 1e6 * f", {"a", "b", "c", "d", "f"}),
        ("job:a:ratio5m > 14.4 * (1 - scalar(b:c))", {"job:a:ratio5m", "b:c"}),
        ("count without (x) (a) + topk(3, b) + count_values('c', d)", {"a", "b", "d"}),
        ("vector(0.999) + time() - Inf", set()),
        ('label_replace(a, "to", "$1", "from", "(.*)")', {"a"}),
    ],
)
def test_names_of_metrics_are_told_from_all_other_words(promql: str, names: set[str]) -> None:
    assert queries.metrics_in(promql) == names


def test_a_name_that_is_hidden_in_braces_is_not_taken() -> None:
    with pytest.raises(ValueError, match="in braces"):
        queries.metrics_in('sum({__name__="a"})')


@pytest.mark.parametrize("component", COMPONENTS)
def test_whatever_a_component_asks_for_is_exported_or_recorded(component: str) -> None:
    assert list(queries.metrics(queries.of(unrendered(K8S / "components" / component)))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["monitoring", "keda"])
def test_the_queries_are_still_there_once_kubectl_has_rendered_them(name: str) -> None:
    rendered = queries.of(overlay(name))
    assert list(queries.metrics(rendered)) == []
    asked = set[queries.Query]()
    for each in {name, "monitoring"}:
        asked |= set(queries.queries(queries.of(unrendered(K8S / "components" / each))))
    assert set(queries.queries(rendered)) == asked


def rule(promql: str) -> Document:
    rules = [{"record": "job:a:b", "expr": promql}, {"alert": "A", "expr": "job:a:b > 1"}]
    return {"kind": "PrometheusRule", "spec": {"groups": [{"name": "g", "rules": rules}]}}


def test_what_the_server_exports_may_be_asked_for_and_so_may_what_is_recorded() -> None:
    asked = "rate(farthing_rows_total[5m]) + nv_inference_count + process_open_fds + up"
    assert list(queries.metrics(queries.of([rule(asked)]))) == []


@pytest.mark.parametrize("name", ["farthing_rows", "farthing_row_total", "job:a:c"])
def test_what_nobody_exports_is_told_with_who_asks_for_it(name: str) -> None:
    found = list(queries.metrics(queries.of([rule(f"sum(rate({name}[5m]))")])))
    assert found == [f"rule job:a:b: nobody exports {name}"]


def test_scalers_and_dashboards_are_asked_too() -> None:
    trigger = {"type": "prometheus", "name": "t", "metadata": {"query": "nothing_like_it"}}
    scaler = {"kind": "ScaledObject", "metadata": {"name": "s"}, "spec": {"triggers": [trigger]}}
    text = """{"panels": [{"title": "P", "targets": [{"refId": "A", "expr": "no_such{x='$y'}"}]}],
        "templating": {"list": [{"name": "m", "type": "query",
            "query": {"query": "label_values(nor_this{a=\\"$b\\"}, model)"}}]}}"""
    labels = {"name": "d", "labels": {queries.DASHBOARD: "1"}}
    board = {"kind": "ConfigMap", "metadata": labels, "data": {"d.json": text}}
    assert list(queries.metrics(queries.of([scaler, board]))) == [
        "trigger t of s: nobody exports nothing_like_it",
        "panel P, A: nobody exports no_such",
        "variable m: nobody exports nor_this",
    ]


@pytest.mark.parametrize("component", COMPONENTS)
def test_whatever_asks_for_cores_is_answered_by_servers_on_gpus_too(component: str) -> None:
    gone = queries.exported() - queries.exported_on_gpus()
    assert {"farthing_core_seconds_total", "farthing_cores"} < gone
    for query in queries.queries(queries.of(unrendered(K8S / "components" / component))):
        asked = queries.metrics_in(query.promql)
        for name in asked & gone:
            twin = name.replace("_core_seconds", "_gpu_seconds").replace("_cores", "_gpus")
            assert twin in asked, f"{query.where} asks for {name} alone"


def test_what_only_gpus_answer_is_told_from_the_rest() -> None:
    manifest = queries.of([rule("sum(rate(farthing_energy_joules_total[5m])) / farthing_ready")])
    for promql, alone in (
        ("farthing_gpu_busy_ratio", True), ("job:a:b", True), ("farthing_ready", False),
        ("farthing_cores or farthing_gpus", False),
    ):  # fmt: skip
        assert queries.is_of_gpus(promql, manifest) is alone, promql

"""Every PromQL query of a manifest, and whether what it asks for exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry

from service.bill import GPU, Price
from service.errors import ModelNotFound
from service.gpuwatch import Seen, Watch
from service.ledger import Ledger
from service.metrics import Metrics
from service.statistics import Book
from tests.cards import TOLD, FakeCard
from tests.fakes import ManualClock
from tests.k8s.manifest import Manifest
from tests.service.scraped import LABELS, LiveModel

DASHBOARD = "grafana_dashboard"  # a label that Grafana's sidecar looks for
# Of every target, by Prometheus itself.
_PROMETHEUS = {"up"}
_TOKEN = re.compile(
    r"""
      (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    | (?P<comment>\#[^\n]*)
    | (?P<range>\[[^\]]*\])
    | (?P<labels>\{(?:[^}"'`]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)*\})
    | (?P<number>\d[\w.]*)
    | (?P<grouping>\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\))
    | (?P<function>[a-zA-Z_]\w*(?=\s*\())
    | (?P<name>[a-zA-Z_:][\w:]*)
    """,
    re.VERBOSE,
)
# Words that no metric has for its name where they stand without parentheses.
_WORDS = {
    "and", "or", "unless", "atan2", "bool", "offset", "by", "without", "on", "ignoring",
    "group_left", "group_right", "inf", "nan", "sum", "min", "max", "avg", "group", "stddev",
    "stdvar", "count", "count_values", "bottomk", "topk", "quantile",
}  # fmt: skip


@dataclass(frozen=True)
class Query:
    """One question to Prometheus.

    Attributes:
        where: it stands.
        promql: with Grafana's variables, where it is a dashboard's.
    """

    where: str
    promql: str


def metrics_in(promql: str) -> set[str]:
    """Names of the metrics that a query reads.

    Raises:
        ValueError: it names a metric in braces, which nobody here does.
    """
    found = set[str]()
    for token in _TOKEN.finditer(promql):
        if token.lastgroup == "labels" and "__name__" in token.group():
            raise ValueError(f"{token.group()} names a metric in braces")
        if token.lastgroup == "name" and token.group().lower() not in _WORDS:
            found.add(token.group())
    return found


def queries(manifest: Manifest) -> Iterator[Query]:
    """All queries of rules, scalers and dashboards."""
    for rule in rules(manifest):
        yield Query(f"rule {rule.get('record') or rule['alert']}", rule["expr"])
    for one in manifest.all("ScaledObject"):
        for trigger in one["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                where = f"trigger {trigger['name']} of {one['metadata']['name']}"
                yield Query(where, trigger["metadata"]["query"])
    for board in dashboards(manifest):
        yield from asked_by(board)


def rules(manifest: Manifest) -> list[dict[str, Any]]:
    """All rules, in their order."""
    return [
        rule
        for one in manifest.all("PrometheusRule")
        for group in one["spec"]["groups"]
        for rule in group["rules"]
    ]


def dashboards(manifest: Manifest) -> list[dict[str, Any]]:
    """Grafana's dashboards, out of the ConfigMaps that it finds."""
    return [
        json.loads(text)
        for one in manifest.all("ConfigMap")
        if DASHBOARD in one["metadata"].get("labels", {})
        for text in one["data"].values()
    ]


def asked_by(board: dict[str, Any]) -> Iterator[Query]:
    """The queries of a dashboard: of its panels, and of its variables."""
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield Query(f"panel {panel['title']}, {target['refId']}", target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            # label_values(METRIC{...}, LABEL) is Grafana's own.
            asked = re.fullmatch(r"label_values\((.*), *\w+\)", variable["query"]["query"])
            if asked is None:
                raise ValueError(f"the variable {variable['name']} asks for no label's values")
            yield Query(f"variable {variable['name']}", asked[1])


@cache
def exported() -> frozenset[str]:
    """Names of all samples that a server on CPUs can show, which knows a price and a target."""
    return _shown(Ledger(cores=2.0, clock=ManualClock(), price=Price(1.0, "one")), ())


@cache
def exported_on_gpus() -> frozenset[str]:
    """Likewise of a server on GPUs that tell everything; it names no core."""
    watch = Watch([FakeCard(TOLD)])
    ledger = Ledger(cores=1.0, clock=ManualClock(), price=Price(1.0, "one"), unit=GPU, energy=watch)
    return _shown(ledger, watch.seen())


def _shown(ledger: Ledger, gpus: Sequence[Seen]) -> frozenset[str]:
    book = Book(ManualClock(), ledger=ledger, gpus=lambda: gpus)
    ledger.know(LABELS)
    ledger.read()
    model = LiveModel(book.tally(LABELS), target_s=1.0)
    model.tally.failed("RESOURCE_EXHAUSTED", "queue_rows", 0.1)
    registry = CollectorRegistry()
    metrics = Metrics(registry, book, models=lambda: [model])
    metrics.stray(ModelNotFound(""))
    return frozenset(sample.name for family in registry.collect() for sample in family.samples)


def metrics(manifest: Manifest) -> Iterator[str]:
    """Whatever a rule, a dashboard or a scaler asks for is exported by the server, or recorded."""
    recorded = {rule["record"] for rule in rules(manifest) if "record" in rule}
    known = exported() | exported_on_gpus() | recorded | _PROMETHEUS
    for query in queries(manifest):
        asked = metrics_in(query.promql)
        if not asked and "vector" not in query.promql:
            yield f"{query.where} asks for nothing"
        for name in sorted(asked - known):
            yield f"{query.where}: nobody exports {name}"


def is_of_gpus(promql: str, manifest: Manifest) -> bool:
    """Whether only servers on GPUs answer it; what asks for cores as well is answered by all."""
    recorded = {rule["record"]: rule["expr"] for rule in rules(manifest) if "record" in rule}
    asked = metrics_in(promql)
    if any(name in recorded and is_of_gpus(recorded[name], manifest) for name in asked):
        return True
    own, others = exported_on_gpus() - exported(), exported() - exported_on_gpus()
    return bool(asked & own) and not asked & others


def of(documents: Sequence[dict[str, Any]]) -> Manifest:
    """The manifest of some documents."""
    return Manifest(documents)

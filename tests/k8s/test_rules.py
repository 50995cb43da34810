"""Rules and alerts by promtool; each alert has a case in which it fires and one in which not."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.errors import ModelNotReady
from service.statistics import ending
from tests.k8s import queries
from tests.k8s.rendering import K8S, render, unrendered

CASES = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
QUICKEST = Path(__file__).parent / "rules" / "server.yaml"
MONITORING = queries.of(unrendered(K8S / "components" / "monitoring"))
RULES = queries.rules(MONITORING)
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDS = {rule["record"] for rule in RULES if "record" in rule}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SEVERITIES = {"critical", "warning"}


def promtool(*arguments: str, at: Path) -> str:
    """Run it beside the rules and the cases; what it says. It must agree."""
    found = shutil.which("promtool")
    assert found, "promtool, of Debian's package prometheus, is needed on PATH for this test"
    (spec,) = [one["spec"] for one in MONITORING.all("PrometheusRule")]
    (at / "rules.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    for path in CASES:
        shutil.copy(path, at)
    done = subprocess.run(
        [found, *arguments], cwd=at, capture_output=True, text=True, check=False, timeout=120
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@cache
def told(path: Path) -> dict[str, Any]:
    """A file of cases; long, and asked for by many tests."""
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    return found


def cases_in(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(path)["tests"]
    return found


@pytest.mark.slow
def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    said = promtool("check", "rules", "rules.yaml", at=tmp_path)
    assert f"SUCCESS: {len(RULES)} rules found" in said


@pytest.mark.slow
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_rules_do_what_the_cases_say(path: Path, tmp_path: Path) -> None:
    assert "SUCCESS" in promtool("test", "rules", path.name, at=tmp_path)


@pytest.mark.slow
def test_promtool_sees_a_rule_that_is_wrong(tmp_path: Path) -> None:
    """Or the cases would say nothing."""
    with pytest.raises(AssertionError, match="FAILED"):
        changed = Path(shutil.copy(QUICKEST, tmp_path / "changed.yaml"))
        text = changed.read_text(encoding="utf-8")
        changed.write_text(text.replace("exp_alerts: []", "exp_alerts: [{}]"), encoding="utf-8")
        promtool("test", "rules", changed.name, at=tmp_path)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    asked = [
        bool(check["exp_alerts"])
        for path in CASES
        for case in cases_in(path)
        for check in case.get("alert_rule_test", ())
        if check["alertname"] == alert
    ]
    assert set(asked) == {True, False}


def test_each_recorded_figure_has_a_case() -> None:
    asked = {
        name
        for path in CASES
        for case in cases_in(path)
        for check in case.get("promql_expr_test", ())
        for name in queries.metrics_in(check["expr"])
    }
    assert asked >= RECORDS


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_says_what_is_wrong_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in SEVERITIES
    assert set(rule["annotations"]) == {"summary", "description"}
    for text in rule["annotations"].values():
        assert re.fullmatch(r".{20,}\.", text), text


def test_the_reason_of_a_model_that_is_not_loaded_is_the_servers() -> None:
    _, reason = ending(ModelNotReady(""))
    assert f'reason="{reason}"' in ALERTS["FarthingModelNotLoaded"]["expr"]


def test_the_cases_know_all_groups_in_their_order() -> None:
    """promtool evaluates groups that it was not told of in no particular order."""
    (spec,) = [one["spec"] for one in MONITORING.all("PrometheusRule")]
    names = [group["name"] for group in spec["groups"]]
    for path in CASES:
        assert told(path)["group_eval_order"] == names, path.name


@pytest.mark.slow
def test_another_namespace_takes_rules_and_dashboard_out_as_the_component_says(
    tmp_path: Path,
) -> None:
    shutil.copytree(K8S, tmp_path / "k8s")
    component = K8S / "components" / "monitoring" / "kustomization.yaml"
    comment = "".join(re.findall(r"(?m)^#     (.*\n)", component.read_text(encoding="utf-8")))
    another = tmp_path / "k8s" / "overlays" / "another"
    another.mkdir()
    (another / "kustomization.yaml").write_text(f"resources: [../monitoring]\n{comment}")
    left = queries.of(render(another))
    assert len(left.all("PodMonitor")) == 1
    assert list(queries.queries(left)) == []


def test_the_pods_are_scraped_where_the_server_shows_its_metrics() -> None:
    (monitor,) = MONITORING.all("PodMonitor")
    (server,) = queries.of(unrendered(K8S / "base")).pods
    assert monitor["spec"]["jobLabel"] in server.labels
    assert server.labels[monitor["spec"]["jobLabel"]] == "farthing", "rules look for this job"
    assert [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]
    assert "metrics" in server.ports

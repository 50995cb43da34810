"""The dashboard's JSON, as Grafana and its readers need it; tests/system asks its queries."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from tests.k8s import queries
from tests.k8s.rendering import K8S, unrendered

MANIFEST = queries.of(unrendered(K8S / "components" / "monitoring"))
(BOARD,) = queries.dashboards(MANIFEST)
PANELS: list[dict[str, Any]] = BOARD["panels"]
SHOWN = [panel for panel in PANELS if panel["type"] != "row"]
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24


def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
    at = panel["gridPos"]
    return {(x, y) for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip


def titled(panel: dict[str, Any]) -> str:
    return str(panel["title"])


def test_it_can_be_provisioned_anywhere() -> None:
    assert BOARD["id"] is None, "Grafana gives the id"
    assert BOARD["uid"] == "farthing-serving", "links to it, and the next version, go by this"
    assert BOARD["schemaVersion"] >= 39
    assert "__inputs" not in BOARD, "only an import by hand asks for inputs"
    (source,) = [one for one in BOARD["templating"]["list"] if one["type"] == "datasource"]
    assert (source["name"], source["query"]) == ("datasource", "prometheus")


def test_panels_lie_side_by_side_within_the_grid() -> None:
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] >= 0 and at["x"] + at["w"] <= COLUMNS and at["h"] > 0, panel["title"]
    for one, other in combinations(PANELS, 2):
        assert not cells(one) & cells(other), f"{one['title']} lies on {other['title']}"
    rows = {y for panel in PANELS for _, y in cells(panel)}
    assert rows == set(range(max(rows) + 1)), "there is a gap"


def test_names_and_numbers_are_one_panels_own() -> None:
    for of in ("id", "title"):
        found = [panel[of] for panel in PANELS]
        assert len(found) == len(set(found)), of


@pytest.mark.parametrize("panel", SHOWN, ids=titled)
def test_each_panel_has_a_unit_and_says_what_to_do(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"]) > 40 and panel["description"].endswith((".", ")"))
    assert panel["datasource"] == PROMETHEUS
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == PROMETHEUS
        assert target["legendFormat"] or target["format"] == "table"
    letters = [target["refId"] for target in panel["targets"]]
    assert len(letters) == len(set(letters))


def test_each_query_asks_for_what_is_chosen_above() -> None:
    """But the objective, which is one for all."""
    chosen = {one["name"] for one in BOARD["templating"]["list"]} - {"datasource"}
    used = set[str]()
    for query in queries.asked_by(BOARD):
        names = {name for name in chosen if f'=~"${name}"' in query.promql}
        used |= names
        alone = query.promql in ("farthing:goodput:objective", "farthing_ready")
        assert alone or names >= {"namespace"}, query
        assert alone or "job" in names or query.where.startswith("variable"), query
    assert used == chosen


def test_colours_that_overrides_give_go_to_series_that_are_there() -> None:
    """By name: of a legend, or of a value of the label that the legend shows."""
    labels = {"busy", "serving", "warm_up", "waste", "idle", "OK", "RESOURCE_EXHAUSTED",
              "DEADLINE_EXCEEDED", "INTERNAL", "INVALID_ARGUMENT", "CANCELLED"}  # fmt: skip
    for panel in SHOWN:
        legends = {target["legendFormat"] for target in panel["targets"]}
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["options"] in legends | labels, panel["title"]

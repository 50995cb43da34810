"""The rendered Deployment acted out under load: no request fails when replicas are replaced."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.drill.acted import AFTER, BEFORE, KILL, SHIPPED, UPDATE, drill
from tests.drill.figures import Outcome, table


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    told: list[str] = []
    found = asyncio.run(drill(tmp_path_factory.mktemp("drill"), tell=told.append))
    print("\n".join([*told, table(found)]))
    return found


pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_no_request_fails_before_while_and_after_all_replicas_are_replaced(
    outcome: Outcome,
) -> None:
    for phase in (BEFORE, UPDATE, AFTER):
        for row in outcome.of(phase):
            assert row.sent > 300, row
            assert not row.failed, row


def test_replicas_that_are_replaced_end_by_themselves_and_in_time(outcome: Outcome) -> None:
    assert not outcome.killed
    replaced, staying = outcome.exits, [code for code in outcome.exits.values() if not code]
    assert len(replaced) == 4
    assert sorted(replaced.values()) == [[], [-9], [0], [0]]
    assert len(staying) == 1


def test_at_most_the_calls_under_way_fail_when_a_replica_is_killed(outcome: Outcome) -> None:
    for row in outcome.of(KILL):
        assert sum(row.failed.values()) <= outcome.open_at_kill[row.client], row
        assert set(row.failed) <= {"UNAVAILABLE"}, row
        if row.client == SHIPPED:
            assert not row.failed, row


def test_the_outcome_is_plain(outcome: Outcome) -> None:
    assert json.loads(json.dumps(outcome.to_dict()))["rows"]

"""One schedule, dealt to all who generate it; and their parts, added up to one run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from loadtests import arrivals
from loadtests.observed import UNANSWERED, Observed
from loadtests.swarm import page
from loadtests.swarm.order import Order, Tally, dealt
from loadtests.swarm.part import Part

OPEN = Order("poisson", rate=50, seconds=4, warmup_s=1, seed=3, limit_s=0.1)


def test_an_order_is_read_from_locusts_options() -> None:
    options = SimpleNamespace(
        arrivals="replay", rate=5.0, seconds=3.0, warmup_s=0.5, seed=2, trace="t.csv",
        limit_ms=100.0, deadline_ms=250.0, stop_timeout=None,
    )  # fmt: skip
    wanted = Order("replay", 5.0, 3.0, 0.5, 2, Path("t.csv"), 0.1, 0.25, 0.0)
    assert Order.of(options) == wanted
    assert wanted.waits_s == 0.25


def test_what_counts_of_a_schedule_does_not_depend_on_the_warm_up() -> None:
    times = OPEN.times()
    assert [time for time in times if time >= 0] == arrivals.schedule(
        "poisson", rate=50, seconds=4, seed=3
    )
    assert sum(time < 0 for time in times) == 50
    assert times == sorted(times)


def test_a_warm_up_has_the_rate_with_which_the_rest_begins(tmp_path: Path) -> None:
    ramp = Order("ramp", rate=200, seconds=10, warmup_s=2).times()
    assert sum(time < 0 for time in ramp) == 20
    trace = tmp_path / "t.csv"
    trace.write_text("time_s\n" + "\n".join(str(n / 10) for n in range(40)))
    replay = Order("replay", seconds=4, warmup_s=2, trace=trace).times()
    assert sum(time < 0 for time in replay) == 20


@pytest.mark.parametrize("users", [1, 2, 3, 7])
def test_shares_together_are_the_schedule_and_none_is_sent_twice(users: int) -> None:
    times = OPEN.times()
    shares = dealt(times, [str(n) for n in range(users)])
    assert sorted(time for share in shares.values() for time in share) == times
    assert max(map(len, shares.values())) - min(map(len, shares.values())) <= 1


def tally(*clients: str, order: Order = OPEN) -> Tally:
    found = Tally(order, len(clients))
    ready = [found.ready(client, f"user {number}") for number, client in enumerate(clients)]
    assert ready == [False] * (len(clients) - 1) + [True]
    return found


def test_neighbours_in_the_schedule_go_to_different_processes() -> None:
    shares = tally("a", "a", "b", "b").deal()
    assert {len(users) for users in shares.values()} == {2}
    owner = {time: who for who, mine in shares.items() for share in mine.values() for time in share}
    turns = [owner[time] for time in sorted(owner)]
    assert set(zip(turns[::2], turns[1::2], strict=True)) == {("a", "b")}


def filled(*, answered: int, offered: int) -> Part:
    part = Part(OPEN)
    part.begins = 100.0
    for number in range(offered):
        assert part.counts(100.0 + number / 1000)
        part.sent(0.0)
        if number < answered:
            part.ended(0.01, "")
    return part


def test_parts_that_are_told_again_replace_what_was_told_before() -> None:
    found = tally("a", "b")
    found.deal()
    for answered in (10, 80):
        found.told("a", filled(answered=answered, offered=100).seen.counted(), last=False)
    assert found.total(ended=False).endings == {"good": 80}
    assert found.waits_for == {"a", "b"}


def test_a_run_is_whole_when_all_have_told_the_last() -> None:
    found = tally("a", "b")
    found.deal()
    for client in ("a", "b"):
        found.told(client, filled(answered=100, offered=100).seen.counted(), last=True)
    assert not found.waits_for
    whole = found.total(ended=True)
    assert (whole.offered, whole.good, whole.unsent, whole.void) == (200, 200, 0, "")


def test_what_a_lost_worker_did_not_send_is_missed_and_what_it_sent_has_no_answer() -> None:
    found = tally("a", "b")
    found.deal()
    found.told("a", filled(answered=100, offered=100).seen.counted(), last=True)
    found.told("b", filled(answered=30, offered=40).seen.counted(), last=False)
    assert found.waits_for == {"b"}
    whole = found.total(ended=True)
    assert (whole.offered, whole.unsent) == (140, 60)
    assert whole.endings == {"good": 130, UNANSWERED: 10}
    assert "60 calls were never sent" in whole.void


CLOSED = Order(seconds=10, warmup_s=0)


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("order", [CLOSED, OPEN])
def test_a_worker_that_never_told_the_last_makes_any_run_void(order: Order, told: bool) -> None:
    found = tally("a", "b", order=order)
    found.deal()
    part = filled(answered=40, offered=40)
    part.cut(102.0)  # by hand: what an open loop did not send is not missed
    part.seal()
    found.told("a", part.seen.counted(), last=True)
    if told:
        found.told("b", part.seen.counted(), last=False)
    whole = found.total(ended=True)
    assert (whole.unsent, whole.lost) == (0, 1)
    assert "never told the end" in whole.void
    assert found.total(ended=False).void == ""
    found.told("b", part.seen.counted(), last=True)
    assert found.total(ended=True).void == ""


def test_a_run_that_never_began_lost_nobody() -> None:
    assert tally("a").total(ended=True).void == ""


def test_a_run_that_was_cut_misses_nothing_after_its_cut() -> None:
    found = tally("a")
    found.deal()
    part = filled(answered=40, offered=40)
    part.cut(102.0)
    part.seal()
    found.told("a", part.seen.counted(), last=True)
    whole = found.total(ended=True)
    assert (whole.seconds, whole.unsent, whole.good_per_s) == (2.0, 0, 20.0)


def test_only_calls_that_are_due_in_the_time_count() -> None:
    part = Part(OPEN)
    assert not part.counts(100.0)  # it has not begun
    part.begins = 100.0
    assert [part.counts(moment) for moment in (99.9, 100.0, 103.9, 104.0)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert part.seen.offered == 2


def test_what_has_no_answer_when_the_part_is_sealed_never_gets_one() -> None:
    part = filled(answered=3, offered=5)
    assert part.outstanding == 2
    part.seal()
    part.ended(0.01, "")
    part.sent(1.0)
    assert part.seen.endings == {"good": 3, UNANSWERED: 2}
    assert (len(part.seen.lag), part.counts(101.0), part.outstanding) == (5, False, 0)


def test_the_page_of_a_void_run_shows_no_figure_of_the_server() -> None:
    found = tally("a")
    found.deal()
    part = Part(OPEN)
    part.begins = 0.0
    for number in range(200):
        part.counts(number / 1000)
        part.sent(0.567)
        part.ended(0.0123, "")
    assert "12.3" in page.page({**found.to_dict(ended=False), "observed": _kept(part)})
    found.told("a", part.seen.counted(), last=True)
    shown = page.page(found.to_dict(ended=True))
    assert "VOID: the generator sent 100.0%" in shown
    assert "<td>good answers per second<td>void" in shown and "<td>latency p50<td>void" in shown
    assert "12.3" not in shown and "50.0" not in shown
    assert "567" in shown  # how late the generator was


def _kept(part: Part) -> dict[str, object]:
    """As if all had been sent in time."""
    seen = Observed.from_dict(part.seen.counted())
    seen.sent_late = 0
    return seen.to_dict()


def test_the_page_says_void_and_escapes_what_others_wrote() -> None:
    found = tally("a")
    found.deal()
    found.told("a", filled(answered=1, offered=1).seen.counted(), last=True)
    assert "VOID: 199 calls were never sent" in page.page(found.to_dict(ended=True))
    found.failure = "<b>no</b>"
    assert "Failed: &lt;b&gt;no&lt;/b&gt;" in page.page(found.to_dict(ended=True))


def test_figures_of_a_run_that_is_under_way_are_of_the_seconds_so_far() -> None:
    found, part = tally("a"), Part(OPEN)
    found.deal()
    part.begins = 100.0
    assert part.counted(now=99.0)["seconds"] == 0.0
    for number in range(50):
        assert part.counts(100.0 + number / 50)
        part.sent(0.0)
        part.ended(0.01, "")
    found.told("a", part.counted(now=101.0), last=False)
    told = found.to_dict(ended=False)["observed"]
    assert (told["seconds"], told["good_per_s"]) == (1.0, 50.0)
    assert part.counted(now=200.0)["seconds"] == part.seen.seconds == 4.0


def test_the_title_tells_what_would_send_the_same_again() -> None:
    found = tally("a", "b")
    for shown in (page.page(found.to_dict(ended=False)), page.text(found.to_dict(ended=False))):
        assert "open loop, poisson, 50/s, seed 3, 2 users, 2 processes" in shown
    replay = tally("a", order=Order("replay", rate=10, seconds=4))
    assert "open loop, replay, seed 1, 1 user, 1 process" in page.text(replay.to_dict(ended=False))


def test_the_text_of_a_void_run_says_why_and_shows_no_figure_of_the_server() -> None:
    found = tally("a")
    found.deal()
    said = page.text(found.to_dict(ended=True))
    assert "VOID: 200 calls were never sent" in said
    row = next(line for line in said.splitlines() if "good answers per second" in line)
    assert row.endswith(" void")

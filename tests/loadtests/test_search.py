"""The search goes knob by knob; what is later must win by more than noise, and meet the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from loadtests.tuning import search
from loadtests.tuning.search import CHECK, GRAPHS, LANES, PAIR, ROWS, SPIN, VARIANT, Steps
from loadtests.tuning.trials import Group, Measured, Outcome, Setting

DEFAULTS = Setting("fp32", 16, 1, 2)


def steady(rate: float, run_s: float = 0.001, rounds: int = 5) -> Measured:
    return Measured((rate,) * rounds, (run_s,) * 20)


class Machine:
    """Answers a search from a formula; knows what it was asked.

    Attributes:
        groups: in order.
    """

    def __init__(self, run_s: Callable[[Setting], float]) -> None:
        self.groups: list[Group] = []
        self._run_s = run_s

    def measure(self, group: Group) -> dict[Setting, Measured]:
        self.groups.append(group)
        return {
            setting: steady(setting.instances * setting.rows / self._run_s(setting),
                            self._run_s(setting))
            for setting in group.settings
        }  # fmt: skip

    def search(
        self,
        defaults: Setting = DEFAULTS,
        variants: Sequence[str] = ("fp32",),
        cpus: int = 2,
        target_s: float | None = None,
        allow_spin: bool = False,
    ) -> Outcome:
        return self.to_its_end(
            search.search(defaults, variants, cpus=cpus, target_s=target_s, allow_spin=allow_spin)
        )

    def to_its_end(self, steps: Steps) -> Outcome:
        group = next(steps)
        try:
            while True:
                group = steps.send(self.measure(group))
        except StopIteration as stop:
            outcome: Outcome = stop.value
            return outcome

    @property
    def knobs(self) -> list[str]:
        return [group.knob for group in self.groups]


def growing(setting: Setting) -> float:
    """10 ms a run and 1 ms a row; int8 in half of that, spinning no better."""
    return (10 + setting.rows) / 1e3 / (2 if setting.variant == "int8" else 1)


def test_knobs_are_searched_in_order_each_from_what_won_before() -> None:
    machine = Machine(growing)
    outcome = machine.search(variants=("fp32", "int8"))
    assert machine.knobs == [VARIANT, ROWS, PAIR, CHECK], "one thread a run leaves nothing to spin"
    assert outcome.winner == Setting("int8", 128, 2, 1)
    assert {setting.variant for group in machine.groups[1:3] for setting in group.settings} == {
        "int8"
    }
    assert outcome.over_defaults == pytest.approx(2 * (128 / 138) * 2 / (16 / 26))


def test_spinning_is_tried_where_a_run_has_several_threads() -> None:
    machine = Machine(lambda s: growing(s) * s.instances * (0.9 if s.spin else 1))
    outcome = machine.search(allow_spin=True)
    assert machine.knobs == [ROWS, PAIR, SPIN, CHECK]
    assert outcome.winner == Setting("fp32", 128, 1, 2, spin=True)


def test_spinning_that_nobody_allowed_is_not_tried_however_much_it_would_win() -> None:
    machine = Machine(lambda s: growing(s) * s.instances * (0.1 if s.spin else 1))
    outcome = machine.search()
    assert SPIN not in machine.knobs
    assert not any(setting.spin for group in machine.groups for setting in group.settings)
    assert outcome.winner is not None and not outcome.winner.spin


def test_spinning_that_the_defaults_do_is_held_against_not_spinning() -> None:
    machine = Machine(lambda s: growing(s) * s.instances)
    outcome = machine.search(replace(DEFAULTS, spin=True))
    assert SPIN in machine.knobs
    assert outcome.winner is not None and not outcome.winner.spin


@pytest.mark.parametrize(("gain", "spins"), [(1.03, False), (1.06, True)])
def test_spinning_stays_off_unless_it_wins_by_the_margin(gain: float, spins: bool) -> None:
    machine = Machine(lambda s: 0.01 * s.rows * s.instances / (gain if s.spin else 1))
    outcome = machine.search(replace(DEFAULTS, max_batch=1), allow_spin=True)
    assert outcome.winner is not None and outcome.winner.spin is spins


def test_smaller_batch_stays_where_larger_ones_gain_nothing() -> None:
    machine = Machine(lambda s: 0.001 * max(s.rows, 4) * s.instances)
    outcome = machine.search(replace(DEFAULTS, max_batch=1))
    assert outcome.winner is not None and outcome.winner.max_batch == 4


def test_gains_too_small_to_count_alone_count_together() -> None:
    rates = {1: 100.0, 2: 103.0, 4: 106.0, 8: 109.0}
    settings = tuple(replace(DEFAULTS, max_batch=rows) for rows in rates)
    results = {s: steady(rates[s.max_batch]) for s in settings}
    chosen = search.chosen(Group(ROWS, settings), results)
    assert chosen is not None and chosen.max_batch == 4


def test_defaults_stay_where_nothing_wins_over_them() -> None:
    outcome = Machine(lambda s: 0.001 * s.rows * s.instances).search()
    assert (outcome.winner, outcome.over_defaults) == (DEFAULTS, 1.0)
    assert outcome.defaults_stay


def test_every_loser_has_a_ratio_to_what_stays_and_a_reason() -> None:
    outcome = Machine(growing).search(variants=("fp32", "int8"))
    ends = [tried for tried in outcome.tried if tried.knob == CHECK]
    assert [(tried.setting, tried.verdict) for tried in ends] == [
        (DEFAULTS, "0.17x, slower"), (outcome.winner, "stays"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        ((90,) * 4, "slower"),
        ((103,) * 4, "below 4 %"),
        ((150, 90, 150, 90), "not in most rounds"),
    ],
)
def test_reason_of_a_loser_is_the_rule_that_it_failed(
    rates: tuple[float, ...], reason: str
) -> None:
    class Noisy(Machine):
        def measure(self, group: Group) -> dict[Setting, Measured]:
            return {s: noisy(*(rates if s.threads == 1 else (100,) * 4)) for s in group.settings}

    outcome = Noisy(growing).search(replace(DEFAULTS, max_batch=0))
    (loser,) = [tried for tried in outcome.tried if not tried.stays]
    assert (loser.setting.threads, loser.reason) == (1, reason)
    assert outcome.defaults_stay


def test_model_without_a_batch_has_no_batch_limit_to_search() -> None:
    machine = Machine(lambda s: 0.01)
    outcome = machine.search(replace(DEFAULTS, max_batch=0))
    assert ROWS not in machine.knobs
    assert outcome.winner == Setting("fp32", 0, 2, 1)


@pytest.mark.parametrize("target_ms", [30, 60, 200])
def test_winner_answers_the_unluckiest_caller_in_time(target_ms: float) -> None:
    outcome = Machine(growing).search(target_s=target_ms / 1e3)
    assert outcome.winner is not None and outcome.measured is not None
    assert 2 * growing(outcome.winner) <= target_ms / 1e3
    twice = replace(outcome.winner, max_batch=2 * outcome.winner.max_batch)
    assert 2 * growing(twice) > 0.9 * target_ms / 1e3, "and no larger batch would, with headroom"


def test_target_that_nothing_meets_has_no_winner_and_names_the_nearest() -> None:
    outcome = Machine(growing).search(target_s=0.02)
    assert (outcome.winner, outcome.measured) == (None, None)
    assert outcome.nearest.setting.max_batch == 1
    assert {tried.stays for tried in outcome.tried} == {False}


def test_model_without_a_batch_that_is_too_slow_has_no_winner() -> None:
    assert (
        Machine(lambda s: 0.5).search(replace(DEFAULTS, max_batch=0), target_s=0.9).winner is None
    )


def test_winner_that_misses_the_target_in_the_check_gives_up_half_of_its_rows() -> None:
    class Moody(Machine):
        def measure(self, group: Group) -> dict[Setting, Measured]:
            found = super().measure(group)
            slow = {s: replace(m, run_s=(9.0,)) for s, m in found.items() if s.max_batch > 8}
            return found | (slow if group.knob == CHECK else {})

    machine = Moody(growing)
    outcome = machine.search(target_s=0.1)
    assert outcome.winner is not None and outcome.winner.max_batch == 8
    assert machine.knobs.count(CHECK) > 1


def test_with_a_target_pairs_are_tried_with_as_many_rows_at_the_same_time_too() -> None:
    machine = Machine(lambda s: 0.001 * s.rows * s.instances)
    machine.search(replace(DEFAULTS, max_batch=8), target_s=0.02)
    (pairs,) = [group for group in machine.groups if group.knob == PAIR]
    rows = pairs.settings[0].max_batch
    assert {(s.max_batch, s.instances, s.threads) for s in pairs.settings} == {
        (rows, 1, 2), (max(1, rows // 2), 2, 1), (rows, 2, 1),
    }  # fmt: skip


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 7, 8, 61, 64])
def test_instances_x_threads_never_exceed_the_cpus(cpus: int) -> None:
    machine = Machine(growing)
    outcome = machine.search(Setting("fp32", 16, 4 * cpus, cpus), cpus=cpus)
    tried = {s for g in machine.groups for s in g.settings} - {Setting("fp32", 16, 4 * cpus, cpus)}
    assert all(s.instances * s.threads <= cpus for s in tried)
    assert {1, cpus} <= {s.instances for s in tried} or cpus == 1
    assert outcome.winner is not None


def noisy(*rates: float) -> Measured:
    return Measured(rates, (0.001,))


@pytest.mark.parametrize(
    ("later", "wins"),
    [
        (noisy(110, 111, 112, 109), True),
        (noisy(103, 103, 103, 103), False),
        (noisy(150, 90, 150, 90), False),
        (noisy(100, 100, 100, 100), False),
    ],
)
def test_winning_takes_the_margin_in_most_rounds(later: Measured, wins: bool) -> None:
    assert search.wins(later, noisy(100, 100, 100, 100)) is wins


def test_rounds_are_compared_one_by_one_so_that_a_slow_spell_hits_both() -> None:
    assert search.wins(noisy(110, 55, 11, 110), noisy(100, 50, 10, 100))


def test_worst_latency_is_two_runs_of_the_95th_percentile() -> None:
    measured = Measured((1.0,), tuple(n / 1000 for n in range(1, 101)))
    assert measured.worst_s == pytest.approx(2 * 0.095)


@pytest.mark.parametrize(
    ("looks", "target_s", "left_s", "on"),
    [
        ([(1, 0.01)], None, 60.0, True),
        ([(1, 0.01), (2, 0.02), (4, 0.04)], None, 60.0, True),
        ([(1, 0.01), (2, 0.03), (4, 0.06)], None, 60.0, False),
        ([(1, 0.01)], 0.01, 60.0, False),
        ([(1, 0.01)], 0.1, 60.0, True),
        ([(1, 10.0)], None, 60.0, False),
    ],
)
def test_batches_grow_while_they_gain_can_meet_the_target_and_fit_the_budget(
    looks: list[tuple[int, float]], target_s: float | None, left_s: float, on: bool
) -> None:
    assert search.go_on(looks, target_s=target_s, left_s=left_s) is on


def test_shares_of_the_budget_come_to_the_whole_budget() -> None:
    left = 60.0
    for knob in (VARIANT, ROWS, PAIR, SPIN, CHECK):
        assert 0 < search.share(knob, left) <= left
        left -= search.share(knob, left)
    assert left == pytest.approx(0.0)


def test_verdicts_tell_what_missed_and_what_was_noise() -> None:
    outcome = Machine(growing).search(target_s=0.06)
    said = {(t.knob, t.setting.max_batch, t.setting.instances): t for t in outcome.tried}
    assert said[ROWS, 64, 1].verdict.endswith("misses the target")
    assert [t.stays for t in outcome.tried if t.knob == ROWS].count(True) == 1


@pytest.mark.parametrize(("rates", "spread"), [((100,) * 4, 0.0), ((80, 100, 120), 0.4)])
def test_spread_is_what_lies_between_the_quartiles(rates: tuple[float, ...], spread: float) -> None:
    assert noisy(*rates).spread == pytest.approx(spread)


GPU = Setting("fp32", 64, 2, 1, cuda_graphs=False)


def on_gpus(
    machine: Machine,
    defaults: Setting = GPU,
    variants: Sequence[str] = ("fp32", "fp16"),
    target_s: float | None = None,
    graphs: bool = True,
    most_rows: int = search.MOST_ROWS,
    gpus: int = 1,
) -> Outcome:
    return machine.to_its_end(
        search.search_on_gpus(
            defaults, variants, gpus=gpus, target_s=target_s, graphs=graphs, most_rows=most_rows
        )
    )


def launched(setting: Setting) -> float:
    """3 ms a run, less where it is recorded, and 0.1 ms a row; runs share the GPU from two on."""
    base = 1.0 if setting.cuda_graphs else 3.0
    once = (base + 0.1 * setting.rows) / 1e3 / (2 if setting.variant == "fp16" else 1)
    return once * max(1, setting.instances / 2)


def test_on_gpus_instances_and_graphs_are_searched_in_the_place_of_threads() -> None:
    machine = Machine(launched)
    outcome = on_gpus(machine)
    assert machine.knobs == [VARIANT, ROWS, LANES, GRAPHS, CHECK]
    assert outcome.winner == Setting("fp16", 256, 2, 1, cuda_graphs=True)
    lanes = next(group for group in machine.groups if group.knob == LANES)
    assert [setting.instances for setting in lanes.settings] == [1, 2, 3]


def test_each_gpu_gets_as_many_instances_as_the_others() -> None:
    machine = Machine(launched)
    on_gpus(machine, replace(GPU, instances=8), gpus=4)
    lanes = next(group for group in machine.groups if group.knob == LANES)
    assert [setting.instances for setting in lanes.settings] == [4, 8, 12]


def test_graphs_are_not_tried_where_the_provider_records_none() -> None:
    machine = Machine(launched)
    outcome = on_gpus(machine, graphs=False)
    assert GRAPHS not in machine.knobs
    assert outcome.winner is not None and outcome.winner.cuda_graphs is False


def test_graphs_that_are_on_by_default_stay_on_since_runs_here_never_change_their_size() -> None:
    machine = Machine(lambda s: 0.001 * s.rows * s.instances * (2 if s.cuda_graphs else 1))
    outcome = on_gpus(machine, replace(GPU, cuda_graphs=True))
    assert GRAPHS not in machine.knobs
    assert outcome.winner is not None and outcome.winner.cuda_graphs is True


def test_graphs_stay_off_unless_they_win_by_the_margin() -> None:
    machine = Machine(lambda s: 0.001 * s.rows * s.instances / (1.03 if s.cuda_graphs else 1))
    outcome = on_gpus(machine)
    assert outcome.winner == GPU and outcome.defaults_stay


@pytest.mark.parametrize("most_rows", [1, 8, 100, 128])
def test_no_batch_limit_above_the_users_is_tried(most_rows: int) -> None:
    machine = Machine(launched)
    on_gpus(machine, most_rows=most_rows)
    sizes = [s.max_batch for g in machine.groups if g.knob in (LANES, GRAPHS) for s in g.settings]
    assert max(sizes) <= most_rows


def test_target_starts_from_one_instance_for_each_gpu_and_is_met() -> None:
    machine = Machine(launched)
    outcome = on_gpus(machine, target_s=0.02)
    assert all(s.instances == 1 for g in machine.groups if g.knob == ROWS for s in g.settings)
    assert outcome.measured is not None and outcome.measured.worst_s <= 0.02


def test_shares_of_the_budget_on_gpus_come_to_the_whole_budget() -> None:
    left = 60.0
    for knob in (VARIANT, ROWS, LANES, GRAPHS, CHECK):
        left -= search.share(knob, left)
    assert left == pytest.approx(0.0)

"""Pure: which settings to try, in which order, and which of them stays; no clock, no model.

A search is a generator: it yields a group of settings that differ in one knob and is sent what was
measured of each, side by side. The first of a group stays unless a later one wins by more than a
margin in most rounds, so groups are in order of preference: what is smaller, or as it was, first.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from statistics import median, quantiles

from loadtests.tuning.trials import Group, Measured, Outcome, Results, Setting, Tried

# Repeated measurements of one setting differ by 2 to 3 % on a quiet shared machine.
MARGIN = 1.04
# Fewer rounds have no quartiles.
FEWEST_ROUNDS = 3
MOST_ROWS = 256
# Of the target, until the last check, which comes out a little differently.
_HEADROOM = 0.9
# Beyond the target by this, one look is enough.
_HOPELESS = 1.3

VARIANT, ROWS, PAIR, SPIN, CHECK = "variant", "batch limit", "threads", "spinning", "check"
# Of GPUs, in the place of threads and of spinning.
LANES, GRAPHS = "instances", "CUDA graphs"
_MOST_LANES = 3
# Knob -> its part of the time. They are searched in this order.
_WEIGHTS = {VARIANT: 3, ROWS: 4, PAIR: 3, SPIN: 2, CHECK: 3}


Steps = Generator[Group, Results, Outcome]


def search(
    defaults: Setting,
    variants: Sequence[str],
    *,
    cpus: int,
    target_s: float | None,
    allow_spin: bool = False,
    most_rows: int = MOST_ROWS,
) -> Steps:
    """Knob by knob from the defaults: variant, batch limit, threads x instances, spinning.

    Variants are compared by throughput alone; the target is looked at from the batch limit on.

    Args:
        defaults: what a server would run with that was told nothing.
        variants: that can be served here.
        cpus: that instances x threads may not exceed.
        target_s: that ``Measured.worst_s`` has to meet; None for none.
        allow_spin: whether idle threads may burn CPU for throughput; else it is not tried, unless
            the defaults do so already.
        most_rows: of a run, at most.
    """
    tried: list[Tried] = []
    soon_s = None if target_s is None else _HEADROOM * target_s
    # With a target from where one run is over soonest.
    fits = target_s is None and defaults.instances * defaults.threads <= cpus
    base = defaults if fits else replace(defaults, instances=1, threads=cpus)
    others = [replace(base, variant=name) for name in variants if name != base.variant]
    best = (yield from _best(Group(VARIANT, (base, *others)), tried)) or base
    if best.max_batch:
        found = yield from _best(_sizes(best, soon_s, most_rows), tried)
        if found is None:
            return Outcome(defaults, None, None, 0.0, tuple(tried))
        best = found
    pairs = _pairs(best, cpus, halved=target_s is not None)
    best = (yield from _best(Group(PAIR, pairs, soon_s), tried)) or best
    # A run on one thread has no others that could spin.
    if best.threads > 1 and (allow_spin or defaults.spin):
        both = (replace(best, spin=False), replace(best, spin=True))
        best = (yield from _best(Group(SPIN, both, soon_s), tried)) or best
    return (yield from _checked(best, defaults, target_s, tried))


def search_on_gpus(
    defaults: Setting,
    variants: Sequence[str],
    *,
    gpus: int,
    target_s: float | None,
    graphs: bool,
    most_rows: int = MOST_ROWS,
) -> Steps:
    """Knob by knob from the defaults: variant, batch limit, instances for each GPU, CUDA graphs.

    Args:
        defaults: what a server would run with that was told nothing.
        variants: that can be served there.
        gpus: that the model runs on; each gets as many instances as the others.
        target_s: that ``Measured.worst_s`` has to meet; None for none.
        graphs: whether the provider records runs; those that are on by default stay on.
        most_rows: of a run, at most.
    """
    tried: list[Tried] = []
    soon_s = None if target_s is None else _HEADROOM * target_s
    # With a target from where one run is over soonest.
    base = defaults if target_s is None else replace(defaults, instances=gpus)
    others = [replace(base, variant=name) for name in variants if name != base.variant]
    best = (yield from _best(Group(VARIANT, (base, *others)), tried)) or base
    if best.max_batch:
        found = yield from _best(_sizes(best, soon_s, most_rows), tried)
        if found is None:
            return Outcome(defaults, None, None, 0.0, tuple(tried))
        best = found
    lanes = tuple(replace(best, instances=n * gpus) for n in range(1, _MOST_LANES + 1))
    best = (yield from _best(Group(LANES, lanes, soon_s), tried)) or best
    # Where they are on, it is for what changes of size cost without (README, "On a GPU"), and each
    # setting's runs are all of one size here.
    if graphs and not defaults.cuda_graphs:
        both = (replace(best, cuda_graphs=False), replace(best, cuda_graphs=True))
        best = (yield from _best(Group(GRAPHS, both, soon_s), tried)) or best
    return (yield from _checked(best, defaults, target_s, tried))


def _sizes(best: Setting, soon_s: float | None, most_rows: int) -> Group:
    """Batch limits that double."""
    sizes = tuple(replace(best, max_batch=2**n) for n in range(most_rows.bit_length()))
    return Group(ROWS, sizes, soon_s, growing=True)


def _best(group: Group, tried: list[Tried]) -> Generator[Group, Results, Setting | None]:
    if len(group.settings) == 1:
        return group.settings[0]  # the check will tell whether it meets the target
    results = yield group
    stays = chosen(group, results)
    tried += _verdicts(group, results, stays)
    return stays


def _checked(best: Setting, defaults: Setting, target_s: float | None, tried: list[Tried]) -> Steps:
    """The best beside the defaults, which stay unless it wins or they miss the target.

    It is measured anew, so it may miss the target after all: then with half of the rows.
    """
    while True:
        group = Group(CHECK, tuple(dict.fromkeys((defaults, best))), target_s)
        results = yield group
        stays = chosen(group, results)
        tried += _verdicts(group, results, stays)
        if stays:
            over = median(_ratios(results[stays], results[defaults]))
            return Outcome(defaults, stays, results[stays], over, tuple(tried))
        if best.max_batch <= 1:
            return Outcome(defaults, None, None, 0.0, tuple(tried))
        best = replace(best, max_batch=best.max_batch // 2)


def _pairs(best: Setting, cpus: int, *, halved: bool) -> tuple[Setting, ...]:
    """All CPUs as few instances of many threads first, which favours the latency of one caller.

    Runs of more instances take longer; so that a target does not rule them out for that, each is
    tried with as many rows at the same time, too.
    """
    threads = list(dict.fromkeys(cpus >> n for n in range(cpus.bit_length())))
    found: dict[Setting, None] = {}
    for count in threads:
        instances = cpus // count
        if halved and best.max_batch > 1 and instances > 1:
            rows = max(1, best.max_batch // instances)
            found[replace(best, max_batch=rows, instances=instances, threads=count)] = None
        found[replace(best, instances=instances, threads=count)] = None
    return tuple(found)


def chosen(group: Group, results: Results) -> Setting | None:
    """The setting that stays; None if none meets the target.

    Args:
        group: its settings in order of preference.
        results: of those that were worth a look.
    """
    stays = None
    for setting in group.settings:
        if setting not in results or not meets(results[setting], group.target_s):
            continue
        if stays is None or wins(results[setting], results[stays]):
            stays = setting
    return stays


def meets(measured: Measured, target_s: float | None) -> bool:
    """Whether the unluckiest caller is answered in time."""
    return target_s is None or measured.worst_s <= target_s


def wins(later: Measured, earlier: Measured) -> bool:
    """Whether more rows per second are beyond the noise: by the margin, and most rounds."""
    low, middle, _ = quantiles(_ratios(later, earlier), n=4)
    return middle > MARGIN and low > 1.0


def _ratios(later: Measured, earlier: Measured) -> list[float]:
    return [a / b for a, b in zip(later.rates, earlier.rates, strict=True)]


def _lost(later: Measured, earlier: Measured) -> str:
    """Why one setting does not win over another."""
    middle = median(_ratios(later, earlier))
    if middle < 1:
        return "slower"
    return "not in most rounds" if middle > MARGIN else f"below {100 * (MARGIN - 1):.0f} %"


def _verdicts(group: Group, results: Results, stays: Setting | None) -> list[Tried]:
    ran = [setting for setting in group.settings if setting in results]
    base = results[stays or ran[0]]
    found = []
    for setting in ran:
        measured, reason = results[setting], ""
        if not meets(measured, group.target_s):
            near = group.knob != CHECK and meets(measured, (group.target_s or 0) / _HEADROOM)
            reason = "too near the target" if near else "misses the target"
        elif setting != stays:
            reason = _lost(measured, base)
        ratio = median(_ratios(measured, base))
        found.append(Tried(group.knob, setting, measured, ratio, reason))
    return found


def go_on(looks: Sequence[tuple[int, float]], *, target_s: float | None, left_s: float) -> bool:
    """Whether twice the rows are worth a look.

    Args:
        looks: (rows, seconds of a run) so far, ascending.
        target_s: None for none.
        left_s: for this and the rounds to come.
    """
    rates = [rows / seconds for rows, seconds in looks]
    last = looks[-1][1]
    if target_s is not None and 2 * last > _HOPELESS * target_s:
        return False
    if len(rates) > 2 and max(rates[-2:]) < max(rates[:-2]):
        return False
    return FEWEST_ROUNDS * (sum(seconds for _, seconds in looks) + 2 * last) < left_s


def share(knob: str, left_s: float) -> float:
    """The seconds that a knob may take of those that are left for it and all that come after."""
    knobs, knob = list(_WEIGHTS), {LANES: PAIR, GRAPHS: SPIN}.get(knob, knob)
    after = knobs[knobs.index(knob) :]
    return left_s * _WEIGHTS[knob] / sum(_WEIGHTS[each] for each in after)

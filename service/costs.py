"""The ledger as metrics: of cores, or of GPUs and what they draw.

All of one moment, so that the sum shows: all kinds and what is unsettled are what was paid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from service.bill import GPU, Bill, Line, Price
from service.figures import Labels

_MODEL = ("model", "version", "variant")
_CORES = (
    "Core-seconds, by what they went into: busy (runs for answers in time), waste (for those that "
    "were late, failed or given up) and warm_up (loading) of each model; serving (the front end), "
    "idle and warm_up (the start) of the process, without a model's name."
)
_GPUS = (
    "GPU-seconds, by what they went into: busy (runs for answers in time), waste (for those that "
    "were late, failed or given up) and warm_up (loading) of each model; idle and warm_up (the "
    "start) of the process, without a model's name. Copies and waiting are idle: they take no GPU."
)
_JOULES = (
    "Energy of the GPUs that this process uses, all of it: each second's goes to the lines of the "
    "ledger by their GPU-seconds in it, so idle ones have theirs, and what other processes did on "
    "the same card is in it."
)


def metrics(bill: Bill, price: Price | None) -> Iterator[Metric]:
    """What it shows; of a server on GPUs its seconds are of GPUs, under names that say so."""
    unit, gpus = bill.unit.name, bill.unit == GPU
    seconds = f"farthing_{unit}_seconds"
    yield _lines(seconds, _GPUS if gpus else _CORES, bill.lines)
    yield _open(
        f"farthing_unsettled_{unit}_seconds",
        f"{bill.unit.said.capitalize() if not gpus else bill.unit.said}-seconds of runs of which "
        "it is not known yet how they end: busy or waste later on.",
        bill.unsettled, bill.lines,
    )  # fmt: skip
    yield CounterMetricFamily(
        f"farthing_paid_{unit}_seconds",
        f"{'GPUs' if gpus else 'Cores'} x seconds since the process began: what is to be paid, "
        "whatever was done with it.",
        value=bill.paid_core_s,
    )
    yield GaugeMetricFamily(
        f"farthing_{unit}s",
        "GPUs that this process uses." if gpus else "CPUs that this process may keep busy.",
        value=bill.cores,
    )
    if bill.drawn_j is not None:
        # From zero on: a rate does not see how a series begins.
        joules = {line: 0.0 for line in bill.lines} | dict(bill.joules)
        yield _lines("farthing_energy_joules", _JOULES, joules)
        yield _open(
            "farthing_unsettled_energy_joules",
            "Energy of runs of which it is not known yet how they end.",
            bill.unsettled_j, bill.lines,
        )  # fmt: skip
    if price is not None:
        what = "all that this process may use" if gpus else "all cores"
        hourly = GaugeMetricFamily(
            "farthing_price_usd_per_hour", f"Dollars for an hour of {what}.", labels=("price",)
        )
        hourly.add_metric((price.id,), price.usd_per_hour)
        yield hourly


def _lines(name: str, text: str, lines: Mapping[Line, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(*_MODEL, "kind"))
    for (labels, kind), amount in lines.items():
        family.add_metric((*labels, kind), amount)
    return family


def _open(
    name: str, text: str, unsettled: Mapping[Labels, float], lines: Mapping[Line, float]
) -> Metric:
    """Of each model that has lines, though it be 0."""
    family = GaugeMetricFamily(name, text, labels=_MODEL)
    known = {labels: 0.0 for labels, _ in lines if any(labels)}
    for labels, amount in {**known, **unsettled}.items():
        family.add_metric(labels, amount)
    return family

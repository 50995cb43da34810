"""Which variant to serve: pinned, tuned or recorded for this hardware, or the fastest timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import geometric_mean, median

from service import pins
from service.errors import ModelUnusable
from service.manifest import Manifest, Variant
from service.tuned import Tuned, units

AUTO = pins.AUTO
# fp32's order is kept unless a variant wins by more than this.
_GAIN = 1.10
_ROUNDS, _BUDGET_S = 7, 2.0


@dataclass(frozen=True)
class Chosen:
    """The variant to serve.

    Attributes:
        variant: as the manifest has it.
        how: ``pinned``, ``tuned``, ``recorded``, ``timed`` or ``only``.
        why: one sentence.
        figures: what was measured here, e.g. ``fp16_speedup``; empty unless timed or tuned.
    """

    variant: Variant
    how: str
    why: str
    figures: Mapping[str, float] = field(default_factory=dict)


def known(
    contract: Manifest,
    wanted: str,
    fingerprint: str,
    *,
    tuned: Tuned | None = None,
    meant: str = "cpu",
) -> Chosen | None:
    """The choice that needs no measuring; None where the variants must be timed.

    Args:
        contract: the model's.
        wanted: ``auto``, or a variant's name.
        fingerprint: this hardware's (``hardware.fingerprint``).
        tuned: what holds here of what was tuned.
        meant: for which the model runs: ``cpu`` or ``gpu`` (``Device.meant``).

    Raises:
        ModelUnusable: a variant was pinned that was not published.
    """
    if wanted != AUTO:
        named = Chosen(pinned(contract, wanted), "pinned", "pinned by --variant")
        if tuned is None:
            return named
        measured = as_tuned(named.variant, tuned)
        return replace(measured, how="pinned", why=f"{named.why}, and {measured.why}")
    if tuned is not None:
        return as_tuned(contract.variant(tuned.variant), tuned)
    if fingerprint in contract.chosen:
        choice = contract.chosen[fingerprint]
        return Chosen(contract.variant(choice.variant), "recorded", choice.reason)
    candidates = for_device(contract, meant)
    if len(candidates) == 1:
        return Chosen(candidates[0], "only", "nothing else is there to choose from")
    return None


def pinned(contract: Manifest, name: str) -> Variant:
    """The variant that somebody pinned.

    Raises:
        ModelUnusable: it was not published, with what to do about it.
    """
    try:
        return contract.variant(name)
    except ModelUnusable as error:
        raise ModelUnusable(
            f"{error}; --variant auto serves what there is, --variant MODEL=VARIANT pins one model"
        ) from None


def as_tuned(variant: Variant, tuned: Tuned) -> Chosen:
    """The choice of what ``farthing tune`` found."""
    held = units(tuned.fingerprint, tuned.cpus)
    why = f"tuned on {tuned.date} for this hardware and {held}: {tuned.said}"
    figures = {f"tuned_{name}": value for name, value in tuned.figures.items()}
    return Chosen(variant, "tuned", why, figures)


def for_device(contract: Manifest, meant: str) -> list[Variant]:
    """The published variants that may be served on a device, the reference first.

    Args:
        contract: the model's.
        meant: ``cpu`` or ``gpu``. The reference runs on both: on a GPU it is the only one that was
            not made for another.
    """
    published = [contract.variant(name) for name in contract.published]
    taken = [v for v in published if v.device == meant]
    if meant != "cpu" and published and published[0] not in taken:
        taken.insert(0, published[0])
    return taken or published[:1]


def timed(
    candidates: Sequence[Variant],
    runs: Mapping[str, Sequence[Callable[[], None]]],
    clock: Callable[[], float],
) -> Chosen:
    """The fastest, interleaved, by medians; a later one must win by more than a tenth.

    Args:
        candidates: the reference first.
        runs: variant -> one run for each batch size that counts.
        clock: seconds.
    """
    sizes = range(len(next(iter(runs.values()))))
    seconds: dict[str, list[list[float]]] = {v.name: [[] for _ in sizes] for v in candidates}
    ends = clock() + _BUDGET_S
    for round_ in range(_ROUNDS):
        if round_ and clock() > ends:
            break
        for variant in candidates:
            for size in sizes:
                started = clock()
                runs[variant.name][size]()
                seconds[variant.name][size].append(max(clock() - started, 1e-9))
    reference = candidates[0]
    speedup = {
        variant.name: geometric_mean(
            median(seconds[reference.name][size]) / median(seconds[variant.name][size])
            for size in sizes
        )
        for variant in candidates
    }
    best = reference
    for variant in candidates[1:]:
        if speedup[variant.name] > _GAIN * speedup[best.name]:
            best = variant
    figures = {f"{name}_speedup": round(value, 3) for name, value in speedup.items()}
    said = ", ".join(f"{name} {value:.2f}x" for name, value in speedup.items())
    why = f"nothing is recorded for this hardware; timed at load over {reference.name}: {said}"
    return Chosen(best, "timed", why, figures)

"""Which of the judged variants a server takes by itself on the device they were judged on."""

from __future__ import annotations

from collections.abc import Sequence

from converter import speed
from converter.target import Target
from converter.verify import HOLDS
from service import hardware
from service.manifest import REFERENCE, Choice, Variant


def choose(judged: Sequence[Variant], target: Target) -> Choice:
    """What to serve there: the variant that holds with the largest least speed-up.

    Of what was published below fp32's speed, or unproven, none: that is for whoever pins it.
    """
    paying = [
        variant
        for variant in judged
        if variant.accepted
        and variant.outcome == HOLDS
        and variant.name != REFERENCE
        and variant.device == target.device.meant
        and target.least(variant.figures) > 1
    ]
    where = "this GPU" if target.device.is_gpu else "this CPU"
    if not paying:
        return Choice(REFERENCE, f"no variant that holds is faster on {where}")
    best = max(paying, key=lambda variant: target.least(variant.figures))
    one, *more = speed.batches_in(best.figures)
    ratios = [f"{best.figures[f'speedup_batch_{one}']:.2f}x fp32 at batch {one}"]
    ratios += [f"{best.figures[f'speedup_batch_{n}']:.2f}x at batch {n}" for n in more]
    where = f"{where} with {hardware.cpus()} threads"
    if target.device.is_gpu:
        where = target.told
    return Choice(best.name, f"the fastest variant that holds: {', '.join(ratios)}, on {where}")

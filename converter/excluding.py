"""The end of a ladder: the regions of a graph that must stay in fp32, as few as it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from converter.regions import Region
from converter.search import Candidate, Ladder
from converter.workshop import Workshop

# How many excluded regions are tried in fewer bits again, the largest first.
_PRUNE_BACK = 4

# (target, only these nodes, without these nodes) -> digest of the ranges
Write = Callable[[Path, Sequence[str], Sequence[str]], str]


def excluding(
    shop: Workshop,
    found: Sequence[Region],
    write: Write,
    how: str,
    *,
    kept_always: Sequence[str] = (),
    file: str = "static",
) -> Ladder:
    """Leave as few regions in fp32 as it takes, where the graph without exclusions did not do.

    Regions are ranked by changing one at a time and scoring the change of the output (8 trials to
    a repair, where ranking by the error of single tensors took 14); then the number of the worst
    that have to stay in fp32 is doubled until it does, and bisected; then each is tried in fewer
    bits again, the largest first.

    Args:
        shop: where to write.
        found: the regions.
        write: writes the graph with only these nodes changed, or without these.
        how: what to call it.
        kept_always: names that are recorded beside the regions, since they stay in fp32 anyway.
        file: what to call the files.
    """

    def candidate(excluded: Sequence[Region], *, step: bool = False) -> Candidate:
        target = shop.file(file)
        digest = write(target, (), [node for region in excluded for node in region.nodes])
        names = tuple(region.name for region in excluded)
        text = f"{how}, {len(names)} regions in fp32" if names else how
        return Candidate(target, text, (*kept_always, *names), digest, step=step)

    harm: list[tuple[float, Region]] = []
    for region in found:
        target = shop.file("probe")
        write(target, region.nodes, ())
        score = yield Candidate(target, f"ranking regions: {region.name}", probe=True)
        harm.append((score.distance, region))
        target.unlink()
    ranked = [region for _, region in sorted(harm, key=lambda pair: -pair[0])]
    low, high = 0, 1
    while high < len(ranked):
        score = yield candidate(ranked[:high], step=True)
        if score.good:
            break
        low, high = high, 2 * high
    high = min(high, len(ranked))
    while high - low > 1:
        middle = (low + high) // 2
        score = yield candidate(ranked[:middle], step=True)
        low, high = (low, middle) if score.good else (middle, high)
    kept = ranked[:high]
    for region in sorted(kept, key=lambda region: -region.work)[:_PRUNE_BACK]:
        if len(kept) > 1:
            fewer = [other for other in kept if other is not region]
            score = yield candidate(fewer, step=True)
            kept = fewer if score.good else kept
    yield candidate(kept)

"""A session behind the shapes that callers see, where config.pbtxt reshapes tensors; warm-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from service import batching, inplace, log, operators, warmup
from service.batching import Arrays, Run, Stacking
from service.choice import Chosen
from service.lanes import Lanes, Staged
from service.latency import Latency
from service.manifest import Manifest
from service.session import RunFailed, Session
from service.warmup import Warmup

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Opened:
    """What is loaded of one version.

    Attributes:
        contract: tensors as callers send them.
        chosen: the variant.
        session: of that variant.
        reshapes: tensor -> the graph's own shape, where that differs from the contract's.
    """

    contract: Manifest
    chosen: Chosen
    session: Session
    reshapes: Mapping[str, Shape] = field(default_factory=dict)

    def run(self, feeds: Arrays) -> Arrays:
        """Run once on feeds as callers send them."""
        outputs = self.session.run(self.inwards(feeds))
        for spec in self.contract.outputs if self.reshapes else ():
            if spec.name in self.reshapes:
                now = self.reshapes[spec.name]
                outputs[spec.name] = reshaped(outputs[spec.name], now, spec.shape)
        return outputs

    @property
    def runs(self) -> Run:
        """``run``; where it reads rows on a GPU, callers' are gathered for it."""
        lanes = self.session.lanes
        if lanes is None or lanes.plan is None:
            return self.run
        return Stacking(self.run, partial(self._stacked, lanes))

    def _stacked(self, lanes: Lanes, parts: Sequence[Arrays]) -> Arrays:
        feeds = lanes.stage([self.inwards(part) for part in parts])
        if feeds is not None:
            return feeds
        return parts[0] if len(parts) == 1 else batching.stacked(parts)

    def inwards(self, feeds: Arrays) -> Arrays:
        """Feeds as the graph takes them; those that lie in a lane do already."""
        if not self.reshapes or isinstance(feeds, Staged):
            return feeds
        wire = {spec.name: spec.shape for spec in self.contract.inputs}
        return {
            name: reshaped(array, wire[name], self.reshapes[name])
            if name in self.reshapes
            else array
            for name, array in feeds.items()
        }

    def warm_up(
        self,
        max_rows: int,
        samples: Sequence[Warmup],
        directory: Path,
        clock: Callable[[], float],
    ) -> Latency:
        """Run everything once that a caller would otherwise wait for; what runs took then.

        Zeros are no proof where sizes or contents decide whether a run succeeds (a detector needs
        an image of some size, a cast a number); there a failure is only a warning.

        Args:
            max_rows: of a full run.
            samples: of config.pbtxt.
            directory: the model's.
            clock: seconds.

        Raises:
            ModelUnusable: it cannot be run, or its outputs do not follow the batch.
        """
        contract, latency = self.contract, Latency()
        doubtful = self._doubtful
        for rows in self._sizes(max_rows):
            feeds = self.inwards(warmup.zeros(contract, rows))
            follow = rows if contract.batched else None
            try:
                self.session.warm_up_with(feeds, f"{rows} rows of zeros", rows=follow)
                begun = clock()  # again, without what only the first run does
                self.session.warm_up_with(feeds, f"{rows} rows of zeros", rows=follow, once=True)
                latency.observe(rows, clock() - begun)
            except RunFailed as error:
                if not (doubtful or samples or contract.golden):
                    raise
                log.warning("not warmed up", model=contract.name, reason=str(error))
        for sample in samples:
            for feeds in warmup.feeds(sample, contract, directory):
                self.session.warm_up_with(self.inwards(feeds))
        return latency

    def _sizes(self, max_rows: int) -> Iterator[int]:
        """Numbers of rows to warm up with: the ends, and whatever is recorded."""
        yield 1
        # Known by now: the first run has shown what lanes have room for.
        plan = None if self.session.lanes is None else self.session.lanes.plan
        recorded = () if plan is None else plan.buckets
        yield from sorted({max_rows, *recorded} - {1})

    @property
    def _doubtful(self) -> bool:
        """Whether what callers send decides how long a run takes, or whether it succeeds."""
        first = 1 if self.contract.batched else 0
        inputs = self.contract.inputs
        return any(spec.datatype == "BYTES" or -1 in spec.shape[first:] for spec in inputs)

    def quick_rows(
        self, max_rows: int, executor: Executor, clock: Callable[[], float], latency: Latency
    ) -> int:
        """Rows of the largest run that takes less than the way to a thread; 0 if none does.

        Only where no caller can make a run longer than it was here: all calls would wait for it.

        Args:
            max_rows: of a full run.
            executor: of the threads.
            clock: seconds.
            latency: what the warm-up saw; most models need no further look.
        """

        def run(rows: int) -> None:
            self.session.warm_up_with(self.inwards(warmup.zeros(self.contract, rows)))

        if self.session.lanes is not None:  # a GPU's thread is another anyway
            return 0
        if self._doubtful or latency(1) >= inplace.LONGEST_S:
            return 0
        if not operators.steady(self.session.path):
            return 0
        try:
            return inplace.rows(run, max_rows, inplace.hop_s(executor, clock), clock)
        except RunFailed:  # on zeros, which other rows are not
            return 0


def reshaped(array: Array, now: Shape, then: Shape) -> Array:
    """The array in another shape; its free dimensions keep their sizes, in their order.

    Args:
        array: of the shape ``now``.
        now: -1 where a dimension is free.
        then: likewise.
    """
    free = iter(size for size, given in zip(array.shape, now, strict=True) if given == -1)
    return array.reshape([next(free) if size == -1 else size for size in then])

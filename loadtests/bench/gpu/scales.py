"""How much is measured: all of it on a GPU, or a toy of it that runs in a test on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.bench.gpu.graphs import Image, Text
from loadtests.bench.gpu.served import Load

# As the scheduler's suite asks of ResNet50 (loadtests/bench/overload.py): good answers per second
# at these multiples of the capacity, over the most at any load.
OVERLOAD_GOALS = {2.0: 0.92, 5.0: 0.75}


@dataclass(frozen=True)
class Scale:
    """Sizes, loads and times.

    Attributes:
        image: the ResNet's size.
        text: the encoder's size.
        batches: rows of bare runs.
        bare_s: of each of them.
        others: models beside the one that goals are about, in order.
        closed: closed loops of the model that goals are about.
        closed_few: those of the others.
        compared: those of what is measured beside the usual, such as without CUDA graphs.
        open_shares: rates of open loops over the wire, as shares of the best closed loop there.
        open_s: of each open loop.
        overload: how calls are sent under overload.
        multiples: loads under overload, as multiples of that loop's own capacity.
        generators: processes that send.
        ahead_s: what one needs to start.
        warm_s: of closed loops, uncounted.
        estimates_s: what a step takes at most, for the budget: bare, served, overload.
    """

    image: Image
    text: Text
    batches: tuple[int, ...]
    bare_s: float
    others: tuple[str, ...]
    closed: tuple[Load, ...]
    closed_few: tuple[Load, ...]
    compared: tuple[Load, ...]
    open_shares: tuple[float, ...]
    open_s: float
    overload: Load
    multiples: tuple[float, ...]
    generators: int
    ahead_s: float
    warm_s: float
    estimates_s: tuple[float, float, float]

    @property
    def most_rows(self) -> int:
        """Of one call."""
        loads = (*self.closed, *self.closed_few, *self.compared, self.overload)
        return max(load.rows for load in loads)


def full(cpus: int) -> Scale:
    """All of it: some eight minutes on a large GPU with this many CPUs."""
    shared = Load(callers=16, rows=32, shared=True)
    return Scale(
        image=Image(),
        text=Text(),
        batches=(1, 2, 4, 8, 16, 32, 64, 128),
        bare_s=1.5,
        others=("resnet50 fp32", "bert fp16", "bert fp32"),
        closed=(
            Load(callers=1), Load(callers=16), Load(callers=128), Load(callers=32, rows=8),
            Load(callers=16, rows=32), Load(callers=32, rows=8, shared=True), shared,
        ),
        closed_few=(Load(callers=128), Load(callers=32, rows=8), Load(callers=16, rows=32), shared),
        compared=(Load(callers=32, rows=8), shared),
        open_shares=(0.5, 0.8),
        open_s=6.0,
        overload=Load(callers=32, rows=8, shared=True, seconds=5.0, deadline_s=0.4),
        multiples=(1.0, 2.0, 5.0),
        generators=max(1, min(8, cpus // 2)),
        ahead_s=2.5,
        warm_s=1.0,
        estimates_s=(45.0, 70.0, 45.0),
    )  # fmt: skip


TOY = Scale(
    image=Image(side=32, stages=((8, 1), (16, 1)), classes=10),
    text=Text(layers=1, width=16, heads=2, inner=32, words=50, tokens=8),
    batches=(1, 4),
    bare_s=0.05,
    others=("resnet50 fp32", "bert fp16"),
    closed=(Load(callers=2, seconds=0.2), Load(callers=2, rows=3, shared=True, seconds=0.2)),
    closed_few=(Load(callers=2, seconds=0.2),),
    compared=(Load(callers=2, seconds=0.2),),
    open_shares=(0.2,),
    open_s=0.3,
    overload=Load(callers=2, rows=2, shared=True, seconds=0.3, deadline_s=0.4),
    multiples=(1.0, 2.0),
    generators=1,
    ahead_s=0.7,
    warm_s=0.1,
    estimates_s=(0.1, 0.1, 0.1),
)

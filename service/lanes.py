"""The way of a batch to a GPU and back: lanes, so that one copies while another computes.

What it is. A lane holds pinned memory on the host, as much on the GPU, a queue of copies of its
own and the bindings of a graph to both. The rows of several callers are gathered straight into the
pinned memory (``stage``, which ``batching`` calls in the place of stacking); then the lane copies
them to the GPU, its GPU's one thread runs the graph on them, and the lane copies the outputs back.

The rule. Runs on one GPU compute one at a time, each on the whole of it, on one thread for all
models: what a run takes does not depend on its neighbours, and recorded graphs, which ONNX Runtime
keeps by thread, are found again. Copies happen on the threads that wait for the runs. So with two
lanes, the copies of a batch hide behind the run of another.

Recorded graphs (``Plan.buckets``) replay fixed addresses and sizes: each lane records its own, one
for each bucket of rows, at the first run of it, which is the warm-up's.

What does not fit (strings, free inner dimensions, optional inputs) takes the plain way: ONNX
Runtime's own copies, on the GPU's thread too. A lane is given back whatever becomes of its run.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue

from service.buffers import Buffers, OnGpu, Outputs
from service.staging import Array, Arrays, Plan


@dataclass(eq=False)
class Lane:
    """One of the batches that may be under way on a GPU.

    Attributes:
        on: the graph there.
        number: of it among those of that GPU.
        buffers: None where all feeds take the plain way.
    """

    on: OnGpu
    number: int
    buffers: Buffers | None = None


# ``seen`` and ``rows``, as ``staging.plan`` takes them
Planned = Callable[..., Plan | None]


class Staged(dict[str, Array]):
    """Feeds that lie in a lane; whoever runs them gives it back."""

    def __init__(self, lane: Lane, rows: int, give_back: Callable[[Lane], None]) -> None:
        """Take the lane along."""
        assert lane.buffers is not None
        super().__init__(lane.buffers.views)
        self._lane: Lane | None = lane
        self._buffers, self.rows, self._give_back = lane.buffers, rows, give_back

    def run(self) -> Outputs:
        """Run them, once, and give the lane back."""
        if self._lane is None:
            raise RuntimeError("these feeds have run, and their lane may be others' by now")
        try:
            return self._buffers.run(self.rows)
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Give the lane back, if that has not happened."""
        lane, self._lane = self._lane, None
        if lane is not None:
            self._give_back(lane)

    def __del__(self) -> None:
        """Feeds that nobody ran, since something else failed."""
        lane, self._lane = self._lane, None
        if lane is not None:  # garbage collection may be on any thread, within any lock
            _lost().put((self._give_back, lane))


@cache
def _lost() -> SimpleQueue[tuple[Callable[[Lane], None], Lane]]:
    """Lanes that nobody gave back, and the thread that does; as old as the process."""
    found: SimpleQueue[tuple[Callable[[Lane], None], Lane]] = SimpleQueue()
    threading.Thread(target=_find, args=(found,), name="lost-lanes", daemon=True).start()
    return found


def _find(lost: SimpleQueue[tuple[Callable[[Lane], None], Lane]]) -> None:
    while True:
        give_back, lane = lost.get()
        give_back(lane)
        del give_back, lane


class Lanes:
    """All lanes of one graph, over the GPUs that it lies on; for any threads."""

    def __init__(self, places: Sequence[OnGpu], each: int, planned: Planned) -> None:
        """Start with lanes without buffers.

        Args:
            places: the graph on each GPU.
            each: lanes on each of them.
            planned: the plan that what a run of so many rows came to allows for, if any.
        """
        self._planned = planned
        self._all = [Lane(on, number) for number in range(each) for on in places]
        self._idle = list(self._all)
        self._left = len(self._all)
        self._busy: Counter[OnGpu] = Counter()
        self._places = tuple(places)
        self._plan: Plan | None = None
        self._closed = False
        self._free = threading.Condition()
        _lost()  # where its thread can be started

    @property
    def plan(self) -> Plan | None:
        """What lanes have room for; None as long as all feeds take the plain way."""
        return self._plan

    def lay(self, plan: Plan) -> None:
        """Give all lanes their buffers; nothing may run meanwhile.

        Raises:
            CudaFailed: the memory does not suffice; then none has any.
        """
        made: list[Buffers] = []
        try:
            for lane in self._all:
                made.append(Buffers(lane.on, plan, lane.number))
        except BaseException:
            for buffers in made:
                buffers.close()
            raise
        for lane, buffers in zip(self._all, made, strict=True):
            lane.buffers = buffers
        self._plan = plan

    def stage(self, parts: Sequence[Arrays]) -> Staged | None:
        """Several callers' feeds, gathered in a lane; None if there is no room for such feeds.

        Waits for a lane where all are busy.

        Args:
            parts: equal in ``batching.shapes``.
        """
        plan = self._plan
        rows = None if plan is None else plan.rows(parts)
        if plan is None or rows is None:
            return None
        staged = Staged(self._take(), rows, self._give_back)
        try:
            plan.gather(staged, parts, rows)
        except BaseException:
            staged.let_go()
            raise
        return staged

    def run(self, feeds: Arrays) -> Outputs:
        """Run once, on whichever GPU has the fewest runs; for feeds see ``stage``."""
        staged = feeds if isinstance(feeds, Staged) else self.stage([feeds])
        if staged is not None:
            return staged.run()
        with self._taken() as lane:
            return lane.on.run_plain(feeds)

    def warm_up(self, feeds: Arrays, rows: int | None) -> list[Outputs]:
        """Run once on each lane, where recorded graphs are recorded; nothing else may run.

        The first run is a plain one on each GPU. When it has shown how large outputs are, lanes
        get their buffers.

        Args:
            feeds: as ``run`` takes them.
            rows: of them; None where they can't be told apart.

        Raises:
            CudaFailed: the memory does not suffice.
        """
        if self._plan is None:
            places = dict.fromkeys(lane.on for lane in self._all)
            outputs = [on.run_plain(feeds) for on in places]
            seen = {name: array.shape for name, array in outputs[0].items()}
            plan = self._planned(seen=seen, rows=rows)
            if plan is None:
                return outputs
            self.lay(plan)
        assert self._plan is not None
        fed = self._plan.rows([feeds])
        if fed is None:
            return [lane.on.run_plain(feeds) for lane in self._all]
        return [self._alone(lane, feeds, fed) for lane in self._all]

    def close(self) -> None:
        """Give the memory back, and let the graphs go; lanes with a run do so when it is over."""
        with self._free:
            if self._closed:
                return
            self._closed = True
            idle, self._idle = self._idle, []
            self._free.notify_all()
        for lane in idle:
            _close(lane)
        for ending in self._gone(len(idle)):
            ending.result()

    def _alone(self, lane: Lane, feeds: Arrays, rows: int) -> Outputs:
        assert lane.buffers is not None and self._plan is not None
        self._plan.gather(lane.buffers.views, [feeds], rows)
        return lane.buffers.run(rows)

    @contextmanager
    def _taken(self) -> Iterator[Lane]:
        lane = self._take()
        try:
            yield lane
        finally:
            self._give_back(lane)

    def _take(self) -> Lane:
        with self._free:
            self._free.wait_for(lambda: self._idle or self._closed)
            if self._closed:
                raise RuntimeError("the graph has been closed")
            lane = min(self._idle, key=lambda lane: self._busy[lane.on])
            self._idle.remove(lane)
            self._busy[lane.on] += 1
            return lane

    def _give_back(self, lane: Lane) -> None:
        with self._free:
            if not self._closed:
                self._busy[lane.on] -= 1
                self._idle.append(lane)
                self._free.notify()
                return
        _close(lane)
        self._gone(1)

    def _gone(self, lanes: int) -> list[Future[None]]:
        """So many lanes are closed; with the last one the graphs go, when their GPU comes to it."""
        with self._free:
            self._left -= lanes
            if self._left:
                return []
            places, self._places, self._all = self._places, (), []
            self._busy.clear()  # which names the graphs too
        return [ending for on in places if (ending := on.let_go())]


def _close(lane: Lane) -> None:
    if lane.buffers is not None:
        lane.buffers.close()

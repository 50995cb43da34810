"""One caller's request while it is with the batcher: its parts, and the one ending that it gets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from service import batching
from service.batching import Answer
from service.bill import WASTE
from service.errors import DeadlineExceeded, InferenceFailed, InvalidInput, ServingError
from service.ledger import Ledger, Ticket
from service.scheduler import Entry, Queue
from service.spans import Span


@dataclass(eq=False)
class Part(Entry):
    """What one run takes of a request; most requests are of one part.

    Attributes:
        request: whose it is.
    """

    request: Request = field(kw_only=True)

    @property
    def left(self) -> bool:
        """Whether its request is over, so that nobody waits for this part any more."""
        return self.request.over

    def fail_late(self, now: float) -> None:
        """End its request, whose time is up: its caller's, or the model's for waiting."""
        waited = self.start_by is not None and self.start_by <= now
        self.request.fail(waited_too_long() if waited else too_late())


class Request:
    """A request that waits or runs; its first ending counts, whatever comes after it.

    Attributes:
        settled: what its caller waits for.
        parts: in the order of their rows.
        nbytes: what it holds for as long as it is not over, where it runs in parts.
        span: who follows it is told of its runs; None if nobody does.
    """

    def __init__(self, settled: asyncio.Future[Answer], span: Span | None = None) -> None:
        """Start without parts."""
        self.settled, self.nbytes, self.span = settled, 0, span
        self.parts: list[Part] = []
        self._answers: dict[Part, Answer] = {}
        self._shares: list[tuple[Ticket, int]] = []

    @property
    def over(self) -> bool:
        """Whether it was answered, or failed, or its caller is gone."""
        return self.settled.done()

    def hold(self, queue: Queue[Part], nbytes: int) -> None:
        """Count bytes as waiting until it is over."""
        self.nbytes += nbytes
        queue.nbytes += nbytes

    def charge(self, ledger: Ledger, ticket: Ticket, rows: int) -> None:
        """Put rows of a run that begins on its account; of one that is over, they are waste."""
        if self.over:
            ledger.settle(ticket, rows, WASTE)
        else:
            self._shares.append((ticket, rows))

    def write_off(self, ledger: Ledger, ticket: Ticket) -> None:
        """A run of its rows came to nothing, though it goes on: that run is waste."""
        gone = [share for share in self._shares if share[0] is ticket]
        self._shares = [share for share in self._shares if share[0] is not ticket]
        for _, rows in gone:
            ledger.settle(ticket, rows, WASTE)

    def pay(self, ledger: Ledger, kind: str) -> float:
        """Settle what it was charged, once it is known how it ended; the core-seconds so far."""
        shares, self._shares = self._shares, []
        return sum(ledger.settle(ticket, rows, kind) for ticket, rows in shares)

    def answer(self, part: Part, answer: Answer, now: float, most: int) -> int:
        """Settle it once the last of its parts is answered.

        Args:
            part: that was run.
            answer: to that part.
            now: seconds, on the clock of its arrival.
            most: bytes that the outputs of several parts may have together.

        Returns:
            Bytes of outputs that it holds from now on, beside those from before.
        """
        if self.over:
            return 0
        if len(self.parts) == 1:
            self.settled.set_result(answer)
            return 0
        self._answers[part] = answer
        nbytes = batching.nbytes_of(answer.outputs)
        expected = nbytes * sum(each.rows for each in self.parts) // part.rows
        if expected > most:
            self.fail(
                InvalidInput(
                    f"the outputs of the request's parts would have {expected} bytes together, and "
                    f"this server joins at most {most}; send fewer rows at a time"
                )
            )
        elif len(self._answers) == len(self.parts):
            answers = [self._answers[each] for each in self.parts]
            try:
                self.settled.set_result(batching.joined(answers, now - part.arrived))
            except InferenceFailed as error:
                # Its traceback holds this frame, which holds the outputs.
                self.fail(error.with_traceback(None))
        return nbytes

    def fail(self, error: ServingError) -> None:
        """End it; parts that still wait will not be run."""
        if not self.over:
            self.settled.set_exception(error)

    def lose(self, part: Part, error: ServingError) -> None:
        """End it if this part has not been answered."""
        if part not in self._answers:
            self.fail(error)

    def leave(self) -> None:
        """Its caller is gone, or has been told how it ended."""
        if not self.over:
            self.settled.cancel()
        elif not self.settled.cancelled():
            self.settled.exception()  # read, so that asyncio does not report it as forgotten

    def let_go(self) -> None:
        """Forget the parts, each of which knows the request: no cycle is to be left behind."""
        self.parts.clear()
        self._answers.clear()


def too_late() -> DeadlineExceeded:
    """What a caller is told whose deadline has passed."""
    return DeadlineExceeded("the deadline passed before the model could answer")


def waited_too_long() -> DeadlineExceeded:
    """What a caller is told who has waited for as long as the model lets anyone wait."""
    return DeadlineExceeded("the request waited longer than the model's queue policy allows")

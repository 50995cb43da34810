"""ModelStreamInfer: many requests on one call, run beside each other, answered in their order.

A stream holds a bounded number of requests and bytes: a client that sends without reading is not
read from until it does, which gRPC's flow control tells it. What is still running counts with the
largest answer so far; before the first one is there, few are begun.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from service.datatypes import BY_NAME
from service.errors import Draining, ServingError
from service.interceptor import Unreadable
from service.proto import inference_pb2 as pb
from service.refusals import told, translated

Answering = Callable[[pb.ModelInferRequest], Awaitable[pb.ModelInferResponse]]

# Requests, and bytes of them or of their answers, that one stream holds.
_MOST, _FIRST = 64, 4
_MOST_BYTES = 2**27
_DIMENSIONS = 32
# Letters of a name that is sent back; all that ``--max-name`` can let in.
_ECHOED = 65536


class Streams:
    """The streams of one server, so that they can be ended together."""

    def __init__(self) -> None:
        """None is open."""
        self._open: set[_Stream] = set()
        self._closed = False

    async def serve(
        self, requests: AsyncIterator[Any], answer: Answering, *, strict: bool
    ) -> AsyncGenerator[pb.ModelStreamInferResponse, None]:
        """The answers to one stream's requests, in the order of these.

        Args:
            requests: as they come; ``Unreadable`` in place of one that could not be read.
            answer: to one request.
            strict: an error ends the stream; otherwise it is the answer to its request.

        Raises:
            ServingError: the first error, if ``strict``.
            Draining: the server is going away.
        """
        stream = _Stream(requests, answer)
        self._open.add(stream)
        try:
            if self._closed:
                stream.close()
            async for request_id, model_name, outcome in stream:
                if isinstance(outcome, ServingError):
                    if strict:
                        raise outcome
                    yield refusal(request_id, model_name, outcome)
                    continue
                outcome.parameters["triton_final_response"].bool_param = True
                yield pb.ModelStreamInferResponse(infer_response=outcome)
        finally:
            self._open.discard(stream)
            stream.end()

    async def close(self) -> None:
        """Read no more; what was read is answered, then each stream ends with UNAVAILABLE."""
        self._closed = True
        for stream in self._open:
            stream.close()


Outcome = pb.ModelInferResponse | ServingError
Message = pb.ModelInferRequest | pb.ModelInferResponse


class _Stream:
    """One stream: a reader that starts work, and an iteration that hands out what it came to."""

    def __init__(self, requests: AsyncIterator[Any], answer: Answering) -> None:
        self._requests = requests
        self._answer = answer
        self._work: deque[_Work] = deque()
        self._bytes = 0
        self._largest: int | None = None
        self._changed = asyncio.Event()
        self._read_all = self._closing = False
        self._reader = asyncio.create_task(self._read())

    async def __aiter__(self) -> AsyncIterator[tuple[str, str, Outcome]]:
        while True:
            while not self._work:
                if self._closing:
                    raise Draining()
                if self._read_all:
                    await self._reader  # raises what ended it
                    return
                self._changed.clear()
                await self._changed.wait()
            work = self._work[0]
            outcome = await work.task
            yield work.request_id, work.model_name, outcome
            self._work.popleft()
            self._bytes -= work.nbytes
            self._changed.set()

    def close(self) -> None:
        self._closing = True
        self._changed.set()

    def end(self) -> None:
        self._reader.cancel()
        for work in self._work:
            work.task.cancel()

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                if self._closing:
                    return
                self._start(request)
                while self._full():
                    self._changed.clear()
                    await self._changed.wait()
        finally:
            self._read_all = True
            self._changed.set()

    def _full(self) -> bool:
        running = sum(not work.task.done() for work in self._work)
        if self._largest is None and running >= _FIRST:
            return True
        expected = self._bytes + running * (self._largest or 0)
        return len(self._work) >= _MOST or (bool(self._work) and expected > _MOST_BYTES)

    def _start(self, request: Any) -> None:
        if isinstance(request, Unreadable):
            work = _Work("", "", 0, asyncio.create_task(_given(request.error)))
        else:
            task = asyncio.create_task(self._outcome(request))
            work = _Work(request.id, request.model_name, _nbytes(request, request.inputs), task)
        self._work.append(work)
        self._bytes += work.nbytes
        work.task.add_done_callback(lambda task: self._done(work))
        self._changed.set()

    def _done(self, work: _Work) -> None:
        """The answer takes the request's place in the account of bytes."""
        if work.task.cancelled() or work not in self._work:
            return
        outcome, nbytes = work.task.result(), 0
        if not isinstance(outcome, ServingError):
            nbytes = _nbytes(outcome, outcome.outputs)
            self._largest = max(self._largest or 0, nbytes)
        self._bytes += nbytes - work.nbytes
        work.nbytes = nbytes
        self._changed.set()

    async def _outcome(self, request: pb.ModelInferRequest) -> Outcome:
        try:
            return await self._answer(request)
        except Exception as error:
            return translated(error, "ModelStreamInfer").with_traceback(None)


class _Work:
    """One request of a stream and what will come of it."""

    def __init__(
        self, request_id: str, model_name: str, nbytes: int, task: asyncio.Task[Outcome]
    ) -> None:
        self.request_id = request_id
        self.model_name = model_name
        self.nbytes = nbytes
        self.task = task


def _nbytes(message: Message, tensors: Any) -> int:
    """About as many bytes as a message holds; ``ByteSize`` serializes it, which costs a copy."""
    total = 0
    for tensor in tensors:
        datatype = BY_NAME.get(tensor.datatype)
        # The product of a million dimensions would take hours.
        if datatype is None or datatype.name == "BYTES" or len(tensor.shape) > _DIMENSIONS:
            return message.ByteSize()
        total += datatype.dtype.itemsize * max(0, math.prod(tensor.shape))
    return total


async def _given(error: ServingError) -> Outcome:
    return error


def refusal(request_id: str, model_name: str, error: ServingError) -> pb.ModelStreamInferResponse:
    """The answer in a stream to one request that could not be served."""
    response = pb.ModelInferResponse(model_name=model_name[:_ECHOED], id=request_id[:_ECHOED])
    response.parameters["triton_final_response"].bool_param = True
    return pb.ModelStreamInferResponse(error_message=told(error), infer_response=response)

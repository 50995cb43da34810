"""One inference, from the message to the answer: look up, refuse or decode, submit, encode."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict

from service import answers, log, parameters, statistics, tensors
from service.batching import Answer
from service.errors import DeadlineExceeded, Overloaded, ServingError
from service.log import Access
from service.metrics import Metrics
from service.model import Model
from service.parameters import Limits
from service.phases import Phases
from service.proto import inference_pb2 as pb
from service.repository import Repository
from service.slots import Slots
from service.spans import CURRENT, Span
from service.tracing import Traces

OnCost = Callable[[float], None]

# A caller's own clock may end a call that much before ours, as a share of its time or in seconds,
# whichever is more: gRPC rounds timeouts up on the wire, and a call that came slowly began late by
# our clock. Who leaves in the first half of his time has left early all the same.
_SOONER, _SOONER_S, _EARLY = 0.1, 0.005, 0.5


def _free(core_s: float) -> None:
    """Nobody wants to know."""


class Inference:
    """Answers inferences, for all ports of one server."""

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        *,
        limits: Limits,
        regions: Slots | None = None,
        traces: Traces | None = None,
        access: Access | None = None,
        max_calls: int = 2**31,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Assign.

        Args:
            repository: the models.
            metrics: where inferences are counted.
            limits: how much one request may name.
            regions: the shared memory that tensors may lie in; None for none.
            traces: which inferences are traced.
            access: which inferences are logged.
            max_calls: inferences at the same time, over all models.
            clock: the batchers'.
        """
        self._repository, self._metrics = repository, metrics
        self._limits, self._regions = limits, regions
        self._traces, self._access = traces or Traces(), access or Access(0.0)
        self._max_calls, self._calls = max_calls, 0
        self._clock = clock

    async def __call__(
        self, request: pb.ModelInferRequest, remaining_s: float | None, on_cost: OnCost = _free
    ) -> pb.ModelInferResponse:
        """One inference.

        Args:
            request: as it came.
            remaining_s: until gRPC's deadline; None without one.
            on_cost: told the core-seconds of one that is answered: its rows' share of its runs.

        Raises:
            ServingError: what the caller is told.
        """
        if not request.id:
            return await self._answer(request, remaining_s, on_cost)
        with log.request(request.id):
            return await self._answer(request, remaining_s, on_cost)

    async def _answer(
        self, request: pb.ModelInferRequest, remaining_s: float | None, on_cost: OnCost
    ) -> pb.ModelInferResponse:
        started, span = self._clock(), CURRENT.get()
        try:
            self._limits.check_name(request.id, "the request")
            model = self.model(request.model_name, request.model_version)
        except ServingError as error:
            self._metrics.stray(error)
            if span is not None:
                span.failed(*statistics.ending(error))
            raise
        record, remaining_s = model.tally, _sooner(remaining_s, model.target_s)
        self._calls += 1
        try:
            asked = parameters.parameters(request, limits=self._limits)
            remaining_s = _sooner(remaining_s, asked.timeout_s)
            deadline = None if remaining_s is None else started + remaining_s
            response, phases, core_s = await self._run(
                request, model, started, deadline, asked=asked, span=span
            )
        except BaseException as error:
            whole_s = self._clock() - started
            status, reason = statistics.ending(_why(error, whole_s, remaining_s))
            record.failed(status, reason, whole_s)
            if span is not None:
                span.failed(status, reason, model.labels)
            if self._access.wanted():
                self._access.write(status, **_named(model), reason=reason)
            raise
        finally:
            self._calls -= 1
            record.called(remaining_s is not None)
        on_cost(core_s)
        if span is not None:
            unit = self._repository.book.ledger.unit.name
            span.answered(model.labels, phases, core_s, unit)
        record.succeeded(phases, remaining_s is not None and phases.whole_s > remaining_s)
        if self._access.wanted():
            self._access.write("OK", **_named(model), **asdict(phases))
        name = model.manifest.name
        if self._traces.take(name):
            self._traces.write(
                name, model.version, request.id, started_ns=int(started * 1e9), spans=phases
            )
        return response

    async def _run(
        self,
        request: pb.ModelInferRequest,
        model: Model,
        started: float,
        deadline: float | None,
        *,
        asked: parameters.Parameters,
        span: Span | None,
    ) -> tuple[pb.ModelInferResponse, Phases, float]:
        contract, limits, regions = model.manifest, self._limits, self._regions
        # Under overload most requests are refused, so that is done before they are decoded.
        if self._calls > self._max_calls:
            raise _too_many(self._max_calls)
        told = parameters.rows_of(request, batched=contract.batched)
        model.batcher.expect(told, deadline, asked.priority)
        rows = tensors.decode(
            request,
            contract.inputs,
            batched=contract.batched,
            max_rows=model.batcher.max_request_rows,
            limits=limits,
            regions=regions,
        )
        wanted = answers.requested_outputs(
            request, contract.outputs, limits=limits, regions=regions
        )
        decoded = self._clock()
        answered = decoded
        response = pb.ModelInferResponse(
            model_name=contract.name, model_version=model.version, id=request.id
        )

        def encode(answer: Answer) -> None:
            nonlocal answered
            answered = self._clock()
            answers.encode(response, answer.outputs, wanted, labels=model.label_texts,
                           batched=contract.batched, limits=limits)  # fmt: skip

        answer = await model.batcher.submit(
            rows.feeds, rows.rows, deadline, nbytes=rows.nbytes, priority=asked.priority,
            then=encode, span=span,
        )  # fmt: skip
        ended = self._clock()
        phases = _phases(answer, rows.rows, decoded - started, ended - answered, ended - started)
        return response, phases, answer.core_s

    def model(self, name: str, version: str) -> Model:
        """The model of a request.

        Raises:
            InvalidInput: a name that is too long.
            ModelNotFound: there is none.
            ModelNotReady: known, but not loaded.
        """
        self._limits.check_name(name, "the model")
        self._limits.check_name(version, "the version")
        return self._repository.model(name, version)


def _sooner(one_s: float | None, other_s: float | None) -> float | None:
    """The smaller of two times that may not be there."""
    if one_s is None or other_s is None:
        return other_s if one_s is None else one_s
    return min(one_s, other_s)


def _why(error: BaseException, whole_s: float, given_s: float | None) -> BaseException:
    """What ended a call: callers whose time is up leave too, and that is not their fault."""
    if isinstance(error, Exception) or given_s is None:
        return error
    sooner_s = min(max(_SOONER * given_s, _SOONER_S), _EARLY * given_s)
    return DeadlineExceeded() if whole_s >= given_s - sooner_s else error


def _too_many(most: int) -> Overloaded:
    return Overloaded(
        f"the server already holds the {most} inferences that it takes at a time; try again later",
        reason="calls",
    )


def _phases(answer: Answer, rows: int, decode_s: float, encode_s: float, whole_s: float) -> Phases:
    return Phases(
        decode_s=decode_s,
        queued_s=answer.queued_s,
        assembly_s=answer.assembly_s,
        run_s=answer.run_s,
        encode_s=encode_s,
        whole_s=whole_s,
        rows=rows,
        batch_rows=answer.batch_rows,
    )


def _named(model: Model) -> dict[str, str]:
    return dict(zip(("model", "version", "variant"), model.labels, strict=True))

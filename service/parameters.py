"""What a request may hold, and the parameters that stand beside its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from service.errors import InvalidInput, Unsupported
from service.proto import inference_pb2 as pb
from service.slots import Slot, Slots

Given = Mapping[str, pb.InferParameter]

_QUOTED = 64
_WHOLE = ("int64_param", "uint64_param")
_MICROSECONDS = 1e-6
# Clients ask streams for it; whole answers have no further response that could be empty.
_FINAL = "triton_enable_empty_final_response"
_RESERVED = "triton_"


@dataclass(frozen=True)
class Limits:
    """How much one request may hold.

    Attributes:
        max_tensors: inputs, and outputs, and parameters.
        max_name: bytes of a name.
        max_bytes: of its inputs in shared memory, all together; and of an answer.
    """

    max_tensors: int = 64
    max_name: int = 256
    max_bytes: int = 64 * 2**20

    def check_count(self, count: int, what: str) -> None:
        """Refuse more than ``max_tensors``.

        Raises:
            InvalidInput: saying how many there may be.
        """
        if count > self.max_tensors:
            raise InvalidInput(
                f"the request has {count} {what}; this server takes at most {self.max_tensors}"
            )

    def check_name(self, name: str, what: str) -> None:
        """Refuse a name of more than ``max_name`` bytes.

        Raises:
            InvalidInput: saying how long it may be.
        """
        # Encoded only where the characters alone do not tell.
        if len(name) > self.max_name or len(name.encode()) > self.max_name:
            raise InvalidInput(
                f"the name of {what} is longer than the {self.max_name} bytes that this server "
                "takes; shorten it"
            )

    def check_answer(self, nbytes: int) -> None:
        """Refuse an answer of more than ``max_bytes``, before it counts as one.

        Raises:
            InvalidInput: saying how large it may be.
        """
        if nbytes > self.max_bytes:
            raise InvalidInput(
                f"the answer has more than the {self.max_bytes} bytes that this server sends; ask "
                "for fewer outputs or rows"
            )


DEFAULT = Limits()


@dataclass(frozen=True)
class Parameters:
    """What a request asks of its own handling.

    Attributes:
        priority: 1 is the highest; 0 leaves it to the model.
        timeout_s: seconds that it may wait, or None.
    """

    priority: int = 0
    timeout_s: float | None = None


def parameters(request: pb.ModelInferRequest, *, limits: Limits = DEFAULT) -> Parameters:
    """The request's own parameters.

    Those of sequences are looked at and have no effect: models here keep no state. Unknown ones
    are passed over, as in Triton, except names that the protocol keeps for itself.

    Raises:
        InvalidInput: one has another type or range than the protocol's, or a name that is reserved,
            or there are too many.
    """
    given = request.parameters
    if not given:
        return Parameters()
    limits.check_count(len(given), "parameters")
    for name in given:
        limits.check_name(name, "a parameter")
        if name.startswith(_RESERVED) and name != _FINAL:
            raise InvalidInput(
                f"parameter {quoted(name)} is reserved; leave it out, or name it otherwise"
            )
    for name in ("sequence_start", "sequence_end", _FINAL):
        _typed(given, name, ("bool_param",), "true or false")
    sequence = _typed(given, "sequence_id", (*_WHOLE, "string_param"), "a whole number or a text")
    if isinstance(sequence, str):
        limits.check_name(sequence, "a sequence")
    timeout = whole_number(given, "timeout")
    return Parameters(
        priority=whole_number(given, "priority") or 0,
        # 0 is what clients send for "none".
        timeout_s=timeout * _MICROSECONDS if timeout else None,
    )


def rows_of(request: pb.ModelInferRequest, *, batched: bool) -> int:
    """What a request says of its rows, before anything of it is checked; at least 1."""
    shape = request.inputs[0].shape if batched and request.inputs else None
    return max(1, shape[0]) if shape else 1


def slot(given: Given, what: str, *, limits: Limits, regions: Slots | None) -> Slot | None:
    """The part of shared memory that a tensor's parameters name, or None where they name none.

    Args:
        given: the tensor's parameters.
        what: the tensor, for messages, e.g. ``input 'x'``.
        limits: of the request.
        regions: those that are registered; None where shared memory is switched off.

    Raises:
        InvalidInput: the parameters contradict each other, or the regions.
        Unsupported: shared memory is switched off.
    """
    if "shared_memory_region" not in given:
        for name in ("shared_memory_byte_size", "shared_memory_offset"):
            if name in given:
                raise InvalidInput(f"{what} has the parameter '{name}' but no region; name one")
        return None
    if regions is None:
        raise Unsupported(
            "shared memory is switched off; start the server with --control shared-memory, or with "
            "--control cuda-shared-memory for a GPU's"
        )
    region = str(_typed(given, "shared_memory_region", ("string_param",), "a text"))
    limits.check_name(region, "a shared memory region")
    byte_size = whole_number(given, "shared_memory_byte_size")
    if byte_size is None:
        raise InvalidInput(f"{what} is in shared memory; say its 'shared_memory_byte_size' too")
    return regions.slot(region, whole_number(given, "shared_memory_offset") or 0, byte_size)


def classes(given: Given, what: str) -> int:
    """How many classes a requested output is to name; 0 where it is wanted as it is.

    Raises:
        InvalidInput: the parameter is no positive number.
    """
    if "classification" not in given:
        return 0
    number = whole_number(given, "classification")
    if not number:
        raise InvalidInput(f"the parameter 'classification' of {what} is 0; ask for 1 or more")
    return number


def whole_number(given: Given, name: str) -> int | None:
    """A parameter that counts something; None where it is not given.

    Raises:
        InvalidInput: it is no whole number, or negative.
    """
    number = _typed(given, name, _WHOLE, "a whole number of 0 or more")
    if number is not None and int(number) < 0:
        raise InvalidInput(f"parameter '{name}' is {number}; it takes a whole number of 0 or more")
    return None if number is None else int(number)


def quoted(text: str) -> str:
    """What a caller sent, at a length that can be sent back."""
    return f"'{text}'" if len(text) <= _QUOTED else f"'{text[:_QUOTED]}...'"


def listed(names: Iterable[str]) -> str:
    """Several names, for a message."""
    return ", ".join(f"'{name}'" for name in names)


def _typed(given: Given, name: str, kinds: tuple[str, ...], what: str) -> int | str | None:
    if name not in given:  # looking it up would put it there
        return None
    kind = given[name].WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidInput(f"parameter '{name}' is of another type; it takes {what}")
    value: int | str = getattr(given[name], kind)
    return value

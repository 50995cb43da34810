"""Numpy to wire: the outputs that a request wants, in the form and the place that it wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.classification import classified
from service.errors import InvalidInput
from service.manifest import TensorSpec
from service.parameters import DEFAULT, Limits, classes, listed, quoted, slot
from service.proto import inference_pb2 as pb
from service.slots import Slot, Slots
from service.tensors import to_raw


@dataclass(slots=True)  # not frozen: that takes three times as long, for every request
class Wanted:
    """One output of an answer.

    Attributes:
        spec: of the model.
        classes: how many of the largest numbers to name instead of all; 0 for all.
        slot: the shared memory to write it to; None for the answer itself.
    """

    spec: TensorSpec
    classes: int = 0
    slot: Slot | None = None


def requested_outputs(
    request: pb.ModelInferRequest,
    outputs: Sequence[TensorSpec],
    *,
    limits: Limits = DEFAULT,
    regions: Slots | None = None,
) -> list[Wanted]:
    """The outputs this request wants, in its order; all of them if it names none.

    Args:
        request: as it came.
        outputs: what the model gives.
        limits: how much the request may hold.
        regions: the shared memory that answers may be written to; None where it is switched off.

    Raises:
        InvalidInput: it names an output twice, or one the model does not have, or wants of it what
            cannot be.
        Unsupported: it wants one in shared memory, which is switched off.
    """
    if not request.outputs:
        return [Wanted(spec) for spec in outputs]
    limits.check_count(len(request.outputs), "outputs")
    specs = {spec.name: spec for spec in outputs}
    wanted: dict[str, Wanted] = {}
    for output in request.outputs:
        limits.check_name(output.name, "an output")
        if output.name not in specs:
            raise InvalidInput(
                f"the model has no output {quoted(output.name)}; it gives {listed(specs)}"
            )
        if output.name in wanted:
            raise InvalidInput(f"output '{output.name}' is asked for twice")
        spec, what = specs[output.name], f"output '{output.name}'"
        place = slot(output.parameters, what, limits=limits, regions=regions)
        count = classes(output.parameters, what)
        if count and place is not None:
            raise InvalidInput(f"{what} is asked for as classes in shared memory; choose one")
        if count and spec.datatype == "BYTES":
            raise InvalidInput(f"{what} holds strings, which cannot be classified")
        wanted[spec.name] = Wanted(spec, count, place)
    return list(wanted.values())


def encode(
    response: pb.ModelInferResponse,
    outputs: Mapping[str, np.ndarray[Any, Any]],
    wanted: Sequence[Wanted],
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    batched: bool = True,
    limits: Limits = DEFAULT,
) -> None:
    """Append the wanted arrays to the response, as raw contents, or write them to shared memory.

    Args:
        response: what the caller gets; clients look for raw contents by an output's place, so one
            in shared memory has empty ones.
        outputs: output name -> array.
        wanted: from ``requested_outputs``.
        labels: output name -> a text for each class.
        batched: whether the first dimension counts rows.
        limits: how large the answer may be.

    Raises:
        InvalidInput: an output is larger than the shared memory that was set aside for it, or the
            answer than a message may be.
    """
    nbytes = 0
    for item in wanted:
        array, spec = outputs[item.spec.name], item.spec
        if item.classes:
            texts = (labels or {}).get(spec.name, ())
            array = classified(array, spec.datatype, item.classes, labels=texts, batched=batched)
            spec = TensorSpec(spec.name, "BYTES", array.shape)
        told = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
        data = to_raw(array, spec)
        if item.slot is not None:
            item.slot.write(data)
            told.parameters["shared_memory_region"].string_param = item.slot.region
            told.parameters["shared_memory_offset"].int64_param = item.slot.offset
            told.parameters["shared_memory_byte_size"].int64_param = len(data)
            data = b""
        nbytes += len(data)
        limits.check_answer(nbytes)
        response.raw_output_contents.append(data)

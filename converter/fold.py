"""What stands before and behind a model, moved into its graph: fewer bytes on the wire.

``uint8_input`` takes pixels as they are, a quarter of the bytes of float32; ``top_k`` answers the
best few classes in place of all of them. Both change the model's contract and so are asked for,
never chosen.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service.errors import FarthingError

_BEFORE_FIELD = re.compile(r":(?=(?:scale|mean|std|axis)=)")
_OLDEST_TOP_K = 11  # the first opset whose TopK promises the order


class CannotFold(FarthingError):
    """A graph or a request that this cannot be done with, with the reason."""


@dataclass(frozen=True)
class Normalization:
    """``(x * scale - mean) / std``, as image models are trained.

    Attributes:
        name: the input.
        scale: factor of the raw bytes, one number or one for each channel.
        mean: subtracted after scaling, as above.
        std: divisor, as above; nowhere 0.
        axis: the dimension of the channels, the batch being 0; negative from the end.
    """

    name: str
    scale: Sequence[float] = (1.0,)
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    axis: int = -1

    def normalise(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """What the folded graph computes, in numpy: bit for bit.

        Args:
            rows: uint8 of the input's shape, the batch first.

        Returns:
            float32 of the same shape.

        Raises:
            CannotFold: the numbers or their count do not fit the rows.
        """
        factor, offset = self.constants(rows.shape)
        normal: np.ndarray[Any, Any] = rows.astype(np.float32) * factor + offset
        return normal

    def constants(self, shape: Sequence[int]) -> tuple[np.ndarray[Any, Any], ...]:
        """One factor and one summand: scale / std and -mean / std.

        They are rounded to float32 once, from float64.

        Args:
            shape: the input's, the batch first; 0 or -1 where a dimension is free.

        Returns:
            Two float32 arrays that broadcast against the input.

        Raises:
            CannotFold: the numbers or their count do not fit the shape.
        """
        lists = {"scale": self.scale, "mean": self.mean, "std": self.std}
        arrays = {key: np.asarray(values, np.float64) for key, values in lists.items()}
        for key, values in arrays.items():
            if values.ndim != 1 or not values.size or not np.isfinite(values).all():
                raise CannotFold(f"the {key} of '{self.name}' must be finite numbers")
        if not arrays["std"].all():
            raise CannotFold(f"the std of '{self.name}' is 0, and nothing can be divided by that")
        channels = max(len(values) for values in arrays.values())
        broadcast = [1]
        if channels > 1:
            broadcast = self._broadcast(shape, channels, arrays)
        with np.errstate(over="ignore"):  # caught below
            factor = (arrays["scale"] / arrays["std"]).astype(np.float32)
            offset = (-arrays["mean"] / arrays["std"]).astype(np.float32)
        if not (np.isfinite(factor).all() and np.isfinite(offset).all()):
            raise CannotFold(f"the normalization of '{self.name}' leaves float32's range")
        full = (np.broadcast_to(array, channels) for array in (factor, offset))
        return tuple(array.reshape(broadcast) for array in full)

    def _broadcast(
        self, shape: Sequence[int], channels: int, lists: dict[str, np.ndarray[Any, Any]]
    ) -> list[int]:
        """The shape in which a value for each channel meets the input."""
        rank = len(shape)
        axis = self.axis + rank if self.axis < 0 else self.axis
        if not 0 < axis < rank:
            raise CannotFold(
                f"axis {self.axis} is no dimension of channels of '{self.name}', which has {rank} "
                "dimensions with the batch"
            )
        wanted = shape[axis] if shape[axis] > 0 else channels
        for key, values in lists.items():
            if len(values) not in (1, wanted):
                raise CannotFold(
                    f"{len(values)} numbers as {key}, where axis {self.axis} of '{self.name}' has "
                    f"{wanted} channels"
                )
        return [channels if index == axis else 1 for index in range(axis, rank)]


def parse(text: str) -> Normalization:
    """Read ``NAME:scale=1/255:mean=0.485,0.456,0.406:std=0.229,0.224,0.225:axis=1``.

    Fields in any order, separated by colons; a list is separated by commas; each number may be a
    fraction. What is left out is scale 1, mean 0, std 1; the axis is needed where there is a list.
    The name may hold colons itself (``x:0``).

    Raises:
        CannotFold: it is not of this form.
    """
    name, *parts = _BEFORE_FIELD.split(text)
    fields: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key in fields:
            raise CannotFold(f"'{text}' has two fields '{key}'; give one")
        fields[key] = value
    if not name or not fields:
        raise CannotFold(
            f"'{text}' is no normalization; write NAME:scale=1/255:mean=0.5,0.4,0.4:std=0.2:axis=1"
        )
    lists = {key: _numbers(value, text) for key, value in fields.items() if key != "axis"}
    if "axis" not in fields and any(len(values) > 1 for values in lists.values()):
        raise CannotFold(f"'{text}' has a number for each channel; say which axis=N they are on")
    try:
        axis = int(fields.get("axis", "-1"))
    except ValueError as error:
        raise CannotFold(f"axis={fields['axis']} in '{text}' is no whole number") from error
    return Normalization(name, axis=axis, **lists)


def _numbers(value: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(_number(number) for number in value.split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise CannotFold(f"'{value}' in '{text}' is no number, fraction or list of them") from error


def _number(text: str) -> float:
    over, slash, under = text.partition("/")
    return float(over) / float(under) if slash else float(over)


def uint8_input(
    model: onnx.ModelProto,
    name: str,
    *,
    scale: Sequence[float],
    mean: Sequence[float],
    std: Sequence[float],
    axis: int,
) -> onnx.ModelProto:
    """Take raw bytes, and normalise them inside the graph: one Cast, one Mul, one Add.

    Args:
        model: an fp32 graph; it stays as it is.
        name: the FLOAT input that becomes UINT8, under the same name and of the same shape.
        scale: as in ``Normalization``, and so are mean, std and axis.
        mean: see above.
        std: see above.
        axis: see above.

    Returns:
        The model with that input.

    Raises:
        CannotFold: there is no such input, it is not FLOAT, or the numbers do not fit its shape.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    value = next((value for value in graph.input if value.name == name), None)
    if value is None:
        known = ", ".join(f"'{value.name}'" for value in graph.input)
        raise CannotFold(f"the model has no input '{name}', it has {known or 'none'}")
    kind = value.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT or not kind.HasField("shape"):
        raise CannotFold(f"input '{name}' is no FLOAT tensor of known rank")
    if name in {item.name for item in (*graph.output, *graph.initializer)}:
        raise CannotFold(f"input '{name}' is an output too, or has a default, which stays FLOAT")
    shape = [dimension.dim_value for dimension in kind.shape.dim]
    factor, offset = Normalization(name, scale, mean, std, axis).constants(shape)
    taken = _names(graph)
    raw, mul, scaled, add, normal = (
        _free(f"{name}.{part}", taken) for part in ("float", "factor", "scaled", "offset", "normal")
    )
    for node in _nodes(graph):
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = normal
    graph.initializer.append(numpy_helper.from_array(factor, mul))
    graph.initializer.append(numpy_helper.from_array(offset, add))
    kind.elem_type = TensorProto.UINT8
    nodes = [
        helper.make_node("Cast", [name], [raw], name=raw, to=TensorProto.FLOAT),
        helper.make_node("Mul", [raw, mul], [scaled], name=scaled),
        helper.make_node("Add", [scaled, add], [normal], name=normal),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    return result


def top_k(model: onnx.ModelProto, name: str, k: int) -> onnx.ModelProto:
    """Answer the k largest scores and their classes, the largest first, in place of all scores.

    Args:
        model: the graph; it stays as it is.
        name: an output, FLOAT of shape [batch, classes].
        k: how many, from 1 to the number of classes.

    Returns:
        The model with ``<name>_values`` (FLOAT) and ``<name>_indices`` (INT64), both of shape
        [batch, k], where that output was. Of equal scores the lower class is first (ONNX, TopK).

    Raises:
        CannotFold: there is no such output, it is of another kind, or k does not fit it.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_TOP_K:
        raise CannotFold(f"the model's opset is {opset}, and TopK needs {_OLDEST_TOP_K}")
    outputs = [value.name for value in graph.output]
    if name not in outputs:
        known = ", ".join(f"'{output}'" for output in outputs)
        raise CannotFold(f"the model has no output '{name}', it has {known}")
    place = outputs.index(name)
    kind = graph.output[place].type.tensor_type
    if kind.elem_type != TensorProto.FLOAT or len(kind.shape.dim) != 2:
        raise CannotFold(f"output '{name}' is no FLOAT scores of shape [batch, classes]")
    rows, classes = kind.shape.dim
    if not 1 <= k <= classes.dim_value:
        count = classes.dim_value or "an unknown number of"
        raise CannotFold(f"the {k} best cannot be taken of {count} classes in output '{name}'")
    batch = rows.dim_param or rows.dim_value or None
    values, indices = f"{name}_values", f"{name}_indices"
    taken = _names(graph)
    if taken & {values, indices}:
        raise CannotFold(f"'{values}' or '{indices}' is a tensor of the model already")
    count_name = _free(f"{name}.k", taken)
    graph.initializer.append(numpy_helper.from_array(np.array([k], np.int64), count_name))
    node = helper.make_node(
        "TopK", [name, count_name], [values, indices], name=_free(f"{name}.top", taken), sorted=1
    )
    graph.node.append(node)
    ends = list(graph.output)
    ends[place : place + 1] = [
        helper.make_tensor_value_info(values, TensorProto.FLOAT, [batch, k]),
        helper.make_tensor_value_info(indices, TensorProto.INT64, [batch, k]),
    ]
    del graph.output[:]
    graph.output.extend(ends)
    return result


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those of bodies too: they read the graph's tensors by name."""
    for node in graph.node:
        yield node
        for field in node.attribute:
            for body in (field.g, *field.graphs):
                yield from _nodes(body)


def _names(graph: onnx.GraphProto) -> set[str]:
    """Every name in use, of tensors and of nodes."""
    names = {item.name for item in (*graph.input, *graph.initializer)}
    for node in _nodes(graph):
        names.update((node.name, *node.input, *node.output))
    return names


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "_"
    return name

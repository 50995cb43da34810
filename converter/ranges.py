"""Which nodes must stay in float32 when the rest of a graph becomes fp16.

fp16 ends at 65504 and counts whole numbers only up to 2048; what is below 6e-8 becomes 0, which is
left to the accuracy gate. ONNX Runtime's CPU provider runs fp16 graphs with float32 in between, so
no loss shows there: it is read off the fp32 graph, on real rows. In order: ``scan``,
``unsafe_nodes``, ``name_nodes``, the conversion with those nodes blocked, ``join_fp32``.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from converter.samples import Samples
from service.errors import FarthingError
from service.session import Session, SessionOptions

# IEEE 754 binary16: the largest finite number, and the last of the whole numbers without a gap.
LARGEST, LARGEST_INTEGER = 65504.0, 2048.0
_SINGLE, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_PREFIX = "farthing.range."
_INTEGERS = {TensorProto.INT32, TensorProto.INT64, TensorProto.UINT32, TensorProto.UINT64}
# Operators that take a float for a key, where one unit more or less is another answer.
_KEYED = {"OneHot", "Equal", "LabelEncoder"}
# Operators that hand numbers on as they are.
_MOVING = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Floor"}


class RangesUnknown(FarthingError):
    """A graph whose values cannot be read, with the reason."""


def scan(graph: Path, rows: Samples, *, batch: int = 8, max_rows: int = 64) -> dict[str, float]:
    """The largest absolute value of every float32 tensor of a graph, over real rows.

    Each tensor is reduced to one number inside the graph, so that memory stays that of one run.
    Infinities and NaN are passed over: fp16 has both. A tensor without elements counts as 0.

    Args:
        graph: the fp32 ONNX file; its own directory stays untouched.
        rows: feeds of shape [rows, ...] for its inputs.
        batch: rows in one run; a graph with a fixed first dimension gets that many.
        max_rows: how many rows to look at, from the first.

    Returns:
        Tensor name -> largest finite absolute value; inputs, initializers and what nodes put out.
        The inside of Loop, Scan and If is not seen.

    Raises:
        RangesUnknown: there are no rows, or the graph fails on them.
        ModelUnusable: ONNX Runtime cannot load the graph.
    """
    count = min(len(rows), max_rows)
    if count < 1:
        raise RangesUnknown("ranges need at least one row")
    model = onnx.load(graph)
    largest = {}
    for tensor in model.graph.initializer:
        if tensor.data_type == _SINGLE:
            array = numpy_helper.to_array(tensor)
            largest[tensor.name] = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
    watched = [name for name in _computed(_typed(graph).graph) if name not in largest]
    if not watched:
        return largest
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "watched.onnx"
        _watch(model.graph, watched)
        size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        onnx.save(model, path, save_as_external_data=size > 1 << 30)
        session = Session(path, SessionOptions())
    fixed = [spec.shape[0] for spec in session.inputs if spec.shape and spec.shape[0] > 0]
    step = fixed[0] if fixed else batch
    for start in range(0, count, step):
        part = rows.slice(start, min(start + step, count))
        if fixed:  # the last rows, repeated
            part = {name: np.resize(x, (step, *x.shape[1:])) for name, x in part.items()}
        for name, value in zip(watched, _run(session, part), strict=True):
            largest[name] = max(largest.get(name, 0.0), value)
    return largest


def unsafe_nodes(graph: Path, largest: Mapping[str, float], *, margin: float = 0.5) -> list[str]:
    """Names of the nodes that fp16 would break.

    A node is unsafe if it touches a tensor above ``margin`` x 65504; if it hands on float32 numbers
    above 2048 that become integers or keys, or whose table is longer than that; or if its values
    could not be seen, since it holds a subgraph or puts out a tensor of unknown type.

    Args:
        graph: the file that was scanned.
        largest: what ``scan`` found.
        margin: the share of fp16's range that may be used; below 1, for the rows not seen.

    Returns:
        Names in the graph's order; nodes without one have the name ``name_nodes`` gives them.

    Raises:
        RangesUnknown: the ranges are those of another graph.
    """
    model = _typed(graph)
    name_nodes(model)
    kinds = _kinds(model.graph)
    missing = [name for name in _computed(model.graph) if name not in largest]
    if missing:
        raise RangesUnknown(f"the ranges lack '{missing[0]}'; scan this very graph again")
    broken = {name for name, value in largest.items() if value > margin * LARGEST}
    unsafe = _key_nodes(model.graph, largest)
    for node in model.graph.node:
        unseen = list(_bodies(node)) or {*node.output} - kinds.keys() - {""}
        if unseen or broken.intersection([*node.input, *node.output]):
            unsafe.add(node.name)
    return [node.name for node in model.graph.node if node.name in unsafe]


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name that no other has; the same graph always gets the same names.

    Args:
        model: changed in place, the bodies of Loop, Scan and If too.
    """
    nodes = list(_all_nodes(model.graph))
    taken = {node.name for node in nodes}
    seen = {""}
    for index, node in enumerate(nodes):
        if node.name in seen:
            node.name = f"{node.op_type}.{index}"
            while node.name in taken:
                node.name += "_"
        seen.add(node.name)
        taken.add(node.name)


def join_fp32(model: onnx.ModelProto, blocked: Collection[str] = ()) -> int:
    """Take out the detours through fp16 that a conversion leaves between two float32 ends.

    ``onnxruntime.transformers.float16`` casts every output of a blocked node to fp16 and every
    input back, even from one blocked node to the next and behind a float32 graph input: 6.5e6
    becomes infinity there, and id 8001 becomes 8000, as if nothing had been blocked. What the body
    of a blocked Loop, Scan or If reads from outside it does not cast at all; that is mended too.

    Args:
        model: the converted graph, with the types of its tensors written down, as the converter
            leaves it; changed in place.
        blocked: the names of the nodes that were to stay in float32.

    Returns:
        How many casts back to float32 were bypassed.
    """
    graph = model.graph
    _cast_captured(graph, blocked)
    kinds = _kinds(graph)
    halved = {
        node.output[0]: node.input[0]
        for node in graph.node
        if _integer(node, "to") == _HALF and kinds.get(node.input[0]) == _SINGLE
    }
    detours: dict[str, str] = {}
    for node in graph.node:
        if _integer(node, "to") == _SINGLE and node.input[0] in halved:
            node.input[0] = detours[node.output[0]] = halved[node.input[0]]
    _rename(_all_nodes(graph), detours)
    for made in (detours, halved):  # what nothing reads any more
        used = _read(graph)
        kept = [node for node in graph.node if not {*node.output} & made.keys() - used]
        del graph.node[:]
        graph.node.extend(kept)
    return len(detours)


def digest(largest: Mapping[str, float]) -> str:
    """Hex sha256 of the ranges, whatever their order: what a manifest needs to name them."""
    lines = (f"{name}\0{float(value).hex()}\n" for name, value in sorted(largest.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _cast_captured(graph: onnx.GraphProto, blocked: Collection[str]) -> None:
    """Hand fp16 tensors to the float32 bodies that read them from outside as float32."""
    half = {name for name, kind in _kinds(graph).items() if kind == _HALF}
    bodies = [body for node in graph.node if node.name in blocked for body in _bodies(node)]
    names = {name: f"{name}.fp32" for body in bodies for name in _read(body) & half}
    for body in bodies:
        _rename(_all_nodes(body), names)
    for name, cast in names.items():
        graph.node.append(helper.make_node("Cast", [name], [cast], to=_SINGLE))


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)


def _watch(graph: onnx.GraphProto, names: list[str]) -> None:
    """Put out max(|x|) of each of these tensors, over what is finite, and nothing else."""
    for suffix, value in (("end", np.inf), ("zero", 0.0)):
        graph.initializer.append(numpy_helper.from_array(np.float32(value), _PREFIX + suffix))
    del graph.output[:]
    node = helper.make_node
    for index, name in enumerate(names):
        size, finite, rest, top = (f"{_PREFIX}{index}.{part}" for part in "afrt")
        graph.node.append(node("Abs", [name], [size]))
        graph.node.append(node("Less", [size, _PREFIX + "end"], [finite]))  # NaN is not less
        graph.node.append(node("Where", [finite, size, _PREFIX + "zero"], [rest]))
        graph.node.append(node("ReduceMax", [rest], [top], keepdims=0))
        graph.output.append(helper.make_tensor_value_info(top, _SINGLE, []))


def _run(session: Session, feeds: dict[str, np.ndarray[Any, Any]]) -> list[float]:
    try:
        outputs = session.run(feeds)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        said = " ".join(str(error).split())[:200]
        raise RangesUnknown(f"the graph fails on these rows: {said}") from error
    return [max(0.0, float(outputs[spec.name])) for spec in session.outputs]  # -inf: no elements


def _key_nodes(graph: onnx.GraphProto, largest: Mapping[str, float]) -> set[str]:
    """Nodes that float32 whole numbers above 2048 pass on their way to becoming keys."""
    makers = {name: node for node in graph.node for name in node.output if name}
    long = _long_indices(graph)
    found: set[str] = set()
    # Nodes that take keys, and whether these may pass 2048 even if no row shows it.
    waiting = [
        (node, node.output[0] in long)
        for node in graph.node
        if node.op_type in _KEYED or _integer(node, "to") in _INTEGERS
    ]
    while waiting:
        node, may = waiting.pop()
        for name in node.input:
            if name in largest and (may or largest[name] > LARGEST_INTEGER):
                found.add(node.name)
                maker = makers.get(name)
                if maker is not None and maker.name not in found:
                    found.add(maker.name)
                    waiting.append((maker, may and maker.op_type in _MOVING))
    return found


def _long_indices(graph: onnx.GraphProto) -> set[str]:
    """Indices into constant tables of more than 2048 entries."""
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer if tensor.dims}
    return {
        node.input[1]
        for node in graph.node
        if node.op_type == "Gather" and node.input[0] in shapes
        if shapes[node.input[0]][_integer(node, "axis")] > LARGEST_INTEGER
    }


def _typed(path: Path) -> onnx.ModelProto:
    """The model with its tensors' types; without external data, or it can be too large to infer."""
    return onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False))


def _kinds(graph: onnx.GraphProto) -> dict[str, int]:
    """Tensor name -> element type, where it is written down; 0 for what is no tensor."""
    infos = (*graph.input, *graph.value_info, *graph.output)
    known = {info.name: info.type.tensor_type.elem_type for info in infos if info.type.ByteSize()}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _computed(graph: onnx.GraphProto) -> list[str]:
    """The inputs, and everything that a node puts out, that is float32."""
    kinds = _kinds(graph)
    names = (name for node in graph.node for name in node.output)
    return [name for name in (*(v.name for v in graph.input), *names) if kinds.get(name) == _SINGLE]


def _integer(node: onnx.NodeProto, attribute: str) -> int:
    """An attribute's value, or 0; ``to`` is a Cast's type, and no other node has it."""
    return next((int(field.i) for field in node.attribute if field.name == attribute), 0)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for field in node.attribute:
        if field.HasField("g"):
            yield field.g
        yield from field.graphs


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _all_nodes(body)


def _read(graph: onnx.GraphProto) -> set[str]:
    """Every name that a node, a body or an end of the graph reads."""
    names = {name for node in graph.node for name in node.input}
    names |= {output.name for output in graph.output}
    return names.union(*(_read(body) for node in graph.node for body in _bodies(node)))

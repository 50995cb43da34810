"""fp16 as a ladder: a graph in halves; on a GPU then with as few regions in fp32 as it takes.

On a CPU the ladder has one rung: ONNX Runtime computes fp16 graphs in float32 there, so that most
of what is lost does not show, and nothing of what is gained, by which mixtures would be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
import service.session  # noqa: F401  # isort: skip

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

from converter import graphs, quantize, ranges, regions
from converter.excluding import excluding
from converter.search import Candidate, Ladder
from converter.workshop import Workshop


def fp16(shop: Workshop) -> Ladder:
    """Weights and arithmetic in half precision; inputs and outputs stay as they are.

    Nodes that touch a number beyond half precision's range on real rows stay in fp32: on a CPU the
    overflow would not show, since ORT drops the inner casts there. They are the seed of what a GPU
    then shows to lose too much besides.
    """
    model = onnx.load(shop.reference)
    quantize.name_nodes(model)
    named = shop.file("named")
    graphs.write(model, named)
    rows = shop.seen or shop.calibration()
    largest = ranges.scan(named, rows, max_rows=len(rows))
    unsafe = ranges.unsafe_nodes(named, largest)
    digest = ranges.digest(largest)
    target = shop.file("fp16")
    write(named, target, kept=unsafe)
    how = f"{len(unsafe)} nodes beyond fp16's range kept in fp32" if unsafe else "all in fp16"
    yield Candidate(target, how, tuple(unsafe), digest)
    if not shop.device.is_gpu:
        return
    names = {node.name for node in model.graph.node}

    def part(target: Path, only: Sequence[str], without: Sequence[str]) -> str:
        kept = names - {*only} if only else {*without}
        write(named, target, kept=kept | {*unsafe}, own_weights=True)
        return digest

    found = [
        region
        for region in regions.all_regions(model, largest.keys())
        if not {*region.nodes} <= {*unsafe}
    ]
    how = how if unsafe else "fp16"
    yield from excluding(shop, found, part, how, kept_always=unsafe, file="fp16")


def write(named: Path, target: Path, *, kept: Collection[str], own_weights: bool = False) -> None:
    """Write a graph in fp16 but for some nodes.

    Args:
        named: the fp32 graph; its nodes have names.
        target: the file to write.
        kept: names of the nodes that stay in fp32.
        own_weights: whether these get weights in fp32 also where others read the same ones; else
            they get the halves of those.

    Raises:
        UnknownNode: a name is no node's.
        BadGraph: the graph is larger than one file can be.
    """
    model = onnx.load(named)  # anew: the tool changes what it is given
    quantize.check_names({node.name for node in model.graph.node}, tuple(kept))
    ordered = [node.name for node in model.graph.node if node.name in kept]
    if own_weights:
        _part_weights(model.graph, kept)
    half = convert_float_to_float16(model, keep_io_types=True, node_block_list=ordered)
    # The tool casts what it was told to keep to fp16 and back on every edge; and once more for each
    # kept node that reads the same tensor, under one name, which no runtime loads.
    _once_each(half.graph)
    ranges.join_fp32(half, ordered)
    graphs.write(half, target)


def _part_weights(graph: onnx.GraphProto, kept: Collection[str]) -> None:
    """Give the kept nodes copies of the weights that they share with others."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    others = {name for node in graph.node if node.name not in kept for name in node.input}
    copies: dict[str, str] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if node.name in kept and name in weights and name in others:
                if name not in copies:
                    copies[name] = f"{name}.fp32"
                    graph.initializer.append(weights[name])
                    graph.initializer[-1].name = copies[name]
                node.input[index] = copies[name]


def _once_each(graph: onnx.GraphProto) -> None:
    made: set[str] = set()
    kept = []
    for node in graph.node:
        if node.op_type != "Cast" or not made.intersection(node.output):
            kept.append(node)
        made.update(node.output)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)

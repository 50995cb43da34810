"""Which channels of a graph are tied together, so that they can only be cut together.

Every channel that a Conv, Gemm or MatMul computes gets a number. The numbers are carried along the
graph: each tensor has at most one axis of channels, with a number for each index of it. Where
channels meet, as at a residual add, their numbers are joined (union-find); Flatten repeats numbers,
Concat appends them. What is left are sets of channels that stand and fall together, and for each
weight the axes on which they stand. Number 0 means "kept": graph outputs and whatever an operator
reads that is not known here are joined with it, so an unknown operator costs a chance, not a net.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx

from converter.graphs import constants
from converter.pruning import tracks
from converter.pruning.plain import attribute, names_read, shapes
from converter.pruning.tracks import KEPT, Around, Array, Site, Ties, Track

_BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min", "Sum")


@dataclass(frozen=True)
class Mixer:
    """A Conv without groups, Gemm or MatMul: it computes channels from all channels it reads.

    Attributes:
        index: of the node in the graph.
        source: the tensor it reads.
        result: what it computes, bias included.
        weight: its weights.
        inputs_axis: the axis of the weights that goes over inputs.
        bias: initializer that is added to each channel; None where there is none.
        read: numbers of the channels it reads; None where nothing is known of them.
        written: numbers of the channels it computes.
        goal: the sum that ``result`` only exists for, where it is one addend of a residual add
            and the other was computed before; else ``result``.
        shortcut: that other addend, or None.
    """

    index: int
    source: str
    result: str
    weight: str
    inputs_axis: int
    bias: str | None
    read: Array | None
    written: Array
    goal: str = ""
    shortcut: str | None = None


@dataclass(frozen=True)
class Tied:
    """What can be cut.

    Attributes:
        sites: every axis of a weight that has channels.
        mixers: in the order of the graph, those whose weights nobody shares.
        depthwise: node index -> numbers of the channels that a depthwise Conv reads.
        groups: each the numbers of channels that stand on the same sites and may be cut.
        count: one more than the largest number.
    """

    sites: tuple[Site, ...]
    mixers: tuple[Mixer, ...]
    depthwise: dict[int, Array]
    groups: tuple[Array, ...]
    count: int


def trace(model: onnx.ModelProto) -> Tied:
    """Tie the channels of a graph that ``plain.in_plain_form`` has prepared."""
    return _Tracer(model).trace()


class _Tracer:
    """One walk over a graph; a tensor that cannot be followed has no track."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.constants = constants(model)
        self.weights = {
            name: values for name, values in self.constants.items() if values.dtype == np.float32
        }
        self.shapes = shapes(model)
        self.uses = Counter(name for node in self.graph.node for name in names_read(node))
        self.uses.update(output.name for output in self.graph.output)
        self.ties = Ties()
        self.tracks: dict[str, Track] = {}
        self.sites: list[Site] = []
        self.sited: set[tuple[int, str]] = set()  # (node, weight)
        self.mixers: list[Mixer] = []
        self.depthwise: dict[int, Array] = {}
        self.index = 0
        self.operators: dict[str, Callable[[Any], Track | None]] = {
            "Conv": self._conv,
            "Gemm": self._product,
            "MatMul": self._product,
            "BatchNormalization": self._normalization,
            "Concat": self._concat,
            **dict.fromkeys(_BROADCAST, self._broadcast),
        }

    def trace(self) -> Tied:
        """Walk, then give tied channels one number."""
        for index, node in enumerate(self.graph.node):
            self.index = index
            self._visit(node)
        for output in self.graph.output:
            if output.name in self.tracks:
                self.ties.keep(self.tracks[output.name].numbers)
        sited = Counter(weight for _, weight in self.sited)
        for site in self.sites:
            if self.uses[site.weight] != sited[site.weight]:  # read elsewhere, not as channels
                self.ties.keep(site.numbers)
        roots = self.ties.roots()
        sites = tuple(replace(site, numbers=roots[site.numbers]) for site in self.sites)
        mixers = tuple(
            replace(
                _with_goal(mixer, self),
                read=None if mixer.read is None else roots[mixer.read],
                written=roots[mixer.written],
            )
            for mixer in self.mixers
            if self.uses[mixer.weight] == 1
        )
        depthwise = {index: roots[numbers] for index, numbers in self.depthwise.items()}
        read = {number for mixer in mixers if mixer.read is not None for number in mixer.read}
        return Tied(sites, mixers, depthwise, tracks.groups(sites, read), len(roots))

    def _visit(self, node: Any) -> None:
        read, track = names_read(node), None
        computes = node.op_type in ("Conv", "Gemm", "MatMul")
        if not computes and not any(name in self.tracks for name in read):
            return
        if node.domain in ("", "ai.onnx") and not any(node.output[1:]):
            track = self.operators.get(node.op_type, self._follow)(node)
        if track is not None:
            self.tracks[node.output[0]] = track
        else:
            for name in set(read) & set(self.tracks):
                self.ties.keep(self.tracks[name].numbers)

    def _follow(self, node: Any) -> Track | None:
        track = self.tracks.get(node.input[0]) if node.input else None
        if track is None:
            return None
        before, after = (self.shapes.get(name) for name in (node.input[0], node.output[0]))
        parameters = [self.constants.get(name) for name in node.input[1:]]
        return tracks.follow(track, node, Around(before, after, parameters))

    def _conv(self, node: Any) -> Track | None:
        track, weight = self.tracks.get(node.input[0]), self.weights.get(node.input[1])
        if weight is None or (track is not None and track.axis != 1):
            return None
        name, groups = node.input[1], attribute(node, "group", 1)
        if groups == 1:
            written = self._mixer(node, track, 0)
        elif track is not None and groups == len(track.numbers):  # depthwise
            written = track.numbers.repeat(len(weight) // groups)
            self._site(name, 0, written)
            self.depthwise[self.index] = track.numbers
        else:
            return None
        if len(node.input) > 2 and not self._stands(node.input[2], 0, 1, written):
            return None
        return Track(1, written)

    def _product(self, node: Any) -> Track | None:
        track, weight = self.tracks.get(node.input[0]), self.weights.get(node.input[1])
        axis = len(self.shapes.get(node.input[0], ())) - 1
        scaled = {attribute(node, name, 1.0) for name in ("alpha", "beta")} != {1.0}
        if weight is None or weight.ndim != 2 or axis < 1 or scaled or attribute(node, "transA", 0):
            return None
        if track is not None and track.axis != axis:
            return None
        written = self._mixer(node, track, 0 if attribute(node, "transB", 0) else 1)
        if len(node.input) > 2 and not self._stands(node.input[2], axis, axis + 1, written):
            return None
        return Track(axis, written)

    def _mixer(self, node: Any, track: Track | None, outputs_axis: int) -> Array:
        """Number the channels that a node computes, and note what it reads."""
        weight = node.input[1]
        size = self.constants[weight].shape[outputs_axis]
        written = self.ties.new(size)
        self._site(weight, outputs_axis, written)
        if track is not None:
            self._site(weight, 1 - outputs_axis, track.numbers)
        self.mixers.append(
            Mixer(
                self.index,
                node.input[0],
                node.output[0],
                weight,
                1 - outputs_axis,
                bias=node.input[2] if len(node.input) > 2 else None,
                read=None if track is None else track.numbers,
                written=written,
            )
        )
        return written

    def _normalization(self, node: Any) -> Track | None:
        track = self.tracks.get(node.input[0])
        if track is None or track.axis != 1:
            return None
        fine = all(self._stands(vector, 0, 1, track.numbers) for vector in node.input[1:])
        return track if fine else None

    def _broadcast(self, node: Any) -> Track | None:
        if any(name not in self.shapes for name in node.input):
            return None
        rank = max(len(self.shapes[name]) for name in node.input)
        known = {name: self.tracks[name] for name in node.input if name in self.tracks}
        axes = {track.axis + rank - len(self.shapes[name]) for name, track in known.items()}
        if len(axes) != 1:
            return None
        axis, numbers = axes.pop(), max((track.numbers for track in known.values()), key=len)
        for name in node.input:
            if name not in known:
                if not self._stands(name, axis, rank, numbers):
                    return None
            elif len(known[name].numbers) == len(numbers):
                self.ties.join(numbers, known[name].numbers)
            else:
                return None
        return Track(axis, numbers)

    def _stands(self, name: str, axis: int, rank: int, numbers: Array) -> bool:
        """Whether a tensor without channels of its own can follow a cut; if so, note where."""
        shape = self.shapes.get(name)
        if shape is None:
            return False
        own_axis = axis - (rank - len(shape))
        if own_axis < 0 or shape[own_axis] == 1:
            return True
        if name not in self.constants or shape[own_axis] != len(numbers):
            return False
        self._site(name, own_axis, numbers)
        return True

    def _concat(self, node: Any) -> Track | None:
        shape, parts = self.shapes.get(node.output[0]), []
        axes = {self.tracks[name].axis for name in node.input if name in self.tracks}
        if shape is None or axes != {attribute(node, "axis", 0) % len(shape)}:
            return None
        axis = axes.pop()
        for name in node.input:
            size = self.shapes.get(name, (None,) * len(shape))[axis]
            if name in self.tracks:
                parts.append(self.tracks[name].numbers)
            elif size is not None and name not in self.constants:
                parts.append(np.full(size, KEPT))
            else:
                return None
        return Track(axis, np.concatenate(parts))

    def _site(self, weight: str, axis: int, numbers: Array) -> None:
        for site in self.sites:
            if (site.weight, site.axis) == (weight, axis):  # shared by two nodes
                self.ties.join(site.numbers, numbers)
        self.sites.append(Site(weight, axis, numbers))
        self.sited.add((self.index, weight))


def _with_goal(mixer: Mixer, tracer: _Tracer) -> Mixer:
    """The mixer with the bias that a MatMul has in an Add, and with the sum it is made for."""
    readers = [node for node in tracer.graph.node if mixer.result in node.input]
    plain = replace(mixer, goal=mixer.result)
    if tracer.uses[mixer.result] != 1 or not readers or readers[0].op_type != "Add":
        return plain
    add = readers[0]
    other = add.input[1] if add.input[0] == mixer.result else add.input[0]
    if other not in tracer.constants:
        made = [i for i, node in enumerate(tracer.graph.node) if other in node.output]
        later = any(index > mixer.index for index in made)
        shape = tracer.shapes.get(other)
        equal = shape is not None and shape == tracer.shapes.get(add.output[0])
        return plain if later or not equal else replace(mixer, goal=add.output[0], shortcut=other)
    addend, channels = tracer.constants[other].shape, len(mixer.written)
    vector = prod(addend) == channels == (*addend, 0)[len(addend) - 1]
    if mixer.inputs_axis == 1 or mixer.bias or tracer.uses[other] != 1 or not vector:
        return plain
    return _with_goal(replace(mixer, bias=other, result=add.output[0]), tracer)

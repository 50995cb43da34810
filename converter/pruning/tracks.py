"""Numbers of channels: tied to each other, and carried through operators without weights.

A track is followed through an operator only if cutting channels before it gives the same as cutting
them after it; then every rule here is "the same channels, at this axis".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from converter.pruning.plain import attribute

Array = np.ndarray[Any, Any]
Shape = tuple[int | None, ...]

KEPT = 0  # the number of all channels that must stay


@dataclass(frozen=True)
class Site:
    """An axis of a weight on which channels stand: ``numbers`` has one for each index of it."""

    weight: str
    axis: int
    numbers: Array


class Ties:
    """Which numbers mean channels that stand and fall together (union-find)."""

    def __init__(self) -> None:
        self._parents = [KEPT]

    def new(self, count: int) -> Array:
        """Numbers for so many channels, tied to nothing."""
        numbers = np.arange(len(self._parents), len(self._parents) + count)
        self._parents.extend(numbers.tolist())
        return numbers

    def join(self, one: Array, other: Array) -> None:
        """Tie each number of the one to that of the other at the same place."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            low, high = sorted((self._root(a), self._root(b)))
            self._parents[high] = low

    def keep(self, numbers: Array) -> None:
        """Tie all of these to what must stay."""
        self.join(numbers, np.full_like(numbers, KEPT))

    def roots(self) -> Array:
        """For each number the one that stands for all that are tied to it."""
        return np.array([self._root(number) for number in range(len(self._parents))])

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


def groups(sites: Sequence[Site], read: set[int]) -> tuple[Array, ...]:
    """Numbers by the set of sites they stand on; only those that are all read, and may go."""
    stands: dict[int, list[int]] = defaultdict(list)
    for index, site in enumerate(sites):
        for number in np.unique(site.numbers).tolist():
            stands[number].append(index)
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, indices in sorted(stands.items()):
        found[tuple(indices)].append(number)
    return tuple(np.array(group) for group in found.values() if (read - {KEPT}).issuperset(group))


@dataclass(frozen=True)
class Track:
    """The axis of a tensor that is its channels, and a number for each index of that axis."""

    axis: int
    numbers: Array


@dataclass(frozen=True)
class Around:
    """What is known around an operator whose first input has a track.

    Attributes:
        before: shape of that input; None where it is not known.
        after: shape of the output; None where it is not known.
        parameters: the values of its further inputs; None for one that is no constant.
    """

    before: Shape | None
    after: Shape | None
    parameters: list[Array | None]


def follow(track: Track, node: Any, around: Around) -> Track | None:
    """The track of an operator's output; None where it is not known to have one."""
    rule = _RULES.get(node.op_type)
    return rule(track, node, around) if rule else None


def _same(track: Track, node: Any, around: Around) -> Track | None:
    return track


def _pool(track: Track, node: Any, around: Around) -> Track | None:
    return track if track.axis == 1 else None


def _reduce(track: Track, node: Any, around: Around) -> Track | None:
    """Without some of the other axes, or with length 1 there."""
    axes = _axes(node, around.parameters, around.before)
    if axes is None or track.axis in axes:
        return None
    kept = node.op_type != "Squeeze" and attribute(node, "keepdims", 1)
    lost = 0 if kept else sum(axis < track.axis for axis in axes)
    return Track(track.axis - lost, track.numbers)


def _unsqueeze(track: Track, node: Any, around: Around) -> Track | None:
    axes = _axes(node, around.parameters, around.after)
    if axes is None or around.after is None:
        return None
    left = [axis for axis in range(len(around.after)) if axis not in axes]
    return Track(left[track.axis], track.numbers)


def _axes(node: Any, parameters: list[Array | None], shape: Shape | None) -> list[int] | None:
    """The axes that an operator names, counted from 0; None where they or the rank are unknown."""
    axes = attribute(node, "axes", None)
    if parameters and parameters[0] is not None:
        axes = parameters[0].ravel().tolist()
    return [int(axis) % len(shape) for axis in axes] if axes and shape else None


def _transpose(track: Track, node: Any, around: Around) -> Track | None:
    order = attribute(node, "perm", None)
    return Track(list(order).index(track.axis), track.numbers) if order else None


def _flatten(track: Track, node: Any, around: Around) -> Track | None:
    """All axes but the first become one, which may stand among axes of length 1."""
    before, after = around.before, around.after
    if not before or not after or None in before[1:] or None in after[1:]:
        return None
    sizes = [size or 0 for size in before[1:]]
    long = [axis for axis, size in enumerate(after) if axis and size != 1]
    if len(long) != 1 or after[long[0]] != prod(sizes):
        return None
    if node.op_type == "Reshape":
        shape = around.parameters[0] if around.parameters else None
        if shape is None or shape.tolist()[long[0]] != -1:
            return None  # it would still ask for the old number
    own = [len(track.numbers) if axis == track.axis else 1 for axis in range(1, len(before))]
    return Track(long[0], np.broadcast_to(track.numbers.reshape(own), sizes).ravel())


def _pad(track: Track, node: Any, around: Around) -> Track | None:
    pads = around.parameters[0] if around.parameters else None
    if pads is None or len(around.parameters) > 2:  # a fourth input names axes
        return None
    return None if pads.reshape(2, -1)[:, track.axis].any() else track


_ELEMENTWISE = (
    *("Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish"),
    *("Clip", "Erf", "Exp", "Log", "Softplus", "Softsign", "Mish", "Gelu", "Swish", "Sqrt", "Abs"),
    *("Neg", "Reciprocal", "Dropout", "Identity", "ThresholdedRelu"),
)
_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL2")

_RULES: dict[str, Callable[[Track, Any, Around], Track | None]] = {
    **dict.fromkeys(_ELEMENTWISE, _same),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Squeeze": _reduce,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Pad": _pad,
}

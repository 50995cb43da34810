"""Layers fitted again, one after the other, to what they answered before their graph was cut.

For each layer, with X what it reads now and R what its answer lacks: least squares of R by X, and
the solution is added to its weights. A pull towards the old weights (ridge) keeps few readings from
deciding much; how strong it is, readings of rows kept back decide. See ``converter.pruning`` for
where this comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from converter import graphs
from converter.pruning import plain, readings
from converter.pruning.channels import Mixer, Tied
from converter.pruning.readings import Room
from converter.pruning.tracks import Array

_PULLS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # times the mean variance of what a layer reads
_KEPT_BACK = 4  # one of so many readings


@dataclass(frozen=True)
class Goals:
    """What layers answered before.

    Attributes:
        answers: index of a mixer -> for each turn [rows * places, channels].
        grids: index of a mixer -> shape of its output without rows and channels.
    """

    answers: dict[int, list[Array]]
    grids: dict[int, tuple[int, ...]]


def fit_all(model: onnx.ModelProto, tied: Tied, stays: Array, goals: Goals, room: Room) -> None:
    """Fit every layer of a graph that was cut, in its order.

    Args:
        model: the graph after the cut; its weights are changed in place.
        tied: as traced before the cut.
        stays: for each number of a channel whether it was kept.
        goals: what the layers answered before the cut.
        room: as the goals were read in.
    """
    weights, touched = graphs.constants(model), False
    for mixer in tied.mixers:
        touched = touched or (mixer.read is not None and not stays[mixer.read].all())
        if not touched:
            continue
        weight, bias = weights[mixer.weight], weights.get(mixer.bias or "")
        matrix = weight.reshape(len(weight), -1).T if mixer.inputs_axis == 1 else weight
        free = (
            bias is not None and bias.size == matrix.shape[1]
        )  # else there is none, or one for all
        read, wanted = _read(model, mixer, stays[mixer.written], goals, room)
        lacks = wanted - read @ matrix - (0 if bias is None else bias)
        change, shift = _fit(read, lacks, free)
        change = change.T if mixer.inputs_axis == 1 else change
        weights[mixer.weight] = (weight + change.reshape(weight.shape)).astype(np.float32)
        plain.replace_initializer(model.graph, mixer.weight, weights[mixer.weight])
        if free and bias is not None and mixer.bias:
            weights[mixer.bias] = (bias + shift.reshape(bias.shape)).astype(np.float32)
            plain.replace_initializer(model.graph, mixer.bias, weights[mixer.bias])


def _read(
    model: onnx.ModelProto, mixer: Mixer, stays: Array, goals: Goals, room: Room
) -> tuple[Array, Array]:
    """What a layer reads now, and what it should answer."""
    node, grid = model.graph.node[mixer.index], goals.grids[mixer.index]
    names = {mixer.source} | ({mixer.shortcut} if mixer.shortcut else set())
    read, wanted = [], []
    for turn, tensors in enumerate(readings.run(model, names, room)):
        places = readings.places_for(mixer, grid, turn, room)
        read.append(readings.columns(tensors[mixer.source], node, grid, places))
        goal = goals.answers[mixer.index][turn][:, stays]
        if mixer.shortcut:
            goal = goal - readings.at_places(tensors[mixer.shortcut], node, places)
        wanted.append(goal)
    return np.concatenate(read), np.concatenate(wanted)


def _fit(read: Array, lacks: Array, free: bool) -> tuple[Array, Array]:
    """Change of weights [inputs, outputs] and of the bias [outputs] that supplies what lacks."""
    kept_back = np.arange(len(read)) >= len(read) - len(read) // _KEPT_BACK
    fitted = _Ridge(read[~kept_back], lacks[~kept_back], free)
    best, least = np.inf, np.inf
    for pull in (np.inf, *_PULLS):
        change, shift = fitted.solve(pull)
        error = float(np.square(lacks[kept_back] - read[kept_back] @ change - shift).sum())
        if error < least:
            best, least = pull, error
    return _Ridge(read, lacks, free).solve(best)


class _Ridge:
    """Least squares with a pull towards no change.

    Hoerl, Kennard 1970, "Ridge regression": (X'X + k I)^-1 X'R; where X has fewer rows than
    columns, X'(XX' + k I)^-1 R, which is the same.
    """

    def __init__(self, read: Array, lacks: Array, free: bool) -> None:
        self._shift = lacks.mean(axis=0) if free else np.zeros(lacks.shape[1], np.float32)
        self._means = read.mean(axis=0) if free else np.zeros(read.shape[1], np.float32)
        self._x = read - self._means
        self._wide = self._x.shape[1] > self._x.shape[0]
        gram = self._x @ self._x.T if self._wide else self._x.T @ self._x
        lacks = lacks - self._shift
        self._right = lacks if self._wide else self._x.T @ lacks
        self._gram = gram.astype(np.float64)
        self._unit = float(np.trace(self._gram)) / self._x.shape[1]

    def solve(self, pull: float) -> tuple[Array, Array]:
        """Change of weights and bias; infinite pull changes the bias only."""
        if pull == np.inf:
            return np.zeros((self._x.shape[1], self._right.shape[1]), np.float32), self._shift
        system = self._gram + (pull * self._unit + 1e-12) * np.eye(len(self._gram))
        solved = np.linalg.solve(system, self._right).astype(np.float32)
        change: Array = self._x.T @ solved if self._wide else solved
        return change, self._shift - self._means @ change

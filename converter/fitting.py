"""Layers fitted again, one after the other, to what they answered before their graph was cut.

For each layer, with X what it reads now and R what its answer lacks: least squares of R by X, and
the solution is added to its weights. A pull towards the old weights (ridge) keeps few readings from
deciding much; how strong it is, readings of rows kept back decide. See ``converter.pruning`` for
where this comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from converter import folding, graphs, readings
from converter.channels import Mixer, Tied
from converter.readings import Room
from converter.tracks import Array

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
        folding.replace_initializer(model.graph, mixer.weight, weights[mixer.weight])
        if free and bias is not None and mixer.bias:
            weights[mixer.bias] = (bias + shift.reshape(bias.shape)).astype(np.float32)
            folding.replace_initializer(model.graph, mixer.bias, weights[mixer.bias])


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
    best, least = np.inf, np.inf
    for pull in (np.inf, *_PULLS):
        change, shift = _ridge(read[~kept_back], lacks[~kept_back], pull, free)
        error = float(np.square(lacks[kept_back] - read[kept_back] @ change - shift).sum())
        if error < least:
            best, least = pull, error
    return _ridge(read, lacks, best, free)


def _ridge(read: Array, lacks: Array, pull: float, free: bool) -> tuple[Array, Array]:
    """Hoerl, Kennard 1970: (X'X + k I)^-1 X'R, or X'(XX' + k I)^-1 R where that is smaller."""
    means = read.mean(axis=0) if free else np.zeros(read.shape[1], np.float32)
    middle = lacks.mean(axis=0) if free else np.zeros(lacks.shape[1], np.float32)
    if pull == np.inf:
        return np.zeros((read.shape[1], lacks.shape[1]), np.float32), middle
    x, r = read - means, lacks - middle
    strength = pull * float(np.square(x).sum()) / read.shape[1] + 1e-12
    wide = x.shape[1] > x.shape[0]
    gram = np.asarray(x @ x.T if wide else x.T @ x, dtype=np.float64)
    gram[np.diag_indices_from(gram)] += strength
    right = r if wide else x.T @ r
    solved = np.linalg.solve(gram, right).astype(np.float32)
    change: Any = x.T @ solved if wide else solved
    return change, middle - means @ change

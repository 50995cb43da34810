"""Structured pruning: whole channels cut out of an fp32 graph, and the rest fitted again.

ONNX Runtime gains nothing from zeros within a weight, and all from a smaller weight. Which channels
can only go together is found by ``converter.channels``. Of each such group a fraction goes:

- Rank. Whoever reads a channel that is cut can make up for it from the channels that stay, as far
  as they predict it. A channel therefore costs what its readers' weights make of the variance that
  the others leave unexplained: |w|^2 / inv(C)[c, c], C the covariance of the channels over
  calibration rows. Channels go one after the other, cheapest first, readers making up for each
  (Hassibi, Stork 1993, "Second order derivatives for network pruning: optimal brain surgeon", with
  a channel in place of a weight).
- Fit. Layer by layer, in the order of the graph and on what the pruned graph itself computes, the
  weights are fitted to what the layer answered before, by least squares with a pull towards the
  old weights (He, Zhang, Sun 2017, "Channel pruning for accelerating very deep neural networks";
  Luo, Wu, Lin 2017, "ThiNet"). The last layer before a residual add is fitted to the sum, and so
  makes up for its shortcut. How strong the pull is decide calibration rows kept back, for each
  layer; at its strongest only the bias moves. Nothing is trained.

Widths stay multiples of the blocks of ONNX Runtime's convolutions, which pad what is between.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from converter import graphs
from converter.pruning import channels, fitting, plain, readings
from converter.pruning.channels import Mixer, Tied
from converter.pruning.fitting import Goals
from converter.pruning.readings import Room
from converter.pruning.tracks import Array
from converter.samples import Samples
from service.errors import FarthingError

_READINGS = 8_000  # of each layer, at most
_READINGS_BYTES = 256_000_000  # of all layers' goals
_MULTIPLY_ADDS = 3e12  # to spend on running the graph; about a minute on two cores


class NothingToPrune(FarthingError):
    """No channels of a graph can be cut, with the reason."""


@dataclass(frozen=True)
class Pruned:
    """What was cut.

    Attributes:
        groups: of tied channels, from which some were cut.
        channels_before: in these groups.
        channels_after: in these groups.
        multiply_adds_before: of a row, in the whole graph.
        multiply_adds_after: of a row, in the whole graph.
    """

    groups: int
    channels_before: int
    channels_after: int
    multiply_adds_before: int
    multiply_adds_after: int

    def __str__(self) -> str:
        return (
            f"{self.channels_before - self.channels_after} of {self.channels_before} channels cut "
            f"in {self.groups} groups, {self.multiply_adds_before / 1e6:.3g} M multiply-adds -> "
            f"{self.multiply_adds_after / 1e6:.3g} M"
        )


def prune(reference: Path, target: Path, calibration: Samples, *, fraction: float = 0.3) -> Pruned:
    """Cut about a fraction of the channels, and fit what is left to calibration rows.

    Args:
        reference: an fp32 graph.
        target: where to write the pruned graph; it has the same inputs and outputs.
        calibration: typical rows; 200 are plenty.
        fraction: share of each group of tied channels to cut, above 0 and below 1.

    Returns:
        What was cut.

    Raises:
        NothingToPrune: no group of channels can be cut by so much.
    """
    model = plain.in_plain_form(graphs.read(reference))
    tied = channels.trace(model)
    if not tied.groups:
        raise NothingToPrune(
            "no channels can be cut: all of them reach an output of the graph, or an operator that "
            "needs them all"
        )
    widths = [kept_width(len(group), fraction) for group in tied.groups]
    cuts = [(group, len(group) - width) for group, width in zip(tied.groups, widths, strict=True)]
    cuts = [(group, count) for group, count in cuts if count]
    if not cuts:
        raise NothingToPrune(
            f"{fraction:.0%} of the widest group of channels, {max(map(len, tied.groups))}, is "
            "less than the steps of 8 and 16 in which a cut saves time"
        )
    work = plain.multiply_adds(model)
    with TemporaryDirectory(dir=target.parent) as scratch:
        room = _room(Path(scratch), calibration, tied, model)
        goals, readers = _observe(model, tied, cuts, room)
        stays = np.ones(tied.count, bool)
        for (group, count), of_group in zip(cuts, readers, strict=True):
            stays[group[_cheapest(of_group, count)]] = False
        pruned = cut(model, tied, stays)
        fitting.fit_all(pruned, tied, stays, goals, room)
    graphs.write(pruned, target)
    return Pruned(
        groups=len(cuts),
        channels_before=sum(len(group) for group, _ in cuts),
        channels_after=sum(len(group) - count for group, count in cuts),
        multiply_adds_before=work,
        multiply_adds_after=plain.multiply_adds(pruned),
    )


def kept_width(width: int, fraction: float) -> int:
    """What stays of so many channels: a multiple of 16, of 8 below 32, and not none of them."""
    block = 16 if width >= 32 else 8
    return min(width, max(block, block * round(width * (1 - fraction) / block)))


def cut(model: onnx.ModelProto, tied: Tied, stays: Array) -> onnx.ModelProto:
    """A copy of a graph without the channels that do not stay.

    Args:
        model: the graph that was traced.
        tied: what was found there.
        stays: for each number of a channel whether it stays.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    weights = graphs.constants(model)
    done = set()
    for site in tied.sites:
        if (site.weight, site.axis) not in done:
            done.add((site.weight, site.axis))
            weights[site.weight] = weights[site.weight].compress(stays[site.numbers], site.axis)
    for name in {name for name, _ in done}:
        plain.replace_initializer(result.graph, name, weights[name])
    for index, numbers in tied.depthwise.items():
        for entry in result.graph.node[index].attribute:
            if entry.name == "group":
                entry.i = int(stays[numbers].sum())
    return result


@dataclass(frozen=True)
class _Reader:
    """One layer that reads a group of channels.

    Attributes:
        covariance: of the channels, [channels, channels].
        weights: of the layer, [channels, taps * outputs].
    """

    covariance: Array
    weights: Array


def _room(scratch: Path, calibration: Samples, tied: Tied, model: onnx.ModelProto) -> Room:
    work = plain.multiply_adds(model)
    sizes = {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    rows = int(np.clip(_MULTIPLY_ADDS / max(work * len(tied.mixers) / 2, 1), 16, 1000))
    rows = min(rows, len(calibration))
    written = sum(len(mixer.written) for mixer in tied.mixers)
    widest = max(sizes[mixer.weight] // len(mixer.written) for mixer in tied.mixers)
    places = min(_READINGS, _READINGS_BYTES // (4 * max(written, widest))) // rows
    return Room(scratch, Samples(calibration.slice(0, rows), None), max(places, 1))


def _observe(
    model: onnx.ModelProto, tied: Tied, cuts: list[tuple[Array, int]], room: Room
) -> tuple[Goals, list[list[_Reader]]]:
    """What layers answer before the cut, and for each group to cut, who reads it."""
    nodes, weights = model.graph.node, graphs.constants(model)
    goals = Goals({mixer.index: [] for mixer in tied.mixers}, {})
    pairs = [
        (number, mixer, _order(mixer, group))
        for number, (group, _) in enumerate(cuts)
        for mixer in tied.mixers
        if mixer.read is not None and np.isin(mixer.read, group).any()
    ]
    moments = [_Moments(len(cuts[number][0])) for number, _, _ in pairs]
    names = {name for mixer in tied.mixers for name in (mixer.goal, mixer.source)}
    for turn, tensors in enumerate(readings.run(model, names, room)):
        for mixer in tied.mixers:
            node, goal = nodes[mixer.index], tensors[mixer.goal]
            goals.grids[mixer.index] = grid = readings.grid_of(goal, node)
            places = readings.places_for(mixer, grid, turn, room)
            goals.answers[mixer.index].append(readings.at_places(goal, node, places))
        for (_, mixer, order), moment in zip(pairs, moments, strict=True):
            node, source = nodes[mixer.index], tensors[mixer.source]
            grid = readings.grid_of(source, node)
            places = readings.places_for(mixer, grid, turn, room)
            moment.add(readings.at_places(source, node, places)[:, order])
    readers: list[list[_Reader]] = [[] for _ in cuts]
    for (number, mixer, order), moment in zip(pairs, moments, strict=True):
        outgoing = np.moveaxis(weights[mixer.weight], mixer.inputs_axis, 0)[order]
        outgoing = outgoing.reshape(moment.channels, -1)
        readers[number].append(_Reader(moment.covariance(), outgoing))
    return goals, readers


def _order(mixer: Mixer, group: Array) -> Array:
    """Indices of what a mixer reads of a group, channel by channel in the order of the group."""
    assert mixer.read is not None
    indices = np.flatnonzero(np.isin(mixer.read, group))
    return indices[np.argsort(mixer.read[indices], kind="stable")]


class _Moments:
    """Covariance of channels, summed up over readings of [positions, channels * repeats]."""

    def __init__(self, channels: int) -> None:
        self.channels, self.count = channels, 0
        self.sums, self.products = np.zeros(channels), np.zeros((channels, channels))

    def add(self, values: Array) -> None:
        values = values.reshape(len(values), self.channels, -1).swapaxes(1, 2)
        values = values.reshape(-1, self.channels)
        self.count += len(values)
        self.sums += values.sum(axis=0)
        self.products += values.T @ values

    def covariance(self) -> Array:
        means = self.sums / self.count
        return self.products / self.count - np.outer(means, means)


def _cheapest(readers: list[_Reader], count: int) -> Array:
    """Indices of the channels whose loss the readers notice least, when they make up for it."""
    inverses, outgoing = [], []
    for reader in readers:
        channels = len(reader.covariance)
        scale = max(float(np.trace(reader.covariance)) / channels, 1e-12)
        inverses.append(np.linalg.inv(reader.covariance + 1e-3 * scale * np.eye(channels)))
        answer = np.sum(reader.weights * (reader.covariance @ reader.weights))
        outgoing.append(reader.weights / np.sqrt(max(float(answer), 1e-12)))
    left = np.arange(len(readers[0].covariance))
    at_once = -(-count // 64)  # a wide group goes in steps
    while count:
        costs = sum(
            (weights**2).sum(axis=1) / inverse.diagonal()
            for weights, inverse in zip(outgoing, inverses, strict=True)
        )
        gone = np.argsort(costs)[: min(at_once, count)]
        stay = np.setdiff1d(np.arange(len(left)), gone)
        for number, inverse in enumerate(inverses):
            share = inverse[np.ix_(stay, gone)] @ np.linalg.inv(inverse[np.ix_(gone, gone)])
            inverses[number] = inverse[np.ix_(stay, stay)] - share @ inverse[np.ix_(gone, stay)]
            outgoing[number] = outgoing[number][stay] - share @ outgoing[number][gone]
        left, count = left[stay], count - len(gone)
    return np.setdiff1d(np.arange(len(readers[0].covariance)), left)

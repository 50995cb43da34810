"""A GPU's conversions, run on the CPU provider: all but the device is the real thing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from converter.target import Target
from service.devices import CUDA, TENSORRT, Device
from service.session import SessionOptions
from tests.converter import nets
from tests.converter.nets import node

MARK = "NVIDIA Pretend, compute 9.0"


@dataclass(frozen=True)
class Pretended(Target):
    """A target that is a GPU but for its sessions."""

    @property
    def options(self) -> SessionOptions:
        """Of this machine's CPU."""
        return SessionOptions(threads=1)


def gpu(kind: str = CUDA) -> Pretended:
    return Pretended(Device(kind), "NVIDIA Pretend", f"{MARK}, {kind}")


def tensorrt() -> Pretended:
    return gpu(TENSORRT)


def lossy(path: Path, *, layers: int = 6, lost: tuple[int, ...] = (), offset: float = 2048) -> Path:
    """A chain of matrix products, of which these lose their weights in fp16, on a CPU too.

    A product of [a, -a] with [offset + w/2, offset - w/2] is a w in float32; but halves count in
    steps of 2 from 2048 on, so of w nothing is left.
    """
    nodes, weights, width = [], {}, 48
    for index in range(layers):
        before = f"a{index}" if index else "x"
        after = f"a{index + 1}" if index < layers - 1 else "scores"
        plain = nets.normal(width, width, seed=index) * 1.5
        if index in lost:
            nodes += [
                node("Neg", before, f"n{index}"),
                node("Concat", f"{before} n{index}", f"c{index}", axis=1),
            ]
            before = f"c{index}"
            plain = np.concatenate([offset + plain / 2, offset - plain / 2])
        weights[f"w{index}"] = plain.astype(np.float32)
        nodes += [
            node("MatMul", f"{before} w{index}", f"m{index}"), node("Tanh", f"m{index}", after)
        ]  # fmt: skip
    for index, each in enumerate(nodes):
        each.name = f"{each.op_type}.{each.output[0]}.{index}"
    ends = {"x": ["batch", width]}, {"scores": ["batch", width]}
    return nets.build(path, nodes, *ends, weights)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 48)).astype(np.float32)

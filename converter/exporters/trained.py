"""What every exporter is asked for, and what it answers with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import FarthingError
from service.manifest import TensorSpec

REQUEST, MODEL, FACTS = "request.json", "exported.onnx", "facts.json"
PROBE, EXPECTED = "probe.npz", "expected.npz"
# One row, an even and an odd number: a batch that was baked in fails one of them.
PROBE_BATCHES = (1, 2, 7)
_FREE_SIZE = 16

Arrays = Mapping[str, np.ndarray[Any, Any]]


class NotExportable(FarthingError):
    """A trained model that no route can turn into ONNX, with the reason."""


class RouteFailed(FarthingError):
    """One route that did not lead to ONNX; another may."""


@dataclass(frozen=True)
class Request:
    """One export.

    Attributes:
        kind: a key of ``KINDS``.
        source: the trained model's file or directory; the weights, where a factory builds it.
        route: which of the kind's routes to take.
        evaluate: .npz with held-out rows whose answers are wanted, or None.
        example: .npz with a few rows, for models that do not tell their inputs, or None.
        signature: which signature of a SavedModel; empty for the only or the default one.
        factory: ``pkg.mod:build``, that builds the module whose weights ``source`` holds.
        imports: modules to import first; they register custom layers.
        trust: whether code in the file may be run.
    """

    kind: str
    source: Path
    route: str
    evaluate: Path | None = None
    example: Path | None = None
    signature: str = ""
    factory: str = ""
    imports: tuple[str, ...] = ()
    trust: bool = False

    def write(self, directory: Path) -> None:
        """Write ``request.json``."""
        text = json.dumps(asdict(self), default=str)
        (directory / REQUEST).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Request:
        """Read ``request.json``."""
        raw = json.loads((directory / REQUEST).read_text(encoding="utf-8"))
        for name in ("source", "evaluate", "example"):
            raw[name] = None if raw[name] is None else Path(raw[name])
        return cls(**{**raw, "imports": tuple(raw["imports"])})


@dataclass(frozen=True)
class Trained:
    """A model as its framework runs it.

    Attributes:
        inputs: in the framework's order, batch dimension first; -1 where a dimension is free.
        outputs: names, in the framework's order.
        answer: feeds with arrays of shape [rows, ...] -> output name -> array of shape [rows, ...].
        write: writes the ONNX graph, with the names above, to a path; raises anything.
        tools: package -> version that took part.
        notes: what the user should know of this model, a sentence each.
        sample: gives so many rows that the model takes, where random numbers would not do.
        dimensions: what free dimensions after the first are called: input -> names.
        noise: how far the graph's answers may lie from these, as a share of the largest, where the
            framework itself rounds as no graph does.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    answer: Callable[[Arrays], Arrays]
    write: Callable[[Path], None]
    tools: Mapping[str, str]
    notes: tuple[str, ...] = ()
    dimensions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    noise: float = 0.0
    sample: Callable[[int], Arrays] | None = None

    @property
    def batched(self) -> bool:
        """Whether the first dimension of every input is free."""
        return all(spec.shape[:1] == (-1,) for spec in self.inputs)


def random_rows(inputs: tuple[TensorSpec, ...], rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Rows to compare on: floats from 0 to 1, whole numbers 0 and 1, short texts.

    A free dimension other than the first gets 16; a fixed first dimension stays as it is.
    """
    random = np.random.default_rng(0)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for spec in inputs:
        first = (rows if size == -1 else size for size in spec.shape[:1])
        shape = (*first, *(_FREE_SIZE if size == -1 else size for size in spec.shape[1:]))
        if spec.datatype.startswith("FP"):
            feeds[spec.name] = random.random(shape).astype(f"f{int(spec.datatype[2:]) // 8}")
        elif spec.datatype == "BYTES":
            feeds[spec.name] = np.full(shape, "a", dtype=np.object_)
        else:
            # 0 and 1 are valid ids for every vocabulary, and valid booleans.
            feeds[spec.name] = random.integers(0, 2, shape).astype(spec.datatype.lower())
    return feeds


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of what an exception says, or its class's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]

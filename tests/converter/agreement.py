"""Whether an export computes what its framework does: names, free dimensions, numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from converter.exporters.trained import PROBE_BATCHES, Arrays, Trained, random_rows
from service.session import Session, SessionOptions


def exported(
    trained: Trained, directory: Path, sample: Callable[[int], Arrays] | None = None
) -> Session:
    """Write, load and compare, each at a batch of 1, 2 and 7."""
    path = directory / "exported.onnx"
    trained.write(path)
    onnx.checker.check_model(str(path), full_check=True)
    assert list(directory.glob("exported*")) == [path], "nothing may lie beside the graph"
    session = Session(path, SessionOptions(threads=1))
    assert session.inputs == trained.inputs
    assert tuple(spec.name for spec in session.outputs) == trained.outputs
    for batch in PROBE_BATCHES if trained.batched else (1,):
        feeds = (sample or partial(random_rows, trained.inputs))(batch)
        wanted, given = trained.answer(feeds), session.run(feeds)
        for name, answer in wanted.items():
            assert given[name].dtype == answer.dtype
            assert given[name].shape == answer.shape
            if answer.dtype.kind == "f":
                np.testing.assert_allclose(given[name], answer, rtol=1e-3, atol=1e-5)
            else:
                np.testing.assert_array_equal(given[name], answer)
    return session


def dimensions(path: Path) -> dict[str, list[str | int]]:
    """Tensor name -> its dimensions' names, or sizes where they are fixed."""
    graph = onnx.load(path).graph
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }

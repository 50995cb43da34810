"""The fp32 graph without what exporters leave behind; its answers stay what they were."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxslim

from converter import compare, graphs
from converter.exporters import trained
from service.errors import FarthingError
from service.session import Session, SessionOptions

_PROBE_ROWS = 4


def clean(path: Path) -> str:
    """Fold constants and BatchNormalization, and drop what nothing reads (OnnxSlim); in place.

    Args:
        path: a checked fp32 graph.

    Returns:
        What was done, in a few words: the graph stays as it was where the result is no better, does
        not load, or answers otherwise.
    """
    before = onnx.load(path)
    target = path.with_suffix(".slim.onnx")
    try:
        slim = onnxslim.slim(onnx.load(path), skip_fusion_patterns=["FusionGelu"])
        if len(slim.graph.node) >= len(before.graph.node):
            return "nothing to clean"
        graphs.name_dimensions(slim, {})
        graphs.write(slim, target)
        graphs.check(target, "the cleaned graph")
        kept = _agree(path, target)
    except FarthingError as error:
        return f"not cleaned: {error}"
    except Exception as error:  # OnnxSlim raises anything
        return f"not cleaned: {trained.first_line(error)}"
    if not kept:
        return "not cleaned: the cleaned graph answers otherwise"
    target.replace(path)
    return f"cleaned by OnnxSlim: {len(before.graph.node)} nodes to {len(slim.graph.node)}"


def _agree(one: Path, other: Path) -> bool:
    first, second = (Session(path, SessionOptions()) for path in (one, other))
    if (first.inputs, first.outputs) != (second.inputs, second.outputs):
        return False
    feeds = trained.random_rows(first.inputs, _PROBE_ROWS)
    return compare.close(second.run(feeds), first.run(feeds))

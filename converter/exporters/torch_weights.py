"""Weights of torch modules: float32, finite, and small enough for one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from converter.exporters.trained import NotExportable

HALF = (torch.float16, torch.bfloat16)
# A protobuf message ends at 2 GiB; the graph itself takes some.
_MAX_BYTES = 2**31 - 2**24


def as_float32(module: Any) -> list[str]:
    """Turn half-precision weights into float32, in place; the note to give, if any."""
    state = (*module.parameters(), *module.buffers())
    names = sorted({str(tensor.dtype).split(".")[1] for tensor in state if tensor.dtype in HALF})
    if not names:
        return []
    module.float()
    return [f"the weights were {' and '.join(names)}; they were converted to float32 first"]


def check(holder: Any, source: Path) -> None:
    """Refuse weights that no graph should hold.

    Args:
        holder: a module or an exported program.
        source: where it came from, for messages.

    Raises:
        NotExportable: one of them is not finite, or they are more than one ONNX file holds.
    """
    parameters, buffers = dict(holder.named_parameters()), dict(holder.named_buffers())
    for name, tensor in (parameters | buffers).items():
        if not tensor.is_floating_point():
            continue
        # A mask is a buffer that holds -infinity on purpose.
        bad = ~torch.isfinite(tensor) if name in parameters else torch.isnan(tensor)
        if bool(bad.any()):
            raise NotExportable(f"weight '{name}' of {source} holds NaN or infinity")
    size = sum(tensor.nbytes for tensor in (parameters | buffers).values())
    if size > _MAX_BYTES:
        raise NotExportable(
            f"the weights of {source} take {size / 2**30:.1f} GiB as float32; an ONNX file without "
            "others beside it holds 2"
        )

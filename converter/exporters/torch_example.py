"""Example rows for torch modules, which do not tell their inputs: read, cut to three, checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from converter.exporters.trained import NotExportable, first_line

BATCH = "batch"
# torch.export takes 0 and 1 for constants, and 2 hides a factor of two.
EXAMPLE_ROWS = 3
_ONLY_INPUT = "x"

# input -> axis -> name, for the axes that are free
FreeAxes = Mapping[str, Mapping[int, str]]


def of_module(module: Any, path: Path | None, source: Path) -> dict[str, Any]:
    """Example arrays for a module, by the parameters of its ``forward``; else as ``read``."""
    parameters = [
        parameter
        for parameter in inspect.signature(module.forward).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    needed = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    return read(path, source, [parameter.name for parameter in parameters], needed)


def read(
    path: Path | None, source: Path, names: Sequence[str], needed: Sequence[str]
) -> dict[str, Any]:
    """The example arrays that a model takes, from the rows that came along.

    Args:
        path: .npz with rows, or None.
        source: the model, for messages.
        names: all that the model can take, in its order.
        needed: those of them without a default.

    Returns:
        Input name -> array; the only input may be called ``x`` in the file.

    Raises:
        NotExportable: there are no rows, or they lack an input.
    """
    if path is None:
        raise NotExportable(
            f"{source} does not tell the shapes of its inputs ({', '.join(needed or names)}); give "
            "rows with --calibration or --evaluate, an .npz with an array under each input's name"
        )
    try:
        # Opened here: numpy leaves a file that is cut off open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a damaged file raises nearly anything
        raise NotExportable(
            f"{path} is not an .npz file of plain arrays; write it with numpy.savez"
        ) from error
    only = needed or names[:1]
    if len(only) == 1 and only[0] not in arrays and _ONLY_INPUT in arrays:
        arrays[only[0]] = arrays[_ONLY_INPUT]
    missing = [name for name in only if name not in arrays]
    if missing:
        raise NotExportable(
            f"{path} has no array '{missing[0]}', which is an input of {source}; it has "
            f"{', '.join(sorted(arrays))}"
        )
    return {name: arrays[name] for name in names if name in arrays}


def example_tensors(arrays: Mapping[str, Any], module: Any, source: Path) -> dict[str, Any]:
    """Three rows of each array, as the module takes them.

    Arrays whose first axis is not as long as the first array's are no rows, and stay as they are.
    Floats become float32 unless the module has float64 weights.

    Raises:
        NotExportable: there is nothing in them, or something that is not a tensor.
    """
    double = any(tensor.dtype == torch.float64 for tensor in module.parameters())
    tensors: dict[str, Any] = {}
    for name, array in arrays.items():
        try:
            tensor = torch.as_tensor(array).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise NotExportable(
                f"example '{name}' for {source} is no tensor: {first_line(error)}"
            ) from error
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float64 if double else torch.float32)
        tensors[name] = tensor
    sizes = [len(tensor) if tensor.ndim else 0 for tensor in tensors.values()]
    if not sizes or not sizes[0]:
        raise NotExportable(f"the example for {source} holds no rows")
    index = torch.arange(EXAMPLE_ROWS) % sizes[0]
    return {
        name: tensor[index].contiguous() if size == sizes[0] else tensor
        for (name, tensor), size in zip(tensors.items(), sizes, strict=True)
    }


def batch_axes(tensors: Mapping[str, Any]) -> FreeAxes:
    """The first axis of each example with as many rows as the first one has."""
    rows = next(iter(tensors.values())).shape[:1]
    return {name: {0: BATCH} for name, tensor in tensors.items() if tensor.shape[:1] == rows}

"""A function of the user's that builds the module, and a file with its weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from converter.exporters import torch_example, torch_graph, torch_weights
from converter.exporters.torch_graph import Traceable
from converter.exporters.trained import NotExportable, Request, Trained, first_line

_NAMED = 3


def load(request: Request) -> Trained:
    """What the factory builds, with the weights in ``source`` if that is a file.

    Raises:
        NotExportable: the factory or the weights do not do, or no rows came along.
    """
    module, arrays = _built(request)
    if request.source.is_file():
        _load_weights(module, request.source)
    elif str(request.source) != request.factory:
        raise NotExportable(f"there is no file of weights at {request.source}")
    module = module.cpu().eval()
    notes = torch_weights.as_float32(module)
    if arrays is None:
        rows = request.example or request.evaluate
        arrays = torch_example.of_module(module, rows, request.source)
    example = torch_example.example_tensors(arrays, module, request.source)
    free = torch_example.batch_axes(example)
    return torch_graph.trained(
        Traceable(module, example, free, request.source), request.route, notes=notes
    )


def _built(request: Request) -> tuple[Any, dict[str, Any] | None]:
    name, _, attribute = request.factory.partition(":")
    if not name or not attribute:
        raise NotExportable(
            f"the factory '{request.factory}' is not of the form pkg.mod:build, which names a "
            "function that returns an nn.Module"
        )
    try:
        build = getattr(importlib.import_module(name), attribute, None)
    except ImportError as error:
        if error.name != name.partition(".")[0]:
            raise  # something that it imports
        raise NotExportable(
            f"there is no module '{error.name}', which the factory '{request.factory}' names, in "
            "the working directory or among the installed packages"
        ) from error
    if not callable(build):
        raise NotExportable(f"module '{name}' has no function '{attribute}'")
    try:
        built = build()
    except Exception as error:  # it is the user's own
        raise NotExportable(f"{request.factory} failed: {first_line(error)}") from error
    module, example = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(module, torch.nn.Module) or not (
        example is None or isinstance(example, Mapping)
    ):
        raise NotExportable(
            f"{request.factory} returned a {type(built).__name__}; return an nn.Module, or a "
            "module and a dictionary of example arrays"
        )
    return module, None if example is None else dict(example)


def _load_weights(module: Any, path: Path) -> None:
    weights = _read(path)
    own = module.state_dict()
    problems = {
        "lacks": [name for name in own if name not in weights],
        "also has": [name for name in weights if name not in own],
        "has other shapes for": [
            name for name in own if name in weights and own[name].shape != weights[name].shape
        ],
    }
    said = [f"{verb} {_few(names)}" for verb, names in problems.items() if names]
    if said:
        raise NotExportable(f"{path} does not fit what the factory builds: it {' and '.join(said)}")
    module.load_state_dict(weights)


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # of the extra 'hf'

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise NotExportable(
            f"{path} is no state_dict that loads without running code ({first_line(error)}); save "
            "module.state_dict() with torch.save or safetensors"
        ) from error
    if isinstance(weights, Mapping) and isinstance(weights.get("state_dict"), Mapping):
        weights = weights["state_dict"]  # a training checkpoint
    if not isinstance(weights, Mapping) or not all(
        isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        raise NotExportable(f"{path} holds no state_dict; save module.state_dict()")
    weights = dict(weights)
    consume_prefix_in_state_dict_if_present(weights, "module.")  # DataParallel's
    return weights


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:_NAMED]) + more

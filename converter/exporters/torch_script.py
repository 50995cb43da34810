"""A TorchScript file: names come from its ``forward``, shapes from rows that came along."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from converter.exporters import torch_example, torch_graph, torch_weights
from converter.exporters.torch_graph import Traceable
from converter.exporters.trained import NotExportable, Request, Trained, first_line


def load(request: Request) -> Trained:
    """A TorchScript file, after ``torch.jit.load``.

    Raises:
        NotExportable: it is something else, not trusted, not to be read, or no rows came along.
    """
    _check_form(request.source)
    # Its code is not Python, but runs while it loads, and can write files (torch.save compiles).
    if not request.trust:
        raise NotExportable(
            f"{request.source} is code, which torch runs when it loads a TorchScript file; "
            "--trust does that, for files whose origin you know"
        )
    try:
        scripted = torch.jit.load(request.source, map_location="cpu")
        arguments = scripted.forward.schema.arguments[1:]
    except Exception as error:  # a damaged file raises nearly anything
        raise NotExportable(
            f"torch.jit.load cannot read {request.source}: {first_line(error)}"
        ) from error
    scripted.eval()
    notes = torch_weights.as_float32(scripted)
    arrays = torch_example.read(
        request.example or request.evaluate,
        request.source,
        [argument.name for argument in arguments],
        [argument.name for argument in arguments if not argument.has_default_value()],
    )
    example = torch_example.example_tensors(arrays, scripted, request.source)
    free = torch_example.batch_axes(example)
    return torch_graph.trained(
        Traceable(scripted, example, free, request.source), request.route, notes=notes
    )


def _check_form(source: Path) -> None:
    """Tell a TorchScript archive from what else is called ``.pt``."""
    names: list[str] = []
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        with source.open("rb") as file:
            start = file.read(2)
        if not start.startswith(b"\x80"):
            raise NotExportable(
                f"{source} is no TorchScript file, or was cut off: {first_line(error)}"
            ) from error
    if any(name.endswith("models/model.json") for name in names):
        raise NotExportable(f"{source} is a torch.export program; rename it to end in .pt2")
    if not any(name.endswith("constants.pkl") for name in names):
        raise NotExportable(
            f"{source} holds weights or a pickled module, not TorchScript; say what builds the "
            "module with --factory pkg.mod:build, and save the weights as a state_dict"
        )

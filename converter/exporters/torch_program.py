"""A ``.pt2`` file: inputs, shapes and free dimensions come from the program's own signature."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree

from converter.exporters import torch_graph
from converter.exporters.torch_example import BATCH, EXAMPLE_ROWS
from converter.exporters.torch_graph import Traceable
from converter.exporters.torch_weights import HALF
from converter.exporters.trained import (
    NotExportable,
    Request,
    Trained,
    first_line,
    random_rows,
)

_DROPOUT = (torch.ops.aten.dropout.default,)
_BATCH_NORM = (torch.ops.aten.batch_norm.default,)


def load(request: Request) -> Trained:
    """An exported program, after ``torch.export.load``.

    Raises:
        NotExportable: it is not trusted, not to be read, half precision, or in training mode.
    """
    # torch.export.load unpickles with weights_only=False wherever the archive asks for it, hands
    # texts in it to sympy's eval, and looks operators up as any attribute of torch.
    if not request.trust:
        raise NotExportable(
            f"{request.source} may hold code, which torch runs when it loads a .pt2 file; "
            "--trust does that, for files whose origin you know"
        )
    try:
        program = torch.export.load(request.source)
    except ImportError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        raise NotExportable(
            f"torch.export.load cannot read {request.source}: {first_line(error)}"
        ) from error
    traceable = _traceable(program, request)
    notes = []
    if not all(0 in traceable.free.get(name, {}) for name in traceable.example):
        notes.append(
            "the batch is fixed in the program; export it with "
            "dynamic_shapes={...: {0: torch.export.Dim.DYNAMIC}} to serve several rows together"
        )
    return torch_graph.trained(traceable, request.route, notes=notes)


class _Program(torch.nn.Module):  # type: ignore[misc]
    """A program that takes its inputs by name, however deep in its arguments they lie."""

    def __init__(self, program: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = program.module(), names
        self.structure = program.call_spec.in_spec

    def train(self, mode: bool = True) -> Any:
        return self  # a program has no modes, and says so with an exception

    def forward(self, **tensors: Any) -> Any:
        flat = [tensors[name] for name in self.names]
        args, kwargs = _pytree.tree_unflatten(flat, self.structure)
        return self.module(*args, **kwargs)


def _traceable(program: Any, request: Request) -> Traceable:
    _check(program, request)
    values = _user_inputs(program, request)
    free = _free_axes(values)
    shapes = {
        name: tuple(
            -1 if axis in free.get(name, {}) else int(size) for axis, size in enumerate(value.shape)
        )
        for name, value in values.items()
    }
    specs = tuple(torch_graph.spec(name, values[name].dtype, shapes[name]) for name in values)
    rows = random_rows(specs, EXAMPLE_ROWS)
    example = {name: torch.from_numpy(array) for name, array in rows.items()}
    return Traceable(_Program(program, tuple(values)), example, free, request.source, program)


def _user_inputs(program: Any, request: Request) -> dict[str, Any]:
    """Input name -> what is known of its tensor: shape, with symbols, and dtype."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    placeholders = program.graph_signature.user_inputs
    values = [nodes[str(name)].meta.get("val") if str(name) in nodes else None
              for name in placeholders]  # fmt: skip
    names = [str(name) for name in placeholders]
    # A placeholder called like a Python builtin gets another name; the signature remembers.
    signature = program.module_call_graph[0].signature
    given = list(getattr(signature, "forward_arg_names", None) or ())
    if len(given) == len(names):
        names = given
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, torch.Tensor):
            raise NotExportable(
                f"input '{name}' of {request.source} is not a tensor; export the program with "
                "tensors only"
            )
    return dict(zip(names, values, strict=True))


def _free_axes(values: dict[str, Any]) -> dict[str, dict[int, str]]:
    """Names for the symbols: the first axis is the batch, others are named for where they stand."""
    symbols: dict[str, str] = {}
    free: dict[str, dict[int, str]] = {}
    for name, value in values.items():
        for axis, size in enumerate(value.shape):
            if isinstance(size, torch.SymInt):
                called = symbols.setdefault(str(size), f"{name}_{axis}" if axis else BATCH)
                free.setdefault(name, {})[axis] = called
    return free


def _check(program: Any, request: Request) -> None:
    half = [name for name, tensor in program.state_dict.items() if tensor.dtype in HALF]
    if half:
        raise NotExportable(
            f"weight '{half[0]}' of {request.source} is {program.state_dict[half[0]].dtype}, which "
            "the program's own operators expect; export it again after module.float()"
        )
    for node in program.graph.nodes:
        position = 2 if node.target in _DROPOUT else 5 if node.target in _BATCH_NORM else None
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise NotExportable(
                f"{request.source} was exported in training mode; call eval() on the module, then "
                "export it again"
            )

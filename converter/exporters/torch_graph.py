"""What the torch kinds share: a module and example inputs -> ``Trained``, by either exporter."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.export import Dim

from converter.exporters import torch_example, torch_weights
from converter.exporters.torch_example import (
    BATCH,
    EXAMPLE_ROWS,
    FreeAxes,
    batch_axes,
    example_tensors,
)
from converter.exporters.torch_outputs import outputs_of
from converter.exporters.trained import Arrays, NotExportable, RouteFailed, Trained, first_line
from service.datatypes import DATATYPES
from service.manifest import TensorSpec

EXPORT, TORCHSCRIPT = "torch.export", "TorchScript"
_TORCHSCRIPT_OPSET = 17

DATATYPE_OF = {
    torch.from_numpy(np.zeros(0, row.dtype)).dtype: row.name
    for row in DATATYPES
    if row.dtype != np.object_ and row.name != "BF16"  # numpy holds its bits, as it does UINT16
}


@dataclass(frozen=True)
class Traceable:
    """A module that can be run and traced.

    Attributes:
        module: takes the inputs by keyword, in eval mode.
        example: input name -> tensor, in forward's order.
        free: the axes that are not baked in.
        source: where it came from, for messages.
        program: what ``torch.export`` made of it already, or None.
    """

    module: Any
    example: Mapping[str, Any]
    free: FreeAxes
    source: Path
    program: Any = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, -1 where an axis is free."""
        return tuple(
            spec(name, tensor.dtype, [
                -1 if axis in self.free.get(name, {}) else int(size)
                for axis, size in enumerate(tensor.shape)
            ])
            for name, tensor in self.example.items()
        )  # fmt: skip

    def answer(self, feeds: Arrays) -> Arrays:
        """The module's own answers."""
        tensors = {name: torch.tensor(np.asarray(feeds[name])) for name in self.example}
        return {name: tensor.numpy() for name, tensor in self.call(tensors).items()}

    def call(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Output name -> tensor."""
        with torch.inference_mode(), _plain_attention():
            return outputs_of(self.module(**tensors), self.source)


class _Positional(torch.nn.Module):  # type: ignore[misc]
    """Takes the inputs in order and answers with a plain tuple, as exporters want it."""

    def __init__(self, traceable: Traceable) -> None:
        super().__init__()
        self.module = traceable.module
        self.names, self.source = tuple(traceable.example), traceable.source

    def forward(self, *tensors: Any) -> Any:
        answer = self.module(**dict(zip(self.names, tensors, strict=True)))
        return tuple(outputs_of(answer, self.source).values())


def trained(
    traceable: Traceable, route: str, *, notes: Iterable[str] = (), packages: Iterable[str] = ()
) -> Trained:
    """A traceable module as the converter takes it.

    Args:
        traceable: the module and its inputs.
        route: ``torch.export`` or ``TorchScript``.
        notes: what the user should know.
        packages: what took part beside torch.

    Raises:
        NotExportable: its weights are not finite or too large, it fails on its own example, or its
            outputs do not follow the batch.
    """
    torch_weights.check(traceable.program or traceable.module, traceable.source)
    inputs = traceable.inputs
    outputs = _output_names(traceable, all(spec.shape[:1] == (-1,) for spec in inputs))
    if route == EXPORT:
        packages = (*packages, "onnxscript")

    def write(path: Path) -> None:
        try:
            with torch.no_grad(), _plain_attention():
                (_by_export if route == EXPORT else _by_tracing)(traceable, outputs, path)
        except Exception as error:  # exporters raise anything, and put the reason underneath
            reason = first_line(error.__cause__ or error)
            raise RouteFailed(f"{route} failed on {traceable.source}: {reason}") from error
        _name_dimensions(path, traceable.free)

    tools = {"torch": str(torch.__version__)}
    dimensions = {
        name: tuple(text for axis, text in sorted(axes.items()) if axis)
        for name, axes in traceable.free.items()
        if any(axes)
    }
    return Trained(
        inputs=inputs,
        outputs=outputs,
        answer=traceable.answer,
        write=write,
        tools=tools | {name: metadata.version(name) for name in packages},
        notes=tuple(notes),
        dimensions=dimensions,
    )


def spec(name: str, dtype: Any, shape: Sequence[int]) -> TensorSpec:
    """An input by torch's dtype.

    Raises:
        NotExportable: the wire does not have it.
    """
    if dtype not in DATATYPE_OF:
        raise NotExportable(f"input '{name}' is {dtype}, which the wire does not have")
    return TensorSpec(name, DATATYPE_OF[dtype], tuple(shape))


def example_of(module: Any, path: Path) -> dict[str, Any]:
    """Rows for a live module, under the names of its ``forward``'s parameters.

    Args:
        module: an ``nn.Module``.
        path: .npz with an array under each name, or under ``x`` where there is only one.

    Raises:
        NotExportable: the file lacks an input.
    """
    return torch_example.of_module(module, path, Path(type(module).__name__))


def save_program(module: Any, example: Mapping[str, Any], path: Path) -> None:
    """Write a live module as a ``.pt2`` whose batch is free; the module itself stays as it is.

    Args:
        module: an ``nn.Module``.
        example: forward's parameter names -> array or tensor of shape [rows, ...].
        path: where to write, ending in ``.pt2``.

    Raises:
        NotExportable: ``torch.export`` does not take it, with what it says.
    """
    twin = copy.deepcopy(module).cpu().eval()
    torch_weights.as_float32(twin)
    source = Path(type(module).__name__)
    tensors = example_tensors(example, twin, source)
    free = batch_axes(tensors)
    try:
        with torch.no_grad(), _plain_attention():
            shapes = {name: _dynamic(free.get(name, {})) for name in tensors}
            program = torch.export.export(twin, (), tensors, dynamic_shapes=shapes)
        torch.export.save(program, path)
    except Exception as error:  # it traces the user's own code
        raise NotExportable(f"torch.export does not take {source}: {first_line(error)}") from error


def _output_names(traceable: Traceable, batched: bool) -> tuple[str, ...]:
    """Names of the outputs, from two runs on the example: what follows the batch shows there."""
    names: tuple[str, ...] = ()
    for rows in (EXAMPLE_ROWS, EXAMPLE_ROWS - 1) if batched else (EXAMPLE_ROWS,):
        feeds = {n: t[:rows] if n in traceable.free else t for n, t in traceable.example.items()}
        try:
            answer = traceable.call(feeds)
        except NotExportable:
            raise
        except Exception as error:  # the user's own code
            raise NotExportable(
                f"{traceable.source} fails on its example of {rows} rows: {_said(error)}"
            ) from error
        for name, tensor in answer.items():
            if batched and tensor.shape[:1] != (rows,):
                raise NotExportable(
                    f"{traceable.source} answers {rows} rows with an output '{name}' of shape "
                    f"{list(tensor.shape)}; return only outputs whose first dimension counts rows"
                )
        names = tuple(answer)
    if set(names) & set(traceable.example):
        raise NotExportable(
            f"{traceable.source} has an input and an output of one name "
            f"({', '.join(sorted(set(names) & set(traceable.example)))}); rename the output"
        )
    return names


def _said(error: Exception) -> str:
    # The interpreter of TorchScript says what is wrong in its last line.
    last = (str(error).strip().splitlines() or [""])[-1]
    return last[:300] if "TorchScript interpreter" in str(error) else first_line(error)


def _by_export(traceable: Traceable, outputs: tuple[str, ...], path: Path) -> None:
    names = tuple(traceable.example)
    named = {"input_names": names, "output_names": outputs, "external_data": False}
    if traceable.program is not None:
        torch.onnx.export(traceable.program, (), path, dynamo=True, verbose=False, **named)
        return
    shapes = tuple(_dynamic(traceable.free.get(name, {})) for name in names)
    torch.onnx.export(
        _Positional(traceable).eval(), tuple(traceable.example.values()), path, dynamo=True,
        verbose=False, dynamic_shapes=(shapes,), **named,
    )  # fmt: skip


def _by_tracing(traceable: Traceable, outputs: tuple[str, ...], path: Path) -> None:
    axes = {name: dict(axes) for name, axes in traceable.free.items()}
    if any(0 in axes for axes in traceable.free.values()):
        axes |= {name: {0: BATCH} for name in outputs}
    module, tensors = _Positional(traceable).eval(), tuple(traceable.example.values())
    if isinstance(traceable.module, torch.jit.ScriptModule):
        # The exporter's own tracing does not look into modules that are scripts already.
        module = torch.jit.trace(module, tensors, check_trace=False)
    torch.onnx.export(
        module, tensors, path, dynamo=False,
        opset_version=_TORCHSCRIPT_OPSET, input_names=list(traceable.example),
        output_names=list(outputs), dynamic_axes=axes,
    )  # fmt: skip


def _dynamic(axes: Mapping[int, str]) -> dict[int, Any]:
    # A named Dim refuses what limits a size (a table of 512 positions); this takes the limit over.
    return dict.fromkeys(axes, Dim.DYNAMIC)


def _name_dimensions(path: Path, free: FreeAxes) -> None:
    """Put the free axes' names for the exporter's symbols, wherever they stand."""
    model = onnx.load(path, load_external_data=False)
    symbols: dict[str, str] = {}
    for value in model.graph.input:
        for axis, name in free.get(value.name, {}).items():
            symbol = value.type.tensor_type.shape.dim[axis].dim_param
            if symbol:
                symbols.setdefault(symbol, name)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                words = re.sub(r"\w+", lambda m: symbols.get(m[0], m[0]), size.dim_param)
                size.dim_param = words
    onnx.save(model, path)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Without the fused encoder layer, which no exporter knows and which zeroes padded rows."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

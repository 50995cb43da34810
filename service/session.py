"""A loaded graph: its tensors, warm-up, run.

BF16 has no dtype in numpy. Its arrays hold the bits, and travel to and from ONNX Runtime as
OrtValues; models without it take the plain way.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
from service import runtime  # isort: skip

import numpy as np
import onnxruntime as ort

from service import providers as plans
from service import staging
from service.buffers import OnGpu, Outputs
from service.cuda import CudaFailed
from service.datatypes import BY_NAME, BY_ORT_NAME
from service.errors import ModelUnusable
from service.lanes import Lanes
from service.manifest import TensorSpec
from service.runtime import NotOnGpu, telemetry_is_off
from service.sessionoptions import SessionOptions

# Who opens the one needs the other.
__all__ = ["NotOnGpu", "Session", "SessionOptions", "telemetry_is_off"]

Arrays = Mapping[str, np.ndarray[Any, Any]]

_BF16 = "BF16"
_BF16_IN_ONNX = 16  # TensorProto.BFLOAT16


class RunFailed(ModelUnusable):
    """The graph was loaded, and failed on what it was tried with."""


class Session:
    """One loaded graph; ``run`` may be called from several threads at once.

    Attributes:
        path: of the graph's file.
        inputs: what a run must be given.
        outputs: what it answers.
        optional: inputs that the graph has values for; a run may be given others.
        options: it was made with.
        copies: the graph on each of its devices.
    """

    def __init__(self, path: Path, options: SessionOptions) -> None:
        """Load a graph.

        Raises:
            ModelUnusable: the file is missing, is no ONNX graph that this ONNX Runtime runs, uses a
                datatype the wire does not have, or the options are none of ONNX Runtime's.
        """
        self.path, self.options = path, options
        try:
            self.copies = runtime.copies(path, options)
            first = self.copies[0]
            self._ort: Any = first.ort
            # Names that are not UTF-8 show here.
            self.inputs = tuple(_spec(node, path) for node in self._ort.get_inputs())
            self.outputs = tuple(_spec(node, path) for node in self._ort.get_outputs())
            self.optional = tuple(
                _spec(node, path, optional=True)
                for node in self._ort.get_overridable_initializers()
            )
        except ModelUnusable:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelUnusable(
                f"ONNX Runtime cannot load {path}: {_first_line(error)}",
                told="ONNX Runtime cannot load the model's file; the server's log says why",
            ) from error
        fed = (*self.inputs, *self.optional)
        self._plain = _Plain(
            [spec.name for spec in self.outputs],
            frozenset(spec.name for spec in fed if spec.datatype == _BF16),
            frozenset(spec.name for spec in self.outputs if spec.datatype == _BF16),
            first.run_options,
        )
        self._lanes: Lanes | None = None
        if options.devices[0].is_gpu:
            places = [runtime.place(copy, options, self._plain.run) for copy in self.copies]
            self.run_on(places, graphs=all(copy.graphs for copy in self.copies))
        if self._plain.bf16_outputs and any(spec.datatype == "BYTES" for spec in fed):
            sentence = "it takes strings and answers BF16, which ONNX Runtime's Python cannot do"
            raise ModelUnusable(f"{path}: {sentence}; cast the outputs to FP32", told=sentence)

    @property
    def batched(self) -> bool:
        """Whether the first dimension of every tensor is free, and so counts rows."""
        return all(spec.shape[:1] == (-1,) for spec in (*self.inputs, *self.outputs))

    def run(self, feeds: Arrays) -> Outputs:
        """Run the graph once.

        Args:
            feeds: one array for each input, and for any of the optional ones, of its dtype, all
                with the same number of rows.

        Returns:
            One array for each output.
        """
        if self._lanes is not None:
            return self._lanes.run(feeds)
        return self._plain.run(self._ort, feeds)

    def run_on(self, places: Sequence[OnGpu], *, graphs: bool = False) -> None:
        """Run on these GPUs' copies of the graph from now on, through lanes.

        Args:
            places: the graph on each GPU.
            graphs: whether runs are recorded once for each bucket of rows, and replayed.
        """
        planned = partial(staging.plan, self.inputs, self.outputs, graphs=graphs,
                          max_rows=self.options.max_rows)  # fmt: skip
        self._lanes = Lanes(places, self.options.lanes, planned)

    @property
    def lanes(self) -> Lanes | None:
        """Where batches are under way on GPUs; None on the CPU."""
        return self._lanes

    def close(self) -> None:
        """Give the graph's memory back to the machine; no run may follow. Takes some milliseconds.

        A run that has begun keeps the graph until it is over.
        """
        if self._lanes is not None:
            self._lanes.close()
        self._ort, self.copies = None, ()
        # The C library keeps what was freed: a process that loaded 100 MB twelve times in turn
        # held 507 MiB without this, and 169 with it. Only glibc has it.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

    def warm_up(self, *rows: int, batched: bool | None = None) -> None:
        """Run once for each of these batch sizes, so that no caller pays for first-time work.

        Inputs are zeros (empty strings); a free dimension other than the batch is taken as 1.

        Args:
            rows: the batch sizes.
            batched: whether rows are to be told apart; None where the graph decides it.

        Raises:
            ModelUnusable: the graph loads but fails to run, or its outputs do not follow the batch.
        """
        follow = self.batched if batched is None else batched
        for count in rows:
            feeds = {spec.name: _zeros(spec, count) for spec in self.inputs}
            self.warm_up_with(feeds, f"{count} rows of zeros", rows=count if follow else None)

    def warm_up_with(
        self,
        feeds: Arrays,
        what: str = "its warm-up sample",
        *,
        rows: int | None = None,
        once: bool = False,
    ) -> None:
        """Run once, on each lane where there are any, on these feeds, as ``run`` takes them.

        Args:
            feeds: one array for each input.
            what: they are, for messages.
            rows: that each output must have; None where rows are not to be told apart.
            once: on any lane, as callers' feeds are.

        Raises:
            RunFailed: the graph loads but fails to run on them.
            ModelUnusable: its outputs do not follow the batch, or a GPU has no room for a batch.
        """
        try:
            if self._lanes is None or once:
                answers = [self.run(feeds)]
            else:
                answers = self._lanes.warm_up(feeds, rows)
        except CudaFailed as error:
            sentence = f"{error}; lower --max-batch or --instances"
            raise ModelUnusable(f"{self.path}: {sentence}", told=sentence) from error
        except Exception as error:  # as above
            sentence = f"the model loads but fails to run on {what}"
            if full := plans.memory_full(str(error), self.options):
                sentence = f"{sentence}: {full}"
            raise RunFailed(f"{sentence}: {_first_line(error)}", told=sentence) from error
        for name, array in (item for outputs in answers for item in outputs.items()):
            if rows is not None and array.shape[:1] != (rows,):
                sentence = (
                    f"the model answers {rows} rows with an output '{name}' of shape "
                    f"{list(array.shape)}, so its rows cannot be told apart; export it with a "
                    "fixed first dimension, or with outputs that follow the batch"
                )
                raise ModelUnusable(sentence, told=sentence)


@dataclass(frozen=True)
class _Plain:
    """A run on arrays of the host, where ONNX Runtime copies what a GPU needs.

    Attributes:
        names: of all outputs.
        bf16_inputs: names of those that are BF16.
        bf16_outputs: likewise.
        options: of the run.
    """

    names: list[str]
    bf16_inputs: frozenset[str]
    bf16_outputs: frozenset[str]
    options: Any

    def run(
        self, session: Any, feeds: Arrays, options: Any = None
    ) -> dict[str, np.ndarray[Any, Any]]:
        if self.bf16_outputs:
            return self._run_on_values(session, feeds, options or self.options)
        if self.bf16_inputs:
            feeds = {n: _bf16_value(a) if n in self.bf16_inputs else a for n, a in feeds.items()}
        outputs = session.run(self.names, feeds, options or self.options)
        return dict(zip(self.names, outputs, strict=True))

    def _run_on_values(
        self, session: Any, feeds: Arrays, options: Any
    ) -> dict[str, np.ndarray[Any, Any]]:
        values = {
            name: _bf16_value(array)
            if name in self.bf16_inputs
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        outputs = session.run_with_ort_values(self.names, values, options)
        return {
            name: _bf16_bits(value) if name in self.bf16_outputs else value.numpy()
            for name, value in zip(self.names, outputs, strict=True)
        }


def _bf16_value(bits: np.ndarray[Any, Any]) -> Any:
    # ONNX Runtime takes the address as it is: of a strided view it would read what lies between.
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
        np.asarray(bits, dtype="<u2", order="C"), _BF16_IN_ONNX
    )


def _bf16_bits(value: Any) -> np.ndarray[Any, Any]:
    shape: Sequence[int] = value.shape()
    size = 2 * math.prod(shape)
    # A copy, since the memory is the value's; ``value.numpy()`` knows no BF16.
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(data, dtype="<u2").reshape(shape)


def _spec(node: Any, path: Path, *, optional: bool = False) -> TensorSpec:
    if node.type not in BY_ORT_NAME:
        sentence = f"tensor '{node.name}' is a {node.type}, which no client sends"
        raise ModelUnusable(f"{path}: {sentence}", told=sentence)
    # A symbolic dimension is a string or None; either way it is free.
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, BY_ORT_NAME[node.type].name, shape, optional)


def _zeros(spec: TensorSpec, rows: int) -> np.ndarray[Any, Any]:
    first = (rows,) if spec.shape[:1] == (-1,) else spec.shape[:1]
    shape = first + tuple(1 if size == -1 else size for size in spec.shape[1:])
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=np.object_)
    return np.zeros(shape, dtype=BY_NAME[spec.datatype].dtype)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def providers() -> list[str]:
    """The execution providers of the installed wheel."""
    return list(ort.get_available_providers())


def ort_version() -> str:
    """The installed ONNX Runtime's, whichever wheel brought it."""
    return str(ort.__version__)

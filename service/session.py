"""A loaded graph: its tensors, warm-up, run."""

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

# First: it turns ONNX Runtime's telemetry off before anything imports onnxruntime.
from service import runtime  # isort: skip

import numpy as np
import onnxruntime as ort

from service import providers as plans
from service import staging
from service.buffers import NotRecorded, OnGpu, Outputs
from service.cuda import CudaFailed
from service.datatypes import BY_NAME, BY_ORT_NAME
from service.errors import ModelUnusable
from service.lanes import Lanes
from service.manifest import TensorSpec
from service.runtime import NotOnGpu, telemetry_is_off
from service.sessionoptions import SessionOptions
from service.values import Plain

# Who opens the one needs the other.
__all__ = ["NotOnGpu", "Session", "SessionOptions", "kept", "telemetry_is_off"]

Arrays = Mapping[str, np.ndarray[Any, Any]]

_BF16 = "BF16"


class RunFailed(ModelUnusable):
    """The graph was loaded, and failed on what it was tried with."""


class Session:
    """One loaded graph; ``run`` may be called from several threads at once.

    Attributes:
        path: of the graph's file.
        inputs: what a run must be given.
        outputs: what it answers.
        optional: inputs that the graph has values for; a run may be given others.
        options: it was made with, but for recording, where the graph decides that.
        copies: the graph on each of its devices.
    """

    def __init__(self, path: Path, options: SessionOptions) -> None:
        """Load a graph.

        Raises:
            ModelUnusable: the file is missing, is no ONNX graph that this ONNX Runtime runs, uses a
                datatype the wire does not have, or the options are none of ONNX Runtime's.
        """
        self.path = path
        self._ort: Any = None
        self._lanes: Lanes | None
        self.copies: tuple[runtime.Copy, ...] = ()
        self._open(options)

    def _open(self, options: SessionOptions) -> None:
        self.options, self._lanes = options, None
        with kept(self):
            try:
                self._read(runtime.copies(self.path, options))
            except ModelUnusable:
                raise
            except Exception as error:  # ONNX Runtime's exceptions share no base class
                raise ModelUnusable(
                    f"ONNX Runtime cannot load {self.path}: {_first_line(error)}",
                    told="ONNX Runtime cannot load the model's file; the server's log says why",
                ) from error
            fed = (*self.inputs, *self.optional)
            self._plain = Plain(
                [spec.name for spec in self.outputs],
                frozenset(spec.name for spec in fed if spec.datatype == _BF16),
                frozenset(spec.name for spec in self.outputs if spec.datatype == _BF16),
                self.copies[0].run_options,
            )
            if self._plain.bf16_outputs and any(spec.datatype == "BYTES" for spec in fed):
                sentence = "it takes strings and answers BF16, which ONNX Runtime's Python cannot"
                raise ModelUnusable(f"{self.path}: {sentence} do; cast the outputs to FP32",
                                    told=f"{sentence} do")  # fmt: skip
            if options.devices[0].is_gpu:
                graphs = all(copy.graphs for copy in self.copies)
                self.options = replace(options, cuda_graphs=graphs)
                places = [runtime.place(copy, options, self._plain.run) for copy in self.copies]
                self.run_on(places, graphs=graphs)

    def _read(self, copies: tuple[runtime.Copy, ...]) -> None:
        self.copies, self._ort = copies, copies[0].ort
        # Names that are not UTF-8 show here.
        self.inputs = tuple(_spec(node, self.path) for node in self._ort.get_inputs())
        self.outputs = tuple(_spec(node, self.path) for node in self._ort.get_outputs())
        self.optional = tuple(
            _spec(node, self.path, optional=True)
            for node in self._ort.get_overridable_initializers()
        )

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
        copies = list(self.copies)
        # First: on a GPU the last who lets go must be the thread that runs there.
        self._ort, self.copies = None, ()
        if self._lanes is not None:
            copies.clear()
            self._lanes.close()
        runtime.end(copies)
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

    def _answers(self, feeds: Arrays, rows: int | None, *, once: bool) -> list[Outputs]:
        """Of a warm-up; where a run cannot be recorded, of the graph opened anew without."""
        try:
            if self._lanes is None or once:
                return [self.run(feeds)]
            return self._lanes.warm_up(feeds, rows)
        except NotRecorded as error:
            runtime.unrecorded(self.path, str(error))
        self.close()
        self._open(replace(self.options, cuda_graphs=False))
        return self._answers(feeds, rows, once=once)

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
            answers = self._answers(feeds, rows, once=once)
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


@contextmanager
def kept(session: Session) -> Iterator[Session]:
    """A session that is closed where what is done within fails."""
    try:
        yield session
    except BaseException:
        session.close()
        raise


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

"""The only room of ONNX Runtime: options from the CPU quota, warm-up, run."""

import os

# Before the import, and for child processes too: the wheels since 1.29 write a device id to disk
# and send events unless this is set when the library is loaded (onnxruntime pull request 27379).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from service import hardware
from service.datatypes import BY_NAME, BY_ORT_NAME
from service.errors import ModelUnusable
from service.manifest import TensorSpec

Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class SessionOptions:
    """What decides how fast a session runs.

    Attributes:
        threads: threads of one run; 0 means every CPU this process may use.
        spin: whether idle threads wait in a busy loop.
    """

    threads: int = 0
    spin: bool = False


class Session:
    """One loaded graph; ``run`` may be called from several threads at once."""

    def __init__(self, path: Path, options: SessionOptions) -> None:
        """Load a graph.

        Raises:
            ModelUnusable: the file is missing, is no ONNX graph that this ONNX Runtime runs, or
                uses a datatype the wire does not have.
        """
        try:
            self._ort = ort.InferenceSession(
                str(path), _ort_options(options), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise ModelUnusable(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error
        self.inputs = tuple(_spec(node, path) for node in self._ort.get_inputs())
        self.outputs = tuple(_spec(node, path) for node in self._ort.get_outputs())
        self._output_names = [spec.name for spec in self.outputs]

    @property
    def batched(self) -> bool:
        """Whether the first dimension of every tensor is free, and so counts rows."""
        return all(spec.shape[:1] == (-1,) for spec in (*self.inputs, *self.outputs))

    def run(self, feeds: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Run the graph once.

        Args:
            feeds: one array for each input, of its dtype, all with the same number of rows.

        Returns:
            One array for each output.
        """
        outputs = self._ort.run(self._output_names, feeds)
        return dict(zip(self._output_names, outputs, strict=True))

    def warm_up(self, *rows: int) -> None:
        """Run once for each of these batch sizes, so that no caller pays for first-time work.

        Inputs are zeros (empty strings); a free dimension other than the batch is taken as 1.

        Raises:
            ModelUnusable: the graph loads but fails to run, or its outputs do not follow the batch.
        """
        for count in rows:
            feeds = {spec.name: _zeros(spec, count) for spec in self.inputs}
            try:
                outputs = self.run(feeds)
            except Exception as error:  # as above
                raise ModelUnusable(
                    f"the model loads but fails to run on {count} rows of zeros: "
                    f"{_first_line(error)}"
                ) from error
            for name, array in outputs.items():
                if self.batched and array.shape[:1] != (count,):
                    raise ModelUnusable(
                        f"the model answers {count} rows with an output '{name}' of shape "
                        f"{list(array.shape)}, so its rows cannot be told apart; export it with a "
                        "fixed first dimension, or with outputs that follow the batch"
                    )


def _ort_options(options: SessionOptions) -> ort.SessionOptions:
    result = ort.SessionOptions()
    result.intra_op_num_threads = options.threads or hardware.cpus()
    result.inter_op_num_threads = 1
    spinning = "1" if options.spin else "0"
    result.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    result.log_severity_level = 3
    return result


def _spec(node: Any, path: Path) -> TensorSpec:
    if node.type not in BY_ORT_NAME:
        raise ModelUnusable(f"{path}: tensor '{node.name}' is a {node.type}, which no client sends")
    # A symbolic dimension is a string or None; either way it is free.
    shape = tuple(size if isinstance(size, int) else -1 for size in node.shape)
    return TensorSpec(node.name, BY_ORT_NAME[node.type].name, shape)


def _zeros(spec: TensorSpec, rows: int) -> np.ndarray[Any, Any]:
    first = (rows,) if spec.shape[:1] == (-1,) else spec.shape[:1]
    shape = first + tuple(1 if size == -1 else size for size in spec.shape[1:])
    if spec.datatype == "BYTES":
        return np.full(shape, "", dtype=np.object_)
    return np.zeros(shape, dtype=BY_NAME[spec.datatype].dtype)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def telemetry_is_off() -> bool:
    """Whether ONNX Runtime was loaded with its telemetry switched off."""
    return os.environ.get("ORT_DISABLE_TELEMETRY") == "1"


def providers() -> list[str]:
    """The execution providers of the installed wheel."""
    return list(ort.get_available_providers())


def ort_version() -> str:
    """The installed ONNX Runtime's, whichever wheel brought it."""
    return str(ort.__version__)

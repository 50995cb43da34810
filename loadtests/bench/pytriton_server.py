"""Triton's Python backend around a session of ONNX Runtime; runs in PyTriton's environment.

``python pytriton_server.py GRAPH NAME WORKSPACE GRPC_PORT HTTP_PORT METRICS_PORT THREADS BATCH``
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import numpy as np
import onnxruntime
from pytriton.decorators import batch  # type: ignore[import-not-found]
from pytriton.model_config import (  # type: ignore[import-not-found]
    DynamicBatcher,
    ModelConfig,
    Tensor,
)
from pytriton.triton import Triton, TritonConfig  # type: ignore[import-not-found]


def main(graph: str, name: str, workspace: str, *numbers: str) -> None:
    """Serve one graph with one input and one output until a signal comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or it leaves Triton behind
    grpc_port, http_port, metrics_port, threads, max_batch = map(int, numbers)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (taken,), (given,) = session.get_inputs(), session.get_outputs()

    @batch  # type: ignore[untyped-decorator]
    def infer(**inputs: Any) -> dict[str, Any]:
        return {given.name: session.run(None, inputs)[0]}

    config = TritonConfig(
        http_address="127.0.0.1", http_port=http_port, grpc_address="127.0.0.1",
        grpc_port=grpc_port, metrics_port=metrics_port, allow_gpu_metrics=False,
        exit_timeout_secs=1,
    )  # fmt: skip
    with Triton(config=config, workspace=workspace) as triton:
        triton.bind(
            name, infer,
            inputs=[Tensor(name=taken.name, dtype=np.float32, shape=tuple(taken.shape[1:]))],
            outputs=[Tensor(name=given.name, dtype=np.float32, shape=tuple(given.shape[1:]))],
            config=ModelConfig(max_batch_size=max_batch, batcher=DynamicBatcher()),
        )  # fmt: skip
        triton.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The model's ``config.pbtxt``: what is published is served by Triton's ONNX backend as it is."""

from __future__ import annotations

import json
from collections.abc import Sequence

from service.datatypes import BY_NAME
from service.manifest import MODEL_FILE, Manifest, TensorSpec

FILE = "config.pbtxt"
# As the server's own default: one file says the same to both servers.
_MAX_BATCH = 16


def config(contract: Manifest) -> str:
    """Triton's text format (model_config.proto): the batch dimension is left out of ``dims``."""
    lines = [
        f'name: "{contract.name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {_MAX_BATCH if contract.batched else 0}",
        f'default_model_filename: "{MODEL_FILE}"',
        *_tensors("input", contract.inputs, batched=contract.batched),
        *_tensors("output", contract.outputs, batched=contract.batched),
    ]
    return "\n".join(lines) + "\n"


def _tensors(kind: str, specs: Sequence[TensorSpec], *, batched: bool) -> list[str]:
    lines = []
    for spec in specs:
        sizes = spec.shape[1:] if batched else spec.shape
        dims = f"dims: [ {', '.join(map(str, sizes))} ]"
        if not sizes:  # Triton wants a dimension; of each row it must be told that it has none
            dims = "dims: [ 1 ] reshape { shape: [ ] }" if batched else "dims: [ 1 ]"
        kind_name = BY_NAME[spec.datatype].config_name
        # JSON's escapes are those of the text format.
        text = f"name: {json.dumps(spec.name, ensure_ascii=False)} data_type: {kind_name} {dims}"
        lines.append(f"{kind} [ {{ {text} }} ]")
    return lines
